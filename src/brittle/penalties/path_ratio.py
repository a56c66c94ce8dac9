"""The weighted path ratio: how much of the gradient met on the way to another class changes the score at all."""

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
    promise="one minus the mean weighted path ratio D / (L mean |grad g|): at least 0 with enough points on the path",
    reference="arXiv 2406.16200, Section 5 (the path identity); as a penalty our construction",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="points + 2 forward and 3 x points + 2 backward passes",
)

LEAST = 1 / 20  # smallest ratio that the inverse form divides by; folklore


def path_ratio(
    problem: Problem,
    *,
    seed: int = 0,
    points: int = 2,
    partners: str = "random",
    inverse: bool = False,
    p: float | None = None,
) -> Tensor:
    """``mean (1 - (g(x) - g(x')) / (L_p mean_t |grad g(x + t D)|_q))``, ``D = x' - x``, ``L_p = |D|_p``, q the dual of p.

    The ratio is at most 1 by Hoelder's inequality with the mean over the whole path (with ``points`` draws, one in each of as many
    equal parts, up to the scatter of the gradient's norm), and 1 only where every gradient on the way points along the way. The
    predicted radius is ``g(x) / mean |grad g|_q``, so raising the ratio raises it in units of the distance between the classes.

    points     gradients on each path
    partners   "random" of another class, or the "nearest" of the batch
    inverse    the margin form: the mean of one over the ratio, minus 1; a ratio below 1/20 counts as 1/20, so that a pair whose
               score does not fall has a bounded pull on the gradient and none on the score
    p          norm of the change; default that of the input's ball, 2 without one

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # linear: one minus the cosine
    >>> round(float(path_ratio(Problem(linear, x, torch.tensor([0, 1])))), 4)
    0.2929
    """
    if points < 1:
        raise InputError("path_ratio", "points >= 1", points, "correct it")
    p = input_norm(problem) if p is None else p
    found = pairs(problem, seed, partners)
    ends = torch.zeros(len(problem), device=problem.device), torch.ones(len(problem), device=problem.device)
    tiny = torch.finfo(found.step.dtype).tiny
    with at_rest(problem):
        drop = found.value(ends[0]) - found.value(ends[1])
        met = [length(found.slope(t)[1], dual(p)) for t in times(problem, seed, "path_ratio", points)]
        way = length(found.step, p) * torch.stack(met).mean(0)
        if inverse:
            return mean(way / torch.maximum(drop, LEAST * way.detach()).clamp_min(tiny) - 1, found.found)
        return mean(1 - drop / way.clamp_min(tiny), found.found)
