"""``verify``: an audit judged by someone who trusts nothing but the model, the data and the records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import fsum, inf, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brittle import laws as noise_laws
from brittle._checker.affine import Unknown
from brittle._checker.stencils import TooLarge
from brittle._checker.walk import Model, Moving, rows_below
from brittle.digest import tensor_digest, weights_digest
from brittle.discovery import method
from brittle.errors import InputError, NotCertified
from brittle.graph import graph_of
from brittle.network import Network
from brittle.planning import code_digest
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.records import Part, plain
from brittle.region import Ball, Region, as_region
from brittle.section import Section
from brittle.spec import Specification, Targeted, Threshold, TopK, Untargeted, margin, matrix
from brittle.store import Run, damage, load_run

DRAWS = 1000  # per example when a statistical end is drawn again
WITH_ARRAYS = ("crown", "crown_ibp", "branch_and_bound")  # the bounds whose stored arrays the checker reads
MISS = 1e-3  # probability that the redraw accuses an honest record, over the whole run


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
        return f"Verification({'passed' if self.passed else 'FAILED'}: {said}, {bad})"


@dataclass
class _Report:
    """Counts and sentences under way."""

    counts: dict[str, int] = field(default_factory=lambda: {"witnesses": 0, "proofs": 0, "intervals": 0})
    unchecked: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def fail(self, where: str, what: str) -> None:
        self.failures.append(f"{where}: {what}")


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
    that the module and its float64 copy misclassify; and every statistical end agrees with fresh draws. The redraw wrongly
    accuses an honest run with probability below 1/1000.
    Not checked: that the attacks were strong, diagnostics, and proved ends of probabilities beyond agreement with the redraw.

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
    report = _Report()
    _same_question(run, named, x, labels, report)
    if not report.failures:
        _check_parts(run, named, x, labels, seed, regions or {}, laws or {}, report)
    return Verification(
        str(folder), **report.counts, unchecked=tuple(report.unchecked), failures=tuple(report.failures),
        notes=tuple(report.notes), allow_unchecked=allow_unchecked,
    )  # fmt: skip


def _same_question(run: Run, models: Mapping[str, Callable], x: object, labels: Tensor, report: _Report) -> None:
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
    run: Run, models: Mapping, x: object, labels: Tensor, seed: int, given: Mapping, laws: Mapping, report: _Report
) -> None:
    networks = {name: Network(module) for name, module in models.items()}
    ready: dict = {}
    for part in run.plan.parts():
        why = damage(run.folder, part)
        if why:
            report.fail(f"part {part.name}", why)
            continue
        at = torch.arange(part.start, part.stop)
        pick = lambda v, at=at: v[at]
        inputs = pick(x) if isinstance(x, Tensor) else {k: pick(v) for k, v in x.items()}  # type: ignore[attr-defined]
        spec = _specification(run.plan.specification)
        network = networks[part.model]
        problem = Problem(
            network.original,
            inputs,
            labels[at],
            None,
            None if spec is None else spec.take(at),
            index=at,
            network=network,
        )
        for question, name in run.plan.questions():
            # by number, not by position: the rows of a damaged part are not there
            mine = range(part.start, part.stop)
            rows = [row for row in run.brackets(part.model, name).to_dicts() if row["example"] in mine]
            if len(rows) != len(at):
                report.fail(f"part {part.name}", f"{len(rows)} rows of {name} for {len(at)} examples")
                continue
            _check_identity(problem, rows, f"{part.model}, {name}", report)
            if question == "probability":
                _redraw(run, problem, name, laws.get(name), rows, f"{part.model}, {name}", seed, report)
                continue
            try:
                region = _region(run.plan.regions[name], given.get(name))
                here = problem.within(region)
            except Unknown as reason:
                report.unchecked.append(f"{part.model}, {name}: not checked: {reason}")
                continue
            _replay(here, rows, _tensors(run, "points", part, f"radius/{name}/"), f"{part.model}, {name}", report)
            _prove(here, rows, _tensors(run, "proofs", part, f"radius/{name}/"), f"{part.model}, {name}", ready, report)


def _check_identity(problem: Problem, rows: list[dict], where: str, report: _Report) -> None:
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


# ---- upper ends --------------------------------------------------------------------------------------------------


def _replay(problem: Problem, rows: list[dict], points: Mapping, where: str, report: _Report) -> None:
    finite = [i for i, row in enumerate(rows) if row["upper"] < inf]
    for row in rows:
        if row["upper"] < inf and not (row["found"] or row["status"] == "rounding-only"):
            report.fail(f"{where}, example {row['example']}", "a finite upper end without a witness")
    if not finite:
        return
    if set(points) != set(problem.leaves):
        report.fail(where, f"stored points of {sorted(points)}, expected {sorted(problem.leaves)}")
        return
    point = {leaf: torch.from_numpy(np.array(points[leaf])).to(problem.device) for leaf in problem.leaves}
    if any(v.shape != problem.centre[k].shape or v.dtype != problem.centre[k].dtype for k, v in point.items()):
        report.fail(where, "stored points of another shape or type")
        return
    with torch.no_grad():
        logits = problem.logits(point)
        own = margin(problem.spec.rows(logits, problem.labels), problem.spec.rank).double()
        double = problem.double()
        exact = double.margin({k: v.double() for k, v in point.items()})
    # another batch size may round otherwise: a few units in the last place of the logits
    slack = 256 * torch.finfo(logits.dtype).eps * (1 + logits.abs().amax(1).double())
    for i in finite:
        row, here = rows[i], f"{where}, example {rows[i]['example']}"
        report.counts["witnesses"] += 1
        if not own[i] <= slack[i]:
            report.fail(here, f"the witness is not misclassified: its margin is {float(own[i]):.6g}")
        if row["found"] and not exact[i] <= 1e-9 * (1 + logits[i].abs().max()):
            report.fail(here, f"the witness is not misclassified in float64: its margin is {float(exact[i]):.6g}")
        size = max(_size(problem, leaf, value[i], i) for leaf, value in point.items())
        if size == inf:
            report.fail(here, "the witness leaves its range, or moves a leaf of radius 0")
        elif not abs(size - row["upper"]) <= 1e-12 * size:
            report.fail(here, f"the upper end is {row['upper']:.9g}, its witness has size {size:.9g}")


def _size(problem: Problem, leaf: str, value: Tensor, i: int) -> float:
    """The smallest scale that holds a point, from its definition and with exact sums; inf outside the range."""
    ball = problem.region[leaf]
    low, high = (bound.cpu().numpy() for bound in ball.exact_range(value))
    wide = value.double().cpu().numpy()
    if not ((wide >= low) & (wide <= high)).all():
        return inf
    change = np.abs(wide - problem.centre[leaf][i].double().cpu().numpy())
    if ball.section is not None:
        change = _in_input(problem, ball.section, wide, i)
        if change is None:
            return inf
    if ball.unit is not None:
        change = _in_units(change, ball)
    if ball.groups:
        change = change.max(0)
    each = change.reshape(-1).tolist()
    length = {0: lambda: float(sum(c > 0 for c in each)), 1: lambda: fsum(each), 2: lambda: sqrt(fsum(c * c for c in each)),
              inf: lambda: max(each)}[ball.p]()  # fmt: skip
    return length / ball.radius if ball.radius > 0 else inf if length > 0 else 0.0


def _in_input(problem: Problem, section: Section, coordinates: np.ndarray, i: int) -> np.ndarray | None:
    """The change of the input that coordinates of a subspace stand for, from the basis; None where it leaves the range of the input."""
    change = coordinates @ section.basis.double().cpu().numpy()
    base = problem.inputs[section.base][i].double().cpu().numpy()
    low, high = (
        side if end is None else np.broadcast_to(torch.as_tensor(end).double().cpu().numpy(), base.shape).reshape(-1)
        for end, side in ((section.low, -inf), (section.high, inf))
    )
    moved = base.reshape(-1) + change
    slack = 1e-13 * (1 + np.abs(moved))  # of a sum in another order
    return np.abs(change) if bool(((moved >= low - slack) & (moved <= high + slack)).all()) else None


def _unit(ball: Ball, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(torch.as_tensor(ball.unit).double().cpu().numpy(), shape)


def _in_units(change: np.ndarray, ball: Ball) -> np.ndarray:
    """A change in multiples of the ball's unit; an entry of unit 0 may not change at all."""
    unit = _unit(ball, change.shape)
    return np.where(unit > 0, change / np.where(unit > 0, unit, 1.0), np.where(change > 0, inf, 0.0))


