"""Tails of random vectors, rounded outwards: never below the exact probability.

Two kinds. Norms: ``P(|g| > t)`` of a standard normal vector, as numbers. Half-spaces: upper bounds of ``log P(<w, v> >= t)``
for v of each law, on tensors; what a law has of its own is its scale 1 (sigma, radius), so thresholds are in that unit.

The special functions are SciPy's; their relative error was measured against 50-digit arithmetic (below 1e-11 for n up to
150,528 and tails down to 1e-300; a test repeats a part of that). Every result is widened by 1e-9 of itself, half-spaces also by
1e-12 of their logarithm; norms by the smallest normal number, so that an underflow is never reported as zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import expm1, inf, log, log1p, pi, sqrt, ulp

import torch
from torch import Tensor

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


# ---- half-spaces ---------------------------------------------------------------------------------------------------

LogTail = Callable[[Tensor], Tensor]
SHORTEN = 2.0**-49  # eight roundings: a threshold is a quotient of two rounded sums
SERIES = 0.5  # below it ln(sinh x / x) by its series


@dataclass(frozen=True, eq=False)
class Lengths:
    """Upper bounds of ``|w|_1``, ``|w|_2`` and ``max |w_i|`` of a batch of directions."""

    one: Tensor
    two: Tensor
    largest: Tensor


def lengths(rows: Tensor) -> Lengths:
    """Lengths of rows (..., D), rounded outwards."""
    size = rows.abs()
    outward = 1 + (rows.shape[-1] + 8) * 2.0**-52
    largest = size.amax(-1)
    two = torch.linalg.vector_norm(size, dim=-1)
    two = torch.where(largest < 1e-140, sqrt(rows.shape[-1]) * largest, two)  # squares that underflow
    return Lengths(size.sum(-1) * outward, two * outward, largest)


def deviations(rows: Tensor, covariance: Tensor) -> Tensor:
    """``sqrt(w^T C w)`` of rows w (..., D), rounded outwards, whatever cancels in the sum."""
    n, size = rows.shape[-1], rows.abs()
    doubt = (2 * n + 8) * 2.0**-53 * ((size @ covariance.abs()) * size).sum(-1)
    variance = ((rows @ covariance) * rows).sum(-1).clamp_min(0) + doubt * (1 + 4 * n * 2.0**-52)
    tiny = n * size.amax(-1) * covariance.abs().amax().sqrt()  # where squares underflow
    return torch.where(size.amax(-1) < 1e-140, tiny, variance.sqrt()) * (1 + 2.0**-51)


def shortest(rows: Tensor) -> Tensor:
    """``|w|_2`` of rows w (..., D), rounded inwards: for probabilities from below. 0 for what is next to nothing."""
    peak, small = _peak(rows)
    return peak * torch.linalg.vector_norm(small, dim=-1) * (1 - (rows.shape[-1] + 8) * 2.0**-52)


def least_deviations(rows: Tensor, covariance: Tensor) -> Tensor:
    """``sqrt(w^T C w)`` of rows w (..., D), rounded inwards: 0 where all of it may have cancelled."""
    n, (peak, small) = rows.shape[-1], _peak(rows)
    doubt = (2 * n + 8) * 2.0**-53 * ((small.abs() @ covariance.abs()) * small.abs()).sum(-1)
    variance = ((small @ covariance) * small).sum(-1) - doubt * (1 + 4 * n * 2.0**-52)
    return peak * torch.where(variance < 1e-290, 0.0, variance).sqrt() * (1 - 2.0**-50)


def _peak(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The largest entry (...) of rows, and the rows divided by it; 0 and 0 below 1e-290."""
    peak = rows.abs().amax(-1)
    peak = torch.where(peak < 1e-290, 0.0, peak)
    return peak, rows / torch.where(peak == 0, inf, peak)[..., None]


def log_normal(t: Tensor) -> Tensor:
    """``log P(g >= t)`` for a standard normal number: log Phi(-t).

    >>> round(float(log_normal(torch.tensor(0.0, dtype=torch.float64))), 6)
    -0.693147
    """
    from scipy.special import log_ndtr

    return widened(_on_cpu(lambda x: log_ndtr(-x), shortened(t)))


