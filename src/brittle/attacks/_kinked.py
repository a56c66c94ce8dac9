"""The nearest change that brings a convex, piecewise-linear function of it down to zero: a linear or least-distance program."""

from dataclasses import dataclass
from math import inf

import numpy as np

TURNS = 80  # of the active set; after the first half one wall changes at a time
CUTS = 12  # rounds of rows for entries that leave the cube on the other side
LEAST = 0.9  # of the known size: programs for p = inf look no further down at a time
LOOSE = 1e-6  # what counts as an end of a share after a descent that is not exact
MET = 1e-8  # relative: what a linear program of tolerance 1e-10 leaves of a row
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

    def nearest(self, p: float, near: np.ndarray) -> np.ndarray | None:
        """The v of least ``|v|_p`` with function <= 0; None where the solver found none. ``near``: some v that is known to do.

        For p = inf no v below LEAST times its size is looked for.
        """
        if p == 2:
            return _least_distance(self)
        return _sparsest(self) if p == 1 else _within_cube(self, near)


def _within_cube(f: Kinked, near: np.ndarray) -> np.ndarray | None:
    """p = inf, for a radius t at most ``size``, that of ``near``: every v is a corner of the cube of t plus ``rise >= 0`` away from it.

    The corner is that of ``near``, so few entries rise, and few rows are needed: an entry whose range ends below LEAST * size stands
    at its end; those between that and ``size`` get a row of their own, and those that rise beyond the opposite side as they do.
    """
    wide, walls, size = len(f.gradient), len(f.gains), float(np.abs(near).max())
    least, sign = LEAST * size, np.where(near != 0, np.sign(near), np.where(f.gradient > 0, -1.0, 1.0))
    room, back = np.where(sign > 0, f.up, f.down), np.where(sign > 0, f.down, f.up)
    free = room > least  # v = sign * (t - rise), else sign * (room - rise)
    a = np.concatenate([f.gradient[None], f.slopes]) * sign
    fixed = np.where(free, 0.0, room)
    slack = np.concatenate([f.gains[None], -np.eye(walls)])
    matrix = np.concatenate([-a, (a @ free)[:, None], slack], 1)
    limits = -(np.concatenate([[f.value], f.offsets]) + a @ fixed)
    narrow = np.flatnonzero(free & (room < size))
    one = np.eye(wide + 1, matrix.shape[1])
    matrix = np.concatenate([matrix, one[wide] - one[narrow]])  # t - rise <= room
    limits = np.concatenate([limits, room[narrow]])
    cost = np.zeros(matrix.shape[1])
    cost[wide] = 1.0
    bounds = np.zeros((len(cost), 2))
    bounds[:, 1] = np.concatenate([np.minimum(room, size) + np.minimum(back, size), [size], np.full(walls, inf)])
    bounds[wide, 0] = least
    v = None
    for _ in range(CUTS):
        solved = _solve(cost, matrix, limits, bounds)
        if solved is None:
            return None
        t, rise = solved[wide], solved[:wide]
        raw = np.where(free, t, room) - rise  # v is sign * raw, no lower than the cube and the range
        v = np.clip(sign * raw, -f.down, f.up)
        over = np.flatnonzero(-raw > np.minimum(t, back) * (1 + MET))
        if not len(over):
            return v
        beside = one[over] - np.outer(free[over] + 1.0 * (back[over] > t), one[wide])
        matrix = np.concatenate([matrix, beside])
        limits = np.concatenate([limits, fixed[over] + np.where(back[over] > t, 0.0, back[over])])
    return v


def _sparsest(f: Kinked) -> np.ndarray | None:
    """p = 1: what every entry rises and what it falls, and how far the change is beyond every wall."""
    wide, walls = len(f.gradient), len(f.gains)
    a = np.concatenate([f.gradient[None], f.slopes])
    matrix = np.concatenate([a, -a, np.concatenate([f.gains[None], -np.eye(walls)])], 1)
    cost = np.concatenate([np.ones(2 * wide), np.zeros(walls)])
    bounds = np.stack([np.zeros_like(cost), np.concatenate([f.up, f.down, np.full(walls, inf)])], 1)
    solved = _solve(cost, matrix, -np.concatenate([[f.value], f.offsets]), bounds)
    return None if solved is None else solved[:wide] - solved[wide : 2 * wide]


def _solve(cost: np.ndarray, matrix: np.ndarray, limits: np.ndarray, bounds: np.ndarray) -> np.ndarray | None:
    from scipy.optimize import linprog

    scale = np.abs(matrix).max(1).clip(1e-300)  # every row to 1, so that tolerances mean the same
    exact = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    result = linprog(cost, matrix / scale[:, None], limits / scale, bounds=bounds, method="highs-ds", options=exact)
    return result.x if result.status == 0 else None


def _least_distance(f: Kinked) -> np.ndarray | None:
    """The active set from no walls; where it does not settle, from what a descent on the shares leaves."""
    found = _active_set(f, np.zeros(len(f.gains), dtype=int))
    if found is None and len(f.gains):
        start = _shares(f)
        if start is None:
            return None
        share, v = start
        states = np.where(share <= LOOSE * f.gains, 0, np.where(share >= (1 - LOOSE) * f.gains, 2, 1))
        found = _active_set(f, states)
        found = v if found is None else found
    return found


def _shares(f: Kinked) -> tuple[np.ndarray, np.ndarray] | None:
    """The shares of the walls that push the nearest point of their common cut furthest away, and that point.

    ``value + sum_j share_j s_j`` with shares between 0 and the gains bounds the function from below; the farthest of the nearest points of
    these cuts is the solution, and the distance is quasi-concave in the shares.
    """
    from scipy.optimize import minimize

    def lengths(share: np.ndarray) -> tuple[float, np.ndarray]:
        solved = _equalities(
            (f.gradient + share @ f.slopes)[None], np.array([f.value + share @ f.offsets]), f.down, f.up
        )
        if solved is None:
            return 0.0, np.zeros_like(share)
        v, y = solved
        return -float(v @ v) / 2, -y[0] * (f.offsets + f.slopes @ v)

    tight = {"ftol": 1e-16, "gtol": 1e-14, "maxiter": 300}
    found = minimize(lengths, f.gains / 2, jac=True, method="L-BFGS-B", bounds=[(0, g) for g in f.gains], options=tight)
    share = np.clip(found.x, 0, f.gains)
    solved = _equalities((f.gradient + share @ f.slopes)[None], np.array([f.value + share @ f.offsets]), f.down, f.up)
    return None if solved is None else (share, solved[0])


def _active_set(f: Kinked, state: np.ndarray) -> np.ndarray | None:
    """Primal-dual active set on the walls, with Newton's method for the multipliers inside the range.

    A wall is below (0: multiplier 0), above (2: gain times that of the function, so that it joins the gradient), or active (1: its
    quantity zero, multiplier between). v is minus the sum of multipliers times gradients, cut off at the range.
    """
    walls = len(f.gains)
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
