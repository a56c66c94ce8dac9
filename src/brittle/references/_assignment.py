"""The best radii of a finite set from one assignment problem, with the proof that no others are better."""

from collections.abc import Iterator

import numpy as np

BLOCK = 64 * 2**20  # bytes of temporaries
TIGHT = 1e-13  # of the largest radius: potentials that move by less have settled


def best_radii(distance: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, float]:
    """Radii (N,) that maximise ``sum r`` under ``r_i + r_j <= d_ij`` and ``r >= 0``, and a proved upper bound of that maximum.

    distance : (N, N), inf for pairs without a constraint. It is overwritten: N = 10,000 needs 0.8 GB and no second copy.
    nearest  : (N,) its row minima.

    The dual is a fractional edge cover of the graph of pairs, which is half an edge cover of its double (each example once on
    the left and once on the right), and a bipartite edge cover is a matching: the maximum is
    ``sum d_i - 1/2 max sum W_i,s(i)`` over permutations s, with ``W_ij = max(0, d_i + d_j - d_ij)``. Radii s that are
    feasible and cannot grow turn this into ``sum s_i + 1/2 min sum C_i,s(i)`` with small costs
    ``C_ij = min(d_ij - s_i - s_j, (d_i - s_i) + (d_j - s_j))``, on which the assignment takes half the time. Its potentials
    ``p_i + q_j <= C_ij`` give the radii ``s_i + (p_i + q_i) / 2``.
    """
    from scipy.optimize import linear_sum_assignment

    start = _grown(distance, nearest)
    room = nearest - start
    cost = distance
    for part in _parts(len(cost)):
        cost[part] -= start[part, None]
        cost[part] -= start
        np.minimum(cost[part], room[part, None] + room, out=cost[part])
    left, right = linear_sum_assignment(cost)
    matched = np.empty(len(cost), dtype=np.int64)
    matched[right] = left
    paid = cost[matched, np.arange(len(cost))]
    p, q = _potentials(cost, paid, matched, room)
    growth = (p + q) / 2
    growth -= np.maximum(0, _excess(cost, growth)) / 2  # rounding alone
    return np.clip(start + growth, 0, nearest), float(start.sum() + paid.sum() / 2)


def _grown(distance: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Half the nearest distance, then each example in turn as far as the others leave room, the most crowded first."""
    radii = nearest / 2
    for i in np.argsort(nearest, kind="stable"):
        radii[i] = max(radii[i], (distance[i] - radii).min())
    return radii


def _potentials(
    cost: np.ndarray, paid: np.ndarray, matched: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bellman and Ford on the residual graph: the largest p <= room with ``p_i + q_j <= C_ij``, equal on the matching."""
    p = room.copy()
    tight = TIGHT * max(float(room.max()), float(np.finfo(float).tiny))
    for _ in range(len(cost)):
        q = paid - p[matched]
        lower = np.concatenate([(cost[part] - q).min(1) for part in _parts(len(cost))])
        settled = bool((p - lower).max() <= tight)
        p = np.minimum(p, lower)
        if settled:
            break
    return p, paid - p[matched]


def _excess(cost: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """(N,) by how much the pair sums of each example exceed their limits."""
    worst = [growth[part] + (growth - cost[part]).max(1) for part in _parts(len(cost))]
    return np.concatenate(worst)


def _parts(count: int) -> Iterator[slice]:
    step = max(1, BLOCK // (8 * count))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
