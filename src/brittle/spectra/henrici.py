"""Henrici's departure from normality."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.spectra._matrix import square

ABOUT = About(
    promise="how far from normal: the part of the matrix that its eigenvalues do not explain",
    reference="Henrici, Numerische Mathematik 4 (1962) 24",
    leaves=(),
    cost="no pass; 25 n^3 operations",
)


def henrici(matrix: Any, *, relative: bool = False) -> float:
    """``dep_F(A) = ||N||_F`` of the strictly upper triangle N of a Schur form ``A = Q (D + N) Q*``.

    The same for every Schur form, since ``dep_F^2 = ||A||_F^2 - sum |lambda|^2``; that difference is not formed, because it cancels for
    matrices that are nearly normal. Zero for normal matrices, and for them only. ``relative`` divides by ``||A||_F``: 0 .. 1, unchanged by scaling.
    A random matrix has about 0.7, before any training: hold it against :func:`null_models`.

    Guarantee: exact for a matrix within ``n u ||A||`` of A; the departure itself may move by the square root of a cancellation,
    ``||A|| sqrt(n u)`` at most.

    matrix : (n, n). Errors: InputError where it is not square, empty or not finite.

    >>> round(henrici([[0.5, 0.9], [0.0, 0.5]]), 12), round(henrici([[0.0, -1.0], [1.0, 0.0]]), 12)
    (0.9, 0.0)
    """
    from scipy.linalg import schur

    a = square(matrix)
    triangle = np.triu(schur(a, output="complex")[0], 1)
    departure = float(np.linalg.norm(triangle))
    size = float(np.linalg.norm(a))
    return departure / size if relative and size else departure
