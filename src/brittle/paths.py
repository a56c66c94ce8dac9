"""The straight way to another class: what an attack-free walk along it says about the distance to the boundary.

For an example x of class c, a partner x' of class k and ``g = f_c - f_k``, an attacker must undo the same drop ``g(x)`` as the walk
along the segment does up to its first crossing. If gradients are as steep on the attacker's way, he needs ``g(x) / mean |grad g|_q``
with the dual norm q. Exact for linear networks, an estimate otherwise, and no attack is run.
"""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.boundary import Room, nearest_change, rooms
from brittle.errors import InputError
from brittle.partners import Partners, moving_input
from brittle.problem import NUMBERS, Problem


@dataclass(frozen=True, eq=False)
class Walk:
    """What the segments said, one value per example. "Nearest" is the segment to the nearest correctly classified partner.

    radius     (N,) float64: predicted distance to the boundary, the smallest over the segments; 0 where misclassified, inf where unknown
    row        (N,): the row of the specification that is predicted to fall first; partner (N,): the partner it leads to, or -1
    nearest    (N,): the nearest partner; nearest_row (N,): its row; -1 where there is none
    cosine     (N,): mean cosine of -gradient and the nearest segment, up to the first crossing
    ratio      (N,): weighted path ratio of the whole nearest segment: drop of the row / (length x mean dual norm of the gradient)
    crossing   (N,): where the nearest segment crosses first, as a share of its length, to half a cell; 1 where it never does
    status     per example: "ok", or one of REASONS
    """

    radius: Tensor
    row: Tensor
    partner: Tensor
    nearest: Tensor
    nearest_row: Tensor
    cosine: Tensor
    ratio: Tensor
    crossing: Tensor
    status: tuple[str, ...]


REASONS = {
    "misclassified": "wrong before anything moves: the distance is 0",
    "no partner": "no example of a competing class is classified correctly, so there is no path to follow",
    "not finite": "a logit or a gradient on the path is not a finite number",
    "no gradient": "the gradient is zero all along the paths, so nothing can be predicted",
    "no room": "the valid range blocks every direction in which the gradient falls",
}


def walk(problem: Problem, partners: Partners, *, classes: int = 5, midpoints: int = 8) -> Walk:
    """Follow the segments to partners of the most promising competing classes, one gradient at the midpoint of each cell.

    Midpoints, since kinks sit on data. At a midpoint t the linearised row needs a change of size ``r_t`` inside the valid range to
    fall from g(x) to 0 (without a range ``g(x) / |grad g|_q``); the segment predicts the harmonic mean of the r_t before its
    first crossing, and the example the smallest prediction of its segments.

    The first midpoint is taken on ``classes + midpoints - 1`` segments, the others on the nearest one and on those ``classes - 2``
    that promise most, each up to its crossing (the nearest to its end). Of classes without a partner those with the largest logits
    fill up the first round, with the gradient at x itself. Cost: at most classes x midpoints forward and backward
    passes per example, and two forward.

    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> from brittle.partners import find_partners
    >>> problem = Problem(linear, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> walk(problem, find_partners(problem)).radius.tolist()  # 3 / 5 and 4 / 5
    [0.6, 0.8]
    """
    if classes < 2 or midpoints < 1:
        raise InputError(
            "path to another class", "classes >= 2 and midpoints >= 1", (classes, midpoints), "correct them"
        )
    leaf, ball = moving_input(problem)
    problem = problem.within({leaf: ball.with_radius(1.0)})
    with torch.no_grad():
        start = problem.rows().double()
    segments = _segments(partners, start, classes + midpoints - 1)
    sums = _follow(problem, partners, segments, classes, midpoints)
    return _summary(problem, partners, start, segments, sums, midpoints)


@dataclass(frozen=True, eq=False)
class _Segments:
    """(N, S) each, the nearest first: the row that should fall, the partner at the end, what must be undone, whether it exists.

    A ``direct`` one has no partner (-1): its class is judged by the gradient at x alone.
    """

    row: Tensor
    partner: Tensor
    gap: Tensor
    usable: Tensor
    direct: Tensor


def _segments(partners: Partners, start: Tensor, most: int) -> _Segments:
    """The nearest partner, then those whose chord falls to zero soonest, distance x g(x) / (g(x) - g(x')), then the smallest
    rows without a partner."""
    right = (start > 0).all(1, keepdim=True)
    usable = (partners.index >= 0) & right
    direct = (partners.index < 0) & right & usable.any(1, keepdim=True)
    chord = partners.distance * start / (start - partners.fall).clamp_min(torch.finfo(torch.float64).tiny)
    nearest = torch.where(usable, partners.distance, inf).argmin(1, keepdim=True)
    rank = torch.where(usable, chord / (1 + chord), torch.where(direct, 1 + start / (1 + start), 3.0))
    order = rank.nan_to_num(nan=2.5).scatter(1, nearest, -1.0).argsort(dim=1, stable=True)[:, :most]
    pick = lambda values: values.gather(1, order)
    return _Segments(order, pick(partners.index), pick(start), pick(usable | direct), pick(direct))


@dataclass(eq=False)
class _Sums:
    """(N, S) each. Over the midpoints before the crossing: g(x) / r_t, cosines, their number. Over all: dual norms. And the crossing."""

    rate: Tensor
    cosine: Tensor
    count: Tensor
    steepness: Tensor
    crossing: Tensor
    finite: Tensor


