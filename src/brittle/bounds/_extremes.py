"""Where a linear form is greatest in a ball cut by a box: the point itself, for searches. Feasible up to rounding, nothing proved."""

from math import inf

import torch
from torch import Tensor

ROUNDS = 8


def extreme(a: Tensor, p: float, radius: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """A change v (B, D) with ``|v|_p <= radius`` and ``-down <= v <= up`` that maximises ``<a, v>``; rooms may be infinite.

    p = 2    ``v_i = min(c_i, t |a_i|)``, t raised in a few rounds until the radius is spent
    p = 1    the steepest entries are filled first;  p = 0: the ``radius`` entries with the largest ``|a_i| c_i``
    """
    size, room = a.abs(), torch.where(a > 0, up, down)
    limit = radius[:, None]
    if p == inf:
        return a.sign() * torch.minimum(room, limit)
    if p == 2:
        return a.sign() * _length(size, limit, room)
    if p == 1:
        room = torch.minimum(room, limit)
        order = size.argsort(1, descending=True)
        filled = room.gather(1, order)
        before = filled.cumsum(1) - filled
        taken = torch.minimum(filled, (limit - before).clamp_min(0))
        return a.sign() * torch.zeros_like(a).scatter(1, order, taken)
    gain = size * room
    rank = gain.argsort(1, descending=True).argsort(1)
    return torch.where((rank < limit) & (size > 0), a.sign() * room, 0.0)


def _length(size: Tensor, limit: Tensor, room: Tensor) -> Tensor:
    t = limit / torch.linalg.vector_norm(size, dim=1, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    v = torch.minimum(size * t, room)
    for _ in range(ROUNDS):
        free = v < room
        spent = torch.where(free, 0.0, v).square().sum(1, keepdim=True)
        open_ = torch.where(free, v, 0.0).square().sum(1, keepdim=True)
        left = limit.square() - spent
        t = torch.where((left > 0) & (open_ > 0), t * (left / open_).clamp_min(1).sqrt(), t)
        v = torch.minimum(size * t, room)
    return v
