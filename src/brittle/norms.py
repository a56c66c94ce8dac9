"""l_p geometry on batches: norms, projections, steepest directions, support functions.

Every function reads a batch ``v`` of shape (N, ...) and reduces over all but the first axis. ``p`` is 0, 1, 2 or inf;
p = 0 counts the entries that differ from zero (it is no norm, but the questions asked of it are the same).
"""

from math import inf

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps  # 2^-52: one rounding is at most half of it, relative


def flat(v: Tensor) -> Tensor:
    """(N, ...) as (N, D)."""
    return v.reshape(v.shape[0], -1)


def spread(scalars: Tensor, like: Tensor) -> Tensor:
    """(N,) shaped so that it broadcasts against (N, ...)."""
    return scalars.reshape(-1, *[1] * (like.dim() - 1))


def dual(p: float) -> float:
    """The q with 1/p + 1/q = 1: ``sup {<a, v>: |v|_p <= 1} = |a|_q``."""
    return {1: inf, 2: 2, inf: 1}[p]


def norm(v: Tensor, p: float) -> Tensor:
    """|v|_p of every example, shape (N,).

    >>> norm(torch.tensor([[3.0, -4.0]]), 2)
    tensor([5.])
    """
    rows = flat(v)
    if p == 0:
        return (rows != 0).sum(1).to(v.dtype)
    if p == 2:
        return torch.linalg.vector_norm(rows, 2, dim=1)
    return rows.abs().sum(1) if p == 1 else rows.abs().amax(1)  # vector_norm takes ten times as long (measured)


def project(v: Tensor, p: float, radius: Tensor) -> Tensor:
    """The nearest point (in l2) of the l_p ball of each example's own ``radius`` (N,).

    For p = 0 the ``floor(radius)`` largest entries are kept. For p = 1 the soft threshold is found by sorting
    (Duchi et al., ICML 2008).
    """
    if p == inf:
        limit = spread(radius, v)
        return torch.minimum(torch.maximum(v, -limit), limit)
    if p == 2:
        length = norm(v, 2)
        return v * spread((radius / length.clamp_min(torch.finfo(v.dtype).tiny)).clamp_max(1), v)
    rows = flat(v).abs()
    if p == 0:
        rank = rows.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return v * (rank < radius.floor()[:, None]).to(v.dtype).reshape(v.shape)
    ordered = rows.sort(1, descending=True).values
    excess = ordered.cumsum(1) - radius[:, None]
    count = torch.arange(1, rows.shape[1] + 1, device=v.device, dtype=v.dtype)
    active = (ordered * count > excess).sum(1).clamp_min(1)
    threshold = excess.gather(1, active[:, None] - 1)[:, 0] / active
    threshold = torch.where(rows.sum(1) <= radius, torch.zeros_like(threshold), threshold)
    return v.sign() * (v.abs() - spread(threshold, v)).clamp_min(0)


