"""What laws move, as a problem of its own: the leaves of the laws with the clipping ranges as valid ranges."""

from collections.abc import Mapping

import torch
from torch import Tensor

from brittle.errors import InputError
from brittle.laws import Law, Replace
from brittle.problem import Problem
from brittle.region import Ball


def moving(
    problem: Problem, laws: Mapping[str, Law], cover: Mapping[str, tuple[float, float]] | None = None
) -> Problem:
    """The same question with the leaves of ``laws`` as its region, at scale 1; the region it came with is put aside.

    cover : (p, radius) of a ball per leaf; default radius 0, for a method that only needs centres and ranges. The range
    of a leaf is the clip of its law, so a clean point outside the clip is refused; so is a law that does not fit its leaf.
    A cover of replaced coordinates (p = 0) has their new values as its range, see :func:`coverable`.
    """
    balls = {}
    for leaf, law in laws.items():
        p, radius = (2, 0.0) if cover is None else cover[leaf]
        low, high = (None, None) if law.clip is None else law.clip
        if p == 0 and isinstance(law, Replace) and law.clip is None:
            low, high = law.low, law.high
        balls[leaf] = Ball(p, radius, low, high)
    question = problem.within(balls)
    for leaf, value in question.centre.items():
        laws[leaf].check(leaf, shape(value))
    return question


def coverable(problem: Problem, laws: Mapping[str, Law]) -> Tensor:
    """(N,) bool: examples whose clean point lies in the range of every cover; others have no cover."""
    fits = torch.ones(len(problem), dtype=torch.bool)
    for leaf, value in problem.centre.items():
        law = laws[leaf]
        if isinstance(law, Replace) and law.clip is None:
            fits &= ((value >= law.low) & (value <= law.high)).flatten(1).all(1).cpu()
    return fits


def sizes(problem: Problem) -> dict[str, int]:
    """How many numbers each moving leaf has per example."""
    return {leaf: value[0].numel() for leaf, value in problem.centre.items()}


def shape(value: Tensor) -> tuple[int, ...]:
    """The shape of one example of a leaf."""
    return tuple(value.shape[1:])


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError("level", "a confidence between 0 and 1", level, "write for example level=0.95")
