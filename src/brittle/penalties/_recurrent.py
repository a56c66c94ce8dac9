"""Recurrent matrices and trajectories of a live network, with a graph to its parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from brittle import meter, randomness
from brittle.errors import InputError
from brittle.penalties._live import at_rest
from brittle.problem import Problem
from brittle.spectra._cells import Cell
from brittle.spectra.cells import SOUGHT, cells

OF = ("blocks", "jacobian")
Path = tuple[Cell, Tensor, Tensor]  # cell, states (N, T, S) before every step, inputs (N, T, F)


def live_cells(problem: Problem) -> tuple[Cell, ...]:
    """The cells of the live module, made of its own parameters."""
    module = problem.network.quiet
    found = cells(module, live=True) if isinstance(module, nn.Module) else ()
    if not found:
        raise InputError(
            "penalty", f"a module that holds {SOUGHT}", type(module).__name__, "use it on recurrent networks"
        )
    return found


def matrices(problem: Problem, of: str) -> list[Tensor]:
    """The square matrices that a spectral penalty looks at.

    of : "blocks", every gate block of every cell; "jacobian", each cell's Jacobian at the mean state and mean input of this batch, the
         linear map by which small changes of the state travel there
    """
    if of not in OF:
        raise InputError("penalty of", " | ".join(OF), repr(of), "choose one of these")
    if of == "blocks":
        return [block for cell in live_cells(problem) for block in cell.blocks.values()]
    middle = lambda v: v.mean((0, 1), keepdim=True)[0]
    return [cell.derivative(middle(states), middle(inputs)).dense()[0] for cell, states, inputs in paths(problem)]


def now_and_then(problem: Problem, seed: int, every: int, of: str, term: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of ``term`` over the matrices, at a random one in ``every`` steps and weighted by ``every``: the same gradient on average."""
    if not (isinstance(every, int) and every >= 1):
        raise InputError("penalty every", "a whole number >= 1", every, "use 1 for every step")
    skipped = int(torch.randint(every, (), generator=randomness.generator(seed, "every"))) > 0
    first = next(iter(problem.network.parameters().values()))
    if skipped:
        live_cells(problem)  # a network without recurrence is refused at the first step, not at a random one
        return first.new_zeros(())
    values = [term(matrix) for matrix in matrices(problem, of)]
    return every * torch.stack([v.to(first) for v in values]).mean()


def paths(problem: Problem) -> list[Path]:
    """Every layer and direction of every RNN, GRU and LSTM along this batch, at rest; the graph reaches parameters, states and inputs."""
    found, module = live_cells(problem), problem.network.quiet
    assert isinstance(module, nn.Module)
    owners = {c.owner: module.get_submodule(c.owner) for c in found}
    alone = [name for name, owner in owners.items() if not isinstance(owner, nn.RNNBase)]
    if alone:
        raise InputError(
            f"penalty along trajectories of {alone[0]}",
            "RNN, GRU or LSTM layers",
            "a cell",
            "use a penalty of the blocks",
        )
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable:
        def hook(layer: Any, given: Any) -> None:
            if not isinstance(given[0], Tensor) or given[0].dim() != 3:
                raise InputError(
                    "penalty along trajectories", "padded batches (batch, time, feature)", "packed", "pad them"
                )
            if len(given) > 1 and given[1] is not None:
                raise InputError(
                    "penalty along trajectories", "states that start at zero", "a given state", "leave it out"
                )
            seen[name] = given[0] if layer.batch_first else given[0].transpose(0, 1)

        return hook

    handles = [owner.register_forward_pre_hook(watch(name)) for name, owner in owners.items()]
    try:
        with at_rest(problem):
            problem.logits()
    finally:
        for handle in handles:
            handle.remove()
    meter.count(forward=len(problem), backward=2 * len(problem))  # the steps once more, and the way back through them
    return [path for name, x in seen.items() for path in _through([c for c in found if c.owner == name], x)]


def _through(found: list[Cell], x: Tensor) -> list[Path]:
    out = []
    for layer in sorted({c.layer for c in found}):
        heads = []
        for cell in (c for c in found if c.layer == layer):
            given = x.flip(1) if cell.reverse else x
            states = [x.new_zeros(len(x), cell.size)]
            for t in range(x.shape[1]):
                states.append(cell.step(states[-1], given[:, t]))
            out.append((cell, torch.stack(states[:-1], 1), given))
            shown = torch.stack(states[1:], 1)[..., : cell.parts[0][1]]
            heads.append(shown.flip(1) if cell.reverse else shown)
        x = torch.cat(heads, -1)
    return out