def _follow(problem: Problem, partners: Partners, segments: _Segments, classes: int, midpoints: int) -> _Sums:
    zero = torch.zeros_like(segments.gap)
    sums = _Sums(zero.clone(), zero.clone(), zero.clone(), zero.clone(), torch.ones_like(zero), segments.usable.clone())
    before = segments.usable.clone()
    whole = torch.zeros_like(before)
    whole[:, 0] = segments.usable[:, 0]
    width = max(1, NUMBERS // max(1, sum(v[0].numel() for v in problem.inputs.values())))
    for k in range(midpoints):
        t = (k + 0.5) / midpoints
        alive = (before | whole).nonzero()
        for at in alive.split(width) if len(alive) else ():
            _step(problem, partners, segments, sums, before, (at[:, 0], at[:, 1]), t, k == 0, 0.5 / midpoints)
        if k == 0:
            before &= ~segments.direct
            before &= _promising(segments, sums, before, classes)
    return sums


def _promising(segments: _Segments, sums: _Sums, before: Tensor, classes: int) -> Tensor:
    """The nearest segment and the ``classes - 2`` others with the smallest predictions after one midpoint.

    What is left at its first midpoint without having crossed counts no more.
    """
    guess = torch.where(before, -sums.rate / segments.gap, inf)
    guess[:, 0] = -inf
    chosen = torch.zeros_like(before).scatter(1, guess.argsort(dim=1, stable=True)[:, : classes - 1], True)
    sums.count[before & ~chosen] = 0
    return chosen


def _step(
    problem: Problem,
    partners: Partners,
    segments: _Segments,
    sums: _Sums,
    before: Tensor,
    at: tuple[Tensor, Tensor],
    t: float,
    first: bool,
    half: float,
) -> None:
    """One midpoint of some segments, added to the sums."""
    part = problem.take(at[0])
    ((leaf, x),) = part.centre.items()
    ball, way = part.region[leaf], partners.values[segments.partner[at]] - x
    which = segments.row[at][:, None]
    share = torch.where(segments.direct[at], 0.0, t).to(x)
    rows, gradients = part.gradient(
        {leaf: x + norms.spread(share, way) * way}, lambda rows: rows.gather(1, which)[:, 0]
    )
    value, descent, way = rows.gather(1, which)[:, 0], norms.flat(-gradients[leaf].double()), norms.flat(way.double())
    finite = value.isfinite() & descent.isfinite().all(1)
    descent = torch.where(finite[:, None], descent, 0.0)
    crossed = (value <= 0) & before[at]
    sums.crossing[at] = torch.where(crossed, t - half, sums.crossing[at])
    before[at] = before[at] & ~crossed
    counts = before[at] | (crossed & first)  # a crossing inside the first cell leaves that one gradient
    lengths = (norms.norm(descent, 2) * norms.norm(way, 2)).clamp_min(torch.finfo(torch.float64).tiny)
    sums.rate[at] += torch.where(counts, _rate(part, leaf, descent, segments.gap[at]), 0.0)
    sums.cosine[at] += torch.where(counts, (descent * way).sum(1) / lengths, 0.0)
    sums.count[at] += counts.double()
    sums.steepness[at] += norms.norm(descent, norms.dual(ball.p))
    sums.finite[at] = sums.finite[at] & finite


def _rate(part: Problem, leaf: str, descent: Tensor, gap: Tensor) -> Tensor:
    """The gap over the smallest change inside the range that closes it, were the row linear; 0 where none closes it."""
    room = {
        k: Room(*(None if side is None else side.double() for side in (r.down, r.up))) for k, r in rooms(part).items()
    }
    change = norms.flat(nearest_change(part, {leaf: descent.reshape(part.inputs[leaf].shape)}, gap, room)[leaf])
    size = norms.norm(change, part.region[leaf].p)
    enough = (change * descent).sum(1) >= gap * (1 - 1e-6)
    return torch.where(enough & (size > 0), gap / size, 0.0)


def _summary(
    problem: Problem, partners: Partners, start: Tensor, segments: _Segments, sums: _Sums, midpoints: int
) -> Walk:
    counted = sums.count > 0
    radius = torch.where(counted & (sums.rate > 0) & sums.finite, segments.gap * sums.count / sums.rate, inf)
    best, winner = radius.min(1)
    known, alone = best.isfinite(), ~segments.usable[:, 0]
    wrong = (start <= 0).any(1)
    here = torch.arange(len(problem), device=start.device)
    ((leaf, x),) = problem.centre.items()
    way = partners.values[segments.partner[:, 0].clamp_min(0)].double() - x.double()
    length = norms.norm(way, problem.region[leaf].p)
    drop = segments.gap[:, 0] - _end(problem, partners, segments)
    gone = torch.where(alone, torch.nan, 1.0)
    steep = (torch.where(segments.usable, sums.steepness, 0.0) > 0).any(1)
    words = {
        "misclassified": wrong,
        "no partner": alone,
        "ok": known,
        "not finite": (segments.usable & ~sums.finite).any(1),
        "no gradient": ~steep,
        "no room": steep,
    }
    pick = lambda values: torch.where(known, values[here, winner], -1)
    return Walk(
        torch.where(wrong, 0.0, best),
        pick(segments.row),
        pick(segments.partner),
        torch.where(alone, -1, segments.partner[:, 0]),
        torch.where(alone, -1, segments.row[:, 0]),
        gone * sums.cosine[:, 0] / sums.count[:, 0],
        gone * drop * midpoints / (length * sums.steepness[:, 0]),
        gone * sums.crossing[:, 0],
        tuple(next(w for w, mask in words.items() if mask[i]) for i in range(len(problem))),
    )


def _end(problem: Problem, partners: Partners, segments: _Segments) -> Tensor:
    """The row of the nearest segment at its end, where all else is the example's own."""
    ((leaf, x),) = problem.centre.items()
    with torch.no_grad():
        rows = problem.rows({leaf: partners.values[segments.partner[:, 0].clamp_min(0)].to(x)})
    return rows.gather(1, segments.row[:, :1])[:, 0].double()
