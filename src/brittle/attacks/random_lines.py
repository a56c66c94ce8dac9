"""Walks along random directions until the property fails: a minimum-norm attack without gradients."""

import torch
from torch import Tensor

from brittle import randomness
from brittle.about import EVERY_NORM, About
from brittle.attacks._search import Tracker, radius_witness, random_point, searchable
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a point at which the property fails, found without gradients; the nearest one is usually much nearer",
    reference="blended random noise of the decision-based attacks; Brendel, Rauber and Bethge, ICLR 2018",
    norms=EVERY_NORM,
    answers="radius",
    cost="2 x steps forward, 20 forward at the end, no backward",
    effort="standard",
)

SIZES = tuple(2.0**k for k in range(-6, 8))  # multiples of the region, tried in turn
KEPT = 0.8  # share of the coordinates that a shrinking query keeps; folklore


def random_lines(problem: Problem, *, seed: int = 0, start: Point | None = None, steps: int = 28) -> Witness:
    """Search a small point at which the property fails, by queries alone.

    First ``steps`` random extreme points of the region at scales 2^-6 .. 2^7, cut off at the ranges. Then as many queries
    that put a random fifth of the coordinates of the best failure back to their clean values. Then the segment to the clean point.
    Networks whose gradients are zero or shattered do not look robust to this attack.

    Guarantee: the witness violates the property where ``found``.

    start  a point by leaf that is queried first
    steps  queries of each of the two kinds

    >>> from brittle import Ball, Problem
    >>> rounded = lambda x: torch.stack([x[:, 0].round(), 0.5 + 0 * x[:, 0]], 1)  # its gradient is zero
    >>> problem = Problem(rounded, torch.tensor([[0.8]]), torch.tensor([0]), Ball(p=torch.inf, radius=1.0))
    >>> round(float(random_lines(problem).size), 2)
    0.3
    """
    if steps < 1:
        raise InputError("random_lines.steps", "at least 1", steps, "raise it")
    search = searchable(problem)
    tracker = Tracker.of(search, "radius")
    with torch.no_grad():
        tracker.see(search.centre, search.rows())
        if start is not None:
            begin = {k: v.to(search.centre[k].dtype) for k, v in start.items()}
            tracker.see(begin, search.rows(begin))
        unit = search.scaled(1 / search.scale)
        for k in range(steps):
            point = random_point(unit.scaled(SIZES[k % len(SIZES)]), seed, "random_lines", k, surface=True)
            tracker.see(point, search.rows(point))
        for k in range(steps):
            point = _shrunk(search, tracker.point, seed, k)
            tracker.see(point, search.rows(point))
    return radius_witness(problem, tracker, "random_lines")


def _shrunk(problem: Problem, best: Point, seed: int, k: int) -> dict[str, Tensor]:
    shrunk = {}
    for leaf, value in best.items():
        draw = lambda generator, shape=tuple(value.shape[1:]): torch.rand(shape, generator=generator)
        chance = randomness.per_example(draw, seed, problem.index, "random_lines", "kept", k, leaf).to(value.device)
        shrunk[leaf] = torch.where(chance < KEPT, value, problem.centre[leaf])
    return shrunk
