"""Audits: resumed to the identical bytes, the same on every executor, refused in time, bounded in memory."""

import json
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import pytest
import torch
from torch import nn

import brittle as bt
from audited import LAWS, QUIET, REGIONS, audit, content, mlp
from brittle import chunks, files, findings, meter, runs
from brittle.errors import InputError
from brittle.health import Health
from brittle.planning import code_digest
from brittle.results import Finding, Witness, bracket_of
from brittle.rows import bracket_columns

LINEAR = {"l2": bt.Ball(p=2, radius=1.0)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audit") / "run"
    audit(folder, laws=LAWS)
    return folder


# ---- what an audit records ---------------------------------------------------------------------------------------


def test_an_audit_records_what_the_questions_answer(undisturbed: Path) -> None:
    run = bt.load_run(undisturbed)
    model, x, labels = mlp()
    assert run.complete and run.models == ("model",) and len(run.samples) == 6 * 3
    for name, ball in REGIONS.items():
        rows = run.brackets("model", name)
        for start in (0, 2, 4):
            at = torch.arange(start, start + 2)
            problem = bt.Problem(model, x[at], labels[at], ball, index=at)
            answer = bt.radius(problem, effort="quick", seed=0)
            assert rows["lower"][start : start + 2].to_list() == answer.lower.tolist()
            assert rows["upper"][start : start + 2].to_list() == answer.upper.tolist()
            point = torch.from_numpy(run.points("model")[f"radius/{name}/x"][start : start + 2])
            assert torch.equal(point, answer.witness.point["x"])
            assert rows["found"][start : start + 2].to_list() == answer.witness.found.tolist()
    assert torch.equal(torch.from_numpy(run.points("model")["clean/x"]), x)
    assert run.brackets("model", "noise")["estimate"].is_not_null().all()
    assert run.brackets("model", "l2")["estimate"].is_null().all()


def test_clean_columns_are_those_of_the_model(undisturbed: Path) -> None:
    model, x, labels = mlp()
    rows = bt.load_run(undisturbed).brackets("model", "l2")
    with torch.no_grad():
        logits = model(x)
    assert rows["predicted"].to_list() == logits.argmax(1).tolist()
    assert rows["label"].to_list() == labels.tolist()
    others = logits.masked_fill(nn.functional.one_hot(labels, 3).bool(), -inf).amax(1)
    margins = logits.gather(1, labels[:, None])[:, 0] - others
    assert rows["clean_margin"].to_list() == pytest.approx(margins.tolist(), abs=1e-6)
    assert rows["status"].to_list()[5] == "misclassified" and rows["clean_margin"][5] < 0


def test_margins_are_recorded_of_witnesses_only() -> None:
    nothing = torch.tensor([3.0, -1.0, 0.5, float("nan")], dtype=torch.float64)
    status = ("none", "found", "rounding-only", "nan")
    witness = Witness({}, nothing, torch.tensor([False, True, False, False]), nothing, status)
    columns = bracket_columns(replace(bracket_of("radius", 4), witness=witness))
    assert columns["witness_margin"] == columns["witness_margin64"] == [None, -1.0, 0.5, None]
    assert columns["found"] == [False, True, False, False] and columns["estimate"] == [None] * 4
    assert bracket_columns(bracket_of("probability", 2))["found"] == [None, None]


def test_the_record_says_neither_when_nor_where(undisturbed: Path) -> None:
    import platform

    text = (undisturbed / "run.json").read_text()
    assert f'"{platform.node()}"' not in text and str(undisturbed) not in text and "seconds" not in text
    facts = json.loads(text)
    assert facts["plan"]["models"]["model"]["parameters"] == sum(p.numel() for p in mlp()[0].parameters())
    assert {m["family"] for m in facts["plan"]["methods"]} >= {"attacks", "bounds"}


def test_two_models_side_by_side(tmp_path: Path, undisturbed: Path) -> None:
    other = nn.Linear(6, 3)
    run = audit(tmp_path / "run", {"mlp": mlp()[0], "linear": other}, laws=LAWS)
    alone = bt.load_run(undisturbed)
    assert run.models == ("mlp", "linear") and len(run.summary()) == 6
    same = run.brackets("mlp", "l2").drop("model").equals(alone.brackets("model", "l2").drop("model"))
    assert same and not run.brackets("linear", "l2").drop("model").equals(alone.brackets("model", "l2").drop("model"))
    assert run.brackets("linear", "l2")["status"].to_list().count("misclassified") > 0
    assert run.accuracy("linear", "l2", [0.0])[1][0] < 1


def test_parameters_may_move(tmp_path: Path) -> None:
    ball = bt.Ball(p=inf, radius=0.1)
    run = audit(tmp_path / "run", regions={"weights": {"0.weight": ball}, "joint": {"x": ball, "2.bias": ball}})
    points = run.points("model")
    assert points["radius/weights/0.weight"].shape == (6, 12, 6)
    assert set(points) == {"clean/x", "radius/weights/0.weight", "radius/joint/x", "radius/joint/2.bias"}
    assert run.plan.regions["joint"]["2.bias"]["p"] == "inf"


def test_keyword_inputs_and_a_specification(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, left, right):
            return self.head(torch.cat([left, right], 1))

    x = {"left": torch.rand(3, 2), "right": torch.rand(3, 2)}
    model = Two()
    with torch.no_grad():
        labels = model(**x).argmax(1)
    spec = bt.Targeted((labels + 1) % 3)
    regions = {"left": {"x.left": bt.Ball(p=2, radius=1.0)}}
    run = runs.audit(model, x, labels, regions, out=tmp_path / "run", spec=spec, **QUIET)
    assert set(run.points("model")) == {"clean/x.left", "clean/x.right", "radius/left/x.left"}
    assert run.plan.specification["target"] == spec.target.tolist()
    with pytest.raises(InputError, match="Targeted.target"):
        wrong = bt.Targeted(torch.zeros(9, dtype=torch.long))
        runs.audit(model, x, labels, regions, out=tmp_path / "other", spec=wrong, **QUIET)
    assert not (tmp_path / "other").exists()


# ---- resuming ----------------------------------------------------------------------------------------------------


def test_a_finished_audit_is_only_read(tmp_path: Path) -> None:
    audit(tmp_path / "run")
    before = content(tmp_path / "run")
    with meter.measure() as passes:
        again = audit(tmp_path / "run")
    assert again.complete and (passes.forward, passes.backward) == (0, 0)
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("kind", ["samples", "points", "proofs"])
def test_a_truncated_part_is_done_again_and_no_other(tmp_path: Path, undisturbed: Path, kind: str, monkeypatch) -> None:
    audit(tmp_path / "run", laws=LAWS)
    (file,) = (tmp_path / "run" / kind).glob("model-00001.*")
    file.write_bytes(file.read_bytes()[:-5])
    done = []
    monkeypatch.setattr(runs, "perform", lambda job, unit: done.append(unit.name) or chunks.work(job, unit))
    audit(tmp_path / "run", laws=LAWS)
    assert done == ["model-00001"]
    assert content(tmp_path / "run") == content(undisturbed)


def test_an_error_in_the_middle_keeps_what_is_finished(tmp_path: Path, undisturbed: Path, monkeypatch) -> None:
    ask = chunks.answer

    def interrupted(job, problem, question, name):
        if 2 in problem.index.tolist():
            raise KeyboardInterrupt
        return ask(job, problem, question, name)

    monkeypatch.setattr(chunks, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audit(tmp_path / "run", laws=LAWS)
    assert list(bt.load_run(tmp_path / "run").missing) == ["model-00001", "model-00002"]
    monkeypatch.setattr(chunks, "answer", ask)
    audit(tmp_path / "run", laws=LAWS)
    assert content(tmp_path / "run") == content(undisturbed)


def test_a_full_disk_ends_the_audit_and_a_rerun_finishes_it(tmp_path: Path, undisturbed: Path, monkeypatch) -> None:
    import errno
    import os

    sync, count = os.fsync, [0]

    def full(handle: int) -> None:
        count[0] += 1
        if count[0] > 25:  # somewhere in the second part
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="free some space"):
        audit(tmp_path / "run", laws=LAWS)
    assert not list((tmp_path / "run").rglob("*.partial"))
    monkeypatch.setattr(os, "fsync", sync)
    assert audit(tmp_path / "run", laws=LAWS).complete
    assert content(tmp_path / "run") == content(undisturbed)


# ---- the plan ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, named",
    [
        ({"seed": 1}, "seed"),
        ({"chunk": 3}, "chunk"),
        ({"effort": "standard"}, "effort"),
        ({"laws": {"noise": bt.Gaussian(0.3)}}, "laws.noise.x.sigma"),
        ({"regions": {"l2": bt.Ball(p=2, radius=2.0, low=0, high=1)}}, "regions.l2.x.radius"),
        ({"spec": bt.TopK(2)}, "specification"),
        ({"module": nn.Linear(6, 3)}, "models.model.weights"),
    ],
)
def test_a_folder_of_another_plan_is_refused_and_untouched(undisturbed: Path, change: dict, named: str) -> None:
    before = content(undisturbed)
    with pytest.raises(InputError, match=named) as refusal:
        audit(undisturbed, **{"laws": LAWS, **change})
    assert "another plan" in str(refusal.value) and "delete it" in str(refusal.value)
    assert content(undisturbed) == before


