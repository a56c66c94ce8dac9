"""The departure from normality, enclosed without eigenvalues."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.spectra._matrix import square
from brittle.spectra.commutator import commutator

ABOUT = About(
    promise="both ends of the departure from normality, from the commutator alone",
    reference="Elsner and Paardekooper, LAA 92 (1987) 107 (lower); Henrici 1962 (upper); constants from memory, held against random matrices",
    leaves=(),
    cost="no pass; 4 n^3 operations",
)


def henrici_bounds(matrix: Any) -> tuple[float, float]:
    """``c / (sqrt(6) ||A||_F) <= dep_F(A) <= ((n^3 - n) / 12)^(1/4) sqrt(c)`` with c the :func:`commutator`; above also at most ``||A||_F``.

    The upper bound is attained at n = 2: ``[[l, b], [0, l]]`` has departure b and ``c = sqrt(2) b^2``.

    Guarantee: of real arithmetic; rounding moves c by about ``2 n u ||A||_F^2``, and the upper end by the root of that.

    matrix : (n, n). Errors: InputError where it is not square, empty or not finite.

    >>> lower, upper = henrici_bounds([[0.0, 0.9], [0.0, 0.0]])
    >>> round(lower, 6), round(upper, 6)
    (0.519615, 0.9)
    """
    a = square(matrix)
    n, size, c = len(a), float(np.linalg.norm(a)), commutator(a)
    if not size:
        return 0.0, 0.0
    return c / (6**0.5 * size), min(size, ((n**3 - n) / 12) ** 0.25 * c**0.5)
