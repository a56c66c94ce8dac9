"""The nearest change that brings a convex, piecewise-linear function of it down to zero: a linear or least-distance program."""

from dataclasses import dataclass
from math import inf

import numpy as np

TURNS = 80  # of the active set; after the first half one wall changes at a time
ZERO = 1e-11  # relative: what counts as on a wall, and as a multiplier of zero


@dataclass(frozen=True, eq=False)
class Kinked:
    """``value + <gradient, v> + sum_j gains_j max(0, offsets_j + <slopes_j, v>)`` of a change v (D,), inside ``-down <= v <= up``.

    gains (K,) > 0, offsets (K,), slopes (K, D). The function is convex.
    """

    value: float
    gradient: np.ndarray
    gains: np.ndarray
    offsets: np.ndarray
    slopes: np.ndarray
    down: np.ndarray
    up: np.ndarray

    def at(self, v: np.ndarray) -> float:
        return float(self.value + self.gradient @ v + self.gains @ np.maximum(0.0, self.offsets + self.slopes @ v))

    def nearest(self, p: float) -> np.ndarray | None:
        """The v of least ``|v|_p`` with function <= 0; None where the solver found none."""
        return _least_distance(self) if p == 2 else _linear_program(self, p)


def _linear_program(f: Kinked, p: float) -> np.ndarray | None:
    """v, its size (one bound for p = inf, one for each entry for p = 1) and the rise beyond every wall, by HiGHS."""
    from scipy.optimize import linprog
    from scipy.sparse import bmat, csr_matrix, eye

    size, walls = len(f.gradient), len(f.gains)
    scale = max(float(np.abs(f.gradient).max(initial=0.0)), 1e-300)
    row = csr_matrix(f.gradient[None] / scale)
    one = eye(size, format="csr")
    if p == 1:  # v = rise - fall
        blocks = [[row, -row, csr_matrix(f.gains[None] / scale)]]
        if walls:
            slopes = csr_matrix(f.slopes)
            blocks.append([slopes, -slopes, -eye(walls)])
        cost = np.concatenate([np.ones(2 * size), np.zeros(walls)])
        limits = np.stack([np.zeros_like(cost), np.concatenate([f.up, f.down, np.full(walls, inf)])], 1)
        most = np.concatenate([[-f.value / scale], -f.offsets])
    else:
        bound = csr_matrix(np.ones((size, 1)))
        blocks = [[row, None, csr_matrix(f.gains[None] / scale)], [one, -bound, None], [-one, -bound, None]]
        if walls:
            blocks.append([csr_matrix(f.slopes), None, -eye(walls)])
        else:
            blocks = [b[:2] for b in blocks]
        cost = np.concatenate([np.zeros(size), [1.0], np.zeros(walls)])
        low = np.concatenate([-f.down, np.zeros(1 + walls)])
        limits = np.stack([low, np.concatenate([f.up, np.full(1 + walls, inf)])], 1)
        most = np.concatenate([[-f.value / scale], np.zeros(2 * size), -f.offsets])
    exact = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    result = linprog(cost, bmat(blocks, format="csr"), most, bounds=limits, method="highs", options=exact)
    if result.status != 0:
        return None
    return result.x[:size] - result.x[size : 2 * size] if p == 1 else result.x[:size]


def _least_distance(f: Kinked) -> np.ndarray | None:
    """Primal-dual active set on the walls, with Newton's method for the multipliers inside the range.

    A wall is below (multiplier 0), above (multiplier gain * that of the function, so that it joins the gradient), or active (its
    quantity zero, multiplier between). v is minus the sum of multipliers times gradients, cut off at the range.
    """
    walls = len(f.gains)
    state = np.zeros(walls, dtype=int)  # 0 below, 1 active, 2 above
    share = np.zeros(walls)  # multiplier over that of the function
    for turn in range(TURNS):
        active, above = np.flatnonzero(state == 1), np.flatnonzero(state == 2)
        a = np.concatenate([(f.gradient + f.gains[above] @ f.slopes[above])[None], f.slopes[active]])
        b = np.concatenate([[f.value + f.gains[above] @ f.offsets[above]], f.offsets[active]])
        solved = _equalities(a, b, f.down, f.up)
        if solved is None:
            return None
        v, y = solved
        s = f.offsets + f.slopes @ v
        share = np.where(state == 2, f.gains, 0.0)
        share[active] = y[1:] / max(y[0], 1e-300)
        tiny = ZERO * (np.abs(f.offsets) + 1e-3)
        worse = np.where(state == 1, np.maximum(-share, share - f.gains) / f.gains, 0.0)
        wrong = (state == 0) & (s > tiny) | (state == 2) & (s < -tiny) | (worse > ZERO)
        if not wrong.any():
            return v
        if turn >= TURNS // 2:  # one at a time, the first: so that it does not cycle (folklore, after Bland)
            first = np.flatnonzero(wrong)[0]
            wrong = np.arange(walls) == first
        leaving = np.where(share <= 0, 0, 2)
        state = np.where(wrong, np.where(state == 1, leaving, 1), state)
    return None


def _equalities(a: np.ndarray, b: np.ndarray, down: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """``v = clip(-a' y)`` with ``a v = -b``: Newton on y, each step on the coordinates that are free; None where it does not settle."""
    y = np.zeros(len(a))
    free = np.ones(a.shape[1], dtype=bool)
    v = np.zeros(a.shape[1])
    for _ in range(40):
        left = b + a @ v
        if np.abs(left).max() <= 1e-13 * (np.abs(b).max() + np.abs(a).max()):
            return v, y
        m = a[:, free] @ a[:, free].T
        y = y + np.linalg.lstsq(m, left, rcond=1e-14)[0]
        raw = -(y @ a)
        v = np.clip(raw, -down, up)
        free = (raw > -down) & (raw < up)
    left = np.abs(b + a @ v).max()
    return (v, y) if left <= 1e-9 * (np.abs(b).max() + 1e-300) else None
