"""The exact radius of a tiny network with one hidden layer of ReLUs: every activation pattern is one convex problem."""

from itertools import product
from math import inf

import numpy as np
from torch import Tensor, nn


def radius(module: nn.Sequential, x: Tensor, label: int, p: float, low: float, high: float) -> float:
    """``min |v|_p`` over the failures ``x + v`` in the range, for ``Linear, ReLU, Linear``: a linear or least-distance program for
    each of the 2^units patterns and each rival."""
    (w, b), (u, c) = ([t.detach().double().numpy() for t in (m.weight, m.bias)] for m in (module[0], module[2]))
    centre = x.double().numpy()
    box = np.concatenate([np.eye(len(centre)), -np.eye(len(centre))])
    room = np.concatenate([high - centre, centre - low])
    best = inf
    for pattern in product((0.0, 1.0), repeat=len(b)):
        on, sign = np.array(pattern), 1 - 2 * np.array(pattern)  # on: w z + b >= 0, off: <= 0
        inside, inside_room = sign[:, None] * w, -sign * (w @ centre + b)
        rows = u * on @ w
        value = rows @ centre + u * on @ b + c
        for rival in set(range(len(c))) - {label}:
            a = np.concatenate([inside, box, (rows[label] - rows[rival])[None]])
            most = np.concatenate([inside_room, room, [value[rival] - value[label]]])
            best = min(best, shortest(a, most, p))
    return best


def shortest(a: np.ndarray, most: np.ndarray, p: float) -> float:
    """``min |v|_p`` subject to ``a v <= most``; inf where there is no such v."""
    if p == 2:
        return _least_distance(a, most)
    from scipy.optimize import linprog

    count, size = a.shape
    parts = 1 if p == inf else size  # |v_i| <= t, or |v_i| <= t_i
    bound = np.ones((size, 1)) if p == inf else np.eye(size)
    eye = np.eye(size)
    inequalities = np.block([[a, np.zeros((count, parts))], [eye, -bound], [-eye, -bound]])
    cost = np.concatenate([np.zeros(size), np.ones(parts)])
    result = linprog(cost, inequalities, np.concatenate([most, np.zeros(2 * size)]), bounds=(None, None))
    return float(result.fun) if result.status == 0 else inf


def _least_distance(a: np.ndarray, most: np.ndarray) -> float:
    """Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23: non-negative least squares in the multipliers."""
    from scipy.optimize import nnls

    e = np.concatenate([-a.T, -most[None]])
    f = np.zeros(len(e))
    f[-1] = 1.0
    multipliers, residual = nnls(e, f)
    left = e @ multipliers - f
    return inf if residual < 1e-10 else float(np.linalg.norm(left[:-1] / left[-1]))
