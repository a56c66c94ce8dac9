"""The minimum robust error at a radius: the share of examples that every classifier must get wrong somewhere in their balls."""

from collections.abc import Sequence
from math import inf

import numpy as np
import torch
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.references._points import Points, as_points, blocks
from brittle.results import Bracket, Ends

ABOUT = About(
    promise="no classifier has a smaller share of these examples that fail within the radius; one that gives up the named ones reaches the upper end",
    reference="Bhagoji, Cullina & Mittal 2019 (arXiv 1909.12272); several classes: Dai et al. 2023 (arXiv 2302.10722); Nemhauser & Trotter 1975",
    norms=(1, 2, inf),
    answers="error",
    leaves=("input",),
    cost="none of any network; N^2 distances and a matching",
)


def conflict_error(
    x: object, labels: object, *, p: float = 2, radius: float | Sequence[float] | Tensor = 0.0, nodes: int = 200
) -> Bracket:
    """Bracket("error") of the smallest share of examples that fail at ``radius``, over all classifiers; one value per radius.

    Two examples of different labels whose closed balls meet (``|x_i - x_j|_p <= 2 radius``) cannot both be right in all of
    their balls; a set without such conflicts can. So the least number of failures is the smallest vertex cover of the graph
    of conflicts. For two classes that is a matching, and exact. For more, the half-integral linear programme (which also
    bounds randomised classifiers from below) settles most examples; on what it leaves open disjoint cliques and an integer
    programme of at most ``nodes`` nodes bound from below, and covers from above.

    Guarantee: the lower end counts only conflicts that rounding cannot have made, the upper end also those that it may hide.
    ``diagnostics["given_up"]`` (R, N) is the cover that witnesses each upper end. 0 below half the smallest distance of
    two classes; monotone in the radius, and the ends for several radii are made so too.

    radius  one number >= 0 or several
    Errors: InputError for other norms, one class, NaN, negative radii.

    >>> answer = conflict_error([[0.0], [1.0], [3.0]], [0, 1, 0], radius=[0.4, 0.6, 1.1])
    >>> answer.lower.tolist() == answer.upper.tolist(), (3 * answer.upper).tolist()
    (True, [0.0, 1.0, 1.0])
    """
    points = as_points(x, labels, p)
    radii = torch.as_tensor(radius, dtype=torch.float64).reshape(-1).cpu().numpy()
    if not len(radii) or not bool((radii >= 0).all() and np.isfinite(radii).all()):
        raise InputError("radius", "finite numbers >= 0", radius, "give one radius or several")
    i, j, distance = _conflicts(points, 2 * float(radii.max()))
    ends = [_at_radius(i, j, distance, points, float(r), nodes) for r in radii]
    order = radii.argsort(kind="stable")
    lower, upper = (np.array([e[k] for e in ends], dtype=float) / len(points) for k in (0, 1))
    lower[order] = np.maximum.accumulate(lower[order])
    given_up = np.stack([e[2] for e in ends])
    for small, large in zip(
        order[-2::-1], order[:0:-1]
    ):  # what is enough at a larger radius is enough at a smaller one
        if upper[large] < upper[small]:
            upper[small], given_up[small] = upper[large], given_up[large]
    count = len(radii)
    name = ("conflict_error",) * count
    return Bracket(
        "error",
        torch.from_numpy(lower),
        torch.from_numpy(upper),
        Ends(("proved",) * count, ("witnessed",) * count),
        ("ok",) * count,
        Ends(name, name),
        diagnostics={"given_up": torch.from_numpy(given_up)},
    )


def _conflicts(points: Points, limit: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i < j of different labels whose distance may be ``limit`` or less, and their distances."""
    found = []
    for part, rows in blocks(points):
        near = (rows <= limit * (1 + points.slack)) & (points.labels[part, None] != points.labels)
        i, j = np.nonzero(near)
        keep = i + part.start < j
        i, j = i[keep], j[keep]
        found.append(((i + part.start).astype(np.int32), j.astype(np.int32), rows[i, j]))
    first, second, distance = (np.concatenate(c) for c in zip(*found, strict=True))
    return first, second, distance


def _at_radius(
    i: np.ndarray, j: np.ndarray, distance: np.ndarray, points: Points, radius: float, nodes: int
) -> tuple[int, int, np.ndarray]:
    """Numbers of failures, proved and reached, and who is given up."""
    from scipy.sparse import csr_matrix

    from brittle.references._cover import vertex_cover

    def cover(limit: float) -> tuple[int, np.ndarray]:
        a, b = i[distance <= limit], j[distance <= limit]
        entries = np.ones(2 * len(a), dtype=np.int8)
        graph = csr_matrix((entries, (np.r_[a, b], np.r_[b, a])), shape=(len(points), len(points)))
        return vertex_cover(graph, nodes)

    certain, possible = 2 * radius * (1 - points.slack), 2 * radius * (1 + points.slack)
    least, given_up = cover(possible)
    if bool(((distance > certain) & (distance <= possible)).any()):
        least = cover(certain)[0]
    return least, int(given_up.sum()), given_up
