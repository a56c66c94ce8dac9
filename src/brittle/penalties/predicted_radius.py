"""Raise the predicted radius itself: the score an example has to lose over the gradient it meets on the way to another class."""

from math import inf

import torch
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.norms import dual
from brittle.norms import norm as length
from brittle.penalties._live import at_rest, input_norm, mean
from brittle.penalties._pairs import pairs, times
from brittle.problem import Problem

ABOUT = About(
    promise="the mean shortfall of the predicted radius, in units of the half distance to an example of another class",
    reference="arXiv 2406.16200, Section 5 (the predicted radius); Elsayed et al., Large margin deep networks for classification, "
    "NeurIPS 2018 (at the example itself)",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="2 forward and 4 backward passes",
)


def predicted_radius(
    problem: Problem, *, seed: int = 0, target: float = 1.0, partners: str = "nearest", p: float | None = None
) -> Tensor:
    """``mean max(0, target - 2 r / L)`` with ``r = g(x) / |grad g(x + t D)|_q``, ``D = x' - x``, ``L = |D|_p``, t uniform in [0, 1/2].

    ``r`` is one draw of the predicted radius (a mean of gradients over a path, here of one). A classifier that puts its boundary
    half-way between every two classes and reads nothing but the way between them has ``2 r / L = 1``; for misclassified examples r is
    negative, and the pull stays of one size.

    target     wanted share of the half distance
    partners   "nearest" of another class in the batch, or a "random" one
    p          norm of the change; default that of the input's ball, 2 without one

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), linear.bias.copy_(torch.tensor([-0.5, 0.0]))
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # the boundary half-way between the two
    >>> float(predicted_radius(Problem(linear, x, torch.tensor([0, 1]))))
    0.0
    """
    if not 0 < target < inf:
        raise InputError("predicted_radius", "target > 0", target, "use 1 for the half distance")
    p = input_norm(problem) if p is None else p
    found = pairs(problem, seed, partners)
    (time,) = times(problem, seed, "predicted_radius")
    with at_rest(problem):
        score = found.value(torch.zeros_like(time))
        met = length(found.slope(time / 2)[1], dual(p))
        tiny = torch.finfo(met.dtype).tiny
        share = 2 * score / (met * length(found.step, p)).clamp_min(tiny)
        return mean((target - share).clamp_min(0), found.found)
