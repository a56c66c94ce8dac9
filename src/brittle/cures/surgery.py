"""Cut what the first layer reads off the data's subspace."""

import torch
from torch import nn

from brittle.about import About
from brittle.activations import layer_names
from brittle.errors import InputError
from brittle.network import copied
from brittle.subspace import Subspace

ABOUT = About(
    promise="outputs on the subspace are unchanged; the gradient off it is zero",
    reference="derived from Melamed, Yehudai and Vardi, Adversarial examples exist in two-layer ReLU networks for low dimensional linear subspaces, NeurIPS 2023",
    leaves=("input",),
    cost="one matrix product, once",
)


def surgery(module: nn.Module, subspace: Subspace, *, layer: str | None = None) -> nn.Module:
    """A new module whose first dense layer reads the subspace alone: ``W P`` for ``W``, ``b + W (I - P) mean`` for ``b``.

    On data of exact low dimension the part ``W (I - P)`` is never trained by gradient descent (every gradient of W lies in the
    span of the data), so it is what the initialisation left there: noise that an attack can use and the data never see.

    Guarantee (real arithmetic): for every x on the subspace the output is that of ``module``; off it the input gradient is zero. In
    floating point outputs agree to rounding of the module's own dtype. Data that only nearly lie on the subspace change by
    at most ``|W (I - P) (x - mean)|`` before the activation; look at the clean accuracy.

    layer : the name of the layer; default: the dense layer that reads the flattened input, found by one forward pass.
    Errors: InputError where no dense layer reads the input as it is (a convolution, a normalisation before it): use
    :func:`projection`, which gives the same function for any architecture.

    >>> _ = torch.manual_seed(0)
    >>> network, plane = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), Subspace.given(torch.eye(3)[:2])
    >>> cured, x = surgery(network, plane), torch.tensor([[1.0, 2.0, 0.0]])
    >>> bool(torch.allclose(cured(x), network(x))), bool((cured(x) == cured(x + torch.tensor([0.0, 0.0, 5.0]))).all())
    (True, True)
    """
    subspace = subspace.one()
    cured = copied(module)
    first = cured.get_submodule(_first(cured, subspace) if layer is None else _known(cured, layer))
    if not isinstance(first, nn.Linear) or first.in_features != subspace.features:
        raise InputError(
            f"surgery on layer {layer!r}",
            f"a dense layer of {subspace.features} inputs",
            type(first).__name__,
            "use projection(module, subspace), which works for any architecture",
        )
    with torch.no_grad():
        weight = first.weight.double().cpu()
        inside = (weight @ subspace.basis.T) @ subspace.basis
        shift = (weight - inside) @ subspace.mean
        first.weight.copy_(inside)
        if first.bias is not None:
            first.bias.copy_(first.bias.double().cpu() + shift)
        elif float(shift.abs().max()) > 0:
            first.bias = nn.Parameter(shift.to(first.weight), first.weight.requires_grad)
    return cured


def _known(module: nn.Module, layer: str) -> str:
    names = layer_names(module)
    if layer not in names:
        raise InputError("layer", f"one of {', '.join(names[:20])}", repr(layer), "correct the name")
    return layer


def _first(module: nn.Module, subspace: Subspace) -> str:
    """The dense layer whose input is the network's input, flattened."""
    own = next(module.parameters())
    x = torch.linspace(0.1, 0.9, subspace.features).to(own).reshape(1, *subspace.shape)
    seen: dict[str, bool] = {}

    def look(name: str):
        def hook(layer, given, output) -> None:
            seen.setdefault(name, given[0].numel() == x.numel() and bool((given[0].reshape(-1) == x.reshape(-1)).all()))

        return hook

    linear = [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    handles = [child.register_forward_hook(look(name)) for name, child in linear]
    modes = [(child, child.training) for child in module.modules()]
    try:
        with torch.no_grad():
            for child, _ in modes:
                child.training = False
            module(x)
    finally:
        for child, mode in modes:
            child.training = mode
        for handle in handles:
            handle.remove()
    name = next((n for n, reads in seen.items() if reads), None)
    if name is None:
        raise InputError(
            "surgery",
            "a dense layer that reads the flattened input as it is",
            "none",
            "use projection(module, subspace), which works for any architecture",
        )
    return name
