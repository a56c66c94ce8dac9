"""The inner search of adversarial penalties: projected ascent on the network at rest, each example with its own change, or one for the batch."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from brittle import norms, randomness
from brittle.penalties._live import at_rest, draws
from brittle.penalties._weights import gradients, logits_with
from brittle.problem import Problem

REACH = 2.5  # radii that the steps of one search can walk together; Madry et al.
SPARSE = 0.1  # share of the coordinates that an l1 step moves; folklore

Climb = Callable[[Tensor], Tensor]


def shared_leaves(problem: Problem) -> list[str]:
    """Leaves with one change common to the batch."""
    return [leaf for leaf, ball in problem.region.items() if ball.shared]


def worst_changes(problem: Problem, climb: Climb, seed: int, steps: int) -> dict[str, Tensor]:
    """Changes by leaf that ``steps`` steps of projected ascent on ``climb(rows) -> (N,)`` reach from a random start, detached.

    (N, *shape) for a leaf that moves for each example, (1, *shape) for a shared one, which climbs the sum over the batch. Parameters that all are
    shared cost what one forward and backward pass costs; a parameter with a change of each example's own is copied for each.
    """
    with at_rest(problem), torch.no_grad():
        changes = {leaf: _start(problem, leaf, seed) for leaf in problem.leaves}
        for _ in range(steps):
            slopes = _slopes(problem, changes, climb)
            changes = {
                leaf: _step(problem, leaf, change, slopes[leaf], REACH / steps) for leaf, change in changes.items()
            }
    return changes


def logits_at(problem: Problem, changes: Mapping[str, Tensor]) -> Tensor:
    """Logits of the live network after the changes, with a gradient to its parameters (and to the changes)."""
    weights = [leaf for leaf in changes if leaf not in problem.inputs]
    centre = problem.centre
    inputs = {
        leaf: _inside(problem, leaf, centre[leaf], change) for leaf, change in changes.items() if leaf not in weights
    }
    if weights and all(problem.region[leaf].shared for leaf in weights):
        moved = {leaf: _inside(problem, leaf, centre[leaf][:1], changes[leaf])[0] for leaf in weights}
        return logits_with(problem, {leaf.removeprefix("param:"): value for leaf, value in moved.items()}, inputs)
    return problem.logits({**inputs, **{leaf: _inside(problem, leaf, centre[leaf], changes[leaf]) for leaf in weights}})


def _inside(problem: Problem, leaf: str, centre: Tensor, change: Tensor) -> Tensor:
    """The changed leaf, cut off at its range (a change of the example's own is inside already), with the gradient of the leaf that was not cut:
    where a start lies outside the range, the way back must be seen."""
    moved = centre + change
    if not problem.region[leaf].shared:
        return moved
    low, high = problem.region[leaf].range(centre)
    return moved + (torch.minimum(torch.maximum(moved, low), high) - moved).detach()


def _slopes(problem: Problem, changes: Mapping[str, Tensor], climb: Climb) -> dict[str, Tensor]:
    if not shared_leaves(problem):
        return problem.gradient({leaf: problem.centre[leaf] + change for leaf, change in changes.items()}, climb)[1]
    leaves = {leaf: change.clone().requires_grad_() for leaf, change in changes.items()}
    with torch.enable_grad(), problem.network.recurrent_safe():
        values = climb(problem.spec.rows(logits_at(problem, leaves), problem.labels))
        return gradients(values, leaves, len(problem))


def _start(problem: Problem, leaf: str, seed: int) -> Tensor:
    ball, value = problem.region[leaf], problem.centre[leaf]
    make = lambda count, generator: norms.uniform_ball(tuple(value.shape[1:]), ball.p, generator, count)
    if ball.shared:
        change = make(1, randomness.generator(seed, "adversarial", leaf)).to(value)
    else:
        change = draws(problem, make, seed, "adversarial", leaf).to(value.dtype)
    return _kept(problem, leaf, ball.stretched(change) * norms.spread(_radius(problem, leaf, change), change))


def _step(problem: Problem, leaf: str, change: Tensor, slopes: Tensor, reach: float) -> Tensor:
    ball = problem.region[leaf]
    length = norms.spread(reach * _radius(problem, leaf, change), change)
    return _kept(problem, leaf, change + length * ball.stretched(_uphill(ball.stretched(slopes), ball.p)))


def _kept(problem: Problem, leaf: str, change: Tensor) -> Tensor:
    """Brought back into the ball, and where each example has its own change into the range."""
    if problem.region[leaf].shared:
        return problem.region[leaf].project(change, _radius(problem, leaf, change))
    centre = problem.centre[leaf]
    return problem.project_leaf(leaf, centre + change) - centre


def _radius(problem: Problem, leaf: str, change: Tensor) -> Tensor:
    """(N,), or (1,) for a shared change: the smallest of the batch, which in training is that of all."""
    radius = problem.radius(leaf).to(change)
    return radius.amin()[None] if problem.region[leaf].shared else radius


def _uphill(slopes: Tensor, p: float) -> Tensor:
    """The steepest direction; for p = 1 the signs of the largest tenth of the coordinates, since a single one would take all steps."""
    if p != 1:
        return norms.steepest(slopes, p)
    rows = norms.flat(slopes)
    least = rows.abs().topk(max(1, round(SPARSE * rows.shape[1])), 1).values[:, -1:]
    signs = torch.where(rows.abs() >= least, rows.sign(), 0.0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).reshape(slopes.shape)