# ---- lower ends --------------------------------------------------------------------------------------------------


def _prove(problem: Problem, rows: list[dict], proofs: Mapping, where: str, ready: dict, report: _Report) -> None:
    claims = [i for i, row in enumerate(rows) if row["lower"] > 0]
    if not claims:
        return
    try:
        model = _ready(problem, where, ready)
    except (Unknown, TooLarge, NotCertified) as reason:
        report.unchecked += [f"{where}, example {rows[i]['example']}: not checked: {reason}" for i in claims]
        return
    coefficients, offsets = (v.cpu().numpy() for v in matrix(problem.spec, problem.labels, problem.logits().shape[1]))
    for i in claims:
        row, here = rows[i], f"{where}, example {rows[i]['example']}"
        if (
            row["lower_kind"] != "proved"
            or row["lower_method"] not in (*WITH_ARRAYS, "ibp")
            and not _counts_from_one(problem, row)
        ):
            report.unchecked.append(f"{here}: not checked: {row['lower_kind']} lower end by {row['lower_method']}")
            continue
        if any(ball.section is not None for ball in problem.region.values()):
            report.fail(here, f"the lower end {row['lower']:.9g} is of a restricted ball that nothing certifies")
            continue
        scale = float(proofs["scale"][i]) if "scale" in proofs else 0.0
        leaves = {leaf: _moving(problem, leaf, i, scale) for leaf in problem.leaves}
        if not all(_reaches(problem.region[leaf], ball, row["lower"], scale) for leaf, ball in leaves.items()):
            report.fail(here, f"the lower end {row['lower']:.9g} is more than its proof speaks of (scale {scale:.9g})")
            continue
        fixed = {k: v[i].double().cpu().numpy() for k, v in problem.inputs.items() if k not in leaves}
        arrays = {k: v[i] for k, v in proofs.items() if k != "scale"} if row["lower_method"] in WITH_ARRAYS else {}
        try:
            below = rows_below(model, leaves, fixed, arrays, coefficients[:, i], offsets[:, i])
        except Unknown as reason:
            report.unchecked.append(f"{here}: not checked: {reason}")
            continue
        report.counts["proofs"] += 1
        proved = float(np.sort(below)[problem.spec.rank - 1])
        if not proved > 0:
            report.fail(here, f"the proof of {row['lower']:.9g} gives a margin of only {proved:.6g}")


