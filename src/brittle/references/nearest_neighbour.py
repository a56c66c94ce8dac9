"""The nearest-neighbour rule at points that it has not seen, with a certificate."""

from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.references._points import as_points, as_tensor, blocks

ABOUT = About(
    promise="the class of the nearest example, and a radius in which that class provably stays the nearest",
    reference="the triangle inequality; certification of nearest prototypes, e.g. Saralajew, Holdijk & Villmann 2020 (remembered)",
    norms=(1, 2, inf),
    answers="radius",
    leaves=("input",),
    cost="none of any network; M N distances",
)


class Votes(NamedTuple):
    """labels (M,): the class of the nearest example; radius (M,) float64: up to it the answer cannot change."""

    labels: Tensor
    radius: Tensor


def nearest_neighbour(x: object, labels: object, *, p: float = 2, at: object = None) -> Votes:
    """Classify the points ``at`` (M, ...) by the nearest of the examples, with certified radii ``(d_other - d_same) / 2``.

    A point z at most r away from ``at`` is at most ``d_same + r`` from the nearest class and at least ``d_other - r`` from
    every other one. Guarantee: proved in every norm; exact where the nearest points of both classes lie on one line with
    ``at`` between them or beyond, and on the examples themselves it is half the distance to the nearest other class.

    at      points of the shape of the examples; default: the examples themselves
    Errors: InputError for other norms, one class, NaN, points of another shape.

    >>> nearest_neighbour([[0.0], [1.0]], [0, 1], at=[[-1.0], [0.25]])
    Votes(labels=tensor([0, 0]), radius=tensor([0.5000, 0.2500], dtype=torch.float64))
    """
    points = as_points(x, labels, p)
    value = as_tensor(x if at is None else at)
    rows = value.reshape(len(value), -1).double().cpu().numpy()
    if rows.shape[1] != points.x.shape[1] or not np.isfinite(rows).all():
        raise InputError(
            "at", f"finite points of {points.x.shape[1]} values", tuple(value.shape), "give them the shape of x"
        )
    winner, radius = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for part, distance in blocks(points, rows):
        winner[part] = points.labels[distance.argmin(1)]
        alike = points.labels == winner[part, None]
        radius[part] = (np.where(alike, inf, distance).min(1) - distance.min(1)) / 2
    return Votes(torch.from_numpy(winner), torch.from_numpy(radius))
