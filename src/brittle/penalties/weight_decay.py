"""Coupled weight decay as a term of the objective, of everything or only of what the first layer reads off the data."""

import torch  # noqa: F401 - the example below uses it
from torch import Tensor, nn

from brittle.about import About
from brittle.errors import InputError
from brittle.problem import Problem
from brittle.subspace import Subspace

ABOUT = About(
    promise="half the squared length of the weights: under gradient descent it shrinks what the data never train by (1 - rate x weight)^steps",
    reference="Krogh and Hertz, A simple weight decay can improve generalization, NIPS 1991; coupled against decoupled: Loshchilov and "
    "Hutter, ICLR 2019; as a cure of what lies off the data: Melamed, Yehudai and Vardi, NeurIPS 2023",
    leaves=("parameter",),
    cost="none but one pass over the weights",
)


def weight_decay(
    problem: Problem, *, seed: int = 0, layer: str | None = None, subspace: Subspace | None = None
) -> Tensor:
    """``|w|² / 2`` summed over the trainable parameters; its gradient is w, so a weight of ``lambda`` adds ``lambda w`` to every gradient.

    With plain gradient descent that is weight decay, coupled or not. With momentum mu the part that the data do not train falls like
    ``exp(-rate lambda steps / (1 - mu))``; to shrink it C times, ``rate lambda steps / (1 - mu)`` must reach ln C. With Adam the coupled
    term is divided by its own size: what the data do not train falls by about the rate in every step, however small lambda is; the
    decoupled form of :func:`brittle.training.train` (``weight_decay=``) falls by ``(1 - rate lambda)^steps`` there.

    layer     only the parameters of this layer
    subspace  only what one dense layer reads off the subspace, ``|W (I - P)|² / 2``: what the data use stays as it is. ``layer`` names
              the dense layer; default the first one of as many inputs
    Errors: InputError for a callable without parameters, an unknown layer, a subspace that no dense layer fits.

    >>> linear = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, 4.0]]))
    >>> problem = Problem(linear, torch.zeros(1, 2), torch.tensor([0]))
    >>> float(weight_decay(problem)), float(weight_decay(problem, subspace=Subspace.given(torch.tensor([[1.0, 0.0]]))))
    (12.5, 8.0)
    """
    module = problem.network.quiet
    if not isinstance(module, nn.Module) or not any(True for _ in module.parameters()):
        raise InputError("weight_decay", "a module with parameters", type(module).__name__, "leave this penalty out")
    if subspace is not None:
        dense = _dense(module, subspace.one(), layer)
        basis = subspace.basis.to(dense.weight)
        return (dense.weight - (dense.weight @ basis.T) @ basis).square().sum() / 2
    chosen = _layer(module, layer) if layer else module
    floating = [p for p in chosen.parameters() if p.is_floating_point()]
    trained = [p for p in floating if p.requires_grad] or floating  # a copy at rest has no gradient flags
    if not trained:
        raise InputError("weight_decay layer", "a layer with parameters", repr(layer), "name another layer")
    return torch.stack([p.square().sum() for p in trained]).sum() / 2


def _layer(module: nn.Module, name: str) -> nn.Module:
    known = dict(module.named_modules())
    if name not in known:
        raise InputError("weight_decay layer", f"one of {', '.join(list(known)[1:20])}", repr(name), "correct the name")
    return known[name]


def _dense(module: nn.Module, subspace: Subspace, name: str | None) -> nn.Linear:
    layers = [_layer(module, name)] if name else list(module.modules())
    fits = [m for m in layers if isinstance(m, nn.Linear) and m.in_features == subspace.features]
    if not fits:
        do = "name a dense layer, or leave the subspace out"
        raise InputError("weight_decay", f"a dense layer of {subspace.features} inputs", "none", do)
    return fits[0]