def log_sphere(t: Tensor, dimension: int) -> Tensor:
    """``log P(u_1 >= t)`` for u uniform on the unit sphere in n dimensions, t >= 0: ``log (1/2) I_{1-t^2}((n-1)/2, 1/2)``.

    Where that underflows, the smaller of its two rigorous bounds ``(1/2) (1-t^2)^((n-1)/2)`` and
    ``(1-t^2)^((n-1)/2) / (t sqrt(2 pi (n-1)))``. The first because I_z(a, 1/2) / z^a grows with z and is 1 at z = 1; the second
    puts u / t >= 1 under the integral and uses Gamma(x + 1/2) / Gamma(x) <= sqrt(x). Uniform in the *ball*: the
    projection of a sphere in n + 2 dimensions.
    """
    from scipy.special import betaincc

    tau = shortened(t).clamp(0, 2)
    if dimension == 1:
        return torch.where(tau > 1, -inf, torch.full_like(tau, log(0.5)))
    half = (dimension - 1) / 2
    exact = _on_cpu(lambda x: betaincc(0.5, half, (x * x).clip(0, 1)), tau)
    inside = tau < 1
    power = half * torch.log1p(-torch.where(inside, tau, 0.0).square())
    mills = power - torch.log(tau.clamp_min(1e-300)) - 0.5 * log(2 * pi * (dimension - 1))
    simple = torch.minimum(power + log(0.5), mills)
    value = torch.where(exact > 1e-290, torch.log(exact.clamp_min(1e-300)) + log(0.5), simple)
    return torch.where(inside, widened(value), -inf)


def log_cube(t: Tensor, along: Lengths) -> Tensor:
    """``log P(<w, v> >= t)`` for v uniform in [-1, 1]^n, from lengths: ``-3 t^2 / (2 |w|_2^2)`` (uniform numbers are sub-Gaussian
    with their own variance 1/3), nothing beyond ``|w|_1``."""
    return _beyond(widened(_sub_gaussian(t, along.two, 1 / 3)), t, along.one)


def log_cube_along(t: Tensor, rows: Tensor) -> Tensor:
    """The same from the direction itself, rows (..., D): ``min_s sum_i ln(sinh(s w_i) / (s w_i)) - s t`` (Chernoff)."""
    along = lengths(rows)
    s = _tilt(t, rows, along)
    size = s[..., None] * rows.abs()
    exponent = log_sinhc(size).sum(-1) * (1 + 2 * rows.shape[-1] * 2.0**-52) + rows.shape[-1] * 1e-14 - s * shortened(t)
    return torch.minimum(log_cube(t, along), widened(exponent + 4 * 2.0**-52 * s * t))


def log_cube_surface(t: Tensor, along: Lengths, dimension: int) -> Tensor:
    """v uniform on the surface of [-1, 1]^n: one coordinate, chosen at random, is -1 or 1, the others are uniform.

    Its moment generating function is ``prod_i sinhc(x_i)`` times the mean of ``x_i coth x_i <= 1 + x_i^2 / 3``, so it is sub-Gaussian
    with ``1/3 + 2 / (3 n)``.
    """
    return _beyond(widened(_sub_gaussian(t, along.two, 1 / 3 + 2 / (3 * dimension))), t, along.one)


def log_cross(t: Tensor, along: Lengths, degrees: int) -> Tensor:
    """v uniform in the l1 ball in n dimensions (``degrees`` = n + 1) or on its surface (n), from lengths.

    As ratios of exponential variables (Schechtman and Zinn): for any v in (0, 1 / max |w_i|) with v t < 1
    ``P(<w, v> >= t) <= (1 - v t)^degrees prod_i 1 / (1 - v^2 w_i^2)``; here ``-ln(1 - y) <= y / (1 - y)`` for each factor.
    """
    best = torch.zeros_like(t + along.two)
    for share in _SHARES:
        v = share / along.largest.clamp_min(1e-300)
        square = (v * along.two).square() / (1 - share * share)
        best = torch.minimum(best, square + degrees * torch.log1p(-(v * shortened(t)).clamp(0, 1 - 1e-12)))
    return _beyond(widened(best), t, along.largest)


