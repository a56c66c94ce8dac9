"""Upper ends: every witness replayed, its size measured from the definition."""

from collections.abc import Mapping
from math import fsum, inf, sqrt

import numpy as np
import torch
from torch import Tensor

from brittle.problem import Problem
from brittle.region import Ball
from brittle.section import Section
from brittle.spec import margin
from brittle.verifying.report import Report


def replay(problem: Problem, rows: list[dict], points: Mapping, where: str, report: Report) -> None:
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
        size = max(size_of(problem, leaf, value[i], i) for leaf, value in point.items())
        if size == inf:
            report.fail(here, "the witness leaves its range, or moves a leaf of radius 0")
        elif not abs(size - row["upper"]) <= 1e-12 * size:
            report.fail(here, f"the upper end is {row['upper']:.9g}, its witness has size {size:.9g}")


def size_of(problem: Problem, leaf: str, value: Tensor, i: int) -> float:
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


def unit_of(ball: Ball, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(torch.as_tensor(ball.unit).double().cpu().numpy(), shape)


def _in_units(change: np.ndarray, ball: Ball) -> np.ndarray:
    """A change in multiples of the ball's unit; an entry of unit 0 may not change at all."""
    unit = unit_of(ball, change.shape)
    return np.where(unit > 0, change / np.where(unit > 0, unit, 1.0), np.where(change > 0, inf, 0.0))
