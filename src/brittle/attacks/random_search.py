"""Random changes of random coordinates, kept where they lower the margin: an attack without gradients."""

import torch
from torch import Tensor

from brittle import norms, randomness
from brittle.about import EVERY_NORM, About
from brittle.attacks._search import Tracker, margin_witness, random_point, searchable
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a feasible point with a small margin, also where gradients vanish; the smallest margin of the region may be smaller",
    reference="after Andriushchenko et al., Square attack, ECCV 2020, with scattered coordinates instead of squares",
    norms=EVERY_NORM,
    answers="margin",
    cost="steps forward, 4 forward at the end, no backward",
    effort="standard",
)

SHARE = 0.5, 0.02  # of the coordinates redrawn in a step, first and last, geometric between; folklore


def random_search(problem: Problem, *, seed: int = 0, start: Point | None = None, steps: int = 60) -> Witness:
    """Minimise the margin inside the region at ``problem.scale`` by queries alone.

    From a random extreme point, every step redraws a falling share of the coordinates of the best point from a new extreme
    point, projects, and keeps the result where the margin fell. Networks whose gradients are zero or shattered are seen as they are.

    Guarantee: the witness is feasible to the last bit, its margin is re-measured, and it is never above the clean margin.

    start  a point by leaf that is queried first (default: the clean point)
    steps  queries

    >>> from brittle import Ball, Problem
    >>> rounded = lambda x: torch.stack([x[:, 0].round(), 0.5 + 0 * x[:, 0]], 1)  # its gradient is zero
    >>> problem = Problem(rounded, torch.tensor([[0.8]]), torch.tensor([0]), Ball(p=torch.inf, radius=0.4))
    >>> float(random_search(problem).margin)
    -0.5
    """
    if steps < 1:
        raise InputError("random_search.steps", "at least 1", steps, "raise it")
    search = searchable(problem)
    tracker = Tracker.of(search, "margin")
    with torch.no_grad():
        tracker.see(search.centre, search.rows())
        if start is not None:
            begin = {k: v.to(search.centre[k].dtype) for k, v in search.project(start).items()}
            tracker.see(begin, search.rows(begin))
        for k in range(steps):
            first, last = SHARE
            share = 1.0 if k == 0 else first * (last / first) ** (k / steps)
            point = _mixed(search, tracker.point, share, seed, k)
            tracker.see(point, search.rows(point))
    return margin_witness(problem, tracker, "random_search")


def _mixed(problem: Problem, best: Point, share: float, seed: int, k: int) -> dict[str, Tensor]:
    """The best point with a random share of its coordinates, at least one, taken from a random extreme point."""
    extreme = random_point(problem, seed, "random_search", k, surface=True)
    mixed = {}
    for leaf, value in best.items():
        draw = lambda generator, shape=tuple(value.shape[1:]): torch.rand(shape, generator=generator)
        chance = norms.flat(randomness.per_example(draw, seed, problem.index, "random_search", "mask", k, leaf))
        mask = (chance < share) | (chance == chance.amin(1, keepdim=True))
        new = torch.where(mask.reshape(value.shape).to(value.device), extreme[leaf], value)
        mixed[leaf] = problem.project_leaf(leaf, new)
    return mixed
