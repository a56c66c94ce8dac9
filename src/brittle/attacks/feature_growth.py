"""Few features at the ends of their ranges: added by the gradient where the search stands until the property fails, then taken back."""

from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.about import About
from brittle.attacks._search import Tracker, radius_witness, searchable
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a point that fails where gradients find one at all, with features changed as far as they go; fewer may do",
    reference="in the manner of Hajri, Cesaire, Combey, Lamprier, Gallinari, Stochastic sparse adversarial attacks (VFGA), ICTAI 2021; growth and taking back ours",
    norms=(0,),
    answers="radius",
    cost="about log(features) / log(growth) forward and backward until the first failure, cuts more forward and 2 backward",
    effort="standard",
)
FAR = 4.0  # without a range a feature goes so many times as far as its tangent asks (folklore)


def feature_growth(
    problem: Problem, *, seed: int = 0, start: Point | None = None, growth: float = 1.5, cuts: int = 16
) -> Witness:
    """Minimise the number of changed features, for balls of p = 0.

    Every step moves the features with the largest gain ``|gradient| * room`` to the end of their range against the gradient of the margin, taken at
    the point reached so far, until ``growth`` times as many are changed as before: one linearisation at the clean point promises a handful on a
    network with many inputs and is off by factors of hundreds, while the point reached knows what the changes so far have done. At the first failure features are put back,
    those first whose return costs least by the gradient there; how many is searched by bisection, twice.

    Guarantee: the witness violates the property where ``found``; every query counts. Nothing is random: ``seed`` is not used.

    start   a point by leaf at which the growth begins (default: the clean point)
    growth  number of changed features after a step, relative to the one before
    cuts    queries with features put back, half of them in each of two rounds

    >>> from torch import nn
    >>> from brittle import Ball, Problem
    >>> model = nn.Linear(3, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]]))
    >>> problem = Problem(model, torch.full((1, 3), 0.3), torch.tensor([0]), Ball(p=0, radius=1.0, low=-1, high=1))
    >>> float(feature_growth(problem).size)  # the second feature alone: 0.3 - 2 + 0.15 < 0
    1.0
    """
    if not 1 < growth < inf or cuts < 0:
        raise InputError("feature_growth", "growth > 1 and cuts >= 0", (growth, cuts), "use 1.5 and 16")
    search = searchable(problem)
    tracker = Tracker.of(search, "radius")
    begin = search.centre if start is None else {k: v.to(search.centre[k].dtype) for k, v in start.items()}
    _grow(search, tracker, begin, growth)
    for _ in range(2):
        at = (tracker.found & (tracker.value > 0)).nonzero()[:, 0].cpu()
        if len(at) and cuts // 2:
            part, seen = search.take(at), tracker.take(at)
            _take_back(part, seen, cuts // 2)
            tracker.join_at(at, seen)
    return radius_witness(problem, tracker, "feature_growth")


def _grow(problem: Problem, tracker: Tracker, point: Point, growth: float) -> None:
    """Change more and more features of the examples that do not fail yet."""
    left, many = torch.arange(len(problem)), 1
    total = sum(_features(problem, leaf, value).shape[1] for leaf, value in problem.centre.items())
    while len(left):
        part, seen = problem.take(left), tracker.take(left)
        rows, gradient = part.gradient(point)
        margins = seen.see(point, rows)
        tracker.join_at(left, seen)
        going = ((margins > 0) & margins.isfinite()).nonzero()[:, 0]
        if many > total or not len(going):
            return  # all features were tried, or nothing is left to fail
        left, part = left[going.cpu()], part.take(going.cpu())
        point, gradient = ({k: v[going.to(v.device)] for k, v in of.items()} for of in (point, gradient))
        point = _further(part, point, gradient, margins[going], many)
        more = many + max(1, int((growth - 1) * many))
        many = total if many < total < more else more  # all of them at last


def _further(problem: Problem, point: Point, gradient: Point, margins: Tensor, many: int) -> dict[str, Tensor]:
    """``many`` features changed: those of the point, moved to the better end of their range, and the most promising of the others."""
    ends, gains = {}, []
    for leaf, value in point.items():
        slope = gradient[leaf].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        low, high = (v.expand(value.shape) for v in problem.region[leaf].range(value))
        step = FAR * norms.spread(margins, slope) / slope.abs().clamp_min(torch.finfo(slope.dtype).tiny)
        far = problem.centre[leaf] - slope.sign() * step.clamp_max(1e30)
        ends[leaf] = torch.where(slope == 0, value, torch.minimum(torch.maximum(far, low), high))
        bounded = torch.where(slope > 0, low, high)  # the very end, where there is one
        ends[leaf] = torch.where((slope != 0) & bounded.isfinite(), bounded, ends[leaf])
        gain = _features(problem, leaf, slope * (problem.centre[leaf] - ends[leaf]))
        kept = _features(problem, leaf, (value != problem.centre[leaf]).to(gain)) > 0
        gains.append(torch.where(kept, inf, gain))
    mask = torch.zeros_like(torch.cat(gains, 1), dtype=torch.bool)
    best = torch.cat(gains, 1).topk(min(many, mask.shape[1]), 1)
    mask.scatter_(1, best.indices, best.values > 0)
    masks = dict(zip(point, mask.split([g.shape[1] for g in gains], 1), strict=True))
    return {leaf: torch.where(_back(problem, leaf, masks[leaf]), ends[leaf], v) for leaf, v in point.items()}


def _take_back(problem: Problem, tracker: Tracker, cuts: int) -> None:
    """Bisection on how many of the changed features stay, the most useful ones by the gradient at the failure."""
    point, centre = dict(tracker.point), problem.centre
    _, gradient = problem.gradient(point)
    uses = []
    for leaf, value in point.items():
        use = _features(problem, leaf, gradient[leaf].nan_to_num() * (centre[leaf] - value))
        changed = _features(problem, leaf, (value != centre[leaf]).to(use)) > 0
        uses.append(torch.where(changed, use, -inf))
    use = torch.cat(uses, 1)
    rank = use.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    few, many = torch.zeros(len(problem), device=use.device), (use > -inf).sum(1).to(torch.float32)
    for _ in range(cuts):
        middle = ((few + many) / 2).floor()
        masks = dict(zip(point, (rank < middle[:, None]).split([u.shape[1] for u in uses], 1), strict=True))
        tried = {k: torch.where(_back(problem, k, masks[k]), v, centre[k]) for k, v in point.items()}
        with torch.no_grad():
            fails = tracker.see(tried, problem.rows(tried)) <= 0
        few, many = torch.where(fails, few, middle), torch.where(fails, middle, many)


def _features(problem: Problem, leaf: str, value: Tensor) -> Tensor:
    """(N, features): sums over the channels where these count as one feature."""
    return norms.flat(value.sum(1) if problem.region[leaf].groups else value)


def _back(problem: Problem, leaf: str, mask: Tensor) -> Tensor:
    """(N, features) to the shape of the leaf, or one that broadcasts to it."""
    shape = problem.centre[leaf].shape
    return (
        mask.reshape(len(mask), 1, *shape[2:]) if problem.region[leaf].groups else mask.reshape(len(mask), *shape[1:])
    )
