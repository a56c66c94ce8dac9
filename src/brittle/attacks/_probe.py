"""Forward-only probes: a few random points closer than the best failure, and a second search where one of them fails."""

from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.attacks._search import Tracker
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.spec import margin

CLOSER = 0.95  # of the best failure: a probe that fails there shows that the search missed something worth having
FAR = 10.0  # reach of a changed feature (p = 0): beyond most ranges, so that it ends at one


def probe(
    problem: Problem, tracker: Tracker, count: int, seed: int, name: str, far: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Query ``count`` random surface points at 0.95 of the best failure so far; at scale ``far`` where there is none.

    The directions come in opposite pairs, from the seed alone, the same for every example: one draw whatever the batch.
    Returns the examples (M,) where a probe failed or nothing has failed at all, and for every example the probe of smallest margin.
    """
    scale = torch.where(tracker.found, CLOSER * tracker.value, far)
    known = tracker.found.clone()
    least = torch.full_like(tracker.value, inf)
    best = dict(problem.centre)
    hit = torch.zeros_like(known)
    g = generator(seed, name, "probe")
    step: dict[str, Tensor] = {}
    for k in range(count):
        step = {leaf: -v for leaf, v in step.items()} if k % 2 else _directions(problem, g)
        point = {leaf: _at(problem, leaf, step[leaf], scale) for leaf in problem.centre}
        with torch.no_grad():
            rows = problem.rows(point)
        value = margin(rows, problem.spec.rank).double()
        tracker.see(point, rows, scale > 0)
        hit |= value <= 0
        better = value < least
        least = torch.where(better, value, least)
        best = {leaf: torch.where(norms.spread(better, v), v, best[leaf]) for leaf, v in point.items()}
    return ((hit | ~known) & (scale > 0)).nonzero()[:, 0].cpu(), best


def _directions(problem: Problem, g: torch.Generator) -> dict[str, Tensor]:
    """One direction of unit length per leaf, in its own norm: (1, ...). For p = inf a corner, for p = 0 normal numbers."""
    drawn = {}
    for leaf, value in problem.centre.items():
        p, shape = problem.region[leaf].p, tuple(value.shape[1:])
        one = torch.randn(shape, generator=g, dtype=torch.float64) if p == 0 else norms.uniform_sphere(shape, p, g)
        drawn[leaf] = (one.sign() if p == inf else one)[None].to(value)
    return drawn


def _at(problem: Problem, leaf: str, direction: Tensor, scale: Tensor) -> Tensor:
    ball, centre = problem.region[leaf], problem.centre[leaf]
    radius = (ball.radius * scale).to(centre)
    reach = torch.full_like(radius, FAR) if ball.p == 0 else radius
    return problem.project_leaf(leaf, centre + norms.spread(reach, centre) * ball.stretched(direction), radius)
