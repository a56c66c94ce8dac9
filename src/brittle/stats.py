"""Exact binomial intervals and the union bound."""

import torch
from torch import Tensor

from brittle.errors import InputError


def clopper_pearson(failures: Tensor, draws: int | Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """The exact two-sided interval for a binomial probability (Clopper and Pearson, Biometrika 1934).

    Guarantee: covers with probability at least ``level``, whatever the probability and the number of draws; at zero
    failures the upper end is ``1 - ((1 - level) / 2)^(1 / draws)`` and not zero.

    failures : (N,) counts. Returns lower, upper of shape (N,), float64.
    Errors: InputError for a level outside (0, 1), or counts outside 0..draws.

    >>> lower, upper = clopper_pearson(torch.tensor([0]), 100)
    >>> float(lower), round(float(upper), 4)
    (0.0, 0.0362)
    """
    if not 0 < level < 1:
        raise InputError("level", "a confidence between 0 and 1", level, "write for example level=0.95")
    tail = (1 - level) / 2
    return binomial_lower(failures, draws, tail), binomial_upper(failures, draws, tail)


def binomial_lower(failures: Tensor, draws: int | Tensor, tail: float) -> Tensor:
    """One-sided lower confidence limit: P(limit > p) <= ``tail`` for every p."""
    from scipy.special import betaincinv

    k, n = _counts(failures, draws)
    value = torch.as_tensor(betaincinv(k.clamp_min(1).numpy(), (n - k + 1).numpy(), tail), dtype=torch.float64)
    return torch.where(k == 0, 0.0, value)


def binomial_upper(failures: Tensor, draws: int | Tensor, tail: float) -> Tensor:
    """One-sided upper confidence limit: P(limit < p) <= ``tail`` for every p."""
    from scipy.special import betaincinv

    k, n = _counts(failures, draws)
    value = torch.as_tensor(betaincinv((k + 1).numpy(), (n - k).clamp_min(1).numpy(), 1 - tail), dtype=torch.float64)
    return torch.where(k == n, 1.0, value)


def union_confidence(*confidences: float) -> float:
    """Confidence that several statements hold together, by the union bound.

    >>> round(union_confidence(0.99, 0.98), 2)
    0.97
    """
    return max(0.0, 1.0 - sum(1.0 - c for c in confidences))


def _counts(failures: Tensor, draws: int | Tensor) -> tuple[Tensor, Tensor]:
    k = torch.as_tensor(failures, dtype=torch.float64).cpu()
    n = torch.as_tensor(draws, dtype=torch.float64).cpu().expand_as(k)
    if not bool(((k >= 0) & (k <= n)).all()):
        raise InputError("failures", "counts between 0 and the number of draws", k.tolist()[:5], "correct the counts")
    return k, n
