"""What flows through a module: outputs of its layers by name, recorded or replaced by hooks for the length of a block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from brittle.errors import InputError


def layer_names(module: Callable, pattern: str = "*") -> tuple[str, ...]:
    """The layers of a module whose names match, in the order of definition: modules without children (and a lone layer as "").

    Errors: InputError where the callable is no module, or nothing matches, naming the layers there are.

    >>> layer_names(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    ('0', '1')
    """
    if not isinstance(module, nn.Module):
        raise InputError(
            "module", "a torch.nn.Module with layers", type(module).__name__, "wrap the callable in a module"
        )
    names = [name for name, child in module.named_modules() if not any(child.children())]
    chosen = tuple(name for name in names if fnmatchcase(name, pattern))
    if not chosen:
        raise InputError(
            "layers", f"a pattern that matches one of {', '.join(names[:20])}", repr(pattern), "correct it"
        )
    return chosen


@contextmanager
def recorded(module: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Inside the block, every forward pass leaves the output of each named layer in the mapping, in the order of evaluation.

    Of a layer that is called several times the last output stays; of a layer that returns several tensors the first.
    """
    outputs: dict[str, Tensor] = {}

    def hook(name: str):
        def keep(layer, given, output) -> None:
            if (tensor := _first(output)) is not None:
                outputs.pop(name, None)
                outputs[name] = tensor

        return keep

    handles = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(module: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside the block, the output of each named layer is what its function makes of it. Layers must return one tensor."""
    hook = lambda change: lambda layer, given, output: change(output)
    handles = [module.get_submodule(name).register_forward_hook(hook(change)) for name, change in changes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(output: object) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    return next((v for v in output if isinstance(v, Tensor)), None) if isinstance(output, (tuple, list)) else None
