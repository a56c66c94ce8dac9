"""Saddle points of the smallest singular value: where two components of a growing pseudospectrum touch, a multiple eigenvalue is nearest.

At a point where ``u* v = 0`` the matrix ``A + E``, ``E = s u v*``, has z as a multiple eigenvalue; the least s of them is the distance to the
defective matrices (Alam, Bora, Byers and Overton, LAA 435 (2011) 494). Malyshev: the distance to the matrices with z as a multiple
eigenvalue is ``max_{g>=0} s_{2n-1}([[A - zI, gI], [0, A - zI]])``, which is exact for every z.
"""

from dataclasses import dataclass

import numpy as np

from brittle.spectra._plane import Pair, Plane

PAIRS = 24  # of eigenvalues, those whose first-order disks touch earliest
LEVEL = 1e-7  # |u* v| of a saddle: the double eigenvalue then splits by less than the root of it times s


@dataclass(frozen=True, eq=False)
class Touch:
    """A point at which a multiple eigenvalue costs ``value``; ``pair`` where a simple singular vector pair with ``u* v = 0`` attains it."""

    value: float
    point: complex
    pair: Pair | None


def first_touches(values: np.ndarray, conditions: np.ndarray, real: bool = True) -> list[complex]:
    """Where disks of radius ``epsilon k_i`` around pairs of eigenvalues meet first: ``(k_j l_i + k_i l_j) / (k_i + k_j)`` at ``|l_i - l_j| / (k_i + k_j)``.

    Of a real matrix one of two conjugate pairs is enough.
    """
    i, j = np.triu_indices(len(values), 1)
    k = np.minimum(conditions, 1e12)
    epsilon = np.abs(values[i] - values[j]) / (k[i] + k[j])
    heights = np.imag(values)
    upper = heights[i] + heights[j] >= (-1e-14 * np.abs(values).max(initial=1e-300) if real else -np.inf)
    order = [m for m in np.argsort(epsilon, kind="stable") if upper[m]][:PAIRS] or list(np.argsort(epsilon))[:PAIRS]
    return [
        complex((k[b] * values[a] + k[a] * values[b]) / (k[a] + k[b])) for a, b in zip(i[order], j[order], strict=True)
    ]


def saddle(plane: Plane, start: complex, reach: float) -> Touch | None:
    """Newton's method on ``u* v = 0``, kept within ``reach`` of the start; None where it does not arrive."""
    from scipy.optimize import root

    def overlap(xy: np.ndarray) -> list[float]:
        value = plane.pair(complex(xy[0], xy[1])).overlap
        return [value.real, value.imag]

    found = root(overlap, [start.real, start.imag], method="hybr", options={"xtol": 1e-13, "maxfev": 60})
    pair = plane.pair(complex(*found.x))
    if abs(pair.overlap) > LEVEL or abs(pair.point - start) > reach or pair.value <= plane.factored.floor:
        return None
    return Touch(pair.value, pair.point, pair)


def malyshev(a: np.ndarray, point: complex) -> float:
    """The distance to the nearest matrix with ``point`` as a multiple eigenvalue. For every g the singular value is a lower bound of it."""
    from scipy.optimize import minimize_scalar

    n, size = len(a), float(np.linalg.norm(a, 2)) + abs(point)
    shifted = a.astype(np.complex128) - point * np.eye(n)

    def value(g: float) -> float:
        block = np.block([[shifted, g * np.eye(n)], [np.zeros((n, n)), shifted]])
        return float(np.linalg.svd(block, compute_uv=False)[-2])

    found = minimize_scalar(
        lambda g: -value(g), bounds=(0.0, 2 * size), method="bounded", options={"xatol": 1e-10 * size, "maxiter": 80}
    )
    return max(value(float(found.x)), value(0.0))  # pyright: ignore[reportAttributeAccessIssue]
