"""The part of the input gradient that points off the data."""

import torch  # noqa: F401 - the example below uses it
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._live import at_rest, leaves, moving, slope
from brittle.penalties._losses import cross_entropy
from brittle.problem import Problem
from brittle.spec import margin
from brittle.subspace import Subspace

ABOUT = About(
    promise="the mean squared length of the input gradient orthogonal to the data's subspace; removing all of it gains at most 1 / sqrt(1 - share)",
    reference="derived from Melamed, Yehudai and Vardi, Adversarial examples exist in two-layer ReLU networks for low dimensional linear subspaces, NeurIPS 2023",
    norms=(2,),
    leaves=("input",),
    cost="1 forward and 3 backward passes",
)


def off_subspace(problem: Problem, *, seed: int = 0, subspace: Subspace | None = None, of: str = "margin") -> Tensor:
    """``mean_i |(I - P) grad_x m(x_i)|²`` with P the projector on ``subspace``.

    subspace  of the one input; with None nothing counts as data, and the whole gradient is penalised
    of        "margin" (the smallest row; its gradient does not fade with confidence) or "loss" (cross-entropy of the rows)

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    >>> problem = Problem(linear, torch.zeros(1, 2), torch.tensor([0]))
    >>> float(off_subspace(problem, subspace=Subspace.given(torch.tensor([[1.0, 0.0]]))))  # what is left of (3, -4) off the axis
    16.0
    """
    if of not in ("loss", "margin"):
        raise InputError("off_subspace", 'of="margin" or of="loss"', repr(of), "choose one of these")
    x = leaves(moving(problem))
    with at_rest(problem):
        logits = problem.logits(x)
        rows = problem.spec.rows(logits, problem.labels)
        values = cross_entropy(logits, problem.labels) if of == "loss" else margin(rows, problem.spec.rank)
        gradient = slope(values, x)
    if subspace is not None:
        gradient = gradient - _on(gradient, subspace, x)
    return gradient.square().sum(1).mean()


def _on(gradient: Tensor, subspace: Subspace, x: dict[str, Tensor]) -> Tensor:
    """The part inside, which can be differentiated."""
    if len(x) > 1 or gradient.shape[1] != subspace.features:
        raise InputError(
            "off_subspace", f"one input of {subspace.features} features", gradient.shape[1], "make it from these inputs"
        )
    basis = subspace.bases(next(iter(x.values()))).to(gradient)
    if len(basis) == 1:  # one matrix for all examples
        return (gradient @ basis[0].T) @ basis[0]
    return (basis.mT @ (basis @ gradient[..., None]))[..., 0]
