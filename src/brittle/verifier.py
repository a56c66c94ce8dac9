"""``verify``: an audit judged by someone who trusts nothing but the model, the data and the records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from brittle import laws as noise_laws
from brittle._checker.affine import Unknown
from brittle.digest import tensor_digest, weights_digest
from brittle.errors import InputError
from brittle.network import Network
from brittle.planning import code_digest
from brittle.problem import Problem
from brittle.questions._shared import each_its_own
from brittle.records import Part
from brittle.region import Ball, Region
from brittle.spec import margin
from brittle.store import Run, damage, load_run
from brittle.verifying.commons import replay_common
from brittle.verifying.draws import redraw
from brittle.verifying.proofs import prove
from brittle.verifying.recorded import region_of, specification_of, tensors_of
from brittle.verifying.report import Report
from brittle.verifying.smoothed import redraw_smoothed
from brittle.verifying.witnesses import replay


@dataclass(frozen=True)
class Verification:
    """What was checked and what did not hold.

    witnesses, proofs, intervals   how many upper ends were replayed, lower ends proved again, statistical ends redrawn
    unchecked   what could not be judged, with the reason; fails the verification unless it was allowed
    notes       what is outside this verification
    failures    plain sentences: model, region or law, example, and what is wrong
    """

    folder: str
    witnesses: int = 0
    proofs: int = 0
    intervals: int = 0
    unchecked: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    allow_unchecked: bool = False

    @property
    def passed(self) -> bool:
        return not self.failures and (self.allow_unchecked or not self.unchecked)

    def __repr__(self) -> str:
        said = (
            f"{self.witnesses} witnesses replayed, {self.proofs} proofs evaluated, {self.intervals} intervals redrawn"
        )
        bad = f"{len(self.unchecked)} not checked, {len(self.failures)} failures"
        first = f"; the first: {self.failures[0]}" if self.failures else ""
        return f"Verification({'passed' if self.passed else 'FAILED'}: {said}, {bad}{first})"


def verify(
    folder: str | Path,
    models: Callable | Mapping[str, Callable] | None = None,
    x: Tensor | Mapping[str, Tensor] | None = None,
    labels: Tensor | None = None,
    *,
    seed: int = 1,
    regions: Mapping[str, Ball | Region] | None = None,
    laws: Mapping[str, noise_laws.Law | Mapping[str, noise_laws.Law]] | None = None,
    allow_unchecked: bool = False,
) -> Verification:
    """Replay every witness, evaluate every stored proof, and redraw every statistical end of a run folder.

    Guarantee: where it passes, every recorded lower end follows from the stored slopes by float64 arithmetic with outward
    rounding that shares no code with the bounds; every recorded upper end has a point inside its range, of exactly that size,
    that the module and its float64 copy misclassify; every change common to all examples is one, lies in its region and leaves right what the
    records say, while each example called certified is proved to hold in the whole region; and every statistical end agrees with fresh draws: the radius of
    a smoothed model follows from its recorded votes, these agree with fresh ones, and so do the points at which its label is said to be lost. The redraw wrongly
    accuses an honest run with probability below 1/1000.
    Not checked: that the selection of a smoothed model was drawn apart, that the attacks were strong, diagnostics, and proved ends of probabilities beyond agreement with the redraw.

    folder   of ``bt.audit``; models, x, labels: what was audited (one model, or name -> model). Changed ones are refused
    seed     of the redraw, unrelated to that of the run
    regions  only needed where a range is a tensor or a change is restricted to a subspace: records hold their digests, not their values
    laws     only needed for samplers and for laws with large tensors: records hold digests of these
    allow_unchecked   pass although some operation was unknown to the checker
    Errors: InputError for a folder that is no run, or without models or data.

    >>> import tempfile, brittle
    >>> linear, x, labels = torch.nn.Linear(2, 2), torch.rand(3, 2), torch.tensor([0, 1, 0])
    >>> options = {"effort": "quick", "checks": False, "diagnostics": [], "progress": False, "report": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = brittle.audit(linear, x, labels, {"l2": Ball(p=2, radius=1.0)}, out=f"{folder}/run", **options)
    ...     verify(f"{folder}/run", linear, x, labels).passed
    True
    """
    if models is None or x is None or labels is None:
        raise InputError("verify", "the models and the data of the run", "none", "pass models, x and labels")
    run = load_run(folder)
    named = dict(models) if isinstance(models, Mapping) else {next(iter(run.models)): models}
    labels = torch.as_tensor(labels).long()
    report = Report()
    _same_question(run, named, x, labels, report)
    if not report.failures:
        _check_parts(run, named, x, labels, seed, regions or {}, laws or {}, report)
    return Verification(
        str(folder), **report.counts, unchecked=tuple(report.unchecked), failures=tuple(report.failures),
        notes=tuple(report.notes), allow_unchecked=allow_unchecked,
    )  # fmt: skip


def _same_question(run: Run, models: Mapping[str, Callable], x: object, labels: Tensor, report: Report) -> None:
    """The models and the data are those that the plan names by digest, and the key is the digest of the plan."""
    if run.plan.key != run.key:
        report.fail("run.json", "the key is not the digest of the plan; the plan was changed after the run")
    for name, facts in run.plan.models.items():
        if name not in models:
            report.fail(name, "this model was audited and is not given")
        elif weights_digest(models[name]) != facts["weights"]:
            report.fail(name, "the weights are not those that were audited")
        elif code_digest(models[name]) != facts["code"]:
            report.fail(name, "the code or the settings of the model are not those that were audited")
    inputs = {"x": x} if isinstance(x, Tensor) else {f"x.{k}": v for k, v in x.items()}  # type: ignore[attr-defined]
    for leaf, facts in run.plan.data["inputs"].items():  # type: ignore[attr-defined]
        if leaf not in inputs or tensor_digest(inputs[leaf]) != facts["digest"]:
            report.fail("data", f"{leaf} is not the tensor that was audited")
    if tensor_digest(labels) != run.plan.data["labels"]:
        report.fail("data", "the labels are not those that were audited")


def _check_parts(
    run: Run, models: Mapping, x: object, labels: Tensor, seed: int, given: Mapping, laws: Mapping, report: Report
) -> None:
    networks = {name: Network(module) for name, module in models.items()}
    spec = specification_of(run.plan.specification)
    ready: dict = {}

    def ask(part: Part) -> Problem:
        at = torch.arange(part.start, part.stop)
        inputs = x[at] if isinstance(x, Tensor) else {k: v[at] for k, v in x.items()}  # type: ignore[attr-defined]
        network, own = networks[part.model], None if spec is None else spec.take(at)
        return Problem(network.original, inputs, labels[at], None, own, index=at, network=network)

    for part in run.plan.parts():
        why = damage(run.folder, part)
        if why:
            report.unusable(f"part {part.name}", why)
            continue
        problem = ask(part)
        for question, name in run.plan.questions():
            where = f"{part.model}, {name}"
            # by number, not by position: the rows of a damaged part are not there
            mine = range(part.start, part.stop)
            rows = [row for row in run.brackets(part.model, name).to_dicts() if row["example"] in mine]
            if len(rows) != len(mine):
                report.fail(f"part {part.name}", f"{len(rows)} rows of {name} for {len(mine)} examples")
                continue
            _check_identity(problem, rows, where, report)
            if question == "probability":
                redraw(run, problem, name, laws.get(name), rows, where, seed, report)
                continue
            region = _region(run, question, name, given, where, report)
            if region is None:
                continue
            here, proofs = problem.within(region), tensors_of(run, "proofs", part, f"{question}/{name}/")
            if question == "smoothed":
                points = tensors_of(run, "points", part, f"{question}/{name}/")
                redraw_smoothed(run, here, name, laws.get(name), rows, points, proofs, where, seed, report)
                continue
            if question == "accuracy":
                prove(each_its_own(here), rows, proofs, where, ready, report, whole=True)
                continue
            replay(here, rows, tensors_of(run, "points", part, f"radius/{name}/"), where, report)
            prove(here, rows, proofs, where, ready, report)
    for unit in run.plan.commons():
        region = _region(run, "accuracy", unit.region, given, f"{unit.model}, {unit.region}", report)
        if region is not None:
            replay_common(run, unit, ask, region, report)


def _region(run: Run, question: str, name: str, given: Mapping, where: str, report: Report) -> dict[str, Ball] | None:
    """The recorded region; None where the record alone cannot say it, which is then not checked."""
    try:
        return region_of(
            run.plan.smoothed[name]["region"] if question == "smoothed" else run.plan.regions[name], given.get(name)
        )
    except Unknown as reason:
        report.unchecked.append(f"{where}: not checked: {reason}")
        return None


def _check_identity(problem: Problem, rows: list[dict], where: str, report: Report) -> None:
    """The rows speak of these examples, and tell the label and the clean margin that the model has."""
    with torch.no_grad():
        value = margin(problem.spec.rows(problem.logits(), problem.labels), problem.spec.rank).double()
    for row, index, label, clean in zip(
        rows, problem.index.tolist(), problem.labels.tolist(), value.tolist(), strict=True
    ):
        if (row["example"], row["label"]) != (index, label):
            report.fail(f"{where}, example {index}", "the row carries another example or label")
        if abs(row["clean_margin"] - clean) > 1e-4 * (1 + abs(clean)):
            report.fail(
                f"{where}, example {index}", f"the clean margin is {clean:.6g}, recorded {row['clean_margin']:.6g}"
            )
