"""Models out of what a user types: a Python file, an exported program, weights with a factory, an embedded network."""

import inspect
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from brittle.errors import InputError
from brittle.sources.python_file import load_object, split_object

GRAMMAR = (
    "file.py:object, program.pt2, weights.safetensors@file.py:factory, state.pt@file.py:factory, "
    "or demo:mlp | demo:hardened | demo:cnn | demo:gru"
)
PICKLES = (".pt", ".pth", ".pkl", ".pickle")


def load_model(spec: str, factory: str | None = None, trust_pickle: bool = False) -> Callable:
    """The model that ``spec`` names. Nothing in a file of weights is ever executed, unless ``trust_pickle`` says so.

    spec          ``file.py:object``                   a module, or a function without arguments that returns one
                  ``program.pt2``                      a program saved by ``torch.export.save``
                  ``weights.safetensors@file.py:name`` weights for the module that the factory ``name`` returns, or for ``@demo:NAME``
                  ``state.pt@file.py:name``            a state dict, read with ``weights_only``
                  ``demo:NAME``                        an embedded network: mlp, hardened, cnn, gru
    factory       ``file.py:name``, where it is not part of ``spec``
    trust_pickle  read whole pickled objects too, which runs whatever code their author put there

    Errors: InputError that names the file and what to do. Python files given by name do run: they are the user's own.
    """
    if spec.startswith("demo:"):
        from brittle.sources.embedded import embedded

        return embedded(spec.removeprefix("demo:"))
    path, builder = split_weights(spec, factory)
    suffix = path.suffix.lower()
    if suffix == ".py" or ".py:" in spec.partition("@")[0]:
        return _from_python(spec)
    if suffix not in (".pt2", ".safetensors", *PICKLES):
        raise InputError("model", GRAMMAR, repr(spec), "write it in one of these forms")
    if not path.is_file():
        raise InputError("model", "an existing file", f"{path}, which does not exist", "correct the path")
    if suffix == ".pt2":
        from brittle.sources.exported import load_exported

        return load_exported(path, trust_pickle)
    if suffix == ".safetensors":
        return _with_weights(path, builder, load_state(path))
    return _from_torch_file(path, builder, trust_pickle)


def split_weights(spec: str, factory: str | None = None) -> tuple[Path, str | None]:
    """``weights@file.py:factory`` as its two halves; a factory given apart joins weights that name none."""
    weights, _, builder = spec.partition("@")
    return Path(weights), builder or factory


def canonical(spec: str, factory: str | None = None) -> str:
    """The one text that names a model completely, for the record of a run.

    >>> canonical("w.safetensors", "net.py:make"), canonical("net.py:model", "net.py:make")
    ('w.safetensors@net.py:make', 'net.py:model')
    """
    path, builder = split_weights(spec, factory)
    return f"{path}@{builder}" if builder and path.suffix.lower() in (".safetensors", *PICKLES) else spec


def _from_python(spec: str) -> Callable:
    path, name = split_object(spec, "model")
    return _built(load_object(path, name, "model"), spec)


def _built(value: object, spec: str) -> Callable:
    """A module as it is, the product of a factory, or a function from a batch to logits as it is."""
    if isinstance(value, nn.Module):
        return value
    if not callable(value):
        raise InputError(
            "model", "a torch.nn.Module, or a function that returns one", type(value).__name__, f"correct {spec}"
        )
    if not isinstance(value, type) and _needs_arguments(value):
        return value
    try:
        with torch.random.fork_rng(devices=[]):  # so that an untrained network is the same one each time it is loaded
            torch.manual_seed(0)
            product = value()
    except Exception as reason:  # the user's own code runs here and may raise anything
        raise InputError(
            "model",
            f"{spec} to build a module when called without arguments",
            f"{type(reason).__name__}: {reason}",
            "correct it",
        ) from reason
    if not callable(product):
        raise InputError("model", f"{spec} to return a torch.nn.Module", type(product).__name__, "return the module")
    return product


def _needs_arguments(function: Callable) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(q.default is q.empty and q.kind in (q.POSITIONAL_ONLY, q.POSITIONAL_OR_KEYWORD) for q in parameters)


def load_state(path: Path) -> dict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as reason:
        raise InputError("model", f"{path} to be a safetensors file", str(reason), "save or copy it again") from None


def _with_weights(path: Path, builder: str | None, state: dict) -> nn.Module:
    if builder is None:
        raise InputError(
            "model",
            "a factory for the weights",
            f"{path.name} alone, which holds tensors and no architecture",
            f"write {path.name}@file.py:factory or @demo:mlp, or add --factory file.py:factory",
        )
    module = load_model(builder) if builder.startswith("demo:") else _from_python(builder)
    if not isinstance(module, nn.Module):
        raise InputError("factory", "a torch.nn.Module", type(module).__name__, f"let {builder} return the module")
    try:
        module.load_state_dict(state)
    except RuntimeError as reason:
        lines = " ".join(str(reason).split())
        raise InputError(
            "model", f"weights that fit {builder}", lines[:400], "use the factory they were saved from"
        ) from None
    return module.eval()


def _from_torch_file(path: Path, builder: str | None, trust_pickle: bool) -> Callable:
    """A state dict needs a factory; a whole object needs trust, because unpickling runs the code in the file."""
    try:
        state = (
            None
            if path.suffix.lower() in (".pkl", ".pickle")
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as reason:  # torch raises several types for damaged files and for refused pickles alike
        if not trust_pickle:
            raise _refusal(path, reason) from None
        state = None
    if isinstance(state, dict) and state:
        inner = state.get("state_dict", state)
        return _with_weights(path, builder, inner if isinstance(inner, dict) else state)
    if not trust_pickle:
        raise _refusal(path, None)
    try:
        value = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as reason:  # whatever the pickled code raises
        absent = isinstance(reason, (ImportError, AttributeError))  # a pickle names its classes and does not hold them
        raise InputError(
            "model",
            f"{path} to load",
            f"{type(reason).__name__}: {reason}",
            "put the folder of the file that defines its classes on PYTHONPATH, or save weights and name a factory"
            if absent
            else "save or copy it again",
        ) from None
    if isinstance(value, nn.Module):
        return value.eval()
    raise InputError(
        "model", f"{path} to hold a torch.nn.Module", type(value).__name__, "save the module, or its state dict"
    )


def _refusal(path: Path, reason: Exception | None) -> InputError:
    detail = f" ({type(reason).__name__})" if reason is not None else ""  # torch's own words advise to load it anyway
    return InputError(
        "model",
        "weights that load without running code",
        f"{path.name}, a pickle or a damaged file{detail}",
        "save the weights with safetensors, or add --trust-pickle if you made the file yourself: unpickling runs the code in it",
    )
