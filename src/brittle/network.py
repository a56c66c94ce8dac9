"""The user's module, held without ever being changed: a quiet copy, an exact float64 copy, outputs read as logits."""

import copy
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from brittle.errors import InputError


class Network:
    """A module (or callable) as brittle uses it.

    ``original`` is the user's own object and is never called for gradients, moved or switched. ``quiet`` is a deep copy in
    evaluation mode without gradient flags; ``double`` the same in float64: the function that is certified. A callable
    that is not a module is used as it is.
    """

    def __init__(self, original: Callable) -> None:
        if not callable(original):
            raise InputError(
                "module", "a torch.nn.Module or a callable", type(original).__name__, "pass the model itself"
            )
        self.original = original
        self._quiet: Callable | None = None
        self._double: Callable | None = None
        self.cache: dict = {}  # graphs and other derived things; never travels

    def __getstate__(self) -> dict:
        return {"original": self.original}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["original"])

    @property
    def quiet(self) -> Callable:
        if self._quiet is None:
            self._quiet = _quiet_copy(self.original)
        return self._quiet

    @property
    def double(self) -> Callable:
        """The quiet copy with every floating parameter and buffer cast to float64, which is exact for all shorter types."""
        if self._double is None:
            quiet = self.quiet
            self._double = copy.deepcopy(quiet).double() if isinstance(quiet, nn.Module) else quiet
        return self._double

    def parameters(self) -> dict[str, Tensor]:
        """Named parameters of the quiet copy."""
        return dict(self.quiet.named_parameters()) if isinstance(self.quiet, nn.Module) else {}

    @contextmanager
    def recurrent_safe(self):
        """cuDNN refuses backward passes of recurrent layers in evaluation mode; its fallback does not."""
        recurrent = isinstance(self.original, nn.Module) and any(
            isinstance(m, nn.RNNBase) for m in self.original.modules()
        )
        with torch.backends.cudnn.flags(enabled=False) if recurrent and torch.cuda.is_available() else nullcontext():
            yield


def read_logits(output: object) -> Tensor:
    """Logits (N, C) out of what a model returned: a tensor, an object with ``.logits``, a tuple (its first tensor), a mapping."""
    if isinstance(output, Mapping):
        output = (
            output["logits"]
            if "logits" in output
            else next((v for v in output.values() if isinstance(v, Tensor)), output)
        )
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)):
        output = next((v for v in output if isinstance(v, Tensor)), output)
    if not isinstance(output, Tensor):
        raise InputError(
            "model output",
            "a tensor, a tuple or mapping with a tensor, or an object with .logits",
            type(output).__name__,
            "wrap the model so that it returns logits",
        )
    if output.dim() == 1:
        output = output[:, None]
    if output.dim() != 2:
        raise InputError(
            "model output",
            "shape (batch, classes)",
            tuple(output.shape),
            "wrap the model so that it returns one row per example",
        )
    return output


def _quiet_copy(original: Callable) -> Callable:
    if not isinstance(original, nn.Module):
        return original
    try:
        quiet = copy.deepcopy(original)
    except Exception as reason:  # user code decides what can go wrong here
        raise InputError(
            "module",
            "a module that copy.deepcopy can copy",
            f"{type(reason).__name__}: {reason}",
            "detach stored tensors, or wrap the model in a function",
        ) from reason
    for module in quiet.modules():
        object.__setattr__(module, "training", False)  # an exported program refuses .eval()
    for parameter in quiet.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return quiet
