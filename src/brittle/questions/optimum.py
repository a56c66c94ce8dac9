"""The best mean radius that any classifier could have on this data, and what else bounds every classifier on it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from brittle.references._points import NAMES, Points, as_points, as_tensor, nearest
from brittle.references.conflict_error import conflict_error
from brittle.references.finite_set import FiniteSet, finite_set
from brittle.results import Bracket
from brittle.validation import as_labels

SHOWN = 2000  # examples up to which showing an Optimum also solves it: one or two seconds (measured)


@dataclass(frozen=True, eq=False)
class Optimum:
    """What the best classifier could reach on a finite labelled set. ``mean`` and ``radii`` are solved when first asked for.

    nearest        (N,) distance to the nearest example of another class: the true upper bound of each single radius
    neighbour      (N,) the index of that example
    half_distance  (N,) half of it: what the nearest-neighbour rule has everywhere at once
    mean           the largest mean radius of any classifier that labels every example correctly
    radii          (N,) one set of radii that attains the mean; others may attain it too
    error(radius)  Bracket of the smallest share of examples that any classifier gets wrong within the radius
    assumption     under which assumption this is optimal, in plain words
    status         per example: "ok", or why its optimum is 0 or rests on it alone
    """

    x: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    p: float
    nearest: Tensor
    neighbour: Tensor
    status: tuple[str, ...]
    memory: float = 8.0

    @property
    def half_distance(self) -> Tensor:
        return self.nearest / 2

    @property
    def mean(self) -> float:
        return self._solved.mean

    @property
    def radii(self) -> Tensor:
        return self._solved.radii

    @cached_property
    def _solved(self) -> FiniteSet:
        return finite_set(self.x, self.labels, p=self.p, memory=self.memory)

    @property
    def assumption(self) -> str:
        return (
            f"exact for this finite set: no classifier that labels all {len(self)} examples as given has a larger mean {NAMES[self.p]} "
            "radius, and one reaches it. It says nothing of other examples, bounds single radii by the nearest distance alone, and "
            "is to be compared with a network's mean over these same examples where it labels all of them correctly."
        )

    def error(self, radius: float | Sequence[float] | Tensor) -> Bracket:
        """Bracket("error"), one value per radius: see ``brittle.references.conflict_error``."""
        return conflict_error(self.x, self.labels, p=self.p, radius=radius)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        solved = "_solved" in self.__dict__ or len(self) <= SHOWN
        mean = f"mean radius {self.mean:.4g}" if solved else "mean radius not solved yet (ask .mean)"
        lines = [
            f"Optimum of {len(self)} examples in {NAMES[self.p]}: {mean}",
            f"  half distance to another class: mean {float(self.half_distance.mean()):.4g}, least {float(self.half_distance.min()):.4g}",
            f"  nearest of another class:       mean {float(self.nearest.mean()):.4g} (bounds each single radius)",
        ]
        odd = sum(s != "ok" for s in self.status)
        lines += [f"  {odd} examples with a remark in .status"] * bool(odd)
        return "\n".join([*lines, f"  {self.assumption}"])


def optimum(x: object, labels: object, p: float = 2, *, memory: float = 8.0) -> Optimum:
    """The best mean radius that any classifier could have on these examples: what a network's radii are to be held against.

    For examples x_i and x_j of different labels, both classified correctly, the boundary crosses the segment between them:
    ``r_i + r_j <= |x_i - x_j|_p``. Conversely any radii with these pair sums belong to a classifier. So the best mean is the
    linear programme ``max mean(r), r_i + r_j <= d_ij, r >= 0``, solved exactly as an assignment problem.

    Guarantee: ``mean`` is exact for this finite set (up to the rounding of distances), whatever the classifier, also where a
    convex valid range cuts the balls. ``nearest`` bounds each radius by itself; ``half_distance`` does not. The answer says
    nothing of the population behind the examples: on more examples it is smaller.

    x, labels  (N, ...) of any shape and (N,): tensors or arrays; distances are in the units of x
    p          1, 2 or inf
    memory     gigabytes that solving may take: 10 N^2 bytes, that is 1 GB and two minutes for 10,000 examples
    Status: "ok"; "duplicate of example j with another label: its optimum is 0"; "the only example of its class".
    Errors: InputError for one class, other norms, NaN or infinity, counts that differ; on solving, for too little memory.

    >>> best = optimum(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 1, 0]))
    >>> best.mean, best.radii.tolist(), best.nearest.tolist()
    (1.0, [1.0, 0.0, 2.0], [1.0, 1.0, 2.0])
    >>> best.error(0.6)
    Bracket(error: [0.3333, 0.3333]; proved below, witnessed above)

    Reference: derived for this project; related: Yang et al. 2020 (arXiv 2003.02460), Bhagoji et al. 2019 (arXiv 1909.12272).
    """
    points = as_points(x, labels, p)
    distance, neighbour = nearest(points)
    return Optimum(
        as_tensor(x),
        as_labels(labels),
        p,
        torch.from_numpy(distance),
        torch.from_numpy(neighbour),
        _status(points, distance.tolist(), neighbour.tolist()),
        memory,
    )


def _status(points: Points, distance: list[float], neighbour: list[int]) -> tuple[str, ...]:
    """Duplicates come first: they decide the value, a class of one example does not."""
    labels = points.labels.tolist()
    alone = {label for label, count in Counter(labels).items() if count == 1}

    def said(i: int) -> str:
        if distance[i] == 0:
            return f"duplicate of example {neighbour[i]} with another label: its optimum is 0"
        return "the only example of its class" if labels[i] in alone else "ok"

    return tuple(said(i) for i in range(len(labels)))
