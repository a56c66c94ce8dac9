"""The states that a network's recurrent maps pass through on data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.network import Network
from brittle.spectra._calls import LayerCall, StepCall, calls, chained, flat, run
from brittle.spectra._cells import Cell
from brittle.spectra._custom import custom
from brittle.spectra.cells import SOUGHT, cells

ABOUT = About(
    promise="for every recurrent map: its states and inputs on data, in float64, padding respected",
    reference="derived; torch.nn's documented recurrences",
    cost="one forward pass, and one of the recurrent layers in float64",
)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States and inputs of one cell on N sequences.

    states (N, T + 1, S) before every step and after the last; inputs (N, T, F); lengths (N,): steps beyond them are padding
    """

    cell: Cell
    states: Tensor = field(repr=False)
    inputs: Tensor = field(repr=False)
    lengths: Tensor

    @property
    def steps(self) -> Tensor:
        """(N, T): which steps are data and not padding."""
        return torch.arange(self.inputs.shape[1]) < self.lengths[:, None]

    def points(self) -> tuple[Tensor, Tensor]:
        """The states (K, S) and inputs (K, F) of all steps that are data, sequence by sequence."""
        return self.states[:, :-1][self.steps], self.inputs[self.steps]


def trajectories(
    module: nn.Module | Callable,
    x: Tensor | Mapping[str, Tensor],
    *,
    lengths: Sequence[int] | Tensor | None = None,
    state: Tensor | Sequence[Tensor] | None = None,
) -> tuple[Trajectory, ...]:
    """Run the network on data and follow every recurrent map, step by step, in float64.

    Layers (RNN, GRU, LSTM) are followed from the inputs that they are given inside the network, through all their layers and directions; a reverse
    direction starts at the last valid step. Cells are followed from call to call, as is any module that is called like one: two calls or more
    ``cell(input, state)``, each with the state that the call before returned. The network runs once, in evaluation mode and without gradients,
    on a copy.

    x        what the network takes. A lone RNN, GRU or LSTM takes it in its own layout (``batch_first``); a lone cell sequences (batch, time, feature)
    lengths  (N,) valid steps of padded sequences: of every layer and cell that takes N sequences of at least that many steps; packed ones bring their own
    state    an example state: declares that ``module`` is itself a cell, called ``module(input, state)``; x is then (batch, time, feature)
    Returns the trajectories in the order of the network; () where nothing recurrent was called.
    Errors: InputError for a sequence of length zero, lengths that do not fit, and inputs or states that are not finite.

    >>> _ = torch.manual_seed(0)
    >>> (one,) = trajectories(nn.GRU(3, 4, batch_first=True), torch.rand(2, 5, 3), lengths=[5, 2])
    >>> one.states.shape, one.points()[0].shape  # (sequences, steps + 1, units); valid steps
    (torch.Size([2, 6, 4]), torch.Size([7, 4]))
    """
    count = None if lengths is None else _lengths(lengths)
    if state is not None or isinstance(module, nn.RNNCellBase):
        return (_alone(module, _sequences(x), state, count),)
    if not isinstance(module, nn.Module):
        raise InputError("module", "a torch.nn.Module, or state= beside a cell", type(module).__name__, "pass a module")
    _no_empty(x)
    network = Network(module)
    quiet = network.quiet
    meter.count(forward=len(x) if isinstance(x, Tensor) else len(next(iter(x.values()))))
    assert isinstance(quiet, nn.Module)
    with calls(quiet, count) as (known, others):
        run(quiet, x)
    found = [t for name, made in known.items() if made for t in _followed(cells(module), name, made, count)]
    alone = {
        n: made for n, made in others.items() if not any(f"{k}.".startswith(f"{n}.") for k, m in known.items() if m)
    }
    found += [t for name, made in alone.items() if (t := _like_a_cell(quiet, name, made, count)) is not None]
    if count is not None and found and not any(_fits(count, t) for t in found):
        n, steps = len(found[0].lengths), found[0].inputs.shape[1]
        raise InputError("lengths", f"{n} numbers of at most {steps}", count.tolist()[:5], "correct them")
    return tuple(_finite(t) for t in found)


def _fits(count: Tensor, found: Trajectory) -> bool:
    """Can these be the lengths of this part's sequences, all of them or those of each of its calls?"""
    return len(found.lengths) % len(count) == 0 and int(count.max()) <= found.inputs.shape[1]


def driven(cell: Cell, start: Tensor, inputs: Tensor, lengths: Tensor) -> Trajectory:
    """The trajectory of a cell from states (N, S) under inputs (N, T, F); past its length a sequence stays where it is."""
    states = [start]
    for t in range(inputs.shape[1]):
        after = cell.step(states[-1], inputs[:, t])
        states.append(torch.where((t < lengths)[:, None], after, states[-1]))
    return Trajectory(cell, torch.stack(states, 1), inputs, lengths)


def _alone(module: Callable, x: Tensor, state: Tensor | Sequence[Tensor] | None, count: Tensor | None) -> Trajectory:
    """A cell by itself on sequences (N, T, F)."""
    if state is None:
        assert isinstance(module, nn.Module)
        (cell,) = cells(module)
        start = torch.zeros(len(x), cell.size, dtype=torch.float64)
    else:
        cell = custom("", module, state, x.shape[-1])
        given = flat(state).detach().to("cpu", torch.float64)
        start = given.reshape(-1, given.shape[-1]).expand(len(x), -1).clone()
    if count is not None and (len(count) != len(x) or int(count.max()) > x.shape[1]):
        raise InputError("lengths", f"{len(x)} numbers of at most {x.shape[1]}", count.tolist()[:5], "correct them")
    with torch.no_grad():
        return _finite(driven(cell, start, x, torch.full((len(x),), x.shape[1]) if count is None else count))