class Power(nn.Sequential):
    """The zoo's layers, with a setting that no weight shows."""

    def __init__(self, power: float) -> None:
        super().__init__(*mlp()[0])
        self.power = power


@pytest.mark.parametrize("change, named", [("labels", "data.labels"), ("x", "data.inputs.x"), ("code", "model.code")])
def test_data_and_code_are_part_of_the_plan(tmp_path: Path, change: str, named: str) -> None:
    _, x, labels = mlp()
    runs.audit(Power(1.0), x, labels, LINEAR, out=tmp_path / "run", **QUIET)
    module = Power(2.0) if change == "code" else Power(1.0)
    x = x * 0.5 if change == "x" else x
    labels = labels.flip(0) if change == "labels" else labels
    with pytest.raises(InputError, match=named):
        runs.audit(module, x, labels, LINEAR, out=tmp_path / "run", **QUIET)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="notes.txt"):
        audit(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["notes.txt"]


def test_a_second_audit_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with files.locked(tmp_path / "run"), pytest.raises(InputError, match="another audit at work"):
        audit(tmp_path / "run")


def test_code_and_settings_are_part_of_a_model() -> None:
    class Slope(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = slope

    class Cube(nn.Module):
        def forward(self, x):
            return x**3

    def square(x):
        return x**2

    same = [(Slope(1.0), Slope(1.0)), (square, square), (partial(torch.add, 1), partial(torch.add, 1))]
    other = [(Slope(1.0), Slope(2.0)), (Cube(), Slope(1.0)), (square, torch.relu), (partial(max, 1), partial(max, 2))]
    other += [(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3, padding=1)), (nn.Linear(1, 1), nn.Linear(1, 1).eval())]
    assert all(code_digest(a) == code_digest(b) for a, b in same)
    assert all(code_digest(a) != code_digest(b) for a, b in other)
    looped = [Slope(1.0), Slope(1.0)]
    for module in looped:
        module.again = module.forward  # as exported programs do: a module that holds a method of itself
    assert code_digest(looped[0]) == code_digest(looped[1]) != code_digest(Slope(1.0))
    enclosed = [lambda x, m=m: m(x) for m in (nn.Linear(1, 1), nn.Linear(1, 1))]
    assert code_digest(enclosed[0]) != code_digest(enclosed[1])


# ---- refused before anything is written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ({"regions": {}}, "at least one region or law"),
        ({"regions": {"a/b": bt.Ball(p=2, radius=1.0)}}, "rename it"),
        ({"regions": {"noise": bt.Ball(p=2, radius=1.0)}, "laws": LAWS}, "rename one"),
        ({"regions": {"l2": bt.Ball(p=2, radius=1.0, low=0, high=0.5)}}, "values inside"),
        ({"regions": {"w": {"nothing": bt.Ball(p=2, radius=1.0)}}}, "leaves among"),
        ({"laws": {"noise": {"nothing": bt.Gaussian(0.1)}}}, "leaves among"),
        ({"regions": bt.Ball(p=2, radius=1.0)}, "a mapping from names to regions, got Ball"),
        ({"effort": "huge"}, "effort"),
        ({"chunk": 0}, "chunk"),
        ({"level": 1.0}, "level"),
        ({"executor": "cloud"}, "local | processes"),
        ({"workers": 2}, "processes"),
        ({"diagnostics": ["nothing"]}, "method of diagnostics"),
        ({"module": {}}, "name one model"),
        ({"module": nn.Linear(6, 2)}, "labels"),
        ({"spec": bt.TopK(9)}, "TopK"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path: Path, options: dict, words: str) -> None:
    import re

    with pytest.raises(InputError, match=re.escape(words)):
        audit(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_logits_that_are_not_finite_leave_nothing_behind(tmp_path: Path) -> None:
    module = nn.Linear(6, 3)
    with torch.no_grad():
        module.bias[0] = float("nan")
    with pytest.raises(InputError, match="finite"):
        audit(tmp_path / "run", module)
    assert not (tmp_path / "run").exists()


# ---- independence ------------------------------------------------------------------------------------------------


def test_processes_give_the_same_bytes(tmp_path: Path, undisturbed: Path) -> None:
    audit(tmp_path / "run", laws=LAWS, executor="processes", workers=2)
    assert content(tmp_path / "run") == content(undisturbed)


def test_the_order_of_the_work_does_not_matter(tmp_path: Path, undisturbed: Path) -> None:
    backwards = lambda function, items, workers=1: map(function, reversed(list(items)))
    audit(tmp_path / "run", laws=LAWS, executor=backwards)
    assert content(tmp_path / "run") == content(undisturbed)


def test_the_seed_matters(tmp_path: Path, undisturbed: Path) -> None:
    other = audit(tmp_path / "run", laws=LAWS, seed=1).brackets("model", "noise")
    assert not other["estimate"].equals(bt.load_run(undisturbed).brackets("model", "noise")["estimate"])


def test_a_model_that_cannot_travel_is_an_input_error(tmp_path: Path) -> None:
    class Local(nn.Linear):
        pass

    with pytest.raises(InputError, match="executor"):
        audit(tmp_path / "run", Local(6, 3), executor="processes")


# ---- memory ------------------------------------------------------------------------------------------------------


class Hungry(nn.Module):
    """Runs out of memory on more than four rows at once."""

    def __init__(self, error: type[Exception], most: int = 4) -> None:
        super().__init__()
        self.inner, self.error, self.most, self.largest = mlp()[0], error, most, 0

    def forward(self, x):
        if not torch.compiler.is_exporting() and len(x) > self.most:  # an export allocates nothing
            raise self.error(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            )
        return self.inner(x)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, torch.OutOfMemoryError])
