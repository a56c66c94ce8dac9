"""One linearised boundary step: the smallest scale at which a linear function can be brought down by a stated gap.

With rows linearised at a point, ``f(z) ~ f(c) + <gradient, z - c>``, the nearest failure inside balls and ranges is a water
filling: every coordinate moves against its gradient until it meets its range or the level that the norm allows. The level
solves one concave, increasing, piecewise smooth equation, by Newton's method from below.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brittle import norms
from brittle.problem import Problem

NEWTON_STEPS = 8  # the water level rises monotonically; what is left after these is corrected by the next linearisation


@dataclass(frozen=True, eq=False)
class Room:
    """How far each coordinate of a leaf may fall and rise, in units of its ball, before it meets its range: (N, D) each; None without a range."""

    down: Tensor | None
    up: Tensor | None

    def towards(self, direction: Tensor) -> Tensor | None:
        """The room on the side to which ``direction`` (N, D) points."""
        return None if self.down is None or self.up is None else torch.where(direction > 0, self.up, self.down)


def rooms(problem: Problem) -> dict[str, Room]:
    """The room around the clean point, for every moving leaf."""
    return {leaf: _room(problem, leaf, value) for leaf, value in problem.centre.items()}


def _room(problem: Problem, leaf: str, centre: Tensor) -> Room:
    ball = problem.region[leaf]
    if ball.low is None and ball.high is None:
        return Room(None, None)
    low, high = ball.range(centre)
    down, up = (centre - low).expand(centre.shape), (high - centre).expand(centre.shape)
    return Room(norms.flat(ball.measured(down)), norms.flat(ball.measured(up)))


def best_change(a: Tensor, p: float, radius: Tensor, room: Tensor | None) -> tuple[Tensor, Tensor]:
    """The v that maximises ``<a, v>`` over ``|v|_p <= radius`` and ``|v_i| <= room_i``, and the growth of that maximum per radius.

    a, room : (N, D); radius : (N,). Returns v (N, D) and the slope (N,). p = 0 without a room keeps a zero change: it has no maximum.

    >>> best_change(torch.tensor([[3.0, -4.0]]), 2, torch.tensor([5.0]), None)[0]
    tensor([[ 3., -4.]])
    """
    size, limit = a.abs(), radius[:, None]
    if p == torch.inf:
        level = limit.expand_as(a) if room is None else torch.minimum(room, limit)
        slope = size.sum(1) if room is None else torch.where(room > limit, size, 0.0).sum(1)
    elif p == 2:
        t = _level_l2(size, radius, room)
        level = size * t[:, None] if room is None else torch.minimum(room, size * t[:, None])
        slope = radius / t
    else:
        level, slope = _largest_first(size, p, radius, room)
    return level * a.sign(), slope.nan_to_num(nan=0.0, posinf=0.0)


def _level_l2(size: Tensor, radius: Tensor, room: Tensor | None) -> Tensor:
    """t with ``|min(room, t |a|)|_2 = radius``, from below."""
    tiny = torch.finfo(size.dtype).tiny
    t = radius / torch.linalg.vector_norm(size, 2, dim=1).clamp_min(tiny)
    if room is None:
        return t
    for _ in range(NEWTON_STEPS):
        full = size * t[:, None] >= room
        left = radius.square() - torch.where(full, room.square(), 0.0).sum(1)
        free = torch.where(full, 0.0, size.square()).sum(1)
        t = torch.where((left > 0) & (free > 0), torch.maximum(t, (left / free.clamp_min(tiny)).sqrt()), t)
    return t


def _largest_first(size: Tensor, p: float, radius: Tensor, room: Tensor | None) -> tuple[Tensor, Tensor]:
    """p = 1: fill the rooms, steepest first, until the radius is spent. p = 0: the ``floor(radius)`` largest gains in full."""
    if room is None:
        best = size.argmax(1, keepdim=True)
        level = torch.zeros_like(size).scatter(1, best, radius[:, None] if p == 1 else 0 * radius[:, None])
        return level, size.gather(1, best)[:, 0] * (p == 1)
    key = size if p == 1 else (size * room).nan_to_num(nan=0.0)
    order = key.argsort(dim=1, descending=True, stable=True)
    inside = room.gather(1, order)
    if p == 0:
        count = torch.arange(size.shape[1], device=size.device)
        taken = torch.where(count < radius.floor()[:, None], inside, 0.0)
        return torch.zeros_like(size).scatter(1, order, taken.nan_to_num(posinf=0.0)), torch.zeros_like(radius)
    before = inside.cumsum(1) - inside
    taken = torch.minimum((radius[:, None] - before.nan_to_num(nan=torch.inf)).clamp_min(0), inside)
    last = (taken > 0).sum(1, keepdim=True).clamp_min(1) - 1
    return torch.zeros_like(size).scatter(1, order, taken), size.gather(1, order).gather(1, last)[:, 0]


def nearest_change(
    problem: Problem, descent: Mapping[str, Tensor], gap: Tensor, room: Mapping[str, Room]
) -> dict[str, Tensor]:
    """The change of smallest scale with ``<descent, change> = gap``, inside every range.

    descent : by leaf (N, ...), minus the gradient of the row; gap : (N,) >= 0; room : from :func:`rooms`.
    Returns the changes by leaf. Where no change inside the range is enough, as far as the ranges allow; where the descent is
    zero, zero. Cost: no passes; O(D) per Newton step, a sort for p = 0 and 1.

    Reference: Hasofer and Lind, J. Eng. Mech. 1974 (p = 2, no range); Croce and Hein, ICML 2020 (with a range).
    """
    balls = problem.region
    moving = {leaf: norms.flat(balls[leaf].stretched(a)) for leaf, a in descent.items() if balls[leaf].radius > 0}
    if len(moving) == 1:
        ((leaf, a),) = moving.items()
        changes = {leaf: _nearest_in_one(problem, leaf, a, gap.to(a), room[leaf])}
    else:
        changes = _nearest_in_several(problem, moving, gap, room)
    return {
        leaf: balls[leaf].stretched(changes[leaf].reshape(a.shape)) if leaf in changes else torch.zeros_like(a)
        for leaf, a in descent.items()
    }


def _nearest_in_one(problem: Problem, leaf: str, a: Tensor, gap: Tensor, space: Room) -> Tensor:
    section, p = problem.region[leaf].section, problem.region[leaf].p
    if section is not None:
        return section.nearest(a, gap, section.rooms(problem.inputs[section.base]))
    room, size, tiny = space.towards(a), a.abs(), torch.finfo(a.dtype).tiny
    if p in (0, 1):
        return _spend_gap(size, p, gap, room) * a.sign()
    pace = size if p == 2 else torch.ones_like(size)
    gain = size * pace
    level = gap / gain.sum(1).clamp_min(tiny)
    if room is None:
        return level[:, None].clamp_max(1e30) * pace * a.sign()
    most = (size * room).nan_to_num(nan=0.0)
    for _ in range(NEWTON_STEPS):
        full = level[:, None] * pace >= room
        left = gap - torch.where(full, most, 0.0).sum(1)
        free = torch.where(full, 0.0, gain).sum(1)
        risen = torch.maximum(level, torch.where(free > 0, left / free.clamp_min(tiny), torch.inf))
        if torch.equal(risen, level):
            break
        level = risen
    # a level beyond all rooms is infinite: the corner of the range; 0 * inf is a coordinate without gradient
    return torch.minimum((level[:, None] * pace).nan_to_num(nan=0.0, posinf=torch.inf), room) * a.sign()


def _spend_gap(size: Tensor, p: float, gap: Tensor, room: Tensor | None) -> Tensor:
    """Whole rooms, best first (p = 1: steepest; p = 0: largest gain), the last one only as far as the gap asks."""
    tiny = torch.finfo(size.dtype).tiny
    if room is None:
        best = size.argmax(1, keepdim=True)
        step = gap[:, None] / size.gather(1, best).clamp_min(tiny)
        return torch.zeros_like(size).scatter(1, best, step.clamp_max(1e30))
    gain = (size * room).nan_to_num(nan=0.0)
    order = (size if p == 1 else gain).argsort(dim=1, descending=True, stable=True)
    gains = gain.gather(1, order)
    before = torch.cat([torch.zeros_like(gains[:, :1]), gains.cumsum(1)[:, :-1]], 1)
    need = ((gap[:, None] - before) / size.gather(1, order).clamp_min(tiny)).clamp_min(0).nan_to_num(nan=0.0)
    return torch.zeros_like(size).scatter(1, order, torch.minimum(need, room.gather(1, order)))


def _nearest_in_several(
    problem: Problem, moving: Mapping[str, Tensor], gap: Tensor, room: Mapping[str, Room]
) -> dict[str, Tensor]:
    """Newton on the common scale: the gain at a scale is concave and the sum of the gains of the leaves."""
    first = next(iter(moving.values()))
    scale, gap = torch.zeros_like(gap).to(first), gap.to(first)
    tiny = torch.finfo(first.dtype).tiny
    changes: dict[str, Tensor] = {leaf: torch.zeros_like(a) for leaf, a in moving.items()}
    slope = torch.stack(
        [
            problem.region[leaf].radius * norms.norm(a, norms.dual(problem.region[leaf].p or 1))
            for leaf, a in moving.items()
        ]
    ).sum(0)
    left = gap
    for _ in range(NEWTON_STEPS):
        scale = scale + torch.where(slope > 0, left / slope.clamp_min(tiny), 0.0).clamp(0, 1e30)
        left, slope = gap, torch.zeros_like(gap)
        for leaf, a in moving.items():
            ball = problem.region[leaf]
            if ball.section is not None:  # along its own gradient: sections have no water level
                unit = ball.section.along(a)
                changes[leaf], growth = (ball.radius * scale)[:, None] * unit, (a * unit).sum(1)
            else:
                changes[leaf], growth = best_change(a, ball.p, ball.radius * scale, room[leaf].towards(a))
            left, slope = left - (a * changes[leaf]).sum(1), slope + ball.radius * growth
        if all(room[leaf].up is None for leaf in moving):
            break
    return changes
