"""Intervals and planes that hold with high probability: the walk that bounds under noise share."""

from dataclasses import dataclass
from math import inf, log

import torch
from torch import Tensor

from brittle import backward, intervals
from brittle.graph import Node, graph_of
from brittle.intervals import State
from brittle.noise import _walls
from brittle.noise._half_spaces import HalfSpaces
from brittle.planes import Planes, planes
from brittle.problem import Problem

SPARE = log(1e-6)  # share of a budget for what only rounding needs: the box, and far ends of units that are stable


@dataclass(frozen=True, eq=False)
class Likely:
    """What holds except with probability ``cost`` (N,): all intervals of ``state``, hence all planes of ``relaxed``.

    problem  the question in the box on which rounding was estimated
    """

    problem: Problem
    state: State
    relaxed: backward.Relaxed
    cost: Tensor


def likely(question: Problem, law: HalfSpaces, budget: Tensor, chords: Tensor) -> Likely:
    """Walk through the graph; ``budget`` (N,) is the logarithm of the total one, ``chords`` (N,) the rule of slopes."""
    budget, chords = budget.to(question.device), chords.to(question.device)
    graph = graph_of(question)
    radius, outside = law.box(budget + SPARE)
    problem = _walls.boxed(question, law, radius)
    state = intervals.start(problem, graph)
    each = budget - log(max(1, _walls.unit_count(graph)))
    costs = [outside.exp()]

    def enclose(state: State, node: Node, at: Tensor, one: Tensor, relaxed: backward.Relaxed) -> tuple[Tensor, Tensor]:
        low, high, cost = _enclose(problem, state, law, node, at, one, relaxed, each)
        costs.append(cost)
        return low, high

    relaxed = backward.relax(state, enclose, lambda state, node, _: _planes(state, node, chords))
    return Likely(problem, state, relaxed, _walls.summed(torch.stack(costs)))


def _enclose(
    problem: Problem,
    state: State,
    law: HalfSpaces,
    node: Node,
    at: Tensor,
    one: Tensor,
    relaxed: backward.Relaxed,
    budget: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high) (K, N) of the units ``at`` of a node's input, and what they cost together (N,)."""
    source = backward.source_of(node)
    base_low, slope = _walls.pulled_rows(problem, state, law, source, one, relaxed)
    along_low = law.read(-slope)
    base_high, slope = _walls.pulled_rows(problem, state, law, source, -one, relaxed)
    base_high, along_high = -base_high, law.read(-slope)
    free = ~backward.bent(state, node).flatten(1)[:, at].T  # linear already for this example: nothing to pay for
    left, right = _walls.piece(state, node, (base_low + base_high) / 2)
    leaves = law.tail(base_low - left, along_low).exp() + law.tail(right - base_high, along_high).exp()
    most = budget.exp()
    price = (leaves + 2 * (budget + SPARE).exp()) * (1 + 2.0**-50)
    stable = price <= most
    near, far = budget - log(2), budget + SPARE
    reach = lambda along: torch.where(stable, law.quantile(far, along), law.quantile(near, along))
    low, high = base_low - reach(along_low), base_high + reach(along_high)
    low, high = _outward(low, -inf), _outward(high, inf)
    low = torch.where(stable, torch.maximum(low, left), low)
    high = torch.where(stable, torch.minimum(high, right), high)
    cost = torch.where(stable, price, most).masked_fill(free, 0.0)
    return low.masked_fill(free, -inf), high.masked_fill(free, inf), _walls.summed(cost)


def _planes(state: State, node: Node, chords: Tensor) -> Planes:
    """Planes of least area, or for the examples in ``chords`` with a lower plane parallel to the chord."""
    least, parallel = planes(state, node), backward.chord_planes(state, node)
    pick = lambda a, b: torch.where(chords.reshape(-1, *[1] * (a.dim() - 1)), a, b)
    return Planes(
        *(pick(getattr(parallel, f), getattr(least, f)) for f in ("lower_slope", "lower", "upper_slope", "upper"))
    )


def _outward(value: Tensor, towards: float) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, towards))
