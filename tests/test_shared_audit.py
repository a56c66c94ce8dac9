"""Audits of one change common to all examples: the answer of ``bt.accuracy``, resumable, replayed by ``verify``, told apart in the report."""

import json
import re
import shutil
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from safetensors.numpy import load

import brittle as bt
from audited import content
from brittle import runs, store
from brittle.errors import BracketError, InputError
from brittle.panels._data import answers
from brittle.panels._grade import grade
from brittle.records import Common
from brittle.report import render
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded

COUNT = 12
DEVICE = {"x": bt.Ball(p=inf, radius=0.005, low=0, high=1), "4.weight": bt.Ball(p=inf, radius=0.015, shared=True)}
REGIONS = {"device": DEVICE}
QUIET = {"effort": "quick", "chunk": 5, "diagnostics": [], "checks": False, "progress": False, "report": None}
UNIT = Common("model", "device")


def data():
    x, labels = digits("test")
    return embedded("mlp"), x[44 : 44 + COUNT], labels[44 : 44 + COUNT]


def audit(out: Path, **options):
    return bt.audit(*data(), **{"regions": REGIONS, "out": out, **QUIET, **options})


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "run"
    audit(folder)
    return folder


@pytest.fixture
def forged(honest, tmp_path) -> Path:
    return shutil.copytree(honest, tmp_path / "run")


def rewrite(folder: Path, points=None, rows=None) -> None:
    """Change the unit of the common change the way a forger would: consistently, with all digests renewed."""
    tensors = load((folder / "points" / f"{UNIT.name}.safetensors").read_bytes())
    tensors = {k: v.copy() for k, v in tensors.items()}
    if points is not None:
        points(tensors)
    frame = polars.read_parquet(folder / "samples" / f"{UNIT.name}.parquet")
    frame = frame if rows is None else rows(frame)
    store.write_part(folder, UNIT, frame.to_dict(as_series=False), tensors, {}, {})


# ---- the answer --------------------------------------------------------------------------------------------------


def test_an_audit_gives_exactly_what_accuracy_gives(honest) -> None:
    run, answer = bt.load_run(honest), bt.accuracy(bt.Problem(*data(), DEVICE), effort="quick")
    assert run.complete and run.shared_accuracy("model", "device") == (float(answer.lower), float(answer.upper))
    assert 0 < float(answer.lower) <= float(answer.upper) < 1  # neither end says nothing
    rows = run.brackets("model", "device")
    assert rows["question"].unique().to_list() == ["accuracy"] and rows["example"].to_list() == list(range(COUNT))
    assert rows["found"].to_list() == answer.witness.found.tolist()
    assert rows["upper"].to_list() == answer.witness.margin64.tolist()
    assert (rows["lower"] <= rows["upper"]).all() and rows["lower_method"].unique().to_list() == list(
        answer.methods.lower
    )
    for leaf, value in run.common("model", "device").items():
        assert (torch.from_numpy(value) == answer.witness.point[leaf]).all()


def test_the_change_of_the_weights_is_stored_once(honest) -> None:
    common = bt.load_run(honest).common("model", "device")
    assert common["4.weight"].shape == (1, 10, 100) and common["x"].shape == (COUNT, 64)
    assert not any("accuracy" in name for part in ("00000", "00001", "00002") for name in load(
        (honest / "points" / f"model-{part}.safetensors").read_bytes()
    ))  # fmt: skip


def test_a_shared_region_has_no_other_size_and_no_radius(honest) -> None:
    run = bt.load_run(honest)
    with pytest.raises(InputError, match="run.shared_accuracy"):
        run.accuracy("model", "device", [0.5])
    with pytest.raises(InputError, match="model@device"):
        run.common("model", "other")
    assert run.summary()[0]["question"] == "accuracy" and "ratio" not in run.summary()[0]


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(honest, tmp_path) -> None:
    audit(tmp_path / "run", executor="processes", workers=2)
    assert content(tmp_path / "run") == content(honest)


