"""The power method and the Rayleigh quotient, with their failure on complex pairs found out."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import square

ABOUT = About(
    promise="the spectral radius by products alone; says when the iteration has not converged and by what rule it went on",
    reference="von Mises and Pollaczek-Geiringer, ZAMM 9 (1929); the normalisation of Sengupta and Friston, arXiv 1804.11313",
    leaves=(),
    cost="no pass; one product a step; the fallback 10 n^3 operations",
)


@dataclass(frozen=True, eq=False)
class PowerMethod:
    """What a power iteration ended with.

    radius      the spectral radius by the first rule that held
    rule        "power" (a real simple eigenvalue dominates), "pair" (a complex pair does: two-step recurrence), "eigenvalues" (neither converged)
    quotients   the Rayleigh quotients x^T A x of all steps: where they oscillate the paper's method has failed
    residual    ``||A x - (x^T A x) x|| / ||A x||`` at the end
    """

    radius: float
    rule: str
    quotients: np.ndarray
    residual: float

    @property
    def converged(self) -> bool:
        """Whether the method of the paper, power iteration with the Rayleigh quotient, found the radius."""
        return self.rule == "power"


def power_method(matrix: Any, *, steps: int = 200, tolerance: float = 1e-8) -> PowerMethod:
    """Iterate ``x <- A x / ||A x||`` and read the radius off ``x^T A x``, as arXiv 1804.11313 does.

    For a real matrix that is not symmetric the dominant eigenvalues are usually a complex pair, and then neither x nor the quotient converges:
    the residual stays away from 0 and the quotient oscillates. Then ``x_{k+2} + a x_{k+1} + b x_k = 0`` is fitted, whose roots are the pair,
    so the radius is ``sqrt(b)``; where that leaves a residual as well (several pairs of nearly one modulus), LAPACK's eigenvalues answer.

    Guarantee: with rule "power" or "pair" an eigenvalue (a pair) of a matrix within ``tolerance ||A||`` has this modulus; that it is the largest one is what
    the iteration makes likely. The start is the vector of ones plus a ramp, the same at every call.

    matrix : (n, n) real. Errors: InputError, also for a complex matrix.

    >>> found = power_method([[2.0, 1.0], [1.0, 3.0]])
    >>> round(found.radius, 6), found.rule  # (5 + sqrt(5)) / 2
    (3.618034, 'power')
    >>> turned = power_method([[0.0, -2.0], [2.0, 0.0]])  # eigenvalues +-2i; the quotient is 0 at every step
    >>> round(turned.radius, 6), turned.rule, turned.converged
    (2.0, 'pair', False)
    """
    a = square(matrix)
    if np.iscomplexobj(a):
        raise InputError("power_method", "a real matrix", "a complex one", "use spectral_radius")
    if not (isinstance(steps, int) and steps >= 3):
        raise InputError("power_method.steps", "a whole number >= 3", steps, "raise it")
    size = len(a)
    x = 1 + np.linspace(0, 0.5, size)
    x = x / np.linalg.norm(x)
    quotients, residual = [], 0.0
    for _ in range(steps):
        ahead = a @ x
        length = float(np.linalg.norm(ahead))
        quotients.append(float(x @ ahead))
        if length == 0:
            return PowerMethod(_dense(a), "eigenvalues", np.array(quotients), 0.0)
        residual = float(np.linalg.norm(ahead - quotients[-1] * x)) / length
        x = ahead / length
    if residual <= tolerance:
        return PowerMethod(abs(quotients[-1]), "power", np.array(quotients), residual)
    one, two = a @ x, a @ (a @ x)
    fit, *_ = np.linalg.lstsq(np.stack([one, x], 1), -two, rcond=None)
    off = float(np.linalg.norm(two + fit[0] * one + fit[1] * x)) / float(np.linalg.norm(two))
    if off <= tolerance and fit[1] > 0 and fit[0] ** 2 < 4 * fit[1]:
        return PowerMethod(float(np.sqrt(fit[1])), "pair", np.array(quotients), residual)
    return PowerMethod(_dense(a), "eigenvalues", np.array(quotients), residual)


def _dense(a: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(a)).max())
