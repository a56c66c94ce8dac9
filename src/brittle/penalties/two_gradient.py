"""Let the gradients of two classes hold the way between them: one minus the energy of the step in their span."""

import torch
from torch import Tensor

from brittle.about import About
from brittle.penalties._live import at_rest, leaves, mean, slope
from brittle.penalties._pairs import pairs
from brittle.penalties._spans import outside
from brittle.problem import Problem

ABOUT = About(
    promise="mean energy share of the step between two classes outside the span of their two gradients",
    reference="arXiv 2406.16200, Theorems 4 and 6 (the two-gradient bound); as a penalty our construction",
    leaves=("input",),
    cost="1 forward and 6 backward passes",
)


def two_gradient(problem: Problem, *, seed: int = 0, partners: str = "random") -> Tensor:
    """``mean (1 - |P D|^2 / |D|^2)``, P the projection onto ``span(grad f_c(x), grad f_c'(x))``, ``D = x' - x``.

    Moving x by ``P D`` reproduces, to first order, both scores at x': the shorter ``P D``, the cheaper the deception. One logit has one
    gradient: the penalty is then one minus the squared cosine.

    partners   "random" of another class, or the "nearest" of the batch

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(3, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.eye(2, 3))
    >>> x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]])  # half of the step lies in the span of the two rows
    >>> round(float(two_gradient(Problem(linear, x, torch.tensor([0, 1])))), 4)
    0.5
    """
    found = pairs(problem, seed, partners)
    x = leaves(found.start)
    with at_rest(problem):
        logits = problem.logits(x)
        if logits.shape[1] == 1:
            rows = [slope(logits[:, 0], x)]
        else:
            pair = (problem.labels, problem.labels[found.partner])
            rows = [slope(logits.gather(1, which[:, None])[:, 0], x) for which in pair]
        return mean(outside(found.step, torch.stack(rows, 1)), found.found)