@pytest.mark.slow
def test_shared_changes_of_inputs_and_both_readings_side_by_side(tmp_path) -> None:
    own = {leaf: bt.Ball(b.p, b.radius, b.low, b.high) for leaf, b in DEVICE.items()}
    both = {"own": own, "shift": bt.Ball(p=inf, radius=0.1, low=0, high=1, shared=True)}
    run = audit(tmp_path / "run", regions=both, laws={"noise": bt.Gaussian(0.1)}, checks=True, diagnostics=["sources"])
    assert [row["question"] for row in run.summary()] == ["radius", "accuracy", "probability"]
    assert run.common("model", "shift")["x"].shape == (COUNT, 64)
    assert bt.verify(tmp_path / "run", *data()).passed


# ---- nothing is lost ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [2])
def test_killed_between_units_and_resumed_it_gives_identical_records(honest, tmp_path, after) -> None:
    def some(function, items, workers=1):
        for done, item in enumerate(items):
            if done == after:
                raise Killed
            yield function(item)

    with pytest.raises(Killed):
        audit(tmp_path / "run", executor=some)
    part = bt.load_run(tmp_path / "run")
    assert not part.complete and part.shared_accuracy("model", "device")[1] is None
    assert audit(tmp_path / "run").complete and content(tmp_path / "run") == content(honest)


def test_neither_the_order_nor_the_workers_matter(honest, tmp_path) -> None:
    backwards = lambda function, items, workers=1: map(function, reversed(list(items)))
    audit(tmp_path / "run", executor=backwards)
    assert content(tmp_path / "run") == content(honest)


@pytest.mark.parametrize("kind", ["samples", pytest.param("points", marks=pytest.mark.slow), "proofs"])
def test_a_flipped_byte_is_found_named_and_repaired(honest, forged, kind) -> None:
    file = next((forged / kind).glob(f"{UNIT.name}.*"))
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2 if kind == "points" else 10] ^= 1  # of a table: where its values begin
    file.write_bytes(whole)
    failures = bt.verify(forged, *data()).failures
    assert failures and all(UNIT.name in f or "no row of the common change" in f for f in failures)
    audit(forged)
    assert content(forged) == content(honest)


def test_a_proof_and_a_common_change_that_contradict_each_other_end_the_audit(forged) -> None:
    rewrite(forged, rows=lambda f: f.with_columns(found=polars.lit(True), upper=polars.lit(-1.0)))
    with pytest.raises(BracketError, match="one of the two has a bug"):
        audit(forged)


# ---- verification ------------------------------------------------------------------------------------------------


def test_an_honest_run_passes(honest) -> None:
    answer = bt.verify(honest, *data())
    certified = (bt.load_run(honest).brackets("model", "device")["lower"] > 0).sum()
    assert answer.passed and (answer.witnesses, answer.proofs) == (1, certified)


def failures(folder: Path, **changes) -> str:
    rewrite(folder, **changes)
    answer = bt.verify(folder, *data())
    assert not answer.passed
    return "\n".join(answer.failures)


@pytest.mark.parametrize("leaf", ["4.weight", "x"])
def test_a_change_moved_out_of_its_ball_fails(forged, leaf) -> None:
    def move(points):
        value = points[f"accuracy/device/{leaf}"]
        value += np.float32(0.03) * np.where(value > 0.5, -1, 1).astype(np.float32)

    assert "the common change lies outside its region" in failures(forged, points=move)


def test_a_change_by_one_more_unit_of_the_last_places_outside_fails(forged) -> None:
    """The ball is closed: an entry at its face, moved on by two parts in 10^6 of the radius, is out."""

    def move(points):
        centre = data()[0][4].weight.detach().numpy()
        value = points["accuracy/device/4.weight"]
        far = np.abs(value[0] - centre) >= 0.014999
        value[0][far] = (centre + (value[0] - centre) * np.float32(1.00001))[far]

    assert "the common change lies outside its region" in failures(forged, points=move)


def test_weights_of_each_example_s_own_are_no_common_change(forged) -> None:
    def copy(points):
        points["accuracy/device/4.weight"] = np.repeat(points["accuracy/device/4.weight"], COUNT, 0)

    assert "not one for all examples" in failures(forged, points=copy)


def test_a_common_change_that_breaks_less_than_it_says_fails(forged) -> None:
    def clean(points):
        points["accuracy/device/4.weight"][0] = data()[0][4].weight.detach().numpy()
        points["accuracy/device/x"] = data()[1].numpy().copy()

    text = failures(forged, points=clean)
    assert "the common change does not break it" in text and "under the common change the margin is" in text


