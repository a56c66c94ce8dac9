"""The exact optimum of a finite set: the largest mean radius of any classifier that labels all of it correctly."""

from dataclasses import dataclass
from math import inf, isqrt

import numpy as np
import torch
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.references._assignment import best_radii
from brittle.references._points import Points, as_points, blocks

ABOUT = About(
    promise="the largest mean radius that any classifier could have that labels every one of these examples correctly",
    reference="derived from the linear programme over pair sums; edge covers as matchings: Schrijver, Combinatorial Optimization, 2003 (remembered)",
    norms=(1, 2, inf),
    answers="radius",
    leaves=("input",),
    cost="none of any network; N^2 distances and one assignment of N examples",
)


@dataclass(frozen=True, eq=False)
class FiniteSet:
    """mean: the optimum; radii (N,) float64: one set of radii that attains it; gap: how much larger the mean of any other set
    could be, proved by the assignment (rounding only); nearest, neighbour (N,): the nearest example of another class."""

    mean: float
    radii: Tensor
    gap: float
    nearest: Tensor
    neighbour: Tensor


def finite_set(x: object, labels: object, *, p: float = 2, memory: float = 8.0) -> FiniteSet:
    """Solve ``max mean(r)  subject to  r_i + r_j <= |x_i - x_j|_p for all pairs of different labels, r >= 0``.

    A classifier that labels x_i and x_j correctly has its boundary on the segment between them, so its radii satisfy the
    constraints; and any such radii are those of a classifier, which colours the disjoint open balls. So this is exactly the
    best possible mean over these examples, in any norm, and also where a convex valid range cuts the balls. It says nothing
    of other examples of the population, and nothing of classifiers that give up some examples so that the others gain.

    Guarantee: exact up to the rounding of distances (``Points.slack``: below 2e-9 for 784 features in l2); ``radii`` fulfil
    all constraints and ``gap`` is the distance to the dual bound.

    x, labels  (N, ...) and (N,), tensors or arrays; at least two classes
    memory     gigabytes that the N x N matrix and its temporaries may take
    Errors: InputError for other norms, one class, NaN, or more examples than the memory holds.

    >>> answer = finite_set([[0.0], [1.0], [3.0]], [0, 1, 0])  # three points on a line: 0..1 and 1..3 are tight
    >>> answer.mean, answer.radii.tolist()
    (1.0, [1.0, 0.0, 2.0])

    Reference: the identity with the assignment is derived in ``_assignment.best_radii``; half-integrality of fractional
    covers: M. Balinski, "Integer programming: methods, uses, computation", Management Science 12, 1965 (remembered).
    """
    points = as_points(x, labels, p)
    most = isqrt(int(memory * 1e9 / 10))  # 8 bytes a pair, and temporaries: 1.05 GB for 10,000 (measured)
    if len(points) > most:
        raise InputError(
            "examples of the finite set",
            f"at most {most} in {memory:g} GB",
            len(points),
            "take a subset, or allow more memory",
        )
    distance, closest, neighbour = _other_class(points)
    radii, bound = best_radii(distance, closest)
    mean = float(radii.mean())
    tensors = [torch.from_numpy(v) for v in (radii, closest, neighbour)]
    return FiniteSet(mean, tensors[0], max(0.0, bound / len(points) - mean), tensors[1], tensors[2])


def _other_class(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, N) distances with inf inside a class, the row minima and where they are."""
    matrix = np.empty((len(points), len(points)))
    for part, rows in blocks(points):
        matrix[part] = rows
        matrix[part][points.labels[part, None] == points.labels] = inf
    index = matrix.argmin(1)
    return matrix, matrix[np.arange(len(points)), index], index
