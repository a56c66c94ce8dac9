"""Lower ends: every stored proof evaluated by the checker, which shares no code with the bounds."""

from collections.abc import Mapping
from math import inf

import numpy as np

from brittle._checker.affine import Unknown
from brittle._checker.stencils import TooLarge
from brittle._checker.walk import Model, Moving, rows_below
from brittle.errors import NotCertified
from brittle.graph import graph_of
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import matrix
from brittle.verifying.report import Report
from brittle.verifying.witnesses import unit_of

WITH_ARRAYS = (
    "crown",
    "crown_ibp",
    "branch_and_bound",
    "alpha_crown",
)  # the bounds whose stored arrays the checker reads


def prove(
    problem: Problem, rows: list[dict], proofs: Mapping, where: str, ready: dict, report: Report, *, whole: bool = False
) -> None:
    """Each lower end above 0: of a radius, that its proof speaks of as large a scale; with ``whole``, where it is a margin, of the whole region."""
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
            and (whole or not _counts_from_one(problem, row))
        ):
            report.unchecked.append(f"{here}: not checked: {row['lower_kind']} lower end by {row['lower_method']}")
            continue
        if any(ball.section is not None for ball in problem.region.values()):
            report.fail(here, f"the lower end {row['lower']:.9g} is of a restricted ball that nothing certifies")
            continue
        scale = float(proofs["scale"][i]) if "scale" in proofs else 0.0
        leaves = {leaf: moving(problem, leaf, i, scale) for leaf in problem.leaves}
        reached = lambda ball, moved, row=row, scale=scale: (
            moved.radius >= ball.radius if whole else _reaches(ball, moved, row["lower"], scale)
        )
        if not all(reached(problem.region[leaf], moved) for leaf, moved in leaves.items()):
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


def moving(problem: Problem, leaf: str, i: int, scale: float) -> Moving:
    ball, centre = problem.region[leaf], problem.centre[leaf][i]
    low, high = (bound.expand(centre.shape).reshape(-1).cpu().numpy() for bound in ball.exact_range(centre))
    radius = ball.radius * scale
    radius = (
        float(np.floor(radius * (1 + 1e-9))) if ball.p == 0 else float(np.nextafter(radius, inf)) if radius > 0 else 0.0
    )
    channels = centre.shape[0] if ball.groups else 0
    unit = 1.0 if ball.unit is None else unit_of(ball, tuple(centre.shape)).reshape(-1)
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