def steepest(gradient: Tensor, p: float) -> Tensor:
    """A v with |v|_p <= 1 that maximises <gradient, v>. Zero where the gradient is zero.

    For p = 0 and p = 1 this is the single largest entry (its sign).
    """
    if p == inf:
        return gradient.sign()
    if p == 2:
        return gradient / spread(norm(gradient, 2).clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
    rows = flat(gradient)
    best = rows.abs().argmax(1, keepdim=True)
    return torch.zeros_like(rows).scatter(1, best, rows.gather(1, best).sign()).reshape(gradient.shape)


def proof_radius(p: float, radius: Tensor) -> Tensor:
    """What a proof at ``radius = radius of the ball * scale`` must hold for, though that product was rounded.

    The next number up; for p = 0 a whole number of changes: 3 / 0.7 * 0.7 is 2.9999999999999996 and means 3.
    """
    if p == 0:
        return (radius * (1 + 1e-9)).floor()
    return torch.where(radius > 0, torch.nextafter(radius, torch.full_like(radius, inf)), radius)


def support(a: Tensor, p: float, radius: Tensor, down: Tensor | None = None, up: Tensor | None = None) -> Tensor:
    """A proved upper bound, tight up to rounding, of ``max <a, v>`` over ``|v|_p <= radius`` and ``-down <= v <= up``.

    a      : (R, N, D) rows, float64
    radius : (N,)
    down, up : (N, D) non-negative room below and above, or None where the range does not bind. Infinite entries are allowed.
    Returns (R, N).

    Without a range this is ``radius * |a|_q`` with the dual norm q. With one, weak Lagrange duality
    ``max <= radius-penalty(t) + sum_i max_v (|a_i| v - penalty(v, t))`` holds for *every* multiplier t >= 0, so an
    inexact multiplier costs tightness and never soundness:
    p = 2    ``sum_i max_{0<=v<=c_i} (|a_i| v - v^2 / (2 t)) + radius^2 / (2 t)``
    p = 1    ``t radius + sum_i c_i max(0, |a_i| - t)``
    p = inf  ``sum_i |a_i| min(c_i, radius)``
    p = 0    the ``floor(radius)`` largest ``|a_i| c_i`` (exact; without a range the sum is unbounded).
    c_i is the room on the side to which a_i points. The result is rounded outwards by the error bound of a D-term sum.
    """
    size = a.abs()
    outward = 1 + (a.shape[-1] + 8) * EPSILON
    if p == 0:
        return _support_count(a, size, radius, down, up) * outward
    if down is None or up is None:
        return _dual_bound(a, p, radius) * outward
    room = torch.where(a > 0, up, down)
    if p == inf:
        return (size * torch.minimum(room, radius[:, None])).nan_to_num(nan=0.0).sum(-1) * outward
    bound = _support_l2(size, radius, room) if p == 2 else _support_l1(size, radius, room)
    return torch.minimum(bound, _dual_bound(a, p, radius)) * outward


def _dual_bound(a: Tensor, p: float, radius: Tensor) -> Tensor:
    """``radius |a|_q``; squares below 2^-1022 vanish, which costs a length at most 2^-511 an entry."""
    lost = a.shape[-1] * 2.0**-510 if p == 2 else 0.0
    return radius * (torch.linalg.vector_norm(a, dual(p), dim=-1) + lost)


def _support_l2(size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """v_i = min(c_i, t |a_i|) with t chosen so that |v|_2 = radius.

    With the capped entries known, ``t^2 = (radius^2 - sum of their c_i^2) / sum of the other a_i^2``; starting from the
    solution without caps t grows monotonically to its value, in two to five rounds.
    """
    square = radius.square()
    t = radius / torch.linalg.vector_norm(size, 2, dim=-1).clamp_min(torch.finfo(size.dtype).tiny)
    v = torch.minimum(size * t[..., None], room)
    for _ in range(8):
        whole = torch.linalg.vector_norm(v, dim=-1).square()
        free = torch.linalg.vector_norm(v.mul_(v < room), dim=-1).square()
        left = square - (whole - free)
        grown = torch.where((left > 0) & (free > 0), t * (left / free).clamp_min(1).sqrt(), t)
        done = bool((grown <= t * (1 + 1e-4)).all())  # the dual is flat at its optimum: the rest is 1e-8 of it
        t = grown
        v = torch.mul(size, t[..., None], out=v)
        v = torch.minimum(v, room, out=v)
        if done:
            break
    t = t.clamp(torch.finfo(size.dtype).tiny, 1e150)
    v = torch.minimum(size * t[..., None], room)
    inner = (size * v).sum(-1) - torch.linalg.vector_norm(v, dim=-1).square() / (2 * t) + square / (2 * t)
    box = (size * room).nan_to_num(nan=0.0).sum(-1)  # the box alone
    inner = torch.where(radius > 1e-140, inner, inf)  # below, the squares of the dual lose digits
    return torch.minimum(inner.nan_to_num(nan=inf), box)


def _support_l1(size: Tensor, radius: Tensor, room: Tensor) -> Tensor:
    """The multiplier is the |a_i| at which the greedy filling of the rooms, steepest first, has spent the radius."""
    size, room = torch.broadcast_tensors(size, room)
    ordered, order = size.sort(-1, descending=True)
    spent = room.gather(-1, order).cumsum(-1)
    last = (spent < radius[:, None]).sum(-1, keepdim=True)
    inside = last < size.shape[-1]
    t = torch.where(inside, ordered.gather(-1, last.clamp_max(size.shape[-1] - 1)), 0.0)
    gain = (size - t).clamp_min(0) * room
    return t[..., 0] * radius + gain.nan_to_num(nan=0.0).sum(-1)


def _support_count(a: Tensor, size: Tensor, radius: Tensor, down: Tensor | None, up: Tensor | None) -> Tensor:
    if down is None or up is None:
        return torch.where((size.amax(-1) > 0) & (proof_radius(0, radius) >= 1), inf, 0.0)
    gain = (size * torch.where(a > 0, up, down)).nan_to_num(nan=0.0).sort(-1, descending=True).values
    count = torch.arange(gain.shape[-1], device=a.device)
    return torch.where(count < proof_radius(0, radius)[:, None], gain, 0.0).sum(-1)


def uniform_sphere(shape: tuple[int, ...], p: float, generator: torch.Generator, count: int | None = None) -> Tensor:
    """Draws from the cone measure of the unit l_p sphere, which for p in {1, 2, inf} is the uniform one.

    Returns one draw of the given shape, or (count, *shape). Schechtman and Zinn: |g_i|^p ~ Gamma(1/p), divided by its own
    norm; p = inf: uniform in the cube, then one coordinate chosen at random moves to its face.
    """
    size = (1 if count is None else count, torch.Size(shape).numel())
    if p == inf:
        draws = 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1
        face = torch.randint(size[1], (size[0], 1), generator=generator)
        draws.scatter_(1, face, torch.where(draws.gather(1, face) < 0, -1.0, 1.0).to(torch.float64))
    elif p == 2:
        draws = torch.randn(size, generator=generator, dtype=torch.float64)
        draws /= norm(draws, 2)[:, None]
    else:
        uniform = torch.rand((2, *size), generator=generator, dtype=torch.float64)
        draws = -uniform[0].clamp_min(1e-300).log() * torch.where(uniform[1] < 0.5, -1.0, 1.0)
        draws /= norm(draws, 1)[:, None]
    return draws.reshape(shape if count is None else (count, *shape))


def uniform_ball(shape: tuple[int, ...], p: float, generator: torch.Generator, count: int | None = None) -> Tensor:
    """Uniform draws from the unit l_p ball, p in {1, 2, inf}: one of the given shape, or (count, *shape)."""
    whole = shape if count is None else (count, *shape)
    if p == inf:
        return 2 * torch.rand(whole, generator=generator, dtype=torch.float64) - 1
    length = torch.rand(whole[: len(whole) - len(shape)], generator=generator, dtype=torch.float64)
    direction = uniform_sphere(shape, p, generator, count)
    return length.reshape(*length.shape, *[1] * len(shape)) ** (1 / torch.Size(shape).numel()) * direction
