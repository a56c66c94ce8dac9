"""Project the input onto the data's subspace before the network reads it."""

import torch
from torch import Tensor, nn

from brittle.about import About
from brittle.network import copied
from brittle.subspace import Subspace

ABOUT = About(
    promise="the network behind a linear projection: unchanged on the subspace, blind to every direction off it",
    reference="Bhagoji et al., Enhancing robustness of machine learning systems via data transformations, 2018 (principal components as a front end)",
    leaves=("input",),
    cost="one matrix product per input",
)


class Projection(nn.Module):
    """``x -> mean + P (x - mean)`` on flattened inputs, as one affine layer, so that bounds and attacks see through it exactly."""

    def __init__(self, subspace: Subspace, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        matrix = subspace.basis.T @ subspace.basis
        self.register_buffer("matrix", matrix.to(dtype))
        self.register_buffer("offset", (subspace.mean - matrix @ subspace.mean).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.matrix, self.offset).reshape(x.shape)  # type: ignore[arg-type]


def projection(module: nn.Module, subspace: Subspace) -> nn.Module:
    """A new module that projects its input onto ``subspace`` first; the given one is untouched.

    Guarantee (real arithmetic): outputs at points of the subspace are unchanged, and the gradient off it is zero. Works for every
    architecture; :func:`surgery` gives the same function without another layer where the first layer is dense. The
    projection is linear, so an attack sees through it: what counts is the smallest perturbation of the whole pipeline.

    Errors: InputError for tangent spaces, which no single matrix holds.

    >>> network = projection(nn.Linear(3, 2), Subspace.given(torch.eye(3)[:2]))
    >>> bool((network(torch.tensor([[1.0, 2.0, 0.0]])) == network(torch.tensor([[1.0, 2.0, 9.0]]))).all())
    True
    """
    subspace = subspace.one()
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    return nn.Sequential(Projection(subspace, own).to(device), copied(module)).train(module.training)
