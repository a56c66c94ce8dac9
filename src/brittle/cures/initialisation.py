"""Start training from a smaller first layer."""

import torch
from torch import nn

from brittle.about import About
from brittle.activations import layer_names
from brittle.errors import InputError
from brittle.network import copied

ABOUT = About(
    promise="the untrained network with its first layer's weights scaled; what gradient descent leaves off the data scales with them",
    reference="Melamed, Yehudai and Vardi, Adversarial examples exist in two-layer ReLU networks for low dimensional linear subspaces, NeurIPS 2023",
    leaves=("input",),
    cost="none; training may take a few more steps",
)


def initialisation(module: nn.Module, scale: float, *, layer: str | None = None) -> nn.Module:
    """A copy whose first layer (dense or convolutional) has its weights multiplied by ``scale``, to be trained from there.

    On data of exact low dimension gradient descent never moves the part of a dense first layer off the data's span, so after training
    that part, and the input gradient orthogonal to the data, is ``scale`` times what it would have been; the distance to the nearest
    failure there grows like 1 / scale. The biases stay.

    Holds for SGD, with momentum or without. Adam and other methods that rescale coordinates leave the span, unless the empty directions
    are coordinates themselves (pixels that are always 0): there they put back what a small initialisation took away. Scaling a network that
    was trained already changes its outputs: this is a cure before training; after it use :func:`brittle.cures.surgery.surgery`.

    layer : the name of the layer; default the first that has weights. Errors: InputError for a scale that is not a positive number,
    and where there is no such layer.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> small = initialisation(network, 0.1)
    >>> bool(torch.allclose(small[1].weight, 0.1 * network[1].weight)), bool((small[3].weight == network[3].weight).all())
    (True, True)
    """
    if not 0 < scale < float("inf"):
        raise InputError("initialisation scale", "a positive number", scale, "0.1 is a small one")
    cured = copied(module)
    known = dict(cured.named_modules())
    if layer is not None and layer not in known:
        names = layer_names(module)
        raise InputError("layer", f"one of {', '.join(names[:20])}", repr(layer), "correct the name")
    weighted = [m for m in known.values() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    chosen = known[layer] if layer is not None else next(iter(weighted), None)
    weight = getattr(chosen, "weight", None)
    if not isinstance(weight, nn.Parameter):
        do = "name a layer that has a weight"
        raise InputError("initialisation", "a dense or convolutional layer", layer or "none", do)
    with torch.no_grad():
        weight.mul_(scale)
    return cured
