"""Slow, obvious twins of bounds: every corner of a box, dense grids, and scipy for a ball cut by a box."""

from itertools import product
from math import inf

import numpy as np
import torch
from torch import Tensor


def vertices(low: Tensor, high: Tensor) -> Tensor:
    """All corners (2^D, D) of one box."""
    return torch.tensor(list(product(*zip(low.tolist(), high.tolist(), strict=True))), dtype=torch.float64)


def grid(low: Tensor, high: Tensor, steps: int) -> Tensor:
    """A dense grid (steps^D, D) over one box, corners included."""
    return torch.cartesian_prod(
        *(torch.linspace(float(a), float(b), steps, dtype=torch.float64) for a, b in zip(low, high))
    ).reshape(-1, len(low))


def support(a: np.ndarray, p: float, radius: float, down: np.ndarray, up: np.ndarray) -> float:
    """``max <a, v>`` over ``|v|_p <= radius``, ``-down <= v <= up``, by linear programming or a scalar root search."""
    room = np.where(a > 0, up, down)
    size = np.abs(a)
    if p == 0:
        return float(np.sort(size * room)[::-1][: int(radius)].sum())
    if p == inf:
        return float((size * np.minimum(room, radius)).sum())
    if p == 1:
        from scipy.optimize import linprog

        result = linprog(-size, A_ub=np.ones((1, len(a))), b_ub=[radius], bounds=list(zip(np.zeros(len(a)), room)))
        return float(-result.fun)
    from scipy.optimize import brentq

    if (room**2).sum() <= radius**2:
        return float((size * room).sum())
    used = lambda t: (np.minimum(room, t * size) ** 2).sum() - radius**2
    high = 1.0
    while used(high) < 0 and high < 1e12:
        high *= 2
    t = brentq(used, 0.0, high, xtol=1e-15, rtol=1e-14, maxiter=500)
    return float((size * np.minimum(room, t * size)).sum())