def test_invented_certificates_prove_nothing(forged) -> None:
    name = "model-00000"
    frame = polars.read_parquet(forged / "samples" / f"{name}.parquet")
    tensors = [load((forged / kind / f"{name}.safetensors").read_bytes()) for kind in ("points", "proofs")]
    part = next(iter(bt.load_run(forged).plan.parts()))
    invented = frame.with_columns(lower=polars.lit(0.5), lower_kind=polars.lit("proved"))
    store.write_part(forged, part, invented.to_dict(as_series=False), *tensors, {})
    text = "\n".join(bt.verify(forged, *data()).failures)
    assert "gives a margin of only" in text and "broken by the common change" in text


def test_a_proof_of_a_smaller_region_is_no_proof_of_this_one(forged) -> None:
    name = "model-00000"
    frame = polars.read_parquet(forged / "samples" / f"{name}.parquet")
    points, proofs = (load((forged / kind / f"{name}.safetensors").read_bytes()) for kind in ("points", "proofs"))
    proofs = {k: v * 0.5 if k.endswith("/scale") else v for k, v in proofs.items()}
    part = next(iter(bt.load_run(forged).plan.parts()))
    store.write_part(forged, part, frame.to_dict(as_series=False), points, proofs, {})
    assert any("more than its proof speaks of" in f for f in bt.verify(forged, *data()).failures)


def test_a_shift_of_inputs_that_is_not_common_fails(tmp_path) -> None:
    folder = tmp_path / "run"
    audit(folder, regions={"device": bt.Ball(p=inf, radius=0.1, low=0, high=1, shared=True)})

    def move(points):
        value = points["accuracy/device/x"]
        value[0] = np.clip(data()[1][0].numpy() - (value[0] - data()[1][0].numpy()), 0, 1)

    assert "no one change of 'x' leads to all stored points" in failures(folder, points=move)


def test_the_seed_alone_decides(honest, tmp_path) -> None:
    run = runs.audit(*data(), REGIONS, out=tmp_path / "run", **{**QUIET, "chunk": 7})
    rows, before = run.brackets("model", "device"), bt.load_run(honest).brackets("model", "device")
    assert (
        rows["upper"].to_list() == before["upper"].to_list()
    )  # the change is found over all examples, whatever the chunk


# ---- presentation ------------------------------------------------------------------------------------------------