def _ready(problem: Problem, where: str, ready: dict) -> Model:
    """The checker's matrices, made once for a model and a set of moving parameters."""
    moved = frozenset(
        leaf.removeprefix("param:") for leaf in problem.leaves if problem.parameter_name(leaf) is not None
    )
    graph = graph_of(problem)
    key = (id(graph), moved)
    if key not in ready:
        missing = moved - set(graph.parameters)
        if missing:
            raise Unknown(f"parameter {sorted(missing)[0]} is not in the graph")
        ready[key] = (graph, Model(graph, moved))
    return ready[key][1]


def _moving(problem: Problem, leaf: str, i: int, scale: float) -> Moving:
    ball, centre = problem.region[leaf], problem.centre[leaf][i]
    low, high = (bound.expand(centre.shape).reshape(-1).cpu().numpy() for bound in ball.exact_range(centre))
    radius = ball.radius * scale
    radius = (
        float(np.floor(radius * (1 + 1e-9))) if ball.p == 0 else float(np.nextafter(radius, inf)) if radius > 0 else 0.0
    )
    channels = centre.shape[0] if ball.groups else 0
    unit = 1.0 if ball.unit is None else _unit(ball, tuple(centre.shape)).reshape(-1)
    return Moving(centre.double().cpu().numpy().reshape(-1), ball.p, radius, low, high, channels, unit, ball.radius)


def _counts_from_one(problem: Problem, row: dict) -> bool:
    """p = 0: one change is the least that can break what holds at the clean point; the proof is the clean margin alone."""
    return all(ball.p == 0 and row["lower"] * ball.radius <= 1 for ball in problem.region.values())


def _reaches(ball: Ball, moving: Moving, lower: float, scale: float) -> bool:
    """Whether a proof at this scale gives this lower end: the scale itself; one change more where changes are counted;
    everything where the ball holds the whole range."""
    furthest = np.maximum(moving.high - moving.centre, moving.centre - moving.low)
    if lower == inf:
        if ball.p == 0:
            width = len(furthest) // max(1, moving.channels) if moving.channels else len(furthest)
            return moving.radius >= width
        if not np.isfinite(furthest).all():
            return False
        if ball.unit is not None:
            return ball.p == inf and bool((furthest <= moving.radius * moving.unit * (1 - 1e-12)).all())
        return float(np.linalg.norm(furthest, ball.p)) <= moving.radius * (1 - 1e-12)
    if ball.p == 0:
        return round(lower * ball.radius) - 1 <= moving.radius
    return lower <= scale


