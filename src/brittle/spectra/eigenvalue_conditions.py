"""By how much each eigenvalue moves when the matrix does."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.spectra._matrix import UNIT, square

ABOUT = About(
    promise="per eigenvalue: how many times the norm of a small change of the matrix it can move",
    reference="Wilkinson, The Algebraic Eigenvalue Problem (1965)",
    leaves=(),
    cost="no pass; 30 n^3 operations",
)


def eigenvalue_conditions(matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (n,) and their conditions ``k_i = ||x_i|| ||y_i|| / |y_i* x_i|``, x and y the right and left eigenvectors.

    A small change E moves lambda_i by at most ``k_i ||E||`` to first order: the epsilon-pseudospectrum tends to the union of disks of
    radius ``epsilon k_i``. 1 for normal matrices; infinite where ``y* x`` vanishes to rounding, as it does for defective eigenvalues.
    Of a multiple eigenvalue with a full set of eigenvectors (a normal matrix) the eigenvectors, and hence k, are not unique: the values are
    then those of the basis that LAPACK chose, and are set to 1 where the matrix is normal to rounding.

    Guarantee: first order; k itself is accurate to about ``n u k`` relative.

    matrix : (n, n). Errors: InputError where it is not square, empty or not finite.

    >>> values, conditions = eigenvalue_conditions([[0.0, 3.0], [0.0, 1.0]])
    >>> values.real.round(6).tolist(), conditions.round(6).tolist()
    ([0.0, 1.0], [3.162278, 3.162278])
    """
    from scipy.linalg import eig

    a = square(matrix)
    values, left, right = eig(a, left=True, right=True)  # pyright: ignore[reportAssignmentType]
    overlap = np.abs((left.conj() * right).sum(0))
    length = np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)
    with np.errstate(divide="ignore"):
        conditions = np.where(overlap > len(a) * UNIT * length, length / overlap, np.inf)
    commuting = a.conj().T @ a - a @ a.conj().T
    if np.linalg.norm(commuting) <= 8 * len(a) * UNIT * np.linalg.norm(a) ** 2:
        conditions = np.ones(len(a))
    return values, np.maximum(conditions, 1.0)
