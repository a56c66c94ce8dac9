"""Turn the score's gradient towards the other class: one minus the cosine of the compression identity, at a random point of a path."""

import torch  # noqa: F401 - the example below uses it
from torch import Tensor

from brittle.about import About
from brittle.penalties._live import at_rest, cosine, mean
from brittle.penalties._pairs import pairs, times
from brittle.problem import Problem

ABOUT = About(
    promise="one minus the mean path cosine between examples of different classes: 0 where nothing is compressed",
    reference="arXiv 2406.16200, Section 5 (the cosine); as a penalty our construction",
    leaves=("input",),
    cost="1 forward and 3 backward passes",
)


def path_alignment(problem: Problem, *, seed: int = 0, partners: str = "random") -> Tensor:
    """``mean (1 - cos(-grad g(x + t D), D))`` with ``D = x' - x``, ``g = f_c - f_c'``, x' of another class in the batch, t uniform.

    The change that a class really needs is D; what the network reads of it is the gradient of g. The cosine between them is
    the compression factor of arXiv 2406.16200, which bounds robustness: for a linear rule the mean radius of the two ends is
    ``|D| |cos| / 2`` exactly. In [0, 2]; blind to the size of the gradient, so it is no guard against a small margin.

    partners   "random" of another class, or the "nearest" of the batch

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # D is at 45 degrees to the gradient
    >>> round(float(path_alignment(Problem(linear, x, torch.tensor([0, 1])))), 4)
    0.2929
    """
    found = pairs(problem, seed, partners)
    (time,) = times(problem, seed, "path_alignment")
    with at_rest(problem):
        _, gradient = found.slope(time)
        return mean(1 - cosine(-gradient, found.step), found.found)
