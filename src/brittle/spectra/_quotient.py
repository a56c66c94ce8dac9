"""Local maxima of the Kreiss quotient ``(|z| - 1) / s(z)``."""

from dataclasses import dataclass

import numpy as np

from brittle.spectra._matrix import UNIT
from brittle.spectra._plane import Pair, Plane

NEAR, FAR = -34.0, 20.0  # logarithms of |z| - 1: rounding of 1, and where the quotient is 1 to eight digits


@dataclass(frozen=True, eq=False)
class Quotient:
    """A point outside the unit circle, the quotient there, and the singular triple."""

    value: float
    pair: Pair

    @property
    def point(self) -> complex:
        return self.pair.point


def quotient(plane: Plane, point: complex) -> Quotient:
    """The quotient at a point, a little low: s is raised by the rounding of a backward stable decomposition."""
    pair, n = plane.pair(point), len(plane.matrix)
    rounded = 2 * (plane.factored.floor + n * UNIT * abs(point) * n**0.5)
    return Quotient((abs(point) - 1) / (pair.value + rounded), pair)


def climb(plane: Plane, starts: list[tuple[float, float]]) -> list[Quotient]:
    """From (radius, angle) pairs to local maxima, by quasi-Newton steps in ``(log(r - 1), t)``; the largest first.

    ``d log K = (1 - (r - 1) Re(e^{it} u* v) / s) d log(r - 1) - Re(iz u* v) / s dt``.
    """
    from scipy.optimize import minimize

    def negative(v: np.ndarray) -> tuple[float, np.ndarray]:
        x = min(max(v[0], NEAR), FAR)
        step = np.exp(x)
        z = (1 + step) * np.exp(1j * v[1])
        p = plane.pair(z)
        s = max(p.value, 1e-300)
        along = np.array([step * (np.exp(1j * v[1]) * p.overlap).real / s - 1, (1j * z * p.overlap).real / s])
        along[0] *= x == v[0]  # flat beyond: a line search may look there
        return float(np.log(s) - x), along

    found = []
    for radius, angle in starts:
        start = np.array([np.log(max(radius - 1, 1e-300)), angle])
        end = minimize(negative, start, jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 60}).x
        found.append(
            max(
                (quotient(plane, (1 + np.exp(min(max(v[0], NEAR), FAR))) * np.exp(1j * v[1])) for v in (start, end)),
                key=lambda q: q.value,
            )
        )
    return sorted(found, key=lambda q: -q.value)
