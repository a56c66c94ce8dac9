"""One change common to all examples: the twin question with a change for each, and the best common witness of all attacks."""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from brittle.errors import InputError
from brittle.problem import Problem, alike
from brittle.questions._ends import Methods, clean_witness
from brittle.results import Witness

ROUNDED = 4  # units in the last place by which common changes of inputs may differ after they were added


def is_shared(problem: Problem) -> bool:
    """Whether some leaf has one change common to all examples."""
    return any(ball.shared for ball in problem.region.values())


def each_its_own(problem: Problem) -> Problem:
    """The same balls with a change for each example: what is certified of it holds for a common change too."""
    return replace(problem, region={leaf: replace(ball, shared=False) for leaf, ball in problem.region.items()})


def attack_together(problem: Problem, attacks: Methods, seed: int) -> tuple[Witness, str]:
    """The witness that breaks most examples, the clean point included, and the method that gave it.

    Errors: InputError where an attack returned changes that are not common.
    """
    best, used = clean_witness(problem), "clean"
    for name, function in attacks:
        witness = function(problem, seed=seed)
        stray = [
            leaf for leaf, ball in problem.region.items() if ball.shared and not _is_common(problem, leaf, witness)
        ]
        if stray:
            do = 'use attacks=["shared_descent"], or leave attacks out'
            raise InputError(f"attack {name}", f"one change of {stray[0]!r} common to all examples", "one for each", do)
        if int(witness.found.sum()) > int(best.found.sum()):
            best, used = witness, name
    return best, used


def _is_common(problem: Problem, leaf: str, witness: Witness) -> bool:
    """Parameters: one value. Inputs: some change leads, cut off at the range, to every point, up to rounding."""
    value = witness.point[leaf]
    if leaf not in problem.inputs:
        return alike(value) or bool((value == value[:1]).all())
    x, point = problem.inputs[leaf].double(), value.double()
    low, high = problem.region[leaf].exact_range(value)
    room = ROUNDED * torch.finfo(value.dtype).eps * torch.maximum(x.abs(), point.abs())
    most = torch.where(_at(point, high, room), inf, point - x + room).amin(0)
    least = torch.where(_at(point, low, room), -inf, point - x - room).amax(0)
    return bool((least <= most).all())


def _at(point: Tensor, end: Tensor, room: Tensor) -> Tensor:
    return (point - end).abs() <= room
