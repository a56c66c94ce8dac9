"""The largest modulus of an eigenvalue."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.spectra._matrix import square

ABOUT = About(
    promise="largest modulus of an eigenvalue: below 1 the linear recurrence dies out in the end",
    reference="standard; QR algorithm (LAPACK geev)",
    leaves=(),
    cost="no pass; 10 n^3 operations",
)


def spectral_radius(matrix: Any) -> float:
    """``rho(A) = max |lambda|`` over the eigenvalues: ``||A^k||`` grows or decays like ``rho^k`` in the limit, and in the limit only.

    Says nothing of the way there (:func:`transient`) nor of neighbours of A (:func:`pseudospectral_radius`); it is not the spectral norm.

    Guarantee: exact for a matrix within ``n u ||A||`` of A (backward stable). An eigenvalue of condition k is off by up to k times as much,
    one of a Jordan block of size m by the m-th root of it.

    matrix : (n, n). Errors: InputError where it is not square, empty or not finite.

    >>> spectral_radius([[3.0, 3.0], [0.0, 3.0]])  # whose spectral norm is 4.854
    3.0
    """
    return float(np.abs(np.linalg.eigvals(square(matrix))).max())
