"""How large the powers of a matrix become on their way, with envelopes that know all steps at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._frontier import Curve, Unsettled, circles, least_on
from brittle.spectra._matrix import square
from brittle.spectra._plane import Plane, plane
from brittle.spectra.eigenvector_condition import eigenvector_condition
from brittle.spectra.numerical_radius import numerical_radius_bounds

ABOUT = About(
    promise="norm of every power of the matrix, between envelopes from its pseudospectra",
    reference="Trefethen and Embree, Spectra and Pseudospectra (2005), sections 14 to 16; EigTool's manual (lower bound)",
    leaves=(),
    cost="no pass; one product and one norm per step, one Schur form, sixteen circles",
)
RINGS = 16
POINTS = 4000
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


def transient(matrix: Any, steps: int = 100) -> Transient:
    """``||A^k||`` for k = 0 .. steps, and what is known of it without multiplying.

    ``upper``  the least of ``r^(k+1) / min_{|z|=r} s(z)`` over circles (Cauchy; the same as ``rho_eps^(k+1) / eps``), ``2 w^k`` with the
               :func:`numerical_radius`, ``cond(V) rho^k`` and ``||A||^k``
    ``lower``  with ``R = 1 / s(z)`` at ``|z| = r > 1``: ``max_{1<=j<=k} ||A^j|| >= r^k / (1 + (r^k - 1) / ((r - 1)(rR - 1)))``; for k to
               infinity nearly the Kreiss constant. Also ``rho^k``

    Guarantee: norms to relative rounding ``k n u`` of the largest power on the way. ``settled`` is exact: ``||A^m|| <= 1`` makes
    every later power at most an earlier one. Envelopes hold up to rounding and the kernel's residual test (circles are searched as a whole).

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
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lower = np.where(k == 0, 1.0, np.maximum(rho, rho**k))
        upper = np.minimum(norm**k, 2 * numerical_radius_bounds(at.matrix, tolerance=1e-6)[1] ** k)
        condition = eigenvector_condition(at.matrix)
        upper = np.minimum(upper, condition * rho**k) if np.isfinite(condition) else upper
        for radius, curve in _rings(at, rho, norm):
            upper = np.minimum(upper, radius * radius**k / curve.proved)
            lower = np.maximum(lower, _from_point(radius, 1 / (curve.least * 1.001), k))
        upper = np.where(k == 0, 1.0, upper * ROUNDED)
    return np.where(k == 0, 1.0, lower / ROUNDED), np.where(np.isnan(upper), np.inf, upper)


def _rings(at: Plane, rho: float, norm: float) -> Iterator[tuple[float, Curve]]:
    """Circles from twice the norm inwards, until one is too close to the spectrum to be settled by some thousand points."""
    for lead in np.geomspace(1.5, 1e-4, RINGS) * norm:
        try:
            curve = least_on(
                at, circles(at), rho + lead, lambda least: least / 1.1, enough=8 * at.factored.floor, limit=POINTS
            )
        except Unsettled:
            return
        if not curve.proved:
            return
        yield rho + lead, curve


def _from_point(r: float, resolvent: float, k: np.ndarray) -> np.ndarray:
    """The lower bound of the docstring, divided through by r^k."""
    if r <= 1 or r * resolvent <= 1:
        return np.zeros(len(k))
    shrunk = r ** -k.astype(float)
    return np.where(k == 0, 0.0, 1 / (shrunk + (1 - shrunk) / ((r - 1) * (r * resolvent - 1))))
