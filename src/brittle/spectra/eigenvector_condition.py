"""The condition of the matrix of eigenvectors."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.spectra._matrix import UNIT, square

ABOUT = About(
    promise="how far the eigenvectors are from orthogonal; no pseudospectrum reaches further than this many epsilon from the eigenvalues",
    reference="Bauer and Fike, Numerische Mathematik 2 (1960) 137",
    leaves=(),
    cost="no pass; 30 n^3 operations",
)


def eigenvector_condition(matrix: Any) -> float:
    """``cond(V) = ||V|| ||V^-1||`` with eigenvectors of length 1 as columns (which is within sqrt(n) of the best scaling).

    Bauer and Fike: every eigenvalue of A + E lies within ``cond(V) ||E||`` of one of A, and ``||A^k|| <= cond(V) rho^k``.
    1 for normal matrices, infinite for those that cannot be diagonalised; what exceeds ``1 / (n u)`` is told as infinite.

    Guarantee: relative error about ``n u cond(V)``. With multiple eigenvalues V is not unique: LAPACK's choice is used, which may be larger
    than the best; normal matrices are recognised and give 1.

    matrix : (n, n). Errors: InputError where it is not square, empty or not finite.

    >>> round(eigenvector_condition([[0.0, 3.0], [0.0, 1.0]]), 6), eigenvector_condition([[0.5, 0.9], [0.0, 0.5]])
    (6.162278, inf)
    """
    a = square(matrix)
    if np.linalg.norm(a.conj().T @ a - a @ a.conj().T) <= 8 * len(a) * UNIT * np.linalg.norm(a) ** 2:
        return 1.0
    vectors = np.linalg.eig(a)[1]
    sizes = np.linalg.svd(vectors / np.linalg.norm(vectors, axis=0), compute_uv=False)
    return float(sizes[0] / sizes[-1]) if sizes[-1] > len(a) * UNIT * sizes[0] else float("inf")