def test_out_of_memory_splits_the_chunk(tmp_path: Path, error: type[Exception]) -> None:
    options = {"chunk": 6, "laws": LAWS}
    hungry = audit(tmp_path / "hungry", Hungry(error), **options).samples
    plain = audit(tmp_path / "plain", **options).samples
    exact = ["example", "label", "predicted", "status", "lower_kind", "upper_kind", "found"]
    assert hungry.select(exact).equals(plain.select(exact))
    for column in ("lower", "upper", "clean_margin", "estimate"):
        mine, theirs = (f[column].fill_null(0).to_list() for f in (hungry, plain))
        assert mine == pytest.approx(theirs, rel=1e-3)


def test_micro_batches_keep_their_proofs(tmp_path: Path) -> None:
    run = audit(tmp_path / "run", Hungry(RuntimeError, most=2), chunk=6)
    scale = run.proofs("model")["radius/l2/scale"]
    assert scale.tolist() == run.brackets("model", "l2")["lower"].to_list()
    assert (scale[:5] > 0).all() and scale[5] == 0  # the last one is misclassified: its micro-batch has no proof


def test_a_single_example_that_does_not_fit_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="room for one example"):
        audit(tmp_path / "run", Hungry(RuntimeError, most=0))


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    asked = []

    def ask(at):
        asked.append(len(at))
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        chunks.in_memory(ask, torch.arange(8), list)
    assert asked == [8]


