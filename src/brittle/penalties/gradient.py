"""Double backpropagation: the squared norm of the loss gradient by the input."""

from math import inf

import torch  # noqa: F401 - the example below uses it
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.norms import dual
from brittle.norms import norm as length
from brittle.penalties._live import at_rest, input_norm, leaves, moving, slope
from brittle.penalties._losses import cross_entropy
from brittle.problem import Problem
from brittle.spec import margin

ABOUT = About(
    promise="the mean squared dual norm of the input gradient: to first order the damage that a small ball does",
    reference="Drucker and LeCun, Improving generalization performance using double backpropagation, IEEE TNN 1992; "
    "Simon-Gabriel et al., First-order adversarial vulnerability of neural networks and input dimension, ICML 2019",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="1 forward and 3 backward passes",
)


def gradient(problem: Problem, *, seed: int = 0, of: str = "loss", p: float | None = None) -> Tensor:
    """``mean_i |grad_x l(x_i)|_q^2`` where q is the dual of the ball's p, and ``l`` the cross-entropy or the margin.

    A change of norm at most ``r`` raises ``l`` by ``r |grad l|_q`` to first order. The gradient of the loss fades where an example
    is classified with confidence; that of the margin does not.

    of   "loss" (cross-entropy of the rows) or "margin" (the smallest row)
    p    norm of the change; default that of the input's ball, 2 without one

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    >>> float(gradient(Problem(linear, torch.zeros(1, 2), torch.tensor([0])), of="margin"))
    25.0
    """
    if of not in ("loss", "margin"):
        raise InputError("gradient", 'of="loss" or of="margin"', repr(of), "choose one of these")
    q = dual(input_norm(problem) if p is None else p)
    x = leaves(moving(problem))
    with at_rest(problem):
        logits = problem.logits(x)
        rows = problem.spec.rows(logits, problem.labels)
        values = cross_entropy(logits, problem.labels) if of == "loss" else margin(rows, problem.spec.rank)
        return length(slope(values, x), q).square().mean()
