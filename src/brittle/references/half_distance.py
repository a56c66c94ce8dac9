"""Half the distance to the nearest example of another class: the radii of the nearest-neighbour rule on its own examples."""

from math import inf

import torch
from torch import Tensor

from brittle.about import About
from brittle.references._points import as_points, nearest

ABOUT = About(
    promise="radii that the nearest-neighbour rule has on these examples, all at once",
    reference="Yang et al. 2020 (arXiv 2003.02460)",
    norms=(1, 2, inf),
    answers="radius",
    leaves=("input",),
    cost="none of any network; N^2 distances",
)


def half_distance(x: object, labels: object, *, p: float = 2) -> Tensor:
    """``min {|x_i - x_j|_p : labels differ} / 2`` for every example, (N,) float64.

    Guarantee: a classifier that answers with the class of the nearest example has at least these radii, all at once. They are
    no upper bound of any one radius: another classifier may favour an example, and only twice the value (the distance
    itself) is never exceeded.

    Errors: InputError for other norms, one class, NaN.

    >>> half_distance([[0.0], [1.0], [3.0]], [0, 1, 0]).tolist()
    [0.5, 0.5, 1.0]
    """
    return torch.from_numpy(nearest(as_points(x, labels, p))[0] / 2)
