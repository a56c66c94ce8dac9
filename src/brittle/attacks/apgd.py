"""Projected gradient descent on the rows with a step size of its own for every example."""

from collections.abc import Callable, Mapping
from functools import partial
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.about import EVERY_NORM, About
from brittle.attacks._search import Tracker, margin_witness, random_direction, random_point, replaced, searchable
from brittle.boundary import Room, best_change, rooms
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness
from brittle.spec import margin

ABOUT = About(
    promise="a feasible point with a small margin; the smallest margin of the region may be smaller",
    reference="Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse attacks, ICML 2020",
    norms=EVERY_NORM,
    answers="margin",
    cost="steps x restarts forward and backward, 3 to 5 forward at the end",
    effort="quick",
)

MOMENTUM = 0.75  # of the reference
SPARSE = 0.1  # share of the coordinates that an l1 step moves; folklore, near the reference's 5 to 20 %


def apgd(
    problem: Problem,
    *,
    seed: int = 0,
    start: Point | None = None,
    steps: int = 40,
    restarts: int = 2,
    losses: tuple[str, ...] = ("margin", "cross-entropy", "ratio"),
    step: float = 2.0,
) -> Witness:
    """Minimise the margin inside the region at ``problem.scale`` by projected steepest descent.

    The step starts at ``step`` radii (of the reference: two) and is halved, per example, at checkpoints that come ever closer, whenever fewer
    than three quarters of the steps since the last one lowered the loss or the step and the best loss both stand still; the
    search then goes on from the best point. Where the gradient is exactly zero the step is a random direction.

    Guarantee: the witness is feasible to the last bit, its margin is re-measured, and it is never above the clean margin.

    start     a point by leaf from which the first run begins (default: the clean point)
    steps     gradient steps of one run
    restarts  runs; those after the first begin at a uniform random point of the region
    losses    functions of the rows to go down, one run each in turn: "margin" (the smallest row), "cross-entropy"
              ``-log(1 + sum exp(-row))``, "ratio" (the margin over the spread of the rows: blind to the scale of the logits)

    >>> from torch import nn
    >>> from brittle import Ball, Problem
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), model.bias.zero_()
    >>> problem = Problem(model, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=0.5))
    >>> round(float(apgd(problem).margin), 4)  # 3 - 0.5 x 5
    0.5
    """
    unknown = [name for name in losses if name not in LOSSES]
    if unknown or not losses or steps < 1 or restarts < 1 or not 0 < step < inf:
        raise InputError(
            "apgd",
            f"steps, restarts >= 1, a finite step > 0, losses among {', '.join(LOSSES)}",
            (steps, restarts, step, losses),
            "correct them",
        )
    search = searchable(problem)
    tracker = Tracker.of(search, "margin")
    for restart in range(restarts):
        begin = random_point(search, seed, "apgd", restart) if restart else search.project(start or search.centre)
        begin = {k: v.to(search.centre[k].dtype) for k, v in begin.items()}
        _descend(search, tracker, begin, LOSSES[losses[restart % len(losses)]], steps, seed, step)
    return margin_witness(problem, tracker, "apgd")


def _descend(
    problem: Problem,
    tracker: Tracker,
    point: Point,
    loss: Callable[[Tensor, int], Tensor],
    steps: int,
    seed: int,
    first: float,
) -> None:
    room, inside = rooms(problem), _insides(problem)
    objective = lambda rows: loss(rows, problem.spec.rank)
    count = len(problem)
    best = torch.full((count,), torch.inf, device=problem.device)
    best_point = {k: v.clone(memory_format=torch.contiguous_format) for k, v in point.items()}
    best_gradient = {k: torch.zeros_like(v) for k, v in best_point.items()}
    before = dict(point)
    step = torch.full((count,), first, device=problem.device)
    gains, best_at_check, step_at_check = torch.zeros(count, device=problem.device), best.clone(), step.clone()
    checks, interval, next_check = 0, max(round(0.22 * steps), 1), max(round(0.22 * steps), 1)
    last = best.clone()
    plain = (
        loss is margin
    )  # the best point of the run is then the one of smallest margin: told to the tracker once, at the end
    for k in range(steps):
        rows, gradient = problem.gradient(point, objective)
        value = objective(rows).to(best.dtype)
        if plain:
            tracker.broken |= ~value.isfinite()
        else:
            tracker.see(point, rows)
        gains += value < last
        last = value
        better = value < best
        best = torch.where(better, value, best)
        at = better.nonzero()[:, 0]
        _write(at, point, best_point)
        _write(at, gradient, best_gradient)
        if k == next_check:
            halve = (gains < 0.75 * interval) | ((step == step_at_check) & (best == best_at_check))
            step_at_check, best_at_check = step.clone(), best.clone()
            step = torch.where(halve, step / 2, step)
            point, gradient = replaced(halve, best_point, point), replaced(halve, best_gradient, gradient)
            before = replaced(halve, best_point, before)
            gains.zero_()
            checks += 1
            interval = max(interval - max(round(0.03 * steps), 1), max(round(0.06 * steps), 1))
            next_check = k + interval
        point, before = (
            _step(problem, point, before, _alive(problem, gradient, seed, k), step, room, inside, k == 0),
            point,
        )
    if plain:
        tracker.record(best_point, best)
    with torch.no_grad():
        tracker.see(point, problem.rows(point))


