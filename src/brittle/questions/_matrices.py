"""Which matrices of a recurrent network are looked at: gate blocks, and Jacobians at fixed points and along data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from brittle.diagnostics._formats import rounded
from brittle.errors import InputError
from brittle.randomness import generator
from brittle.reinitialised import reinitialised
from brittle.spectra._cells import Cell, standard
from brittle.spectra.cells import cells
from brittle.spectra.fixed_points import FixedPoints, fixed_points
from brittle.spectra.growth import largest
from brittle.spectra.jacobians import jacobians
from brittle.spectra.trajectories import Trajectory

GATE, FIXED, MEAN, LARGEST, GIVEN = (
    "gate block",
    "Jacobian at a fixed point",
    "mean Jacobian along the data",
    "largest Jacobian along the data",
    "matrix",
)
FORMATS = ("fp16", "bf16", "int8")
POINTS = 512  # steps whose Jacobians are formed for a mean or searched for the largest; evenly spread


@dataclass(frozen=True, eq=False)
class Matrix:
    """One square matrix and what it is compared with.

    name, part, role  "l0.r"; the cell "l0"; what it is
    value             (n, n) float64
    rounding          precision -> spectral norm of what rounding the cell's weights so does to this matrix
    untrained         the same matrix of untrained copies of the network
    """

    name: str
    part: str
    role: str
    value: Tensor = field(repr=False)
    rounding: Mapping[str, float] = field(default_factory=dict)
    untrained: Sequence[Tensor] = field(default=(), repr=False)


def gate_blocks(found: Sequence[Cell], untrained: Sequence[Sequence[Cell]]) -> list[Matrix]:
    """Every gate's recurrent matrix, with those of untrained copies."""
    made = []
    for k, cell in enumerate(found):
        short = {f: other.blocks for f, other in _shortened(cell).items()}
        for gate, block in cell.blocks.items():
            lost = {f: _norm(blocks[gate] - block) for f, blocks in short.items()}
            fresh = [copy[k].blocks[gate] for copy in untrained if len(copy) == len(found)]
            name = ".".join(filter(None, (cell.name, gate)))
            made.append(Matrix(name, cell.name, GATE, block, lost, fresh))
    return made


def along_data(path: Trajectory, untrained: Sequence[Trajectory]) -> list[Matrix]:
    """The mean Jacobian of a trajectory, and the one of largest norm, at up to POINTS steps."""
    states, inputs = _thinned(path)
    every, at = jacobians(path.cell, states, inputs), _worst(path.cell, states, inputs)
    mean = every.mean(0)
    short = {f: jacobians(other, states, inputs) for f, other in _shortened(path.cell).items()}
    fresh = [(p.cell, *_thinned(p)) for p in untrained]
    prefix = f"{path.cell.name} " if path.cell.name else ""
    losses = [{f: _norm(s.mean(0) - mean) for f, s in short.items()}]
    losses.append({f: _norm(s[at] - every[at]) for f, s in short.items()})
    means = [jacobians(*f).mean(0) for f in fresh]
    worst = [jacobians(cell, x[k], u[k]) for cell, x, u in fresh for k in [_worst(cell, x, u)]]
    return [
        Matrix(f"{prefix}mean Jacobian", path.cell.name, MEAN, mean, losses[0], means),
        Matrix(f"{prefix}largest Jacobian", path.cell.name, LARGEST, every[at], losses[1], worst),
    ]


def _worst(cell: Cell, states: Tensor, inputs: Tensor) -> int:
    """The point whose Jacobian has the largest norm, by products with vectors: a decomposition of each would cost a hundred times more."""
    some = largest([cell.derivative(states, inputs)], cell.size, tolerance=1e-3).argsort(descending=True)[:6]
    return int(some[torch.linalg.matrix_norm(jacobians(cell, states[some], inputs[some]), 2).argmax()])


def resting(cell: Cell, path: Trajectory | None, starts: int, seed: int) -> FixedPoints:
    """Fixed points at the mean input of the data from visited states; without data at input 0 from states drawn in [-1, 1]."""
    source = generator(seed, "fixed points", cell.name)
    if path is None:
        drawn = 2 * torch.rand(starts, cell.size, generator=source, dtype=torch.float64) - 1
        return fixed_points(cell, torch.zeros(cell.inputs, dtype=torch.float64), drawn)
    states, inputs = path.points()
    some = torch.randperm(len(states), generator=source)[:starts]
    return fixed_points(cell, inputs.mean(0), states[some])


def at_rest(cell: Cell, found: FixedPoints, most: int) -> list[Matrix]:
    """Jacobians at the fixed points that most starts reached; at the stillest slow point where there is none."""
    order = sorted(range(len(found.states)), key=lambda k: (found.kind[k] != "fixed", -found.found[k]))
    fixed = [k for k in order if found.kind[k] == "fixed"][:most] or order[:1]
    made = []
    for number, k in enumerate(fixed, 1):
        at = (found.states[k], found.input)
        value = jacobians(cell, *at)
        lost = {f: _norm(jacobians(other, *at) - value) for f, other in _shortened(cell).items()}
        kind = "fixed point" if found.kind[k] == "fixed" else "slow point"
        name = f"{cell.name + ' ' if cell.name else ''}Jacobian at {kind} {number}"
        made.append(Matrix(name, cell.name, FIXED, value, lost))
    return made


def given(value: Tensor) -> Matrix:
    """A bare matrix, whose own entries are what is rounded."""
    formats = () if value.is_complex() else FORMATS
    lost = {f: _norm(rounded(value, f).value - value) for f in formats if rounded(value, f).fits}
    return Matrix("matrix", "", GIVEN, value, lost)


def untrained_copies(module: object, count: int, seed: int) -> tuple[nn.Module, ...]:
    """The network before training; () where its initialisation is not written down in its layers."""
    if not isinstance(module, nn.Module) or not count:
        return ()
    try:
        return tuple(reinitialised(module, seed, k) for k in range(count))
    except (InputError, RuntimeError):
        return ()


def untrained_cells(copies: Sequence[nn.Module]) -> list[tuple[Cell, ...]]:
    return [cells(copy) for copy in copies]


def _shortened(cell: Cell) -> dict[str, Cell]:
    """The cell with its weights rounded to each format that holds them; {} for custom cells."""
    made = {}
    for name in FORMATS if cell.weights else ():
        found = {k: rounded(w, name) for k, w in cell.weights.items()}
        if all(r.fits for r in found.values()):
            made[name] = standard(cell.name, cell.kind, {k: r.value.double() for k, r in found.items()})
    return made


def _thinned(path: Trajectory) -> tuple[Tensor, Tensor]:
    states, inputs = path.points()
    at = torch.linspace(0, len(states) - 1, min(len(states), _budget(path.cell.size))).round().long()
    return states[at], inputs[at]


def _budget(size: int) -> int:
    """At most POINTS, and at most about 200 MB of Jacobians."""
    return max(8, min(POINTS, 2**25 // (size * size) // 4))


def _norm(value: Tensor) -> float:
    return float(torch.linalg.matrix_norm(value, 2))