def words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_report_tells_the_readings_apart(tmp_path) -> None:
    """The row of the shared change holds its accuracy, that of each example's own its own; radii are told of the latter only."""
    own = {leaf: replace(ball, shared=False) for leaf, ball in DEVICE.items()}
    run = audit(tmp_path / "run", regions={"device": DEVICE, "alone": own}, report="brittle.report:write")
    page = words((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert "could not be drawn" not in page
    shared, alone = run.shared_accuracy("model", "device"), [a for (a,) in run.accuracy("model", "alone", [1.0])]
    assert (
        tuple(alone) != shared and alone[0] <= alone[1] <= shared[1]
    )  # its own change breaks what a shared one does, and more
    assert f"one shared change {shared[0]:.1%} {shared[1]:.1%}".replace("%", " %") in page
    assert f"own (region alone) {alone[0]:.1%} {alone[1]:.1%}".replace("%", " %") in page
    section = page[page.index("Three readings of a region, never mixed up") :][:600]
    assert all(said in section for said in ("A concrete fault", "One shared change", "A change of each example's own"))
    assert "device, one change for all" in page and "one for all examples" in page and "each example its own" in page
    assert run.brackets("model", "alone")["question"].unique().to_list() == ["radius"]
    with pytest.raises(InputError):
        run.accuracy("model", "device", [1.0])


def test_an_unfinished_or_vacuous_answer_says_so(honest, forged) -> None:
    (forged / "samples" / f"{UNIT.name}.parquet").unlink()
    page = words(render(bt.load_run(forged)))
    assert "part of the answer is missing" in page and "Parts of this run that are missing or damaged: 1" in page
    rewrite_rows = lambda f: f.with_columns(lower=polars.lit(-1.0))
    run = bt.load_run(honest)
    object.__setattr__(run, "samples", rewrite_rows(run.samples))
    assert "nothing known, not no robustness" in words(render(run))


def test_the_grade_counts_shared_changes(honest) -> None:
    run = bt.load_run(honest)
    found = answers(run, "model", "accuracy", "device")
    low, high = run.shared_accuracy("model", "device")
    assert high <= 1.05 * low and grade([], [], [], [found]).letter == "A"
    assert grade([], [], [], [replace(found, lower=found.lower - 2.0)]).letter == "B"
    unproved = replace(found, lower=-abs(found.lower) - 1)
    assert grade([], [], [], [unproved]).letter == "C"
    assert grade([], [], [], [replace(unproved, upper=abs(found.upper) + 1)]).letter == "D"
    assert grade([], [], [], [replace(found, lower=found.upper + 1)]).letter == "F"


def test_show_gives_the_bracket_of_the_accuracy(honest, capsys) -> None:
    from brittle.cli.main import main

    low, high = bt.load_run(honest).shared_accuracy("model", "device")
    assert main(["show", str(honest)]) == 0
    said = capsys.readouterr().out
    assert f"[{low:.4g}, {high:.4g}]" in said and "one change for all" in said and "proved .. witnessed" in said
    assert main(["show", str(honest), "--format", "csv"]) == 0
    assert f"model,accuracy,device,{COUNT}," in capsys.readouterr().out


def test_show_calls_a_certificate_of_nothing_vacuous(honest, capsys) -> None:
    from brittle.cli._brackets import texts
    from brittle.cli.show import say_doubts

    run = bt.load_run(honest)
    object.__setattr__(run, "samples", run.samples.with_columns(lower=polars.lit(-1.0)))
    say_doubts(run)
    assert "vacuous: no bound says anything at the size of device" in capsys.readouterr().out
    assert texts(run)[0]["guarantee"] == "none .. witnessed"


def said(capsys, *arguments) -> tuple[int, str]:
    from brittle.cli.main import main

    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_gate_passes_what_is_proved_alone(honest, tmp_path, capsys) -> None:
    low, high = bt.load_run(honest).shared_accuracy("model", "device")
    code, text = said(capsys, "gate", honest, "--accuracy", f"device={low}")
    assert code == 0 and "one change for all examples" in text and "is proved" in text
    code, text = said(capsys, "gate", honest, "--accuracy", f"device={high + 0.01}")
    assert code == 1 and "FAIL" in text and "refuted" in text
    assert said(capsys, "gate", honest, "--accuracy", "other=0.5")[0] == 3
    assert said(capsys, "gate", honest, "--accuracy", "device=1.5")[0] == 3
    shutil.copytree(honest, tmp_path / "run")
    rewrite(tmp_path / "run", rows=lambda f: f.with_columns(found=polars.lit(False)))  # nothing found: attacked 1
    between = ("gate", tmp_path / "run", "--accuracy", f"device={low + 0.01}")
    code, text = said(capsys, *between)
    assert code == 1 and "neither proved nor refuted" in text
    assert said(capsys, *between, "--allow-open")[0] == 0
    (tmp_path / "run" / "points" / f"{UNIT.name}.safetensors").write_bytes(b"")
    (tmp_path / "run" / "samples" / f"{UNIT.name}.parquet").unlink()
    code, text = said(capsys, "gate", tmp_path / "run", "--accuracy", "device=0")
    assert code == 1 and "missing" in text and "not complete" in text


def test_compare_decides_only_where_brackets_part(honest, tmp_path, capsys) -> None:
    code, text = said(capsys, "compare", honest, honest, "--format", "csv")
    assert code == 0 and "device: accuracy, one change for all" in text and "open" in text
    broken = shutil.copytree(honest, tmp_path / "broken")
    rewrite(
        broken, rows=lambda f: f.with_columns(found=polars.lit(True))
    )  # attacked 0: below what the other is certified for
    assert "the first is better" in said(capsys, "compare", honest, broken)[1]
    assert "the second is better" in said(capsys, "compare", broken, honest)[1]
    facts = json.loads((broken / "run.json").read_text())
    facts["plan"]["data"]["labels"] = "0" * 64
    (broken / "run.json").write_text(json.dumps(facts))
    code, text = said(capsys, "compare", honest, broken)
    assert code == 3 and "two runs of the same data" in text
