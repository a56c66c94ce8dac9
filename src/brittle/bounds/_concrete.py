"""From a linear form over the region to a number: the exact minimum over ball and range, rounded outwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.backward import evaluation_loss, settled
from brittle.errors import NotCertified
from brittle.evidence import joined
from brittle.intervals import TINY, State, gamma
from brittle.problem import Problem
from brittle.receptive import Places
from brittle.relaxation import Pulled, inner
from brittle.results import Certificate

ENTRIES = 2**23  # of a specification matrix or a block of rows, 64 MB: more examples than that are taken in turns


def over_boxes(state: State, pulled: Pulled) -> Tensor:
    """The least value over the intervals of the frontier, (R, N)."""
    total = pulled.constant - pulled.slack
    for name, rows in pulled.coefficients.items():
        positive = rows.clamp_min(0)
        low, high = state.low[name], state.high[name]
        value = inner(positive, low) + inner(rows - positive, high)
        total = total + value - evaluation_loss(state, pulled, name)
    return settled(total, pulled)


@dataclass(frozen=True, eq=False)
class Around:
    """What one input leaf may do: ``centre + v`` with ``|v|_p <= radius`` and ``-down <= v <= up``; all (N, ...), one example each.

    radius    (N,), or None for a leaf that does not move
    down, up  None without a range
    groups    channels of a group that counts as one feature in p = 0, or None
    inside    1 where an entry is an input, 0 where it is padding; None: all are
    """

    centre: Tensor
    p: float = inf
    radius: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    groups: int | None = None
    inside: Tensor | None = None

    @property
    def box(self) -> bool:
        """Whether ball and range are one bounded box without padding."""
        bounded = self.radius is not None and self.down is not None and self.up is not None
        whole = self.p == inf and self.groups is None and self.inside is None
        return bounded and whole and bool(self.radius.isfinite().all())  # type: ignore[union-attr]


def around(problem: Problem, state: State) -> dict[str, Around]:
    """By input node: the balls of a region, cut by their ranges."""
    return {name: _around(problem, leaf) for leaf, name in state.graph.inputs.items()}


def _around(problem: Problem, leaf: str) -> Around:
    centre = problem.inputs[leaf].detach().double()
    if leaf not in problem.region:
        return Around(centre)
    ball = problem.region[leaf]
    radius = norms.proof_radius(ball.p, problem.radius(leaf)).to(centre.device)
    groups = centre.shape[1] if ball.groups == "channels" else None
    if ball.low is None and ball.high is None:
        return Around(centre, ball.p, radius, groups=groups)
    low, high = ball.exact_range(centre)
    return Around(centre, ball.p, radius, _room(centre - low), _room(high - centre), groups)


def cut(balls: Mapping[str, Around], places: Places) -> dict[str, Around]:
    """The balls as windows see them."""
    gather = lambda name, value: None if value is None else places.gather(name, value)
    seen = {name: ball for name, ball in balls.items() if name in places.field.windows}
    return {
        name: replace(
            ball,
            centre=places.gather(name, ball.centre),
            radius=None if ball.radius is None else places.take(ball.radius),
            down=gather(name, ball.down),
            up=gather(name, ball.up),
            inside=None if ball.radius is None else places.inside(name),
        )
        for name, ball in seen.items()
    }


def over_balls(problem: Problem, state: State, pulled: Pulled) -> Tensor:
    """The least value over the region itself, (R, N): every leaf has its own ball, cut by its own range."""
    return least(around(problem, state), state, pulled)


def least(balls: Mapping[str, Around], state: State, pulled: Pulled) -> Tensor:
    """The least value over balls of every input node, (R, N)."""
    total = pulled.constant - pulled.slack
    for name, rows in pulled.coefficients.items():
        ball = balls[name]
        if ball.box:
            total = total + _corner(state, pulled, name, ball)
            continue
        value = inner(rows, ball.centre) - evaluation_loss(state, pulled, name)
        total = total + (value if ball.radius is None else value - reach(ball, rows))
    return settled(total, pulled)


def _corner(state: State, pulled: Pulled, name: str, ball: Around) -> Tensor:
    """The least value over a box, at a corner: half the products that centre, change and loss take by themselves.

    The loss of evaluating a row, ``gamma |row| max|x|``, is part of the corner; it counts every term at up to eight roundings, and making
    the corner takes four.
    """
    assert ball.radius is not None and ball.down is not None and ball.up is not None
    rows, centre = pulled.coefficients[name], ball.centre.flatten(1)
    fall, rise = (torch.minimum(side.flatten(1), ball.radius[:, None]) for side in (ball.down, ball.up))
    depth = rows[0, 0].numel() + len(state.graph.nodes) + 2 * pulled.roundings[name]
    loss = gamma(depth) * state.largest(name).flatten(1)
    positive = rows.clamp_min(0)
    return inner(positive, centre - fall - loss) + inner(rows - positive, centre + rise + loss) - TINY


def reach(ball: Around, rows: Tensor) -> Tensor:
    """``max <-row, v>`` over the changes v that the ball and the range of one leaf allow, (R, N)."""
    assert ball.radius is not None
    rows = rows if ball.inside is None else rows * ball.inside
    radius, flat, full = ball.radius, -rows.flatten(2), (len(rows), len(ball.centre))
    down, up = (None if side is None else side.flatten(1) for side in (ball.down, ball.up))
    if ball.groups is not None:
        return _grouped(flat, radius, down, up, ball.groups)
    if ball.p == inf and down is not None and up is not None and bool(radius.isfinite().all()):
        # the box around ball and range is the region: two products of non-negative numbers, under the factor of norms.support
        fall, rise = (torch.minimum(side, radius[:, None]) for side in (down, up))
        positive = flat.clamp_min(0)
        value = inner(positive, rise) + inner(positive - flat, fall)
        return (value * (1 + (flat.shape[-1] + 8) * norms.EPSILON)).expand(full)
    return norms.support(flat, ball.p, radius, down, up).expand(full)


def certificate(lower: Tensor, method: str, proof: dict[str, Tensor] | None = None) -> Certificate:
    """Rows (R, N) as a certificate: what is not finite proves nothing, and says so."""
    finite = lower.isfinite()
    notes = tuple("" if fine else "not certified: the bound is not finite" for fine in finite.all(0).tolist())
    return Certificate(torch.where(finite, lower, -torch.inf).T.contiguous(), method, proof or {}, notes)


def in_turns(problem: Problem, each: int, bound: Callable[[Problem], Certificate]) -> Certificate:
    """Evaluate a bound on as many examples at a time as ``each`` numbers per example leave room for.

    Errors: NotCertified for balls of a subspace whose coordinates do not tell lengths and ranges.
    """
    if any(ball.section is not None for ball in problem.region.values()):
        raise NotCertified("a subspace together with a range or with p other than 2")
    size = max(1, ENTRIES // max(1, each))
    if size >= len(problem):
        return bound(problem)
    parts = [bound(problem.take(torch.arange(i, min(i + size, len(problem))))) for i in range(0, len(problem), size)]
    counts = [len(p.rows) for p in parts]
    names = dict.fromkeys(name for p in parts for name in p.proof)  # of trees and cuts: some parts need none
    proof = {name: joined([p.proof.get(name) for p in parts], counts) for name in names}
    notes = tuple(n for p in parts for n in p.notes)
    leaves = {name for p in parts for name in p.points}
    centre = problem.centre
    clean = [
        {k: centre[k][i : i + n] for k in leaves} for i, n in zip(range(0, len(problem), size), counts, strict=True)
    ]
    points = {k: torch.cat([p.points.get(k, c[k]) for p, c in zip(parts, clean, strict=True)]) for k in leaves}
    return Certificate(torch.cat([p.rows for p in parts]), parts[0].method, proof, notes, points)


def _room(difference: Tensor) -> Tensor:
    return torch.where(difference > 0, torch.nextafter(difference, torch.full_like(difference, torch.inf)), 0.0)


def _grouped(flat: Tensor, radius: Tensor, down: Tensor | None, up: Tensor | None, channels: int) -> Tensor:
    """p = 0 over positions: a position gains the sum over its channels, and ``radius`` positions may be changed."""
    if down is None or up is None:
        return torch.where((flat.abs().amax(-1) > 0) & (radius >= 1), torch.inf, 0.0)
    gain = (flat.abs() * torch.where(flat > 0, up, down)).nan_to_num(nan=0.0)
    gain = gain.reshape(*gain.shape[:2], channels, -1).sum(2) * (1 + gamma(channels))
    one = torch.ones_like(gain[0])
    return norms.support(gain, 0, radius, one, one)
