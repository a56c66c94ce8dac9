"""The smallest change after which a matrix can no longer be diagonalised."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._defective import Touch, first_touches, malyshev, saddle
from brittle.spectra._matrix import UNIT, rounding_floor, square
from brittle.spectra._plane import Plane, plane
from brittle.spectra.eigenvalue_conditions import eigenvalue_conditions

ABOUT = About(
    promise="spectral norm of a change that gives the matrix a multiple eigenvalue: how far it is from not being diagonalisable",
    reference="Alam, Bora, Byers and Overton, LAA 435 (2011) 494; Malyshev, Numer. Math. 83 (1999) 443; Wilkinson, Numer. Math. 44 (1984) 1",
    leaves=(),
    cost="no pass; some hundred singular value decompositions",
)


def distance_to_defective(matrix: Any) -> float:
    """The smallest epsilon at which two components of the epsilon-pseudospectrum touch, found from every likely pair of eigenvalues.

    At the touching point ``u* v = 0`` and ``A + s u v*`` has a double eigenvalue with one eigenvector; for a normal matrix it is the midpoint
    of the two closest eigenvalues, at half their distance. Wilkinson: at most ``||A|| / sqrt(k^2 - 1)`` for every condition k of a simple
    eigenvalue. A random matrix is close to a defective one, too: hold it against :func:`null_models`.

    Guarantee: an upper bound to rounding, attained at a saddle point of ``s_min(zI - A)`` (:func:`nearest_defective` gives the change). The
    search starts from the 24 pairs whose pseudospectral disks meet first (all pairs up to n = 7), so it is the distance itself unless a saddle of a
    later pair is lower; that no saddle is missed is not proved. 0 where two eigenvalues agree to rounding.

    matrix : (n, n) with n >= 2. Errors: InputError.

    >>> round(distance_to_defective([[0.0, 0.0], [0.0, 1.0]]), 9), round(distance_to_defective([[0.0, 3.0], [0.0, 1.0]]), 9)
    (0.5, 0.08113883)
    """
    return nearest_touch(matrix)[1].value


def nearest_touch(matrix: Any) -> tuple[Plane, Touch]:
    """The lowest saddle and the plane it lies in."""
    a = square(matrix)
    if len(a) < 2:
        raise InputError(
            "matrix", "at least two rows", f"shape {a.shape}", "a number is its own eigenvalue, and simple"
        )
    values, conditions = eigenvalue_conditions(a)
    at = plane(a)
    gaps = np.abs(values[:, None] - values) + np.diag(np.full(len(a), np.inf))
    i, j = np.unravel_index(int(gaps.argmin()), gaps.shape)
    if gaps[i, j] <= 4 * rounding_floor(a) or conditions.max() > 1 / (len(a) * UNIT) ** 0.5:
        return at, Touch(
            0.0, complex(values[i if gaps[i, j] <= 4 * rounding_floor(a) else int(conditions.argmax())]), None
        )
    found = []
    for start in first_touches(values, conditions, at.real):
        reach = float(np.sort(np.abs(start - values))[1])  # the second eigenvalue, at most
        touch = saddle(at, start, reach)
        ceiling = min((t.value for t in found), default=np.inf)
        if touch is None and at.pair(start).value < ceiling:
            touch = Touch(malyshev(a, start), start, None)
        found += [touch] if touch is not None else []
    return at, min(found, key=lambda t: t.value)