def log_cross_along(t: Tensor, rows: Tensor, degrees: int) -> Tensor:
    """The same from the direction itself, rows (..., D), with every factor exact."""
    along = lengths(rows)
    best = log_cross(t, along, degrees)
    for share in _SHARES:
        v = share / along.largest.clamp_min(1e-300)
        product = -torch.log1p(-(v[..., None] * rows).square()).sum(-1) * (1 + 2 * rows.shape[-1] * 2.0**-52)
        value = product + rows.shape[-1] * 1e-13 + degrees * torch.log1p(-(v * shortened(t)).clamp(0, 1 - 1e-12))
        best = torch.minimum(best, torch.where(v * t < 1, widened(value), 0.0))
    return _beyond(best, t, along.largest)


def quantile(log_tail: LogTail, target: Tensor, most: float) -> Tensor:
    """The least threshold found, at most ``most``, whose tail was evaluated and is at most ``exp(target)``; else ``most``."""
    low, high = torch.zeros_like(target), torch.full_like(target, most)
    for _ in range(50):
        middle = (low + high) / 2
        enough = log_tail(middle) <= target
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


def cube_quantile(target: Tensor, along: Lengths, variance: float) -> Tensor:
    """A threshold with ``log P(<w, v> >= t) <= target`` for sub-Gaussian v with support [-1, 1]^n."""
    return torch.minimum(along.two * (-2 * variance * target).sqrt() * (1 + 1e-9), along.one)


def cross_quantile(target: Tensor, along: Lengths, degrees: int) -> Tensor:
    """A threshold with ``log P(<w, v> >= t) <= target`` in the l1 ball or on its surface: the inequality solved for t."""
    best = along.largest
    for share in _SHARES:
        v = share / along.largest.clamp_min(1e-300)
        square = (v * along.two).square() / (1 - share * share)
        best = torch.minimum(best, -torch.expm1((target - square) / degrees) / v * (1 + 1e-9))
    return best


_SHARES = tuple(
    1 / (1 + 2.0 ** (-k / 2)) for k in range(-20, 14)
)  # of the largest v allowed: 0.001 to 0.99; any is valid


def _tilt(t: Tensor, rows: Tensor, along: Lengths) -> Tensor:
    """Newton's iteration for ``K'(s) = t``, K the cumulant function of <w, v> in the cube; any s >= 0 is valid."""
    size = rows.abs()
    s = 3 * t / along.two.clamp_min(1e-150).square()
    for _ in range(8):
        x = (s[..., None] * size).clamp(1e-3, 300)
        slope = (size * (1 / x.tanh() - 1 / x)).sum(-1)
        curve = (size * size * (1 / x.square() - 1 / x.sinh().square())).sum(-1)
        step = s + (t - slope) / curve.clamp_min(1e-300)
        s = torch.minimum(torch.maximum(step, s / 3), 3 * s)
    return s.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def log_sinhc(x: Tensor) -> Tensor:
    """At least ``ln(sinh x / x)``, x >= 0, to 1e-14: its series up to a positive term where x is small."""
    square = x.square()
    series = square / 6 - square.square() / 180 + square * square.square() / 2835
    large = x.clamp_min(SERIES)
    return torch.where(x < SERIES, series, large - torch.log(2 * large) + torch.log1p(-torch.exp(-2 * large)))


def _sub_gaussian(t: Tensor, two: Tensor, variance: float) -> Tensor:
    return -(shortened(t).clamp_min(0) / two.clamp_min(1e-300)).square() / (2 * variance)


def _beyond(value: Tensor, t: Tensor, reach: Tensor) -> Tensor:
    """Nothing lies beyond the support; everything may lie beyond a threshold that is not positive."""
    value = torch.where(shortened(t) > reach, -inf, value)
    return torch.where(t > 0, value, 0.0)


def shortened(t: Tensor) -> Tensor:
    return t * (1 - SHORTEN * t.sign())  # inf stays


def widened(value: Tensor) -> Tensor:
    return (value + WIDEN + 1e-12 * value.abs().nan_to_num(posinf=0.0)).nan_to_num(nan=0.0, neginf=-inf).clamp_max(0.0)


def _on_cpu(function: Callable, value: Tensor) -> Tensor:
    return torch.as_tensor(function(value.cpu().numpy())).to(value)
