"""Pairs of examples of different classes, and the slope of the score that separates them: what the compression penalties look at."""

from dataclasses import dataclass

import torch
from torch import Tensor

from brittle import meter, norms, randomness
from brittle.errors import InputError
from brittle.penalties._live import draws, flat, leaves, moving, order, slope
from brittle.problem import Problem


@dataclass(frozen=True)
class Pairs:
    """Every example ``x`` of a batch with a partner ``x'`` of another class; ``found`` is False where the batch has none.

    step (N, D) is ``x' - x``; ``partner`` (N,) its place in the batch.
    """

    problem: Problem
    partner: Tensor
    found: Tensor
    start: dict[str, Tensor]
    end: dict[str, Tensor]

    @property
    def step(self) -> Tensor:
        return flat(self.end) - flat(self.start)

    def at(self, time: Tensor) -> dict[str, Tensor]:
        """The point ``x + t (x' - x)`` for one t per example."""
        between = lambda a, b: a + norms.spread(time.to(a), a) * (b - a)
        return {k: between(v, self.end[k]) for k, v in self.start.items()}

    def score(self, logits: Tensor) -> Tensor:
        """(N,) ``g = f_c - f_c'``: how much more the class of x is believed than that of x' (one logit: with the sign of the class)."""
        if logits.shape[1] == 1:
            return (2 * self.problem.labels - 1).to(logits.dtype) * logits[:, 0]
        pick = lambda labels: logits.gather(1, labels[:, None])[:, 0]
        return pick(self.problem.labels) - pick(self.problem.labels[self.partner])

    def value(self, time: Tensor) -> Tensor:
        """``g`` (N,) at the point t of each segment. One forward pass, and the backward pass that the training loop will do."""
        meter.count(backward=len(self.problem))
        return self.score(self.problem.logits(self.at(time)))

    def slope(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """``g`` (N,) and its gradient (N, D) at the point t of each segment, both with a gradient to the parameters."""
        point = leaves(self.at(time))
        score = self.score(self.problem.logits(point))
        return score, slope(score, point)


def pairs(problem: Problem, seed: int, partners: str = "random") -> Pairs:
    """Partners within the batch: ``"random"`` among the other classes, or the ``"nearest"`` of them in l2.

    Neither depends on the order of the batch.
    """
    if partners not in ("random", "nearest"):
        raise InputError("partners", '"random" or "nearest"', repr(partners), "choose one of these")
    x = moving(problem)
    labels = problem.labels
    found = (labels[:, None] != labels[None, :]).any(1)
    partner = _random(problem, seed) if partners == "random" else _nearest(flat(x).detach(), labels)
    return Pairs(problem, partner, found, x, {k: v[partner] for k, v in x.items()})


def times(problem: Problem, seed: int, name: str, count: int = 1) -> list[Tensor]:
    """``count`` tensors (N,) of places on each segment: one uniform draw in each of as many equal parts of [0, 1]."""
    make = lambda n, generator: torch.rand((n, count), generator=generator, dtype=torch.float64)
    drawn = draws(problem, make, seed, name, "times")
    return [(drawn[:, k] + k) / count for k in range(count)]


def _random(problem: Problem, seed: int) -> Tensor:
    """With the batch sorted by class and identity, the others of an example's class form two runs: draw a place in them."""
    labels = problem.labels.cpu()
    arranged = torch.argsort(labels[problem.index.argsort(stable=True)], stable=True)
    by_class = problem.index.argsort(stable=True)[arranged]  # places in the batch
    ordered = labels[by_class]
    first, last = torch.searchsorted(ordered, labels), torch.searchsorted(ordered, labels, right=True)
    others = len(labels) - (last - first)
    drawn = torch.rand(len(labels), generator=randomness.generator(seed, "partners"), dtype=torch.float64)
    place = (drawn[order(problem)] * others).long()
    place = torch.where(place < first, place, place + last - first).clamp_max(len(labels) - 1)
    return by_class[place].to(problem.device)


def _nearest(points: Tensor, labels: Tensor) -> Tensor:
    distance = torch.cdist(points, points)
    return torch.where(labels[:, None] == labels[None, :], torch.inf, distance).argmin(1)
