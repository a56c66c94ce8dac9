"""How much can a small change of the state grow over a window of data? The nonlinear counterpart of transient growth."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brittle.about import About
from brittle.randomness import generator
from brittle.spectra._cells import Derivative
from brittle.spectra.trajectories import Trajectory

ABOUT = About(
    promise="the largest factor by which a small change of the state grows over windows of the data, and where",
    reference="derived here: power iteration on the product of Jacobians by JVP and VJP",
    leaves=("input",),
    cost="per window of w steps and start: about 20 w products with the recurrent matrix",
)
COLUMNS = 3  # iterated together: convergence is (s_4 / s_1)^2 a round instead of (s_2 / s_1)^2


@dataclass(frozen=True, eq=False)
class Growth:
    """Amplification ``|J_t ... J_{s+1}|`` in the 2-norm, over the starts s that were tried, per window length t - s.

    windows (W,) steps; median, worst (W,); sequence, start (W,) of the worst; starts (W,) how many were tried
    """

    windows: list[int]
    median: list[float]
    worst: list[float]
    sequence: list[int]
    start: list[int]
    starts: list[int]


def growth(
    trajectory: Trajectory,
    *,
    windows: Sequence[int] | None = None,
    starts: int = 128,
    tolerance: float = 1e-6,
    rounds: int = 100,
    seed: int = 0,
) -> Growth:
    """``max over s of |J_{s+w} ... J_{s+1}|`` along trajectories, the first-order growth of the worst change of the state over w steps.

    Block power iteration on the product and its transpose, through products with vectors only: no Jacobian and no product is formed. Values are
    Ritz values, so lower ends of the true norm, which they reach to about ``tolerance`` unless the rounds run out. Lengths are respected: a window never
    reaches into padding.

    windows  lengths in steps; default 1, 2, 4, ... and the longest sequence
    starts   how many windows of each length are looked at, evenly spread over all there are

    >>> from torch import nn
    >>> from brittle.spectra.trajectories import trajectories
    >>> rnn = nn.RNN(1, 2, batch_first=True, bias=False)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(torch.tensor([[0.5, 3.0], [0.0, 0.5]]))
    >>> (path,) = trajectories(rnn, torch.zeros(1, 4, 1))  # at rest, so the Jacobian is the matrix
    >>> [round(g, 4) for g in growth(path, windows=[1, 2]).worst]  # the norms of the matrix and of its square
    [3.0811, 3.0207]
    """
    longest = int(trajectory.lengths.max())
    chosen = windows or [*(2**k for k in range(longest.bit_length()) if 2**k < longest), longest]
    rows = [_window(trajectory, w, starts, tolerance, rounds, seed) for w in chosen if w <= longest]
    return Growth(*(list(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]


def _window(path: Trajectory, window: int, most: int, tolerance: float, rounds: int, seed: int):
    begins = torch.arange(path.inputs.shape[1]) + window <= path.lengths[:, None]
    where = begins.nonzero()
    where = where[torch.linspace(0, len(where) - 1, min(most, len(where))).round().long()]
    at = [(path.states[where[:, 0], where[:, 1] + k], path.inputs[where[:, 0], where[:, 1] + k]) for k in range(window)]
    with torch.no_grad():
        logs = largest([path.cell.derivative(*point) for point in at], path.cell.size, tolerance, rounds, seed)
    order = logs.argsort()
    worst = int(order[-1])
    middle = float(logs[order[(len(order) - 1) // 2]].exp())
    return window, middle, float(logs[worst].exp()), int(where[worst, 0]), int(where[worst, 1]), len(where)


def largest(
    steps: Sequence[Derivative], size: int, tolerance: float = 1e-6, rounds: int = 100, seed: int = 0
) -> Tensor:
    """(K,) logarithms of the largest singular value of J_w ... J_1, by Ritz values from below; scaled at every step against overflow."""
    draw = torch.randn(size, min(COLUMNS, size), generator=generator(seed, "growth"), dtype=torch.float64)
    probe = torch.linalg.qr(draw).Q
    value = torch.tensor(-torch.inf, dtype=torch.float64)
    for _ in range(rounds):
        forth, scale = _through([s.times for s in steps], probe)
        before, value = value, scale + torch.linalg.matrix_norm(forth, 2).clamp_min(torch.finfo(forth.dtype).tiny).log()
        if bool((value - before <= tolerance).all()):
            break
        back, _ = _through([s.back for s in reversed(steps)], torch.linalg.qr(forth).Q)
        probe = torch.linalg.qr(back).Q
    return value


def _through(maps, columns: Tensor) -> tuple[Tensor, Tensor]:
    """The columns after all maps, at norm 1, and the logarithm of what was divided out."""
    scale = columns.new_zeros(())
    for each in maps:
        columns = each(columns)
        size = torch.linalg.matrix_norm(columns).clamp_min(torch.finfo(columns.dtype).tiny)
        columns, scale = columns / size[..., None, None], scale + size.log()
    return columns, scale
