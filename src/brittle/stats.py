"""Exact binomial intervals, for a number of draws fixed in advance or not, and the union bound."""

from collections.abc import Callable
from math import log

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


def log_mixture(failures: Tensor, draws: int | Tensor, p: Tensor, around: float) -> Tensor:
    """log of ``M_n(p) = integral of theta^k (1 - theta)^(n-k) over Beta(a, b) / (p^k (1 - p)^(n-k))``, a = 1/2, b = a (1 - around) / around.

    If p is the truth, M_n is a non-negative martingale in n that starts at 1, whatever the prior, and P(M_n >= 1 / tail for some n) <= tail
    (Ville 1939; as a confidence sequence: Robbins, Annals of Mathematical Statistics 41, 1970).

    >>> two = log_mixture(torch.tensor([0, 1, 2]), 2, torch.full((3,), 0.3).double(), 0.5).exp()
    >>> round(float((torch.tensor([0.49, 0.42, 0.09]) * two).sum()), 6)  # its mean over the outcomes
    1.0
    """
    from scipy.special import betaln, xlog1py, xlogy  # element by element: the batch does not show in the last bit

    k, n = (v.numpy() for v in _counts(failures, draws))
    a, b, at = 0.5, 0.5 * (1 - around) / around, p.numpy()
    return torch.as_tensor(betaln(a + k, b + n - k) - betaln(a, b) - xlogy(k, at) - xlog1py(n - k, -at))


def confidence_sequence(
    failures: Tensor, draws: int | Tensor, tail: float, around: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Limits for a binomial probability that hold at every number of draws at once: stop whenever you like.

    All p at which the martingale of :func:`log_mixture` stays below 1 / tail. Guarantee: ``P(lower > p for some n) <= tail``, and the same for
    the upper limit. ``around`` is where the limits shall be tightest, chosen before the draws; at zero failures the upper one is then about
    ``(ln(1 / tail) + ln(1 + 2 n around) / 2) / n``, where a number of draws fixed in advance gives ``ln(1 / tail) / n``.

    failures : (N,) counts; draws : how many so far. Returns lower, upper of shape (N,), float64.

    >>> lower, upper = confidence_sequence(torch.tensor([0]), 1000, 0.025, around=0.01)
    >>> float(lower), round(float(upper), 4)
    (0.0, 0.0052)
    """
    k, n = _counts(failures, draws)
    limit = -log(tail) + 1e-9 + 4e-14 * n  # what rounding may take: n ln n / 2^52 for any n that can be drawn
    outside = lambda p: log_mixture(k, n, p, around) >= limit
    best = torch.where(n > 0, k / n.clamp_min(1), 0.5)
    lower = torch.where(k == 0, 0.0, _edge(outside, torch.zeros_like(best), best))
    return lower, torch.where(k == n, 1.0, _edge(outside, torch.ones_like(best), best))


def _edge(outside: Callable[[Tensor], Tensor], out: Tensor, inside: Tensor) -> Tensor:
    """The outer side of where ``outside`` begins between two points, by bisection; always as many steps, so that the batch does not show."""
    for _ in range(64):
        middle = (out + inside) / 2
        gone = outside(middle)
        out, inside = torch.where(gone, middle, out), torch.where(gone, inside, middle)
    return out


def mean_lower(values: Tensor, tail: float) -> float:
    """One-sided lower confidence limit of the mean of independent draws in [0, 1]: P(limit > mean) <= ``tail``, for every distribution.

    With mean m the product over i of ``1 - c + c v_i / m`` has mean 1 for every stake c in [0, 1], hence so has an average over stakes fixed
    in advance, and it exceeds 1 / tail with probability at most ``tail`` (Markov). The limit is the largest m that it rejects: a bet against
    m in the sense of Waudby-Smith and Ramdas (JRSS B 86, 2024). It adapts to the variance; stakes are 1, for values that hardly vary,
    with half of the weight, and 1/2 ... 1/256.

    >>> half = torch.tensor([0.5]).expand(1000)
    >>> round(mean_lower(half, 0.025), 3)  # no variance: (2 / tail)^(-1/1000) of the mean
    0.498
    """
    v = values.to(torch.float64)
    stakes = torch.tensor([2.0**-j for j in range(9)], dtype=torch.float64)
    weights = torch.tensor([0.5, *[1 / 16] * 8], dtype=torch.float64).log()
    low, high = 0.0, float(v.mean())
    for _ in range(40):
        m = (low + high) / 2
        gain = torch.log((1 - stakes) + stakes * v[:, None] / max(m, 1e-300)).sum(0)
        low, high = (m, high) if float((weights + gain).logsumexp(0)) >= -log(tail) else (low, m)
    return low * (1 - 1e-9)


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


def median_interval(values: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Two order statistics that hold the median of the population with probability at least ``level``, whatever its distribution.

    ``[v_(k), v_(n+1-k)]`` misses with probability ``2 P(Binomial(n, 1/2) < k)``; k is the largest that is rare enough. Too few values (fewer than
    six at 0.95) give the smallest and the largest, which cover less. NaN are left out; of nothing both ends are NaN.

    >>> median_interval(torch.arange(1.0, 21.0))
    (6.0, 15.0)
    """
    from math import comb

    found = values[~values.isnan()].sort().values
    n = len(found)
    if not n:
        return float("nan"), float("nan")
    below = lambda k: sum(comb(n, j) for j in range(k)) / 2**n
    k = 1
    while 2 * (k + 1) <= n + 1 and 1 - 2 * below(k + 1) >= level:
        k += 1
    return float(found[k - 1]), float(found[n - k])
