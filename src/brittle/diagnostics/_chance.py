"""Chance levels: what a direction that knows nothing of the data would score in d dimensions."""

from math import exp, inf, lgamma, log, pi, sqrt

import torch
from torch import Tensor

from brittle import norms


def cosine(d: int) -> float:
    """``E |cos|`` between a fixed and a uniformly random direction: ``Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))``, about sqrt(2 / (pi d)).

    >>> round(cosine(64), 4), round((2 / (pi * 64)) ** 0.5, 4)
    (0.1001, 0.0997)
    """
    return exp(lgamma(d / 2) - lgamma((d + 1) / 2)) / sqrt(pi)


def share(dimensions: int, d: int) -> float:
    """Root mean square of the share of a fixed vector inside a random subspace: ``sqrt(dimensions / d)``, at most 1.

    >>> share(2, 64)
    0.1767766952966369
    """
    return sqrt(min(dimensions, d) / d)


def path_ratio(way: Tensor, p: float) -> Tensor:
    """(N,) of the ways (N, D): ``E |<g, way>| / (E |g|_q |way|_p)`` for a Gaussian gradient g and the dual norm q.

    The mean of the largest of D Gaussian entries (p = 1) is taken as sqrt(2 log 2 D), its usual upper bound.
    """
    d = way.shape[1]
    steep = {2: sqrt(2 / pi) / cosine(d), inf: d * sqrt(2 / pi), 1: sqrt(2 * log(2 * d))}[p]
    size = norms.norm(way, p).clamp_min(torch.finfo(way.dtype).tiny)
    return sqrt(2 / pi) * norms.norm(way, 2) / (steep * size)
