"""The exact radius of affine networks: one linear or least-distance program for every set of rows that may fail together."""

from itertools import combinations
from math import inf

import numpy as np

from brittle.problem import Problem
from brittle.spec import matrix
from reference.regions import shortest


def affine(problem: Problem) -> list[float]:
    """``min |v|_p`` per example over the failures ``x + v`` in the range of an affine network given as one ``nn.Linear``."""
    linear, ball = problem.network.double, problem.region["x"]
    weight, bias = (t.detach().double() for t in (linear.weight, linear.bias))  # type: ignore[attr-defined]
    coefficients, offsets = matrix(problem.spec, problem.labels, len(bias))
    x = problem.inputs["x"].double()
    slopes = (coefficients @ weight).transpose(0, 1).numpy()  # (N, R, D)
    values = ((coefficients @ weight * x).sum(-1) + coefficients @ bias + offsets).T.numpy()
    low, high = (np.broadcast_to(side.numpy(), x.shape) for side in ball.exact_range(x))
    down, up = x.numpy() - low, high - x.numpy()
    return [_one(*of, ball.p, problem.spec.rank) for of in zip(slopes, values, down, up, strict=True)]


def _one(slopes: np.ndarray, values: np.ndarray, down: np.ndarray, up: np.ndarray, p: float, rank: int) -> float:
    best = inf
    for chosen in combinations(range(len(values)), rank):  # these rows fail together
        rows, most = slopes[list(chosen)], -values[list(chosen)]
        best = min(best, _fewest(rows, most, down, up) if p == 0 else _within(rows, most, down, up, p))
    return best


def _within(rows: np.ndarray, most: np.ndarray, down: np.ndarray, up: np.ndarray, p: float) -> float:
    eye = np.eye(rows.shape[1])
    a, b = np.concatenate([rows, eye, -eye]), np.concatenate([most, up, down])
    return shortest(a[np.isfinite(b)], b[np.isfinite(b)], p)


def _fewest(rows: np.ndarray, most: np.ndarray, down: np.ndarray, up: np.ndarray) -> float:
    """Every set of features, smallest first: can these alone make all the rows fail?"""
    for count in range(rows.shape[1] + 1):
        for features in combinations(range(rows.shape[1]), count):
            at = list(features)
            free_down, free_up = np.zeros_like(down), np.zeros_like(up)
            free_down[at], free_up[at] = down[at], up[at]
            if _within(rows, most, free_down, free_up, 1) < inf:
                return float(count)
    return inf
