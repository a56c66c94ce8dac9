"""The smallest change that makes a stable matrix unstable, as a matrix."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._instability import stable, weakest
from brittle.spectra._matrix import square
from brittle.spectra._plane import plane
from brittle.spectra._real_distance import nearest_real, real_change

ABOUT = About(
    promise="a change, as small as the distance to instability, after which an eigenvalue lies on the boundary of stability",
    reference="Van Loan 1985; real: Qiu et al., Automatica 31 (1995) 879; the change itself derived here",
    leaves=(),
    cost="no pass; that of distance_to_instability",
)


def nearest_unstable(matrix: Any, *, real: bool = False, time: str = "discrete") -> tuple[np.ndarray, complex]:
    """E with ``||E|| = d(A)`` and a point z of the boundary that is an eigenvalue of A + E: the witness of :func:`distance_to_instability`.

    Complex: ``E = s u v*`` of rank one. ``real=True``: of rank one or two, for real A. What the change does to a network is measured, not
    promised: the matrix is one part of it.

    Guarantee: z is an eigenvalue of A + E to rounding; the norm of E is the distance, which for ``real=True`` is an upper bound of it.

    matrix : (n, n), stable. Returns E (n, n) and z. Errors: InputError, also where A is not stable.

    >>> jordan = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)
    >>> change, point = nearest_unstable(jordan, real=True)
    >>> round(float(np.linalg.norm(change, 2)), 9), point, round(float(max(abs(np.linalg.eigvals(jordan + change)))), 6)
    (0.005648751, (1+0j), 1.0)
    """
    a = square(matrix)
    at = plane(a)
    if not stable(at, time):
        raise InputError(
            "matrix",
            "a stable one",
            f"spectral radius {np.abs(at.eigenvalues).max():.6g}",
            "it needs no change to be unstable",
        )
    if real:
        found = nearest_real(at, time, 1e-3)
        return real_change(at, found), found.point
    pair = weakest(at, time, 1e-3)[0]
    return pair.value * np.outer(pair.left, pair.right.conj()), pair.point
