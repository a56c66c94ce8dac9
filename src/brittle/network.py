"""The user's module, held without ever being changed: a quiet copy, an exact float64 copy, outputs read as logits."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from brittle.digest import state_digest
from brittle.errors import InputError

Module = TypeVar("Module", bound=Callable)


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
        self.wide = False  # everything is evaluated in float64
        self._seal: str | None = None

    @staticmethod
    def live(module: nn.Module) -> "Network":
        """The module itself in place of its quiet copy, in whatever mode it is: what is computed through it reaches its parameters.

        For training only: penalties are functions of a problem that holds one.
        """
        network = Network(module)
        network._quiet = module
        return network

    def __getstate__(self) -> dict:
        return {"original": self.original, "wide": self.wide}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["original"])
        self.wide = state["wide"]
        if self.wide:
            self._quiet = self._double = self.original

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
            self._double = copied(quiet).double() if isinstance(quiet, nn.Module) else quiet
        return self._double

    @property
    def widened(self) -> "Network":
        """The network of the float64 copy: the same object every time, so that what it learned about the forward is kept."""
        if "widened" not in self.cache:
            network = Network(self.double)
            network._quiet = network._double = self.double
            network.wide = True
            self.cache["widened"] = network
        return self.cache["widened"]

    def run(self, forward: Callable[[], object]) -> object:
        """Evaluate a forward. In float64, one that fixes a shorter precision inside is evaluated again with every such type read as float64."""
        if not self.wide:
            return forward()
        if not self.cache.get("reads every type as float64"):
            try:
                output = forward()
                if read_logits(output).dtype == torch.float64:
                    return output
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, AssertionError):  # "must have the same dtype", in its many forms
                pass
        with ReadAsFloat64():
            output = forward()
        self.cache["reads every type as float64"] = True
        return output

    def seal(self) -> str:
        """Remember the state of the user's module, once: what :meth:`intact` compares with."""
        if self._seal is None:
            self._seal = state_digest(self.original)
        return self._seal

    def intact(self) -> bool:
        """Whether the user's module is, to the last bit, mode and flag, what it was when it was sealed."""
        return self.seal() == state_digest(self.original)

    def parameters(self) -> dict[str, Tensor]:
        """Named parameters of the quiet copy."""
        return dict(self.quiet.named_parameters()) if isinstance(self.quiet, nn.Module) else {}

    def first_names(self) -> dict[str, str]:
        """Every name of a parameter of the quiet copy -> the one that :meth:`parameters` has it under; tied weights have several."""
        if not isinstance(self.quiet, nn.Module):
            return {}
        first = {id(value): name for name, value in self.quiet.named_parameters()}
        return {name: first[id(value)] for name, value in self.quiet.named_parameters(remove_duplicate=False)}

    @contextmanager
    def recurrent_safe(self):
        """cuDNN refuses backward passes of recurrent layers in evaluation mode; its fallback does not."""
        if not torch.cuda.is_available():  # asked first: a walk through the modules costs as much as a small layer
            yield
            return
        recurrent = isinstance(self.original, nn.Module) and any(
            isinstance(m, nn.RNNBase) for m in self.original.modules()
        )
        with torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            yield


class ReadAsFloat64(TorchFunctionMode):
    """Inside, every floating-point type is float64: casts, new tensors, and tensors that come in (exactly) from outside.

    In real arithmetic a cast is the identity, so this evaluates the function that is certified, also where the forward
    says ``x.float()``, makes ``torch.zeros(...)`` or closes over float32 weights.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in ("float", "half", "bfloat16") and args and isinstance(args[0], Tensor):
            return args[0].double()
        if name in ("dtype", "__get__", "_assert_tensor_metadata", "__setitem__", "copy_"):
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(_as_float64, (args, kwargs or {}))
        return tree_map(_as_float64, func(*args, **kwargs))


SHORT = (torch.float32, torch.float16, torch.bfloat16)


def _as_float64(value: object) -> object:
    if isinstance(value, torch.dtype):
        return torch.float64 if value in SHORT else value
    if isinstance(value, Tensor) and value.dtype in SHORT:
        return value.double()
    return value


@contextmanager
def lend(module: Callable) -> Iterator[Callable]:
    """The user's own module, in evaluation mode and without gradients, for one forward pass.

    Everything a forward may leave behind is put back: modes, buffers (values and identity), plain attributes, and torch's
    global random state. What a forward appends to a list of its own cannot be put back; only ``quiet`` copies are called freely.
    """
    children = list(module.modules()) if isinstance(module, nn.Module) else []
    attributes = [(child, dict(child.__dict__), dict(child._buffers)) for child in children]
    values = [(b, b.detach().clone()) for _, _, buffers in attributes for b in buffers.values() if b is not None]
    with torch.random.fork_rng(devices=_cuda_devices(children)), torch.no_grad():
        try:
            for child in children:
                object.__setattr__(child, "training", False)
            yield module
        finally:
            for buffer, value in values:
                buffer.copy_(value)
            for child, plain, buffers in attributes:
                child.__dict__.clear()
                child.__dict__.update(plain)
                child._buffers.clear()
                child._buffers.update(buffers)


def call(module: Callable, x: Tensor | Mapping[str, Tensor]) -> Tensor:
    """Logits (N, C) of a module at a tensor, or at keyword inputs. Counts no passes."""
    return read_logits(module(x) if isinstance(x, Tensor) else module(**x))


def call_with(
    module: nn.Module, weights: Mapping[str, Tensor], args: tuple = (), named: Mapping[str, Tensor] | None = None
) -> Any:
    """The module with some parameters (by first name) replaced in function only, wherever they are held.

    :func:`torch.func.functional_call` ties every name of a parameter: where one layer has two names it puts the replacement back in
    place of the parameter, for good. Here a parameter has one name for each layer that holds it.
    """
    held: dict[int, list[str]] = {}
    for prefix, part in module.named_modules():  # each layer once
        for key, value in part.named_parameters(recurse=False, remove_duplicate=False):
            held.setdefault(id(value), []).append(f"{prefix}.{key}" if prefix else key)
    names = {places[0]: places for places in held.values()}
    everywhere = {place: value for name, value in weights.items() for place in names.get(name, [name])}
    return functional_call(module, everywhere, args, dict(named or {}), tie_weights=False)


def read_logits(output: Any) -> Tensor:
    """Logits (N, C) out of what a model returned: a tensor, an object with ``.logits``, a tuple (its first tensor), a mapping."""
    if isinstance(output, Mapping):
        output = (
            output["logits"]
            if "logits" in output
            else next((v for v in output.values() if isinstance(v, Tensor)), output)
        )
    elif hasattr(output, "logits"):
        output = getattr(output, "logits")  # noqa: B009 - any object may have it
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


def _cuda_devices(children: list[nn.Module]) -> list[int]:
    devices = {p.device for child in children for p in child.parameters(recurse=False)}
    return sorted({d.index or 0 for d in devices if d.type == "cuda"})


def copied(module: Module) -> Module:
    """A deep copy, without what torch says about its own deprecated parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch on specifications inside its own exported programs
        return copy.deepcopy(module)


def _quiet_copy(original: Callable) -> Callable:
    if not isinstance(original, nn.Module):
        return original
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # of torch on the specifications inside its own exported programs
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
