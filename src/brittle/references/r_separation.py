"""The r-separation of a data set: how far apart the classes are as a whole."""

from math import inf

from brittle.about import About
from brittle.references.half_distance import half_distance

ABOUT = About(
    promise="below this radius one classifier is right in the balls of all examples, above it none is",
    reference="Yang et al. 2020 (arXiv 2003.02460)",
    norms=(1, 2, inf),
    answers="radius",
    leaves=("input",),
    cost="none of any network; N^2 distances",
)


def r_separation(x: object, labels: object, *, p: float = 2) -> float:
    """The largest r for which all examples of different labels are at least 2 r apart: one number for a data set.

    For every smaller radius ``argmin_c distance(x, class c)`` is perfectly accurate and robust on these examples; for every
    larger one no classifier is. One mislabelled or ambiguous example decides it, so it says little about the others.

    Errors: InputError for other norms, one class, NaN.

    >>> r_separation([[0.0], [1.0], [3.0]], [0, 1, 0])
    0.5
    """
    return float(half_distance(x, labels, p=p).min())