# ---- statistical ends --------------------------------------------------------------------------------------------


def _redraw(
    run: Run,
    problem: Problem,
    name: str,
    given: noise_laws.Law | Mapping[str, noise_laws.Law] | None,
    rows: list[dict],
    where: str,
    seed: int,
    report: _Report,
) -> None:
    try:
        laws = _laws(run.plan.laws[name], given)
    except Unknown as reason:
        report.unchecked.append(f"{where}: not checked: {reason}")
        return
    level = 1 - MISS / (run.plan.count * len(run.models) * len(run.plan.laws))
    fresh = method("noise", "monte_carlo")(problem, laws, seed=fold(seed, "verify"), level=level, draws=DRAWS)
    for row, low, high in zip(rows, fresh.lower.tolist(), fresh.upper.tolist(), strict=True):
        report.counts["intervals"] += 1
        for least, most in ((row["lower"], row["upper"]), (row["interval_lower"], row["interval_upper"])):
            if least is not None and most is not None and (low > most or high < least):
                said = f"recorded [{least:.4g}, {most:.4g}], drawn again [{low:.4g}, {high:.4g}]"
                report.fail(f"{where}, example {row['example']}", f"the probability disagrees: {said}")
        if "proved" in (row["lower_kind"], row["upper_kind"]):
            report.notes["proved ends of probabilities were compared with fresh draws, not proved again"] = None


# ---- reading the plan --------------------------------------------------------------------------------------------


def _region(facts: Mapping[str, Mapping], given: Ball | Region | None) -> dict[str, Ball]:
    """The balls of a region; a range that is a tensor must be given and match its digest."""
    if given is not None:
        region = as_region(given)
        if plain({leaf: ball.facts() for leaf, ball in region.items()}) != plain(facts):
            raise Unknown("the region given is not the one recorded")
        return region
    if any("within" in f or "orthogonal_to" in f for f in facts.values()):
        raise Unknown("a subspace, of which the record holds the digest; pass regions={name: region}")
    if any(isinstance(f.get(side), Mapping) for f in facts.values() for side in ("low", "high", "unit")):
        raise Unknown("a range or unit is a tensor, of which the record holds the digest; pass regions={name: region}")
    value = lambda bound: None if bound is None else float(bound)
    return {
        leaf: Ball(
            float(f["p"]), f["radius"], value(f["low"]), value(f["high"]), f["groups"], f["shared"],
            relative=f.get("relative"), unit=value(f.get("unit")),
        )
        for leaf, f in facts.items()
    }  # fmt: skip


def _laws(
    facts: Mapping[str, Mapping], given: noise_laws.Law | Mapping[str, noise_laws.Law] | None
) -> dict[str, noise_laws.Law]:
    """The laws of a question; a function or a large tensor must be given and match its digest."""
    if given is not None:
        laws = noise_laws.as_laws(given)
        if plain({leaf: law.facts() for leaf, law in laws.items()}) != plain(facts):
            raise Unknown("the law given is not the one recorded")
        return laws
    known = {leaf: noise_laws.from_facts(f) for leaf, f in facts.items()}
    for leaf, law in known.items():
        if law is None:
            what = f"the record holds a digest of the law {facts[leaf]['law']} of {leaf!r}"
            raise Unknown(f"{what}; pass laws={{name: law}}")
    return {leaf: law for leaf, law in known.items() if law is not None}


def _specification(facts: Mapping[str, Any]) -> Specification | None:
    kind = facts["specification"]
    if kind == "default":
        return None
    if kind == "Targeted":
        return Targeted(torch.as_tensor(facts["target"]) if isinstance(facts["target"], list) else facts["target"])  # type: ignore[arg-type]
    return {
        "Untargeted": lambda: Untargeted(),
        "TopK": lambda: TopK(facts["k"]),
        "Threshold": lambda: Threshold(facts["threshold"]),
    }[kind]()  # type: ignore[arg-type,index]


def _tensors(run: Run, kind: str, part: Part, prefix: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    tensors = load((run.folder / kind / f"{part.name}.safetensors").read_bytes())
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
