"""The norm of the commutator with the conjugate transpose."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.spectra._matrix import square

ABOUT = About(
    promise="smooth measure of non-normality, without eigenvalues; it encloses the departure of Henrici",
    reference="Elsner and Paardekooper, LAA 92 (1987) 107; Henrici 1962 (constants from memory, held against 200 random matrices)",
    leaves=(),
    cost="no pass; 4 n^3 operations",
)


def commutator(matrix: Any) -> float:
    """``||A* A - A A*||_F``: zero for normal matrices, and for them only. Polynomial in the entries, hence a good term to train with.

    With c the value, ``c^2 / (6 ||A||_F^2) <= henrici(A)^2 <= sqrt((n^3 - n) / 12) c``: :func:`henrici_bounds`.
    The gradient is in :func:`value_and_gradient`.

    Guarantee: absolute error at most about ``2 n u ||A||_F^2``.

    matrix : (n, n). Errors: InputError where it is not square, empty or not finite.

    >>> round(commutator([[0.5, 0.9], [0.0, 0.5]]), 6)  # 0.81 sqrt(2)
    1.145513
    """
    a = square(matrix)
    return float(np.linalg.norm(a.conj().T @ a - a @ a.conj().T))
