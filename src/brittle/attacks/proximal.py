"""Primal-dual proximal descent: every coordinate moves first, then a rising price of distance prunes them. For l1 and l2."""

from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.about import About
from brittle.attacks._polish import polish
from brittle.attacks._search import Tracker, radius_witness, searchable
from brittle.attacks.fmn import follow
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a point at which the property fails; the nearest one may be nearer",
    reference="primal-dual proximal descent: Matyasko and Chau (PDPGD), arXiv 2106.01538; metric: Kingma and Ba (Adam), ICLR 2015",
    norms=(1, 2),
    answers="radius",
    cost="steps + 16 forward and backward, and 19 forward (l1: steps + 12)",
    effort="standard",
)

# measured on 24 to 200 examples of an adversarially trained network that thresholds its input: excess over the best of six peers
STEP = (
    0.5,
    0.03,
)  # in widths of the range, geometric from first to last; from .3 to .02: 10 to 12 %, from .7 to .04: 15 %
PRICE = -15.0  # logarithm of the first price of distance, in largest gradients; on 120 examples in 278 passes -14: 7.9 %, -15: 4.1 %
RAISE = 90.0, 4.5  # change of that logarithm over all steps at the first and at the last pace, geometric between
LAST: dict[float, int] = {1: 6, 2: 8}  # steps along the boundary, and as many of the last digits, from the best point
MOMENTUM, MEMORY = 0.5, 0.999  # of gradients and of their squares; a memory of .9 or .99: above 45 %


def proximal(problem: Problem, *, seed: int = 0, start: Point | None = None, steps: int = 116) -> Witness:
    """Search the point of smallest l1 or l2 scale at which the property fails.

    A saddle point of ``margin(z) + price * |z - c|_1`` is followed: z takes a gradient step of the margin and then the proximal step of the
    distance (a soft threshold), both in the diagonal metric H of root mean squared gradients; the price rises where z fails and falls
    where it does not, in the logarithm. In that metric all coordinates move at one pace, and a coordinate of small gradient has the
    larger threshold ``price / H``. The price begins at almost nothing, so z first runs deep into the failure with every coordinate, and
    is pruned from there: a nearest failure that moves few coordinates by much across a dead zone, where the gradient at the clean point
    says nothing, is met from the far side. For that H must remember coordinates that are back in the dead zone (``MEMORY``).

    In l2 the price is that of ``|v|_2``, and its proximal step divides: ``v / (1 + price / (H |v|_2))`` with the length before the step,
    coordinate by coordinate, so that those of small gradient shrink most.

    Guarantee: the witness violates the property where ``found``; every query counts, and the best one is shortened to the boundary.
    Nothing is drawn, ``seed`` changes nothing. With several leaves the sum of their scales is priced, and their largest is the size.

    start  a point by leaf at which the search begins (default: the clean point)
    steps  gradient steps

    >>> from torch import nn
    >>> from brittle import Ball, Problem
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), model.bias.zero_()
    >>> problem = Problem(model, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), Ball(p=1, radius=1.0, low=-2, high=2))
    >>> round(float(proximal(problem).size), 3)  # 3 / 4
    0.75
    """
    if steps < 2:
        raise InputError("proximal.steps", "at least 2", steps, "raise it")
    search = searchable(problem)
    tracker = Tracker.of(search, "radius")
    point = search.centre if start is None else {k: v.to(search.centre[k].dtype) for k, v in start.items()}
    prune(search, tracker, point, steps)
    last = max(LAST.get(ball.p, LAST[1]) for ball in search.region.values())
    follow(search, tracker, tracker.point, None, last)
    polish(search, tracker, last)
    return radius_witness(problem, tracker, "proximal")


def prune(problem: Problem, tracker: Tracker, point: Point, steps: int) -> None:
    """The descent itself; what it finds is in the tracker."""
    point = dict(point)
    first = {leaf: torch.zeros_like(v) for leaf, v in point.items()}
    second = {leaf: torch.zeros_like(v) for leaf, v in point.items()}
    price, pace = torch.zeros(len(problem)), dict[str, Tensor]()
    for k in range(steps):
        rows, gradient = problem.gradient(point)
        margins = tracker.see(point, rows)
        gradient = {leaf: g.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for leaf, g in gradient.items()}
        if k == 0:
            pace = {leaf: _width(problem, leaf, margins, g) for leaf, g in gradient.items()}
            price = torch.stack([norms.norm(g, inf) for g in gradient.values()]).amax(0).clamp_min(1e-30).log() + PRICE
        price = price + _geometric(RAISE, k, steps) / steps * torch.where(margins <= 0, 1.0, -1.0).to(price)
        for leaf, g in gradient.items():
            first[leaf] = MOMENTUM * first[leaf] + (1 - MOMENTUM) * g
            second[leaf] = MEMORY * second[leaf] + (1 - MEMORY) * g.square()
            metric = (second[leaf] / (1 - MEMORY ** (k + 1))).sqrt()
            metric = torch.maximum(metric, norms.spread(norms.norm(metric, inf).clamp_min(1e-30), metric) * 1e-3)
            length = norms.spread(_geometric(STEP, k, steps) * pace[leaf], metric) / metric
            moved = point[leaf] - length * first[leaf] / (1 - MOMENTUM ** (k + 1))
            point[leaf] = _threshold(problem, leaf, moved, length * norms.spread(price.exp(), metric))
    with torch.no_grad():
        tracker.see(point, problem.rows(point))


def _threshold(problem: Problem, leaf: str, value: Tensor, weight: Tensor) -> Tensor:
    """The proximal step: every change is brought towards zero by ``weight`` per unit of scale, then into the range."""
    ball, centre = problem.region[leaf], problem.centre[leaf]
    change = value - centre
    told = ball.measured(change) if ball.section is None else change
    told = told.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # what may not move
    # scale = sum |change| / (unit radius): a change loses weight / (unit radius), so told in units it loses weight / (unit^2 radius)
    unit = ball.stretched(torch.ones_like(told)).clamp_min(1e-12)
    weight = weight / (unit.square() * ball.radius)
    if ball.p == 2:  # scale = |change / unit|_2 / radius
        length = norms.norm(ball.measured(change) if ball.section is not None else told, 2).clamp_min(1e-12)
        told = told / (1 + weight / norms.spread(length, told))
    else:
        told = told.sign() * (told.abs() - weight).clamp_min(0)
    moved = ball.stretched(told) if ball.section is None else told
    if ball.section is not None:  # coordinates: of their present length, inside the range
        return problem.project_leaf(leaf, centre + moved, norms.norm(ball.section.change(moved), ball.p))
    low, high = ball.range(value)
    return torch.minimum(torch.maximum(centre + moved, low), high)


def _width(problem: Problem, leaf: str, margins: Tensor, gradient: Tensor) -> Tensor:
    """(N,) the length that steps are told in: the largest room in the range; without one, twice the linear distance to the boundary."""
    ball, centre = problem.region[leaf], problem.centre[leaf]
    linear = 2 * margins.abs() / norms.norm(gradient, inf).clamp_min(1e-12)
    low, high = ball.range(centre)
    if ball.section is not None or not bool((low.isfinite() & high.isfinite()).all()):
        return linear
    return norms.flat(torch.maximum(centre - low, high - centre)).amax(1).clamp_min(1e-12)


def _geometric(ends: tuple[float, float], k: int, steps: int) -> float:
    first, last = ends
    return first * (last / first) ** (k / max(1, steps - 1))
