"""Let the network see the whole class change: one minus the energy of the step in the row space of the Jacobian."""

import torch
from torch import Tensor

from brittle.about import About
from brittle.penalties._live import at_rest, leaves, mean, slope
from brittle.penalties._pairs import pairs
from brittle.penalties._spans import outside
from brittle.problem import Problem

ABOUT = About(
    promise="mean energy share of the step between two classes outside the row space of the centred Jacobian",
    reference="arXiv 2406.16200 (features that the decision does not read); as a penalty our construction",
    leaves=("input",),
    cost="1 forward and 3 (K - 1) backward passes",
)


def row_space(problem: Problem, *, seed: int = 0, partners: str = "random") -> Tensor:
    """``mean (1 - |P D|^2 / |D|^2)``, P the projection onto the row space of the Jacobian of the centred logits, ``D = x' - x``.

    A change outside the row space moves no difference of logits, to first order. Chance level ``1 - (K - 1) / D``. Differences to
    the last logit span the same rows as the centred logits, at one gradient less.

    partners   "random" of another class, or the "nearest" of the batch

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(3, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.eye(2, 3))
    >>> x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # one row: (1, -1, 0) / sqrt(2)
    >>> round(float(row_space(Problem(linear, x, torch.tensor([0, 1])))), 4)
    0.5
    """
    found = pairs(problem, seed, partners)
    x = leaves(found.start)
    with at_rest(problem):
        logits = problem.logits(x)
        differences = logits if logits.shape[1] == 1 else logits[:, :-1] - logits[:, -1:]
        rows = [slope(differences[:, k], x) for k in range(differences.shape[1])]
        return mean(outside(found.step, torch.stack(rows, 1)), found.found)
