"""The straight way to another class: what an attack-free walk along it says about the distance to the boundary.

For an example x of class c, a partner x' of class k and ``g = f_c - f_k``, an attacker must undo the same drop ``g(x)`` as the walk
along the segment does up to its first crossing. If gradients are as steep on the attacker's way, he needs ``g(x) / mean |grad g|_q``
with the dual norm q. Exact for linear networks, an estimate otherwise, and no attack is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.boundary import Room, nearest_change, rooms
from brittle.errors import InputError
from brittle.problem import NUMBERS, Problem
from brittle.region import Ball
from brittle.spec import Targeted, Threshold, Untargeted, matrix
from brittle.validation import as_labels, check_inputs

Examples = tuple[Tensor | Mapping[str, Tensor], Tensor]
DISTANCES = 2**24  # entries of a distance matrix held at once: 64 MB
EXACT = 2**30  # subtractions up to which l2 distances are taken from differences: a second; beyond, from inner products


@dataclass(frozen=True, eq=False)
class Partners:
    """Of every example the nearest correctly classified example of each competing class, and the nearest of any other class.

    values    (M, ...) of the moving leaf; labels (M,)
    index     (N, R): the partner for each row of the specification; -1 where the class has no correctly classified example
    distance  (N, R) float64: to it, in the norm of the ball, to rounding in the input's own dtype; inf where there is none
    fall      (N, R) float64: that row of the specification at the partner: below 0
    other     (N,) float64: distance to the nearest example of another class, whatever the network says of it; neighbour (N,)
    outputs   logits of the network
    """

    values: Tensor
    labels: Tensor
    index: Tensor
    distance: Tensor
    fall: Tensor
    other: Tensor
    neighbour: Tensor
    outputs: int


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


def moving_input(problem: Problem) -> tuple[str, Ball]:
    """The one input whose distance is meant, and its ball; without a moving input the only one there is, in l2.

    Errors: InputError for several moving inputs, for p = 0 (a count has no gradient), and for a specification of higher rank.
    """
    moving = {leaf: ball for leaf, ball in problem.region.items() if leaf in problem.inputs}
    if not moving:
        moving = {k: Ball(p=2, radius=1.0) for k, v in problem.inputs.items() if v.is_floating_point()}
    if len(moving) != 1:
        raise InputError("path to another class", "one moving input", ", ".join(moving) or "none", "let one input move")
    ((leaf, ball),) = moving.items()
    if ball.p == 0:
        raise InputError("path to another class", "a ball with p = 1, 2 or inf", "p = 0", "ask in another norm")
    if problem.spec.rank != 1:
        raise InputError(
            "path to another class",
            "one competing class at a time",
            "a top-k property",
            "leave spec= out, or use bt.Targeted",
        )
    return leaf, ball


def rivals(problem: Problem, outputs: int) -> Tensor:
    """(N, R): the class that wins where a row of the specification falls below 0."""
    if outputs == 1:
        return 1 - problem.labels[:, None]
    if isinstance(
        problem.spec, (Untargeted, Targeted)
    ):  # their rows are f_label - f_rival: read off logits that are class numbers
        numbers = torch.arange(outputs, dtype=torch.float64, device=problem.device).expand(len(problem), outputs)
        return problem.labels[:, None] - problem.spec.rows(numbers, problem.labels).long()
    return matrix(problem.spec, problem.labels, outputs)[0].argmin(-1).T


def find_partners(problem: Problem, given: Examples | None = None) -> Partners:
    """Partners among ``given`` examples and labels, by default among the problem's own.

    Cost: one forward pass for every candidate (none twice), and their distances. Errors: InputError where all candidates are of one class.
    """
    leaf, ball = moving_input(problem)
    pool = problem if given is None else _pool(problem, given)
    if len(pool.labels.unique()) < 2:
        raise InputError(
            "partners",
            "examples of at least two classes",
            f"class {int(pool.labels[0])} alone",
            "give examples of another class",
        )
    logits = pool.clean_logits()
    cut = pool.spec.threshold if isinstance(pool.spec, Threshold) else 0.0
    said = (logits[:, 0] > cut).long() if logits.shape[1] == 1 else logits.argmax(1)
    values = pool.inputs[leaf].to(problem.inputs[leaf].dtype)
    classes = rivals(problem, logits.shape[1])
    right = (said == pool.labels).nonzero()[:, 0]
    index, distance, neighbour = _nearest(problem, problem.inputs[leaf], values, pool.labels, right, classes, ball.p)
    fall = torch.zeros_like(distance)
    for r in (index >= 0).any(0).nonzero()[:, 0].tolist():
        fall[:, r] = problem.spec.rows(logits[index[:, r].clamp_min(0)], problem.labels)[:, r].double()
    other = norms.norm(problem.inputs[leaf].double() - values[neighbour].double(), ball.p)
    return Partners(values, pool.labels, index, distance, fall, other, neighbour, logits.shape[1])


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
    >>> problem = Problem(linear, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), Ball(p=2, radius=1.0))
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


# ---- walking -------------------------------------------------------------------------------------------------------


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


# ---- partners ------------------------------------------------------------------------------------------------------


def _pool(problem: Problem, given: Examples) -> Problem:
    """The candidates as a problem of the same network, checked."""
    try:
        x, labels = given
    except (TypeError, ValueError):
        raise InputError("partners", "a pair (x, labels)", type(given).__name__, "pass partners=(x, labels)") from None
    labels = as_labels(labels).to(problem.device)
    inputs = {f"x.{name}": v for name, v in x.items()} if isinstance(x, Mapping) else {"x": x}
    check_inputs(inputs, labels)
    mine = {name: tuple(v.shape[1:]) for name, v in problem.inputs.items()}
    theirs = {name: tuple(v.shape[1:]) for name, v in inputs.items()}
    if mine != theirs:
        raise InputError("partners", f"inputs of shape {mine}", theirs, "give examples of the same kind")
    spec = problem.spec if isinstance(problem.spec, Threshold) else None
    return replace(
        problem,
        x=x,
        labels=labels,
        spec=spec,
        index=torch.arange(len(labels)),
        scale=torch.ones(len(labels)),
        checked=True,
    )


def _nearest(
    problem: Problem, x: Tensor, pool: Tensor, labels: Tensor, right: Tensor, classes: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, R) the nearest of the ``right`` candidates of each class, -1 for none, and its distance; (N,) the nearest of another label."""
    short = torch.promote_types(x.dtype, torch.float32)
    shift = pool.to(short).mean(0)  # distances stay, fewer digits are lost
    candidates = norms.flat(pool.to(short) - shift)
    small = len(x) * candidates.numel() <= EXACT
    mode = "donot_use_mm_for_euclid_dist" if small else "use_mm_for_euclid_dist"
    found = []
    for at in torch.arange(len(x), device=x.device).split(max(1, DISTANCES // len(pool))):
        away = torch.cdist(norms.flat(x[at].to(short) - shift), candidates, p=float(p), compute_mode=mode)
        neighbour = torch.where(labels[None, :] == problem.labels[at, None], inf, away).argmin(1)
        best = torch.full((len(at), int(classes.max()) + 1), -1, device=x.device)
        for kind in labels[right].unique().tolist():
            of = right[labels[right] == kind]
            if kind < best.shape[1]:
                best[:, kind] = of[away[:, of].argmin(1)]
        index = best.gather(1, classes[at])
        distance = torch.where(index >= 0, away.gather(1, index.clamp_min(0)).double(), inf)
        found.append((index, distance, neighbour))
    index, distance, neighbour = (torch.cat(parts) for parts in zip(*found, strict=True))
    return index, distance, neighbour
