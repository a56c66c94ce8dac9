"""How large the powers of a matrix become on their way, with envelopes that know all steps at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import square
from brittle.spectra._plane import QUICK, Plane, plane
from brittle.spectra.eigenvector_condition import eigenvector_condition
from brittle.spectra.numerical_radius import numerical_radius_bounds

ABOUT = About(
    promise="norm of every power of the matrix, between envelopes from its pseudospectra",
    reference="Trefethen and Embree, Spectra and Pseudospectra (2005), sections 14 to 16; EigTool's manual (lower bound)",
    leaves=(),
    cost="no pass; one product and one norm per step, one Schur form, sixteen circles",
)
RINGS = 16
POINTS = 100_000  # on all circles together; long horizons get fewer circles
ROUNDED = 1 + 1e-9  # outwards, above the rounding of powers with exponents up to 1e6


@dataclass(frozen=True, eq=False)
class Transient:
    """All of shape (steps + 1,), index k = 0 .. steps.

    norms    ``||A^k||``; infinite where it exceeds the range of doubles
    lower    lower bounds of ``max_{1 <= j <= k} ||A^j||`` (at k = 0 it is 1), from single points of the resolvent
    upper    upper bounds of ``||A^k||``
    peak     ``max_k norms`` and ``step`` its k; ``settled``: no later power is larger, since one of the powers has norm at most 1
    """

    norms: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    peak: float
    step: int
    settled: bool

    def __repr__(self) -> str:
        end = "no later power is larger" if self.settled else "later powers may be larger"
        return f"Transient({len(self.norms) - 1} steps: largest power {self.peak:.4g} at step {self.step}, {end})"


def transient(matrix: Any, steps: int = 100) -> Transient:
    """``||A^k||`` for k = 0 .. steps, and what is known of it without multiplying.

    ``upper``  over circles with ``r > rho``, ``z_j`` their N > steps equally spaced points: ``r^(k+1) mean_j ||R(z_j)|| (1 + ||A^N|| / r^N)``, since
               ``A^k = (1/N) sum_j z_j^(k+1) R(z_j) (I - (A / r)^N)`` exactly for k < N: Cauchy's bound ``rho_eps^(k+1) / eps``
               with the mean in place of the maximum, from finitely many points. Also ``2 w^k`` with the :func:`numerical_radius`,
               ``cond(V) rho^k`` and ``||A||^k``
    ``lower``  with ``R = 1 / s(z)`` at ``|z| = r > 1``: ``max_{1<=j<=k} ||A^j|| >= r^k / (1 + (r^k - 1) / ((r - 1)(rR - 1)))``; for k to
               infinity nearly the Kreiss constant. Also ``rho^k``

    Guarantee: norms to relative rounding ``k n u`` of the largest power on the way. ``settled`` is exact: ``||A^m|| <= 1`` makes
    every later power at most an earlier one. Envelopes hold up to rounding and the kernel's residual test.

    matrix : (n, n); steps : at least 1. Errors: InputError.

    >>> found = transient(0.5 * np.eye(8) + 0.9 * np.eye(8, k=1), 60)
    >>> round(found.peak, 9), found.step, found.settled, round(float(found.norms[5]), 10)
    (17.38014673, 12, True, 4.7266809783)
    """
    a = square(matrix)
    if steps < 1 or int(steps) != steps:
        raise InputError("steps", "a whole number, at least 1", steps, "say how many steps to look ahead")
    norms, at = power_norms(a, int(steps)), plane(a)
    step = int(norms.argmax())
    settled = bool((norms[1:] <= 1).any())
    lower, upper = _envelopes(at, int(steps))
    return Transient(norms, lower, upper, float(norms[step]), step, settled)


def power_norms(a: np.ndarray, steps: int) -> np.ndarray:
    """``||A^k||``, k = 0 .. steps. The power is rescaled on the way, so that only the result can leave the range of doubles."""
    norms, power, scale = np.zeros(steps + 1), np.eye(len(a), dtype=a.dtype), 0.0
    norms[0] = 1.0
    with np.errstate(over="ignore"):
        for k in range(1, steps + 1):
            power = a @ power
            size = float(np.linalg.norm(power, 2))
            if not size:
                break
            scale += np.log(size)
            norms[k] = size if k == 1 else np.exp(scale)
            power = power / size
    return norms


def _envelopes(at: Plane, steps: int) -> tuple[np.ndarray, np.ndarray]:
    k = np.arange(steps + 1)
    rho, norm = float(np.abs(at.eigenvalues).max()), at.factored.norm
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        lower = np.where(k == 0, 1.0, np.maximum(rho, rho**k))
        upper = np.minimum(norm**k, 2 * numerical_radius_bounds(at.matrix, tolerance=1e-6)[1] ** k)
        condition = eigenvector_condition(at.matrix)
        upper = np.minimum(upper, condition * rho**k) if np.isfinite(condition) else upper
        for radius, mean, largest in _rings(at, rho, norm, steps):
            upper = np.minimum(upper, np.exp((k + 1) * np.log(radius)) * mean)
            lower = np.maximum(lower, _from_point(radius, largest, k))
        upper = np.where(k == 0, 1.0, upper * ROUNDED)
    return np.where(k == 0, 1.0, lower / ROUNDED), np.where(np.isnan(upper), np.inf, upper)


def _rings(at: Plane, rho: float, norm: float, steps: int) -> Iterator[tuple[float, float, float]]:
    """Circles from twice the norm inwards: radius, ``(1 + ||A^N|| / r^N)`` times the mean of 1 / s over N points, an attained value of 1 / s.

    The first ends where s sinks into rounding. Values enter QUICK lower, or higher, than computed.
    """
    count = max(64, 2 ** (int(steps).bit_length() + 1))  # N > 2 steps, a power of two
    log_power = _log_norm_of_doubled(at.matrix, int(np.log2(count)))
    points = np.exp(2j * np.pi * np.arange(count) / count)
    for lead in np.geomspace(1.5, 1e-4, max(3, min(RINGS, POINTS // count))) * norm:
        s = at.values((rho + lead) * points)
        if s.min() <= 64 * at.factored.floor:
            return
        factor = 1 + np.exp(log_power - count * np.log(rho + lead))
        yield rho + lead, factor * float(np.mean(1 / s)) / (1 - QUICK), 1 / (float(s.min()) * (1 + QUICK))


def _log_norm_of_doubled(a: np.ndarray, doublings: int) -> float:
    """``log ||A^(2^m)||``, squaring m times."""
    power, log = a, 0.0
    for i in range(doublings + 1):
        size = float(np.linalg.norm(power, 2))
        if not size:
            return -np.inf
        log, power = log + np.log(size), power / size
        if i < doublings:
            log, power = 2 * log, power @ power
    return log


def _from_point(r: float, resolvent: float, k: np.ndarray) -> np.ndarray:
    """The lower bound of the docstring, divided through by r^k."""
    if r <= 1 or r * resolvent <= 1:
        return np.zeros(len(k))
    shrunk = np.exp(-np.log(r) * k)
    return np.where(k == 0, 0.0, 1 / (shrunk + (1 - shrunk) / ((r - 1) * (r * resolvent - 1))))
