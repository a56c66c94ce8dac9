"""Medians and means of repeated runs with their intervals, and how a number stands beside one that was predicted."""

from collections.abc import Sequence
from math import comb, nan, sqrt
from statistics import mean, median, stdev
from typing import NamedTuple


class Middle(NamedTuple):
    """A middle value with an interval that covers with probability at least ``level`` (what the number of runs allows)."""

    value: float
    low: float
    high: float
    level: float
    runs: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def median_of(values: Sequence[float | None], level: float = 0.95) -> Middle:
    """The median with the interval of two order statistics: no assumption on the distribution, so heavy tails do no harm.

    ``[v_(k), v_(n+1-k)]`` covers the median of a continuous distribution with probability ``1 - 2 P(Binomial(n, 1/2) < k)``; k is the
    largest for which that is at least ``level``, and 1 where none is (five runs cover with 0.9375). None is left out.

    >>> median_of([5.0, 1.0, 2.0, 4.0, 3.0])
    Middle(value=3.0, low=1.0, high=5.0, level=0.9375, runs=5)
    >>> str(median_of(range(1, 21)))
    '10.5 [6, 15]'
    """
    found = sorted(v for v in values if v is not None)
    n = len(found)
    if not n:
        return Middle(nan, nan, nan, 0.0, 0)
    below = lambda k: sum(comb(n, j) for j in range(k)) / 2**n
    k = max([1, *(k for k in range(1, n // 2 + 1) if 1 - 2 * below(k) >= level)])
    return Middle(median(found), found[k - 1], found[n - k], 1 - 2 * below(k), n)


def mean_of(values: Sequence[float | None]) -> Middle:
    """The mean with 1.96 standard errors either side: a normal approximation, for bounded quantities such as cosines.

    >>> mean_of([1.0, 3.0]).value
    2.0
    """
    found = [v for v in values if v is not None]
    n = len(found)
    if not n:
        return Middle(nan, nan, nan, 0.0, 0)
    half = 1.96 * stdev(found) / sqrt(n) if n > 1 else nan
    return Middle(mean(found), mean(found) - half, mean(found) + half, 0.95 if n > 1 else 0.0, n)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of a power law: least squares of log y on log x.

    >>> round(slope([1, 10, 100], [3, 0.3, 0.03]), 9)
    -1.0
    """
    from math import log

    a, b = [log(v) for v in x], [log(v) for v in y]
    centre = mean(a)
    return sum((u - centre) * v for u, v in zip(a, b, strict=True)) / sum((u - centre) ** 2 for u in a)