def test_micro_batches_keep_the_order_and_shrink_only_as_far_as_needed() -> None:
    sizes = []

    def ask(at):
        sizes.append(len(at))
        if len(at) > 3:
            raise MemoryError
        return at.tolist()

    assert chunks.in_memory(ask, torch.arange(13), lambda parts: sum(parts, [])) == list(range(13))
    assert sizes == [13, 6, 3, 3, 3, 3, 1]


# ---- checks and diagnostics --------------------------------------------------------------------------------------


def test_checks_are_recorded_per_model_before_and_after(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def after(problem, bracket, seed, effort):
        asked.append((problem, bracket))
        return (Finding("toy", "a toy", doubt="doubtful", consequence="warn"),)

    monkeypatch.setattr(findings, "after", after)
    run = audit(tmp_path / "run", checks=True)
    names = [c["name"] for c in run.checks["model"]]
    assert {"labels", "train_mode", "toy"} <= set(names) and names[-2:] == ["toy", "toy"]
    assert [c["title"] for c in run.checks["model"][-2:]] == ["a toy, region l2", "a toy, region linf"]
    problem, bracket = asked[0]
    parts = [bt.radius(problem.take(torch.arange(i, i + 2)), effort="quick") for i in (0, 2, 4)]
    fresh = bt.Bracket.join(parts)
    assert torch.equal(bracket.lower, fresh.lower) and torch.equal(bracket.upper, fresh.upper)
    assert (bracket.status, bracket.kinds, bracket.methods) == (fresh.status, fresh.kinds, fresh.methods)
    for name in ("margin", "margin64", "found", "size"):
        assert torch.equal(getattr(bracket.witness, name), getattr(fresh.witness, name)), name
    assert torch.equal(bracket.witness.point["x"], fresh.witness.point["x"])
    assert bracket.witness.status == fresh.witness.status


def test_a_model_that_cannot_be_measured_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    sick = Health((Finding("toy", "a toy", doubt="The toy is broken; mend it.", consequence="stop"),))
    monkeypatch.setattr(findings, "doctor", lambda *a, **k: sick)
    with pytest.raises(InputError, match="The toy is broken; mend it"):
        audit(tmp_path / "run", checks=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lost", ["absent", "damaged", "unfinished"])
def test_lost_checks_are_done_again(tmp_path: Path, lost: str) -> None:
    audit(tmp_path / "run", checks=True)
    before = content(tmp_path / "run")
    file = tmp_path / "run" / "checks.json"
    facts = json.loads(file.read_text())
    text = {"absent": None, "damaged": "{", "unfinished": json.dumps({**facts, "after": None})}[lost]
    file.unlink() if text is None else file.write_text(text)
    assert not bt.load_run(tmp_path / "run").complete
    assert audit(tmp_path / "run", checks=True).complete and content(tmp_path / "run") == before


def _diagnostic(problem, *, seed=0):
    return Finding("toy", "a toy", {"size": problem.index.double() / 0}, note=f"seed {seed}")


def test_findings_are_recorded_and_failures_are_doubts(tmp_path: Path, monkeypatch) -> None:
    from brittle import planning
    from brittle.about import About
    from brittle.discovery import Method

    def broken(problem, *, seed=0):
        raise ZeroDivisionError("by nobody")

    def refusing(problem, *, seed=0):
        raise bt.NotCertified("no such operation")

    functions = {"toy": _diagnostic, "broken": broken, "refusing": refusing}
    find = lambda family, name: functions[name] if family == "diagnostics" else None
    facts = lambda family, name: {"family": family, "name": name, "effort": "quick", "source": "toy", "code": ""}
    toys = [Method("diagnostics", n, "toy", About("", "", effort="quick")) for n in functions]
    monkeypatch.setattr(findings, "method", find)
    monkeypatch.setattr(planning, "_method_facts", facts)
    monkeypatch.setattr(planning, "methods", lambda family: toys if family == "diagnostics" else [])
    run = audit(tmp_path / "run", diagnostics=None, seed=3)
    found = run.findings["model"]
    assert found["toy"]["columns"]["size"] == [None, inf, inf, inf, inf, inf] and found["toy"]["note"] == "seed 3"
    assert "ZeroDivisionError" in found["broken"]["doubt"] and found["broken"]["consequence"] == "warn"
    assert "no such operation" in found["refusing"]["note"] and found["refusing"]["doubt"] is None
    before = content(tmp_path / "run")
    (tmp_path / "run" / "findings" / "model-toy.json").write_text("{")
    assert not bt.load_run(tmp_path / "run").complete
    assert audit(tmp_path / "run", diagnostics=None, seed=3).complete and content(tmp_path / "run") == before


def test_the_report_is_written_last_and_once(tmp_path: Path, monkeypatch) -> None:
    import sys
    from types import SimpleNamespace

    written = []

    def write(folder: Path) -> None:
        written.append(bt.load_run(folder).complete)
        (folder / "report.html").write_text("")

    monkeypatch.setitem(sys.modules, "brittle_toy_report", SimpleNamespace(write=write))
    for _ in range(2):
        audit(tmp_path / "run", report="brittle_toy_report:write")
    assert written == [True]
