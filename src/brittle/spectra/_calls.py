"""What a network feeds its recurrent parts: their calls, recorded by hooks while the network runs on data."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from brittle.errors import InputError
from brittle.spectra._custom import State, alike, following, tensors
from brittle.validation import is_out_of_memory


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of an RNN, GRU or LSTM: inputs (N, T, F), lengths (N,), initial states (layers * directions, N, .) or None."""

    inputs: Tensor
    lengths: Tensor
    initial: tuple[Tensor, ...] | None


@dataclass(frozen=True, eq=False)
class StepCall:
    """One call of a cell: inputs (N, F), the state before and the state after, as the cell holds them (None: zeros)."""

    inputs: Tensor
    before: State | None
    after: State


Calls = dict[str, list]


@contextmanager
def calls(module: nn.Module, lengths: Tensor | None = None) -> Iterator[tuple[Calls, Calls]]:
    """Inside the block every call of a layer, of a cell, and of anything called like a cell is kept: (known, like cells).

    lengths : (N,) valid steps of padded sequences; they are believed of every layer called with that many sequences at least that long.
    """
    known: Calls = {}
    others: Calls = {}
    handles = []
    for name, child in module.named_modules():
        if isinstance(child, nn.RNNBase):
            hook = _layer_hook(known.setdefault(name, []), lengths)
        elif isinstance(child, nn.RNNCellBase):
            hook = _cell_hook(known.setdefault(name, []))
        else:
            hook = _cell_hook(others.setdefault(name, []))
        handles.append(child.register_forward_hook(hook, with_kwargs=True))
    try:
        yield known, others
    finally:
        for handle in handles:
            handle.remove()


def chained(found: list[StepCall]) -> list[list[StepCall]]:
    """Calls in the order of time, cut where the state before is not the state after the call before it."""
    chains: list[list[StepCall]] = []
    for call in found:
        if chains and call.before is not None and _same(chains[-1][-1].after, call.before):
            chains[-1].append(call)
        else:
            chains.append([call])
    return chains


def _layer_hook(keep: list, lengths: Tensor | None) -> Callable:
    def hook(module, args, kwargs, output) -> None:
        given = args[0] if args else kwargs["input"]
        initial = args[1] if len(args) > 1 else kwargs.get("hx")
        keep.append(_layer_call(module, given, initial, lengths))

    return hook


def _layer_call(
    module: nn.RNNBase, given: Tensor | PackedSequence, initial: object, lengths: Tensor | None
) -> LayerCall:
    states = tuple(wide(t) for t in tensors(initial)) or None
    if isinstance(given, PackedSequence):
        padded, count = pad_packed_sequence(given, batch_first=True)
        return LayerCall(wide(padded), count.clone(), states)
    x = wide(given)
    if x.dim() == 2:
        x, states = x[None], states and tuple(s[:, None] for s in states)
    elif not module.batch_first:
        x = x.transpose(0, 1)
    whole = torch.full((len(x),), x.shape[1])
    fits = lengths is not None and len(lengths) == len(x) and x.shape[1] >= int(lengths.max())
    return LayerCall(x, lengths if fits and lengths is not None else whole, states)


def _cell_hook(keep: list) -> Callable:
    def hook(module, args, kwargs, output) -> None:
        values = [*args, *kwargs.values()]
        if not values or not isinstance(values[0], Tensor) or values[0].dim() not in (1, 2):
            return
        before = values[1] if len(values) > 1 else None
        if before is None and not isinstance(module, nn.RNNCellBase):
            return
        try:
            after = output if before is None else following(output, before)  # type: ignore[arg-type]
        except InputError:
            return
        one = values[0].dim() == 1
        kept = _rows(after, one)
        if kept is not None:
            keep.append(StepCall(wide(_row(values[0], one)), _rows(before, one), kept))

    return hook


def wide(value: Tensor) -> Tensor:
    """A detached copy in float64 on the CPU."""
    return value.detach().to("cpu", torch.float64, copy=True)


def flat(state: State) -> Tensor:
    """The pieces of a state beside each other."""
    return torch.cat(tensors(state), -1)


def _row(value: Tensor, one: bool) -> Tensor:
    return value[None] if one else value


def _rows(state: object, one: bool) -> State | None:
    if state is None:
        return None
    made = tuple(wide(_row(t, one)) for t in tensors(state))
    return made[0] if isinstance(state, Tensor) else made


def _same(after: State, before: State) -> bool:
    return alike(after, before) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(tensors(after), tensors(before), strict=True)
    )


def run(module: nn.Module, x: Tensor | Mapping[str, Tensor]) -> None:
    """One forward pass for its calls alone, whatever it returns."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "LSTM with projections is not supported", UserWarning
        )  # by a library, and says only that it is slower
        try:
            module(x) if isinstance(x, Tensor) else module(**x)
        except InputError:
            raise
        except Exception as reason:  # user code decides what can go wrong here
            if is_out_of_memory(reason):
                raise
            first = (str(reason).strip().splitlines() or ["no message"])[0][:160].rstrip(". ")
            raise InputError(
                "x",
                "data that the module takes",
                f"{type(reason).__name__}: {first}",
                "call module(x) to see more; a cell that is called module(input, state) needs state=, an example of its state",
            ) from reason
