"""The largest modulus in the numerical range."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import is_real, square
from brittle.spectra.numerical_range import outer_corners, supporting_line

ABOUT = About(
    promise="at most 1: no power of the matrix is ever larger than 2",
    reference="Mengi and Overton, IMA J. Numer. Anal. 25 (2005) 648 (the problem); enclosure by polygons derived here; Berger 1965 (powers)",
    leaves=(),
    cost="no pass; 40 to 400 Hermitian eigenproblems",
)
LINES = 1024  # a disk, where every angle is a maximiser, is then enclosed to 5e-6


def numerical_radius(matrix: Any, *, tolerance: float = 1e-10) -> float:
    """``w(A) = max |W(A)| = max_t h(t)`` with the support function ``h(t) = lambda_max((e^{-it} A + e^{it} A*) / 2)``.

    ``||A|| / 2 <= w <= ||A||``, ``rho <= w``, and ``w(A^k) <= w(A)^k`` gives ``||A^k|| <= 2 w^k`` for all k.

    Guarantee: the value is attained (a lower bound up to ``n u ||A||``), and global: the corners of the polygon of supporting lines prove that
    nothing exceeds it by more than ``tolerance``, relative; see :func:`numerical_radius_bounds` for that upper end, which stays at about 5e-6
    where h is constant (a nilpotent Jordan block, whose range is a disk).

    matrix : (n, n). Errors: InputError.

    >>> jordan = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)
    >>> round(numerical_radius(jordan), 10)  # 0.5 + 0.9 cos(pi / 9)
    1.3457233587
    """
    return numerical_radius_bounds(matrix, tolerance=tolerance)[0]


def numerical_radius_bounds(matrix: Any, *, tolerance: float = 1e-10) -> tuple[float, float]:
    """The attained value and the proved one above it: ``lower <= w(A) <= upper`` up to ``n u ||A||``.

    Between two angles W lies in the wedge of both lines, whose furthest point is their corner. The sectors whose corner is the furthest are
    halved, a quadratically convergent search since h is flat at its maximum.
    """
    a = square(matrix)
    if not 0 < tolerance < 1:
        raise InputError("tolerance", "a number between 0 and 1", tolerance, "leave it out for 1e-10")
    sectors, best = _first_sectors(a)
    used = 17
    while used < LINES:
        reach = np.abs(outer_corners(*sectors))
        open_ = reach > best * (1 + tolerance)
        if not open_.any():
            break
        t1, h1, t2, h2 = sectors[:, open_]
        middle = (t1 + t2) / 2
        if (middle <= t1).any() or (middle >= t2).any():
            break
        h, touched = _lines(a, middle)
        used += len(h)
        best = max(best, touched)
        sectors = np.concatenate([sectors[:, ~open_], [t1, h1, middle, h], [middle, h, t2, h2]], axis=1)
    best = max(best, 0.0)
    return best, max(best, float(np.abs(outer_corners(*sectors)).max()))


def _first_sectors(a: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows t1, h1, t2, h2 of sixteen sectors (of the upper half plane where the range is symmetric), and the largest modulus touched."""
    whole = np.pi if is_real(a) else 2 * np.pi
    t = np.linspace(0, whole, 17)
    h, touched = _lines(a, t)
    return np.stack([t[:-1], h[:-1], t[1:], h[1:]]), touched


def _lines(a: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, float]:
    """The support at the angles, and the largest modulus among it and the points where its lines touch: where the range has a corner, many
    lines touch there, and none at its own angle."""
    found = [supporting_line(a, t) for t in angles]
    h = np.array([height for height, _ in found])
    return h, max(float(h.max()), max(abs(point) for _, point in found))
