"""A matrix that cannot be diagonalised, as close as one is found."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra.distance_to_defective import nearest_touch

ABOUT = About(
    promise="a change, as small as the distance to the defective matrices, after which two eigenvalues coalesce",
    reference="Alam, Bora, Byers and Overton, LAA 435 (2011) 494",
    leaves=(),
    cost="no pass; that of distance_to_defective",
)


def nearest_defective(matrix: Any) -> tuple[np.ndarray, complex]:
    """``E = s u v*`` with ``||E||`` the :func:`distance_to_defective`, and the point z that is a multiple eigenvalue of A + E.

    Guarantee: ``(A + E) v = z v`` and ``u* (A + E) = z u*`` with ``u* v = 0`` to 1e-7: z is a defective eigenvalue. Rounding splits it by
    about the square root of ``n u ||A||``, as it does every double eigenvalue.

    matrix : (n, n), n >= 2. Returns E (n, n), complex unless A and z are real, and z. Errors: InputError, also where the nearest touching point
    has two singular vectors (normal matrices): a change exists there, but this one does not give it.

    >>> change, point = nearest_defective([[0.0, 3.0], [0.0, 1.0]])
    >>> bool(np.ptp(np.linalg.eigvals(np.array([[0.0, 3.0], [0.0, 1.0]]) + change)) < 1e-6), round(point.real, 6)
    (True, 0.5)
    """
    at, touch = nearest_touch(matrix)
    if touch.pair is None:
        raise InputError(
            "matrix",
            "a touching point with one pair of singular vectors",
            f"z = {touch.point:.6g} at distance {touch.value:.3g}, which has two or is an eigenvalue already",
            "perturb the matrix a little: nearly all matrices have one",
        )
    change = touch.value * np.outer(touch.pair.left, touch.pair.right.conj())
    return (np.real(change) if at.real and abs(touch.point.imag) <= 1e-12 * at.factored.norm else change), touch.point
