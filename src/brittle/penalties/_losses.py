"""The losses that training knows by name: per example, functions of logits and labels."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from brittle.errors import InputError

Loss = str | Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) minus the log of the label's softmax probability; one logit: of its logistic probability."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits.dtype), reduction="none")
    return functional.cross_entropy(logits, labels, reduction="none")


def squared(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) squared distance of the logits to the one-hot target; one logit: to +1 for label 1, -1 for label 0."""
    if logits.shape[1] == 1:
        return (logits[:, 0] - (2 * labels - 1).to(logits.dtype)).square()
    return (logits - functional.one_hot(labels, logits.shape[1]).to(logits.dtype)).square().sum(1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross-entropy": cross_entropy, "squared": squared}


def mean_loss(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of a loss over the batch. ``loss`` is a name, or a function of logits and labels that returns (N,) or a scalar."""
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise InputError("loss", " | ".join((*LOSSES, "a function")), repr(loss), "choose one of these")
        loss = LOSSES[loss]
    values = loss(logits, labels)
    if not isinstance(values, Tensor) or values.shape not in (torch.Size([]), torch.Size([len(labels)])):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError("loss", f"a scalar or ({len(labels)},) tensor", got, "reduce over all but the first axis")
    return values.mean()
