"""Cells of one's own: any map (input, state) -> state, differentiated by torch's forward mode."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from brittle.errors import InputError
from brittle.network import copied
from brittle.spectra._cells import Cell, Derivative

State = Tensor | Sequence[Tensor]


def custom(name: str, function: Callable, state: State, inputs: int = 0, owner: str = "") -> Cell:
    """The cell ``function(input, state)``, called as torch's cells are; it returns the next state, or a pair (output, next state).

    function : a module (copied to float64) or a function of torch operations, batched on axis 0, whose examples do not touch each other.
    state : one example state or a batch of them: a tensor, or a tuple of tensors. Only its shape is used.
    """
    pieces = tensors(state)
    sizes = [piece.shape[-1] for piece in pieces]
    double = copied(function).double().eval() if isinstance(function, nn.Module) else function

    def step(flat: Tensor, x: Tensor) -> Tensor:
        split = flat.split(sizes, -1)
        given = split[0] if isinstance(state, Tensor) else tuple(split)
        return torch.cat(tensors(following(double(x, given), state, name)), -1)

    def derivative(flat: Tensor, x: Tensor) -> Derivative:
        return _forward_mode(lambda s: step(s, x), lambda s, one: step(s[None], one[None])[0], flat, x)

    parts = tuple((f"state {k}" if len(sizes) > 1 else "state", size) for k, size in enumerate(sizes))
    return Cell(name, "custom", parts, inputs, {}, step, derivative, {}, owner)


def tensors(state: object) -> list[Tensor]:
    """The tensors of a state, [] for anything else."""
    if isinstance(state, Tensor):
        return [state]
    good = isinstance(state, (tuple, list)) and state and all(isinstance(piece, Tensor) for piece in state)
    return list(state) if good else []  # type: ignore[arg-type]


def following(output: object, state: State, name: str = "cell") -> State:
    """The next state out of what a cell returned: the output itself, or the second of a pair, whichever is shaped like the state."""
    for found in (output, output[1] if isinstance(output, (tuple, list)) and len(output) == 2 else None):
        if alike(found, state):
            return found  # type: ignore[return-value]
    raise InputError(
        f"cell {name!r}" if name else "cell",
        "a next state shaped like the state, alone or as the second of a pair (output, state)",
        f"{type(output).__name__} for a state of widths {[t.shape[-1] for t in tensors(state)]}",
        "wrap it in a function (input, state) -> state",
    )


def alike(found: object, state: object) -> bool:
    """Whether two states have the same structure and widths."""
    one, other = tensors(found), tensors(state)
    same = isinstance(found, Tensor) == isinstance(state, Tensor) and len(one) == len(other) > 0
    return same and all(a.dim() and a.shape[-1] == b.shape[-1] for a, b in zip(one, other, strict=True))


def _forward_mode(batched: Callable, single: Callable, flat: Tensor, x: Tensor) -> Derivative:
    from torch.func import jacfwd, jvp, vjp, vmap

    batch = lambda v: v.expand(len(flat), *v.shape[-2:]).unbind(-1)

    def times(v: Tensor) -> Tensor:
        return torch.stack([jvp(batched, (flat,), (column,))[1] for column in batch(v)], -1)

    def back(u: Tensor) -> Tensor:
        pull = vjp(batched, flat)[1]
        return torch.stack([pull(column)[0] for column in batch(u)], -1)

    def dense() -> Tensor:
        try:
            return vmap(jacfwd(single))(flat, x)
        except (RuntimeError, NotImplementedError):  # an operation without a batching rule: column by column instead
            identity = torch.eye(flat.shape[-1], dtype=flat.dtype, device=flat.device)
            return times(identity.expand(len(flat), -1, -1))

    return Derivative(times, back, dense)