def _followed(found: tuple[Cell, ...], owner: str, made: list, count: Tensor | None) -> list[Trajectory]:
    """The trajectories of one module's cells over all its calls."""
    mine = [c for c in found if c.owner == owner]
    if isinstance(made[0], StepCall):
        return [_joined([_chain(mine[0], chain, count) for chain in chained(made)])]
    with torch.no_grad():
        parts = [_through(mine, call) for call in made]
    return [_joined([part[k] for part in parts]) for k in range(len(mine))]


def _through(found: list[Cell], call: LayerCall) -> list[Trajectory]:
    """Layer by layer: the outputs of both directions, beside each other, are the inputs of the next layer."""
    if not len(call.lengths) or int(call.lengths.min()) < 1:
        raise _empty(call.lengths.tolist()[:5])
    out, inputs = [], call.inputs
    for layer in sorted({c.layer for c in found}):
        heads = []
        for cell in (c for c in found if c.layer == layer):
            start = torch.zeros(len(inputs), cell.size, dtype=torch.float64)
            if call.initial is not None:
                start = torch.cat([piece[len(out)] for piece in call.initial], -1)
            given = _turned(inputs, call.lengths) if cell.reverse else inputs
            out.append(driven(cell, start, given, call.lengths))
            shown = out[-1].states[:, 1:, : cell.parts[0][1]]
            heads.append(_turned(shown, call.lengths) if cell.reverse else shown)
        inputs = torch.cat(heads, -1)
    return out


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Every sequence (N, T, F) from its last valid step to its first; padding stays."""
    t = torch.arange(x.shape[1])
    at = torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    return x.gather(1, at[..., None].expand_as(x))


def _chain(cell: Cell, chain: list[StepCall], count: Tensor | None) -> Trajectory:
    inputs = torch.stack([c.inputs for c in chain], 1)
    first = chain[0].before
    start = torch.zeros(len(inputs), cell.size, dtype=torch.float64) if first is None else flat(first)
    states = torch.stack([start, *(flat(c.after) for c in chain)], 1)
    fits = count is not None and len(count) == len(inputs) and len(chain) >= int(count.max())
    return Trajectory(
        cell, states, inputs, count if fits and count is not None else torch.full((len(inputs),), len(chain))
    )


def _like_a_cell(module: nn.Module, name: str, made: list[StepCall], count: Tensor | None) -> Trajectory | None:
    """A module that is none of torch's cells and was called as one: at least two calls with the state of the one before."""
    chains = [chain for chain in chained(made) if len(chain) > 1]
    if not chains or chains[0][0].before is None:
        return None
    cell = custom(name, module.get_submodule(name), chains[0][0].before, chains[0][0].inputs.shape[-1], owner=name)
    return _joined([_chain(cell, chain, count) for chain in chains])


def _joined(parts: list[Trajectory]) -> Trajectory:
    """Several batches as one, padded to the longest."""
    longest = max(p.inputs.shape[1] for p in parts)
    grow = lambda value, to: torch.nn.functional.pad(value, (0, 0, 0, to - value.shape[1]))
    return Trajectory(
        parts[0].cell,
        torch.cat([grow(p.states, longest + 1) for p in parts]),
        torch.cat([grow(p.inputs, longest) for p in parts]),
        torch.cat([p.lengths for p in parts]),
    )


def _lengths(lengths: Sequence[int] | Tensor) -> Tensor:
    count = torch.as_tensor(lengths)
    if count.dim() != 1 or not len(count) or count.is_floating_point():
        raise InputError("lengths", "one whole number per sequence", f"shape {tuple(count.shape)}", "pass a list")
    if int(count.min()) < 1:
        raise _empty(count.tolist()[:5])
    return count.to("cpu", torch.int64)


def _sequences(x: object) -> Tensor:
    if not isinstance(x, Tensor) or x.dim() != 3:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError("x of a lone cell", "sequences (batch, time, feature)", shape, "add the missing axes")
    _no_empty(x)
    return x.detach().to("cpu", torch.float64)


def _no_empty(x: Tensor | Mapping[str, Tensor]) -> None:
    for value in [x] if isinstance(x, Tensor) else x.values():
        if isinstance(value, Tensor) and not value.numel():
            raise _empty(tuple(value.shape))


def _empty(got: object) -> InputError:
    return InputError(
        "sequences", "at least one step in each", f"{got}: a sequence of length zero", "leave empty sequences out"
    )


def _finite(found: Trajectory) -> Trajectory:
    states, inputs = found.points()
    if not bool(states.isfinite().all() and inputs.isfinite().all()):
        what = "inputs" if not bool(inputs.isfinite().all()) else "states"
        raise InputError(
            f"{what} of {found.cell.name or 'the cell'}",
            "finite numbers on this data",
            "NaN or infinity",
            "check the data; a ReLU recurrence whose states explode cannot be followed this long",
        )
    return found


def nothing_found(module: object, data: bool) -> InputError:
    """What to say of a network without recurrent parts."""
    watched = ", nor was any module called step by step as cell(input, state)" if data else ""
    return InputError(
        "module",
        f"a recurrent part: {SOUGHT}, anywhere inside",
        f"{type(module).__name__} with none of these{watched}",
        "a feed-forward network keeps no state, so ask bt.radius or brittle audit about it; for cells of your own pass data (x=..., --data) so that "
        "they can be seen at work, or state=... where the module is itself a cell; or pass a recurrent matrix",
    )
