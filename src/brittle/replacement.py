"""Half-space tails of random replacement, where k of n coordinates get new uniform values; rounded outwards like :mod:`brittle.tails`.

A chosen coordinate moves ``<w, delta>`` by ``y_i = w_i (c_i + a v_i)``: c_i leads from the clean value to the middle of the new values, a is half
their range, v_i is uniform in [-1, 1]. With ``m_i(s) = E exp(s y_i) = exp(s w_i c_i) sinh(a s w_i) / (a s w_i)`` and all sets S of k
coordinates equally likely,

    E exp(s <w, delta>) = mean over S of prod_{i in S} m_i(s)  <=  (mean_i m_i(s))^k                    (Maclaurin's inequality)

which gives Chernoff's bound along a direction. In short form: ``m_i - 1 <= s E y_i + psi(s b) s^2 E y_i^2`` with ``psi(u) = (e^u - 1 - u) / u^2``
growing and b the largest change, hence Bennett's inequality ``exp(-(V / b^2) h(b x / V))`` for x beyond the mean, V = (k / n) sum E y_i^2,
``h(u) = (1 + u) ln(1 + u) - u >= u^2 / (2 + 2 u / 3)`` (Boucheron, Lugosi, Massart, Concentration Inequalities, 2013, sections 2.7 and 2.8).
"""

from dataclasses import dataclass
from math import inf, log, sqrt

import torch
from torch import Tensor

from brittle.tails import log_sinhc, shortened, widened

ULP = 2.0**-52
SLACK = 2.0**-50  # of the numbers that a change is made of: covers the roundings of its parts
NEWTON = 6


@dataclass(frozen=True, eq=False)
class Replacement:
    """k coordinates of each of N clean points replaced: shift c (N, D), half the range of the new values, and the sizes (N, D) of the
    numbers that c was computed from."""

    count: int
    shift: Tensor
    half: float
    size: Tensor

    @staticmethod
    def of(clean: Tensor, count: int, low: float, high: float) -> "Replacement":
        """For clean points (N, D) and new values in [low, high]."""
        middle = (low + high) / 2
        return Replacement(count, middle - clean, (high - low) / 2, clean.abs() + abs(low) + abs(high))

    def furthest(self) -> Tensor:
        """(N,) at least the largest change of a coordinate."""
        return (self.shift.abs() + self.half + SLACK * self.size).amax(-1)


@dataclass(frozen=True, eq=False)
class Reading:
    """What is known of ``<w, delta>`` for a batch of directions: at least its mean, k times the mean square of a change, the largest
    change upwards, and the largest value."""

    mean: Tensor
    spread: Tensor
    largest: Tensor
    reach: Tensor


def read(rows: Tensor, law: Replacement) -> Reading:
    """The readings of directions (..., D) that broadcast with the clean points (N, D)."""
    n, size = rows.shape[-1], rows.abs()
    part, outward = law.count / n, 1 + (n + 16) * ULP
    up = rows * law.shift + size * (law.half + SLACK * law.size)
    doubt = (n + 16) * ULP * (size * law.size).sum(-1)
    return Reading(
        part * ((rows * law.shift).sum(-1) + doubt),
        part * (rows.square() * _square(law)).sum(-1) * outward,
        up.amax(-1).clamp_min(0) * outward,
        up.clamp_min(0).topk(law.count, -1).values.sum(-1) * outward,
    )


def widest(law: Replacement) -> Reading:
    """(N,) readings that bound those of every direction of length 1."""
    n = law.shift.shape[-1]
    part, outward = law.count / n, 1 + (n + 16) * ULP
    mean = part * torch.linalg.vector_norm(law.shift.abs() + SLACK * law.size, dim=-1) * outward
    most = law.furthest()
    return Reading(mean, part * _square(law).amax(-1) * outward, most, sqrt(law.count) * most * outward)


def log_tail(t: Tensor, known: Reading) -> Tensor:
    """``log P(<w, delta> >= t)`` from a reading: Bennett's inequality, nothing beyond the reach."""
    x = (shortened(t) - known.mean).clamp_min(0)
    spread, largest = known.spread.clamp_min(1e-300), known.largest.clamp_min(1e-150)
    u = (largest * x / spread).clamp_max(1e150)
    term = (1 + u) * torch.log1p(u)
    rate = torch.where(u > 1e-2, (term - u - SLACK * (term + u)) / u.square().clamp_min(1e-300), 0.0)
    rate = torch.maximum(rate, 0.5 / (1 + u / 3))
    return _beyond(torch.where(x > 0, widened(-(x * x / spread) * rate), 0.0), t, known)


def log_tail_along(t: Tensor, rows: Tensor, law: Replacement) -> Tensor:
    """The same from the direction itself: ``min_s k ln(mean_i m_i(s)) - s t``, by Newton's iteration; any s >= 0 is valid."""
    known, n = read(rows, law), rows.shape[-1]
    s = _tilt(t, rows, law, known)[..., None]
    drift, size = rows * law.shift, rows.abs()
    exponent = s * drift + s * SLACK * size * law.size + log_sinhc(s * size * law.half) * (1 + SLACK) + 1e-14
    lost = (n + 64) * ULP + SLACK * exponent.abs().amax(-1)
    value = law.count * (exponent.logsumexp(-1) - log(n) + lost) - s[..., 0] * (shortened(t) - 4 * ULP * t.abs())
    return torch.minimum(log_tail(t, known), _beyond(widened(value), t, known))


def quantile(target: Tensor, known: Reading) -> Tensor:
    """A threshold with ``log P(<w, delta> >= t) <= target``: Bernstein's inequality solved for t, never beyond the reach."""
    nats = -target
    beyond = (2 * known.spread * nats).sqrt() + known.largest * nats / 3
    threshold = known.mean + known.mean.abs() * ULP + beyond * (1 + 1e-9)
    return torch.where(nats == inf, inf, threshold).fmin(known.reach)


def _square(law: Replacement) -> Tensor:
    """(N, D) at least the mean square of the change of a coordinate."""
    return ((law.shift.abs() + SLACK * law.size).square() + law.half**2 / 3) * (1 + SLACK)


def _tilt(t: Tensor, rows: Tensor, law: Replacement, known: Reading) -> Tensor:
    """A good s, from Bennett's by Newton's iteration for ``K'(s) = t``, K the logarithm of the bound of the moment generating function."""
    largest, spread = known.largest.clamp_min(1e-150), known.spread.clamp_min(1e-300)
    excess = (t - known.mean).clamp_min(0)
    s = torch.log1p((largest * excess / spread).clamp_max(1e150)) / largest
    drift, size = rows * law.shift, rows.abs() * law.half
    for _ in range(NEWTON):
        x = (s[..., None] * size).clamp(1e-3, 300)
        share = (s[..., None] * drift + log_sinhc(x)).softmax(-1)
        first = drift + size * (1 / x.tanh() - 1 / x)
        second = size.square() * (1 / x.square() - 1 / x.sinh().square()) + first.square()
        slope = (share * first).sum(-1)
        curve = (share * second).sum(-1) - slope.square()
        step = s + (t / law.count - slope) / curve.clamp_min(1e-300)
        s = torch.minimum(torch.maximum(step, s / 3), 3 * s)
    return s.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _beyond(value: Tensor, t: Tensor, known: Reading) -> Tensor:
    return torch.where((shortened(t) > known.reach) & (t > 0), -inf, value)
