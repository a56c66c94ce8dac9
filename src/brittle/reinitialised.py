"""The same architecture before training: a copy whose layers drew their weights anew."""

from collections.abc import Callable

import torch
from torch import nn

from brittle.errors import InputError
from brittle.network import copied
from brittle.randomness import fold


def reinitialised(module: Callable, seed: int, copy: int = 0) -> nn.Module:
    """A copy in evaluation mode whose layers were reset by their own ``reset_parameters``, as their authors initialise them.

    seed, copy : fold into the draw; torch's global random state is left as it was.
    Errors: InputError where the callable is no module, or a layer with weights of its own has no ``reset_parameters``: an
    initialisation that is not written down cannot be repeated.

    >>> layer = nn.Linear(2, 2)
    >>> bool((reinitialised(layer, 0).weight != layer.weight).any())
    True
    """
    if not isinstance(module, nn.Module):
        raise InputError("module", "a torch.nn.Module", type(module).__name__, "wrap the callable in a module")
    fresh = copied(module)
    for name, layer in fresh.named_modules():
        own = any(True for _ in layer.parameters(recurse=False))
        if own and not hasattr(layer, "reset_parameters"):
            raise InputError(
                f"layer {name or type(layer).__name__!r}",
                "a reset_parameters method",
                type(layer).__name__,
                "give the layer one, or pass untrained copies yourself",
            )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(fold(seed, "reinitialised", copy))
        for layer in fresh.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # pyright: ignore[reportCallIssue]
    for layer in fresh.modules():
        object.__setattr__(layer, "training", False)
    return fresh.requires_grad_(False)
