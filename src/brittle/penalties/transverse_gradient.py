"""The share of the score's gradient that is of no use to tell two examples apart: its energy across the segment between them."""

import torch  # noqa: F401 - the example below uses it
from torch import Tensor

from brittle.about import About
from brittle.penalties._live import at_rest, cosine, mean
from brittle.penalties._pairs import pairs, times
from brittle.problem import Problem

ABOUT = About(
    promise="mean energy share of the gradient across the segments between examples of different classes",
    reference="arXiv 2406.16200 names compression regularisation as future work; this form is our construction",
    leaves=("input",),
    cost="1 forward and 3 backward passes",
)


def transverse_gradient(problem: Problem, *, seed: int = 0, partners: str = "random", relative: bool = True) -> Tensor:
    """``mean |P grad g|^2 / |grad g|^2``, P the projection across ``D = x' - x``: one minus the squared path cosine, at a random t.

    Unlike ``path_alignment`` it is flat where the gradient is already across or against D, and it does not ask for a sign.

    partners   "random" of another class, or the "nearest" of the batch
    relative   False leaves the energy ``|P grad g|^2`` as it is: a Jacobian penalty that spares the useful direction

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> round(float(transverse_gradient(Problem(linear, x, torch.tensor([0, 1])))), 4)
    0.5
    """
    found = pairs(problem, seed, partners)
    (time,) = times(problem, seed, "transverse_gradient")
    with at_rest(problem):
        _, gradient = found.slope(time)
        share = 1 - cosine(gradient, found.step).square()
        return mean(share if relative else share * gradient.square().sum(1), found.found)
