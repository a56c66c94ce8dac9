"""The largest singular value."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.spectra._matrix import rectangular

ABOUT = About(
    promise="largest singular value: by how much one step can stretch a state",
    reference="standard; singular value decomposition (LAPACK gesdd)",
    leaves=(),
    cost="no pass; 8 n^3 / 3 operations",
)


def spectral_norm(matrix: Any) -> float:
    """``||A||_2 = max ||A x|| / ||x||``, the largest singular value, of a matrix of any shape.

    Always at least the spectral radius, and equal to it for normal matrices. Below 1 every step contracts.

    Guarantee: relative error of a few roundings times the dimension.

    matrix : (m, n). Errors: InputError where it is empty or not finite.

    >>> round(spectral_norm([[3.0, 3.0], [0.0, 3.0]]), 4)
    4.8541
    """
    return float(np.linalg.norm(rectangular(matrix), 2))