def _insides(problem: Problem) -> dict[str, Callable[[Tensor], Tensor]]:
    """By leaf, the projection into the region: for a box, whose corners stay the same from step to step, one pass over the numbers, in place."""
    found = {}
    for leaf, centre in problem.centre.items():
        ball = problem.region[leaf]
        found[leaf] = partial(problem.project_leaf, leaf)
        if ball.p == torch.inf and ball.section is None and not ball.groups:
            low, high = ball.corners(centre, problem.radius(leaf).to(centre.device))
            least, most = ball.range(centre)
            found[leaf] = partial(_clamped, torch.maximum(low, least), torch.minimum(high, most))
    return found


def _clamped(low: Tensor, high: Tensor, value: Tensor) -> Tensor:
    return torch.clamp(value, low, high, out=value)


def _write(at: Tensor, new: Point, kept: Point) -> None:
    """Write the examples ``at`` of a point over those of another one, in place: memory taken anew at every step costs more than the copy."""
    for leaf, value in kept.items() if len(at) else ():
        value.index_copy_(0, at, new[leaf].index_select(0, at))


def _step(
    problem: Problem,
    point: Point,
    before: Point,
    gradient: Point,
    step: Tensor,
    room: dict[str, Room],
    inside: Mapping[str, Callable[[Tensor], Tensor]],
    first: bool,
) -> dict[str, Tensor]:
    moved = {}
    for leaf, value in point.items():
        ahead = inside[leaf](_direction(problem, leaf, value, gradient[leaf], step, room[leaf]).add_(value))
        if not first:  # value + M (ahead - value) + (1 - M) (value - before), exact where nothing moves
            ahead = inside[leaf](torch.lerp(before[leaf], value, 2.0).lerp_(ahead, MOMENTUM))
        moved[leaf] = ahead
    return moved


def _direction(problem: Problem, leaf: str, value: Tensor, gradient: Tensor, step: Tensor, room: Room) -> Tensor:
    """The steepest descent of the leaf's own norm, ``step`` radii long; for p = 0 the way to the best vertex of the region."""
    ball, radius = problem.region[leaf], problem.radius(leaf).to(value)
    p = ball.p
    length = norms.spread(step.to(value) * radius, value)
    if p == torch.inf or p == 2 or ball.section is not None:
        return ball.steepest(gradient).mul_(-length)
    if p == 1:
        rows = norms.flat(ball.stretched(gradient))
        kept = max(1, round(SPARSE * rows.shape[1]))
        threshold = rows.abs().topk(kept, 1).values[:, -1:]
        sparse = torch.where(rows.abs() >= threshold, rows.sign(), 0.0)
        return -length * ball.stretched((sparse / sparse.abs().sum(1, keepdim=True).clamp_min(1)).reshape(value.shape))
    if room.up is None:
        return -norms.spread(step.to(value), value) * gradient
    a = -norms.flat(gradient)
    vertex, _ = best_change(a, 0, radius, room.towards(a))
    return norms.spread(step.to(value).clamp_max(1), value) * (
        problem.centre[leaf] + vertex.reshape(value.shape) - value
    )


def _alive(problem: Problem, gradient: Point, seed: int, k: int) -> Point:
    """The gradient, with random directions where it vanishes in every leaf, and zeros where it is not finite."""
    length = torch.as_tensor(sum(norms.norm(g, 2) for g in gradient.values()))
    if bool(((length > 0) & (length < inf)).all()):
        return gradient
    finite = {leaf: g.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for leaf, g in gradient.items()}
    dead = torch.stack([(norms.flat(g) == 0).all(1) for g in finite.values()]).all(0)
    if not bool(dead.any()):
        return finite
    return replaced(dead, random_direction(problem, seed, "apgd", "dead", k), finite)


def _cross_entropy(rows: Tensor, rank: int) -> Tensor:
    return -torch.nn.functional.softplus(torch.logsumexp(-rows, 1))


def _ratio(rows: Tensor, rank: int) -> Tensor:
    """The margin over the spread of the rows; with fewer than three rows, which have no useful spread, over its own size."""
    value = margin(rows, rank)
    ordered = rows.sort(1).values
    spread = ordered[:, 2] - ordered[:, 0] if rows.shape[1] > 2 else 1 + value.detach().abs()
    return value / spread.clamp_min(1e-12)


LOSSES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "margin": margin,
    "cross-entropy": _cross_entropy,
    "ratio": _ratio,
}
