"""Where does a recurrent map stand still? Fixed and slow points at a constant input, found from visited states."""

from dataclasses import dataclass

import torch
from torch import Tensor

from brittle.about import About
from brittle.spectra._cells import Cell
from brittle.spectra.jacobians import jacobians

ABOUT = About(
    promise="fixed points of a recurrent map at a constant input, and slow points where there is none near",
    reference="Sussillo and Barak, Neural Computation 25, 2013; Levenberg-Marquardt with Newton's steps at the end",
    leaves=("input",),
    cost="per start about 30 to 100 Jacobians and linear systems of the size of the state",
)
FIXED = 1e-9  # a residual relative to 1 + |h| below which rounding is all that is left of it
ROUNDS = 100
APART = 1e-5  # relative distance below which two points are one


@dataclass(frozen=True, eq=False)
class FixedPoints:
    """states (K, S), distinct; residual (K,) = |F(h, x) - h|; kind "fixed" or "slow"; found (K,) starts that ended there.

    A slow point is a local minimum of the speed that is not zero: the state lingers, and the Jacobian there is still telling.
    """

    input: Tensor
    states: Tensor
    residual: Tensor
    kind: tuple[str, ...]
    found: tuple[int, ...]


def fixed_points(cell: Cell, x: Tensor, starts: Tensor) -> FixedPoints:
    """Minimise the speed ``q(h) = |F(h, x) - h|^2 / 2`` from each start, then Newton's steps on ``F(h, x) = h``.

    Levenberg and Marquardt's method with the exact Jacobian: far from a solution it descends to a slow point, close to one it is Newton's method.
    Points that several starts reach are one. Whatever is found is a solution to rounding ("fixed") or a local minimum of q as far as ROUNDS steps went
    ("slow"); that there is no other is not said.

    x (F,) the input held constant; starts (K, S) states, for example some that a trajectory visited.

    >>> from torch import nn
    >>> from brittle.spectra.cells import cells
    >>> rnn = nn.RNN(1, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.fill_(2.0)
    >>> found = fixed_points(cells(rnn)[0], torch.zeros(1).double(), torch.tensor([[-0.9], [0.8], [0.9]]).double())
    >>> found.states[:, 0], found.kind, found.found  # h = tanh(2 h)
    (tensor([-0.9575,  0.9575], dtype=torch.float64), ('fixed', 'fixed'), (1, 2))
    """
    with torch.no_grad():
        states = _newton(cell, x, _descended(cell, x, starts.clone()))
        speed = _residual(cell, x, states).norm(dim=-1)
        kept, count = _distinct(states, speed)
    fixed = speed[kept] <= FIXED * (1 + states[kept].norm(dim=-1))
    return FixedPoints(
        x, states[kept], speed[kept], tuple("fixed" if f else "slow" for f in fixed.tolist()), tuple(count)
    )


def _residual(cell: Cell, x: Tensor, states: Tensor) -> Tensor:
    return cell.step(states, x.expand(len(states), -1)) - states


def _slope(cell: Cell, x: Tensor, states: Tensor) -> Tensor:
    """d residual / d state."""
    return jacobians(cell, states, x.expand(len(states), -1)) - torch.eye(cell.size, dtype=states.dtype)


def _descended(cell: Cell, x: Tensor, states: Tensor) -> Tensor:
    """Levenberg-Marquardt, each start with its own damping."""
    damping = torch.ones(len(states), dtype=states.dtype)
    rest = _residual(cell, x, states)
    identity = torch.eye(cell.size, dtype=states.dtype)
    active = torch.arange(len(states))
    for _ in range(ROUNDS):
        now, r = states[active], rest[active]
        slope = _slope(cell, x, now)
        downhill = slope.mT @ r[..., None]
        normal = slope.mT @ slope + damping[active, None, None] * identity
        tried = now - torch.linalg.solve(normal, downhill)[..., 0]
        after = _residual(cell, x, tried)
        better = after.norm(dim=-1) < r.norm(dim=-1)
        states[active], rest[active] = torch.where(better[:, None], tried, now), torch.where(better[:, None], after, r)
        damping[active] = (damping[active] * torch.where(better, 0.2, 5.0)).clamp(1e-14, 1e14)
        flat = downhill[..., 0].norm(dim=-1) <= 1e-12 * (1 + r.norm(dim=-1))
        active = active[~(flat | (damping[active] >= 1e12))]
        if not len(active):
            break
    return states


def _newton(cell: Cell, x: Tensor, states: Tensor, rounds: int = 4) -> Tensor:
    """Undamped steps, each kept only where it lowers the residual."""
    for _ in range(rounds):
        rest = _residual(cell, x, states)
        step, info = torch.linalg.solve_ex(_slope(cell, x, states), rest[..., None])
        tried = states - step[..., 0]
        after = _residual(cell, x, tried).norm(dim=-1)
        better = (info == 0) & after.isfinite() & (after < rest.norm(dim=-1))
        states = torch.where(better[:, None], tried, states)
    return states


def _distinct(states: Tensor, speed: Tensor) -> tuple[list[int], list[int]]:
    """The stillest of every cluster, and how many starts it stands for."""
    kept: list[int] = []
    count: dict[int, int] = {}
    for k in speed.argsort().tolist():
        near = [j for j in kept if float((states[k] - states[j]).norm()) <= APART * (1 + float(states[j].norm()))]
        if not near:
            kept.append(k)
        count[near[0] if near else k] = count.get(near[0] if near else k, 0) + 1
    return kept, [count[k] for k in kept]
