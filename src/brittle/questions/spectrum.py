"""Is a recurrence stable, how robustly, and what grows on the way? Spectra and pseudospectra of recurrent networks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from brittle.errors import InputError
from brittle.questions import _matrices as matrices
from brittle.questions._portraits import Progress, along_the_data, described, standing_still
from brittle.results import Finding
from brittle.spectra._cells import Cell
from brittle.spectra._matrix import square
from brittle.spectra._portrait import EFFORTS, Effort
from brittle.spectra.cells import cells
from brittle.spectra.trajectories import Trajectory, nothing_found, trajectories

FIRST = ("along data", "fixed points")  # of what is printed


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Findings about a recurrent module, by name: "matrices", "null models", "fixed points" and, with data, "along data".

    verdicts : one sentence per matrix and per recurrent part; ``facts()`` : everything as plain values, for a record or a report.
    """

    findings: Mapping[str, Finding]

    def __getitem__(self, name: str) -> Finding:
        return self.findings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.findings)

    @property
    def verdicts(self) -> tuple[str, ...]:
        return tuple(v for f in self.findings.values() for v in f.columns.get("verdict", ()))  # type: ignore[misc]

    def facts(self) -> dict[str, dict]:
        return {name: finding.facts() for name, finding in self.findings.items()}

    def __repr__(self) -> str:
        """What happens on the data first, then where the recurrence stands still, then its matrices: the order of the command line."""
        order = sorted(self.findings, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
        return "\n".join(Spectrum({name: self.findings[name] for name in order}).verdicts)


def spectrum(
    module: nn.Module | Mapping[str, Tensor] | Callable | Tensor | np.ndarray,
    x: Tensor | Mapping[str, Tensor] | None = None,
    *,
    lengths: Sequence[int] | Tensor | None = None,
    state: Tensor | Sequence[Tensor] | None = None,
    parts: str = "*",
    effort: str = "standard",
    seed: int = 0,
    progress: Progress | None = None,
) -> Spectrum:
    """Stability, robustness of that stability, and transient growth of everything recurrent in a network, or of one matrix.

    A linear recurrence ``h' = A h`` is stable where its spectral radius rho is below 1. How *robustly*: the smallest change E, in the 2-norm, with an
    eigenvalue of ``A + E`` on the unit circle, complex and real. What happens *on the way*: the largest power ``sup |A^k|`` and the Kreiss constant
    K, ``K <= sup |A^k| <= e n K``. For a normal matrix these are ``1 - rho``, 1 and 1, so departures from them measure non-normality; every quantity stands
    beside a normal matrix with the same eigenvalues, random matrices of the same size and radius, and untrained copies of the network.

    Looked at: every gate's recurrent block (``weight_hh`` by gates, times ``weight_hr``); the Jacobian of the whole cell at its fixed points, at the mean input of
    the data or at 0; with data also the mean Jacobian and the one of largest norm along the trajectories, growth over windows of data and
    Lyapunov exponents. Of a matrix with ``rho >= 1`` the quantities of stability are those after scaling to radius 0.99; the column ``scale`` says so. A gate
    block is one factor of a saturating map: Jacobians say what the network does.

    Guarantee: of each quantity its own (``brittle.spectra``): the Kreiss constant is a bracket, the distances and transients are attained values,
    those along data are lower ends found by iteration. Sentences about nulls are comparisons with a few draws, not tests.

    module   any ``nn.Module`` that holds RNN, GRU, LSTM, RNNCell, GRUCell, LSTMCell (any layers, directions, projections), or, with ``x``, calls modules of its
             own step by step as ``cell(input, state)``; a state dict; a cell with ``state``; or a square matrix (array or tensor)
    x        data as the module takes them; a lone cell takes (batch, time, feature). lengths : (N,) valid steps of padded sequences
    state    an example state: says that ``module`` is itself a cell, a function ``(input, state) -> state``
    parts    only recurrent parts whose name matches this pattern, "encoder.l0" or "*reverse"
    effort   "quick" leaves out Kreiss constants, real distances and the nearest defective matrix; "thorough" has finer pictures and five times the nulls.
             For a GRU of 48 units with data 3 s and 10 s of one core at quick and standard; for an LSTM of 128 units, whose state has 256, 35 s
             at quick and some minutes at standard (measured on a busy machine). Cost grows like the cube of the size, most of it for the nulls
    progress called with the number of matrices, a context manager that gives a function to call after each: what the command line shows
    Returns a :class:`Spectrum`. Errors: InputError where nothing is recurrent (it says what was looked for), for weights or data that are not finite, sequences of
    length zero, a matrix that is not square.

    >>> found = spectrum(np.array([[0.5, 0.9], [0.0, 0.5]]), effort="quick")
    >>> print(found.verdicts[0][:70])
    matrix is stable: spectral radius 0.5, norm 1.123. A change of norm 0.
    >>> round(found["matrices"].columns["distance"][0], 6)  # a normal matrix with these eigenvalues: 0.5
    0.222681

    Reference: L. N. Trefethen, M. Embree, Spectra and Pseudospectra, 2005; B. Sengupta, K. Friston, arXiv 1804.11313.
    """
    if effort not in EFFORTS:
        raise InputError("effort", " | ".join(EFFORTS), effort, "choose one of these")
    if isinstance(module, (Tensor, np.ndarray, list, tuple)):
        matrix = matrices.given(torch.from_numpy(square(module)))
        return Spectrum(described([matrix], EFFORTS[effort], seed, progress))
    with torch.no_grad():
        return _of_network(module, x, lengths, state, parts, EFFORTS[effort], seed, progress)


def _of_network(
    module, x, lengths, state, parts: str, budget: Effort, seed: int, progress: Progress | None
) -> Spectrum:
    found, paths = _recurrent(module, x, lengths, state, parts, budget)
    copies = matrices.untrained_copies(module, budget.copies, seed)
    fresh = [[c for c in copy if fnmatchcase(c.name, parts)] for copy in matrices.untrained_cells(copies)]
    fresh_paths = [_paths(copy, x, lengths, state, parts, budget) for copy in copies] if x is not None else []
    by_name = {p.cell.name: p for p in paths}
    rests = {c.name: matrices.resting(c, by_name.get(c.name), budget.starts, seed) for c in found if c.inputs}
    chosen = matrices.gate_blocks([c for c in found if c.blocks], [[c for c in f if c.blocks] for f in fresh])
    for cell in found:
        if cell.name in rests:
            chosen += matrices.at_rest(cell, rests[cell.name], budget.fixed)
        if cell.name in by_name:
            chosen += matrices.along_data(
                by_name[cell.name], [p for f in fresh_paths for p in f if p.cell.name == cell.name]
            )
    made = described(chosen, budget, seed, progress)
    more = {"fixed points": standing_still(found, rests, budget.starts, x is not None)}
    if paths:
        more["along data"] = along_the_data(paths, made["matrices"], budget, seed)
    return Spectrum({**made, **more})


def _recurrent(module, x, lengths, state, parts: str, budget: Effort) -> tuple[list[Cell], list[Trajectory]]:
    """The cells of a network, known and custom, and their trajectories."""
    if x is None and state is not None:
        raise InputError(
            "x", "data beside state=, on which the cell is followed", "none", "pass sequences (batch, time, feature)"
        )
    if not isinstance(module, (nn.Module, Mapping)) and state is None:
        raise InputError(
            "module", "a torch.nn.Module, a matrix, or a cell with state=", type(module).__name__, "pass one of these"
        )
    paths = [] if x is None else _paths(module, x, lengths, state, "*", budget)
    known = list(cells(module)) if isinstance(module, (nn.Module, Mapping)) and state is None else []
    followed = {p.cell.name: p.cell for p in paths}
    every = known + [c for name, c in followed.items() if name not in {k.name for k in known}]
    if not every:
        raise nothing_found(module, x is not None)
    chosen = [c for c in every if fnmatchcase(c.name, parts)]
    if not chosen:
        raise InputError(
            "parts",
            f"a pattern that matches one of {', '.join(repr(c.name) for c in every)}",
            repr(parts),
            "correct it",
        )
    return chosen, [p for p in paths if fnmatchcase(p.cell.name, parts)]


def _paths(module, x, lengths, state, parts: str, budget: Effort) -> list[Trajectory]:
    if isinstance(module, Mapping):
        raise InputError("module", "a torch.nn.Module where data are given", "a mapping of tensors", "pass the module")
    made = trajectories(module, x, lengths=lengths, state=state)
    return [_first(p, budget.sequences) for p in made if fnmatchcase(p.cell.name, parts)]


def _first(path: Trajectory, most: int) -> Trajectory:
    longest = int(path.lengths[:most].max())
    return Trajectory(path.cell, path.states[:most, : longest + 1], path.inputs[:most, :longest], path.lengths[:most])
