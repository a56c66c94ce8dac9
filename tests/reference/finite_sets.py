"""Slow, obvious twins of the references: the linear programme over all pairs, covers by trying all sets."""

from itertools import combinations

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist


def pairs(x: np.ndarray, labels: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair i < j of different labels and its distance, by differences."""
    distance = cdist(x, x, {1: "cityblock", 2: "euclidean"}.get(p, "chebyshev"))
    i, j = np.nonzero(np.triu(labels[:, None] != labels))
    return i, j, distance[i, j]


def programme(i: np.ndarray, j: np.ndarray, limit: np.ndarray, count: int) -> np.ndarray:
    """Radii (count,) that maximise their sum under ``r_i + r_j <= limit``, r >= 0, by HiGHS."""
    at = np.arange(len(i))
    rows = csr_matrix((np.ones(2 * len(i)), (np.r_[at, at], np.r_[i, j])), shape=(len(i), count))
    found = linprog(-np.ones(count), A_ub=rows, b_ub=limit, method="highs")
    assert found.status == 0
    return found.x


def best_mean(x: np.ndarray, labels: np.ndarray, p: float = 2) -> float:
    """The finite-set optimum with all pairs at once."""
    i, j, limit = pairs(x, labels, p)
    return float(programme(i, j, limit, len(labels)).mean())


def smallest_cover(count: int, edges: list[tuple[int, int]]) -> int:
    """The least number of vertices that touch every edge, by trying all sets."""
    for size in range(count + 1):
        for chosen in combinations(range(count), size):
            if all(a in chosen or b in chosen for a, b in edges):
                return size
    raise AssertionError
