"""Tails of standard normal vectors in n dimensions, rounded outwards: never below the exact probability.

The special functions are SciPy's; their relative error was measured against 50-digit arithmetic (below 1e-11 for n up to
150,528 and tails down to 1e-300; a test repeats a part of that), and every result is widened by 1e-9 of itself and by
the smallest normal number, so that an underflow is never reported as zero.
"""

from math import expm1, log1p, sqrt, ulp

WIDEN = 1e-9  # a hundred times the largest error measured
TINY = 2.2250738585072014e-308  # the smallest normal float64


def normal_norm(threshold: float, dimension: int) -> float:
    """At least ``P(|g|_2 > threshold)`` for a standard normal g in n dimensions: Q(n/2, threshold^2 / 2).

    >>> round(normal_norm(2.0, 1), 6)  # two-sided normal tail
    0.0455
    """
    from scipy.special import gammaincc

    t = _shortened(threshold)
    return _widened(float(gammaincc(dimension / 2, t * t / 2)))


def normal_maximum(threshold: float, dimension: int) -> float:
    """At least ``P(max_i |g_i| > threshold)`` for a standard normal g in n dimensions: 1 - erf(threshold / sqrt 2)^n.

    >>> round(normal_maximum(2.0, 1), 6)
    0.0455
    """
    from scipy.special import erfc

    one = float(erfc(_shortened(threshold) / sqrt(2.0)))
    return 1.0 if one >= 1 else _widened(-expm1(dimension * log1p(-one)))


def normal_norm_quantile(tail: float, dimension: int) -> float:
    """A threshold with ``P(|g|_2 > threshold)`` near ``tail``; pass it through :func:`normal_norm` for a proved figure."""
    from scipy.special import gammainccinv

    return sqrt(2 * float(gammainccinv(dimension / 2, tail)))


def normal_maximum_quantile(tail: float, dimension: int) -> float:
    """A threshold with ``P(max_i |g_i| > threshold)`` near ``tail``; pass it through :func:`normal_maximum`."""
    from scipy.special import ndtri

    one = -expm1(log1p(-tail) / dimension)
    return -float(ndtri(one / 2))


def _shortened(threshold: float) -> float:
    """Eight ulps less: covers the roundings of the threshold's own arithmetic (a quotient, a square, a product)."""
    return max(0.0, threshold - 8 * ulp(threshold))


def _widened(tail: float) -> float:
    return min(1.0, tail * (1 + WIDEN) + TINY)
