"""A walk along the decision boundary that sees answers alone: does the property hold here, yes or no."""

from collections.abc import Callable, Sequence
from math import inf, sqrt

import torch
from torch import Tensor

from brittle import norms, randomness
from brittle.about import About
from brittle.attacks._search import Tracker, radius_witness, random_point, searchable, sizes
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a point at which the property fails, found from answers alone; the nearest one may be nearer",
    reference="after Chen, Jordan, Wainwright, HopSkipJumpAttack, IEEE S&P 2020",
    norms=(2, inf),
    answers="radius",
    cost="about steps x (draws + 16) forward, at most 54 more, no backward",
)

SCALES = tuple(2.0**k for k in range(-3, 8))  # of the region, at which random extreme points are tried first
HALVINGS = 10  # of the way to the clean point in a step; the boundary is then known to 2^-10 of the distance
PROBE = 2.0**-8  # a probe is this times sqrt(D) of the distance long: four times 2^-10 across the boundary; folklore
FURTHEST = 256.0  # multiples of the region that are searched


def boundary_walk(
    problem: Problem, *, seed: int = 0, start: Point | None = None, steps: int = 12, draws: int = 24
) -> Witness:
    """Walk along the decision boundary towards the clean point; only whether the property holds is ever looked at.

    The first failure is the smallest of random extreme points at scales 1/8 to 128. Every step halves the way to the clean point (for
    p = inf the change is cut off at a falling level), estimates the normal of the boundary there from random probes,
    ``mean((answer - mean answer) u)``, goes ``distance / sqrt(step)`` that way, and half as far while the property holds there.
    Constant logits between the boundaries, rounding and thresholds do not matter to it. The search reads no margins; the last shortening, which all
    minimum-norm attacks share, reads them as a hint, and halves where they say nothing.

    Guarantee: the witness violates the property where ``found``.

    start  a point by leaf, from which the walk begins where the property fails there
    steps  steps of the walk
    draws  probes of a step

    >>> from brittle import Ball, Problem
    >>> label = lambda x: torch.stack([(x.sum(1) > 1).float(), (x.sum(1) <= 1).float()], 1)  # says yes or no
    >>> problem = Problem(label, torch.tensor([[1.0, 1.0]]), torch.tensor([0]), Ball(p=2, radius=1.0))
    >>> round(float(boundary_walk(problem).size), 2)  # 1 / sqrt(2)
    0.71
    """
    if steps < 1 or draws < 2:
        raise InputError("boundary_walk", "steps >= 1, draws >= 2", (steps, draws), "raise them")
    search = searchable(problem)
    tracker = Tracker.of(search, "radius")
    unit = search.scaled(1 / search.scale)

    def fails(point: Point) -> Tensor:
        return tracker.see(point, search.rows(point)) <= 0

    with torch.no_grad():
        right = ~fails(search.centre)
        if start is not None:
            fails({k: v.to(search.centre[k].dtype) for k, v in start.items()})
        for k, scale in enumerate(SCALES):
            fails(random_point(unit.scaled(scale), seed, "boundary_walk", "start", k, surface=True))
        generators = [randomness.generator(seed, "boundary_walk", int(i)) for i in search.index.tolist()]
        here = dict(tracker.point)
        for k in range(1, steps + 1):
            if not bool((right & tracker.found).any()):
                break
            here = _to_boundary(search, here, fails)
            distance = sizes(search, here)
            normal = _normal(search, here, distance, fails, generators, draws)
            here = _ahead(search, here, normal, distance / sqrt(k), fails)
        _to_boundary(search, here, fails)
    return radius_witness(problem, tracker, "boundary_walk")


def _where(mask: Tensor, new: Point, old: Point) -> dict[str, Tensor]:
    return {leaf: torch.where(norms.spread(mask, v), new[leaf], v) for leaf, v in old.items()}


def _to_boundary(problem: Problem, far: Point, fails: Callable[[Point], Tensor]) -> dict[str, Tensor]:
    """Halve the way between the clean point and a failure; the last failing point."""
    low = torch.zeros(len(problem), device=problem.device, dtype=torch.float64)
    high, kept = torch.ones_like(low), dict(far)
    for _ in range(HALVINGS):
        t = (low + high) / 2
        point = {leaf: _shorter(problem, leaf, value, t) for leaf, value in far.items()}
        failed = fails(point)
        low, high = torch.where(failed, low, t), torch.where(failed, t, high)
        kept = _where(failed, point, kept)
    return kept


def _shorter(problem: Problem, leaf: str, value: Tensor, t: Tensor) -> Tensor:
    """A point whose change is ``t`` (N,) times as large: on the segment, or for p = inf cut off."""
    ball, centre = problem.region[leaf], problem.centre[leaf]
    change = value - centre
    if ball.p != inf or ball.section is not None:
        return centre + norms.spread(t.to(value), value) * change
    told = ball.measured(change)
    return centre + ball.stretched(norms.project(told, inf, t.to(told) * norms.norm(told, inf)))


def _moved(problem: Problem, point: Point, directions: Point, length: Tensor) -> dict[str, Tensor]:
    """The point moved by ``length`` (N,) multiples of each ball along directions told in its units, cut off at the range."""
    moved = {}
    for leaf, value in point.items():
        ball = problem.region[leaf]
        far = torch.full_like(problem.scale, FURTHEST * ball.radius).to(value.device)
        step = ball.radius * norms.spread(length.to(value), value) * ball.stretched(directions[leaf])
        moved[leaf] = problem.project_leaf(leaf, value + step, far)
    return moved


def _normal(
    problem: Problem,
    point: Point,
    distance: Tensor,
    fails: Callable[[Point], Tensor],
    generators: Sequence[torch.Generator],
    draws: int,
) -> dict[str, Tensor]:
    """Towards failure: the mean of random directions weighted by their answers, less the mean answer (all alike: the answer itself)."""
    features = sum(v[0].numel() for v in point.values())
    length = distance * min(PROBE * sqrt(features), 0.25)
    probes, answers = [], []
    for _ in range(draws):
        u = {
            leaf: torch.stack([torch.randn(v.shape[1:], generator=g) for g in generators]).to(v) / sqrt(features)
            for leaf, v in point.items()
        }
        probes.append(u)
        answers.append(torch.where(fails(_moved(problem, point, u, length)), 1.0, -1.0))
    told = torch.stack(answers)
    weight = told - told.mean(0)
    weight = torch.where(told.std(0) > 0, weight, told)
    summed = lambda leaf: sum(
        norms.spread(w.to(u[leaf]), u[leaf]) * u[leaf] for w, u in zip(weight, probes, strict=True)
    )
    return {leaf: torch.as_tensor(summed(leaf)) for leaf in point}


def _ahead(
    problem: Problem, point: Point, normal: Point, length: Tensor, fails: Callable[[Point], Tensor]
) -> dict[str, Tensor]:
    """The furthest of length, length / 2, ... along the estimated normal at which the property fails; else the point itself."""
    directions = {leaf: _steepest(problem, leaf, v) for leaf, v in normal.items()}
    ahead, done = dict(point), torch.zeros(len(problem), dtype=torch.bool, device=problem.device)
    for halving in range(6):
        tried = _moved(problem, point, directions, length * 0.5**halving)
        failed = fails(tried) & ~done
        ahead, done = _where(failed, tried, ahead), done | failed
        if bool(done.all()):
            break
    return ahead


def _steepest(problem: Problem, leaf: str, normal: Tensor) -> Tensor:
    ball = problem.region[leaf]
    return ball.section.along(normal) if ball.section is not None else norms.steepest(normal, ball.p)
