"""Float64 with outward rounding, as over-estimates that are simple to believe.

Standard model (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1): a sum of n products, in any order, is off
by at most ``n u / (1 - n u)`` times the sum of their absolute values, u = 2^-53. ``gamma`` doubles that and allows for 32 roundings
of whatever went into the factors; ``FLOOR`` covers what underflow may lose.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
EPSILON = 2.0**-52
FLOOR = 2.0**-960


def gamma(terms: int) -> float:
    """Relative error bound of a sum of ``terms`` products whose factors carry a few roundings each."""
    return (terms + 32) * EPSILON


def above(value: Array | float) -> Array:
    """The next number up: no rounded result of one exact operation lies below its true value after this."""
    return np.nextafter(value, np.inf)


def below(value: Array | float) -> Array:
    """The next number down."""
    return np.nextafter(value, -np.inf)
