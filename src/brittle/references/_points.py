"""A labelled set of points, checked, and its distances: exact, in blocks of bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from brittle.errors import InputError
from brittle.validation import as_labels, check_inputs

BLOCK = 64 * 2**20  # bytes of distances held at once
NEAR = 1e-4  # squared distances below this share of |a|^2 + |b|^2 are taken from differences, not from inner products
NAMES = {1: "l1", 2: "l2", inf: "l-inf"}


@dataclass(frozen=True, eq=False)
class Points:
    """x (N, D) float64, labels (N,), and the norm p in which distances are measured."""

    x: np.ndarray
    labels: np.ndarray
    p: float

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def slack(self) -> float:
        """Proved relative error of every distance. In l2 the squares come from inner products, whose rounding is at most
        ``(D + 8) 2^-52 (|a|^2 + |b|^2)``, and that is at most ``1 / NEAR`` times the square where they are used."""
        rounding = (self.x.shape[1] + 8) * 2.0**-52
        return rounding / NEAR if self.p == 2 else rounding


def as_points(x: object, labels: object, p: float, *, classes: int = 2) -> Points:
    """Tensors or arrays (N, ...) and labels (N,) as Points. Errors: InputError for a norm other than 1, 2, inf, for counts that
    differ, values that are not finite, and fewer than ``classes`` classes."""
    if p not in NAMES:
        raise InputError("p", "1, 2 or inf", p, "choose one of these norms: others have no distance")
    y = as_labels(labels).cpu()
    check_inputs({"x": (value := as_tensor(x))}, y)
    found = len(y.unique())
    if found < classes:
        raise InputError(
            "labels",
            f"at least {classes} classes",
            found,
            "give examples of another class: nothing else limits a radius",
        )
    rows = value.reshape(len(y), -1).double().cpu().numpy()
    return Points(np.ascontiguousarray(rows), y.numpy(), p)


def as_tensor(x: object) -> Tensor:
    """A tensor or array as it is; anything else, and a mapping of several inputs, is refused with a sentence."""
    if isinstance(x, Tensor):
        return x.detach()
    try:
        return torch.as_tensor(np.asarray(x, dtype=np.float64))
    except (TypeError, ValueError):
        do = "flatten several inputs into one tensor, and say with p how their distance is meant"
        raise InputError("x", "one tensor or array of numbers (N, ...)", type(x).__name__, do) from None


def distances(a: np.ndarray, b: np.ndarray, p: float) -> np.ndarray:
    """(M, N) distances between the rows of a and b, float64.

    In l2 by inner products, which is ten times as fast, and once more by differences where that would lose digits: equal
    points have distance 0 exactly.
    """
    from scipy.spatial.distance import cdist
    from sklearn.metrics.pairwise import euclidean_distances

    if p != 2:
        return cdist(a, b, "cityblock" if p == 1 else "chebyshev")
    found = euclidean_distances(a, b, squared=True)
    squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
    i, j = np.nonzero(found <= NEAR * squares)
    del squares
    for at in np.array_split(np.arange(len(i)), 1 + len(i) * a.shape[1] * 8 // BLOCK):
        found[i[at], j[at]] = np.square(a[i[at]] - b[j[at]]).sum(1)
    return np.sqrt(found, out=found)


def blocks(points: Points, at: np.ndarray | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of the matrix of distances from ``at`` (default: the points themselves) to the points, block by block."""
    rows, centre = (points.x if at is None else at), points.x.mean(0)
    shifted = points.x - centre  # distances stay, and fewer digits are lost
    step = max(1, BLOCK // (8 * len(points)))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        yield part, distances(rows[part] - centre, shifted, points.p)


def nearest(points: Points, which: Literal["same", "other"] = "other") -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) to, and index (N,) of, the nearest example of another class, or the nearest other one of the same class.

    A class of one example has no other one of its own: inf.
    """
    distance, index = np.empty(len(points)), np.empty(len(points), dtype=np.int64)
    for part, rows in blocks(points):
        alike = points.labels[part, None] == points.labels
        rows[alike if which == "other" else ~alike] = inf
        if which == "same":
            rows[np.arange(len(rows)), np.arange(part.start, part.stop)] = inf
        index[part] = rows.argmin(1)
        distance[part] = rows[np.arange(len(rows)), index[part]]
    return distance, index
