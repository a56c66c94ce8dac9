"""Subproblems of a search tree: a row of the specification on the part of the region where some units have a known sign."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from brittle import backward, meter, norms, ops
from brittle.bounds import _concrete
from brittle.bounds._extremes import extreme
from brittle.bounds._units import Units
from brittle.intervals import State
from brittle.planes import Planes, planes
from brittle.problem import Problem
from brittle.relaxation import pull_back
from brittle.transposes import inner, transpose

RATE = 0.2  # first step of the ascent, of a slope and of a multiplier in units of its coefficient: folklore
DECAY = 0.93


@dataclass(frozen=True, eq=False)
class Items:
    """M subproblems.

    example, row  (M,) which row of which example
    sign          (M, U) 1: the unit is >= 0 here, -1: <= 0, 0: not split
    slope         (M, U) of the lower plane of units that bend; multiplier (M, U) >= 0 of what is known of split ones
    size          (M, U) the unit of a multiplier: the coefficient that the unit had when it was split
    """

    example: Tensor
    row: Tensor
    sign: Tensor
    slope: Tensor
    multiplier: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.example)

    def take(self, at: Tensor) -> "Items":
        return Items(*(getattr(self, name)[at] for name in self.__dataclass_fields__))

    def replaced(self, at: Tensor, others: "Items") -> "Items":
        """With slopes and multipliers of some exchanged."""
        return replace(
            self,
            slope=self.slope.index_copy(0, at, others.slope),
            multiplier=self.multiplier.index_copy(0, at, others.multiplier),
        )

    def as_stored(self) -> "Items":
        """Slopes and multipliers rounded to what a proof keeps of them."""
        split = self.sign != 0
        return replace(
            self,
            slope=(self.slope * 255).round() / 255,
            multiplier=torch.where(split, self.multiplier, 0.0).float().double(),
        )

    @staticmethod
    def join(parts: list["Items"]) -> "Items":
        return Items(*(torch.cat([getattr(p, name) for p in parts]) for name in Items.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Root:
    """What all subproblems share: the intervals of all examples over the whole region, and their rows (R, N, C)."""

    problem: Problem
    state: State
    units: Units
    rows: Tensor
    offsets: Tensor
    doubt: Tensor

    def narrowed(self, items: Items) -> State:
        """Intervals per subproblem: those of the root, cut at zero where a unit is split."""
        low = {name: value[items.example] for name, value in self.state.low.items()}
        high = {name: value[items.example] for name, value in self.state.high.items()}
        for node in self.units.nodes:
            name, sign = backward.source_of(node), self.units.part(items.sign, node)
            top = torch.where(sign < 0, high[name].clamp_max(0), high[name])
            bottom = torch.where(sign > 0, low[name].clamp_min(0), low[name])
            # of an empty part anything is true, and its interval is kept one
            low[name] = torch.where(sign < 0, torch.minimum(bottom, top), bottom)
            high[name] = torch.maximum(low[name], top)
        return State(self.state.graph, len(items), self.state.constants, low=low, high=high, known=self.state.known)


@dataclass(frozen=True, eq=False)
class Sight:
    """What the search sees of M subproblems: bounds without rounding, the true row at the point that attains them, scores."""

    value: Tensor
    true: Tensor
    score: Tensor
    coefficient: Tensor


@dataclass(frozen=True, eq=False)
class _Shape:
    """The relaxation of M subproblems but for its free slopes, all (M, U)."""

    bends: Tensor
    fixed: Tensor
    upper: Tensor
    height: Tensor


def ascend(root: Root, items: Items, steps: int, enough: Tensor) -> tuple[Items, Sight]:
    """Adam on slopes and multipliers; the best of each subproblem is kept. Ends early where all exceed ``enough`` (M,)."""
    part, shape = root.problem.take(items.example), _shape(root, items)
    least = root.units.steep().clamp(0, 1)
    values = [items.slope.clone(), items.multiplier / items.size]
    moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in values]
    best_value, best = torch.full((len(items),), -torch.inf, dtype=torch.float64), [v.clone() for v in values]
    rate, step = RATE, 0
    for step in range(1, steps + 1):
        free = [v.requires_grad_(step < steps) for v in values]
        value, _, _ = _bound(root, items, part, shape, free[0], free[1] * items.size)
        better = value.detach() > best_value
        best_value = torch.where(better, value.detach(), best_value)
        best = [torch.where(better[:, None], v.detach(), old) for v, old in zip(free, best, strict=True)]
        if step == steps or bool((best_value > enough).all()):
            break
        values, moments = _adam(free, torch.autograd.grad(value.sum(), free), moments, rate, step)
        values = [values[0].clamp_max(1).maximum(least), values[1].clamp_min(0)]
        rate *= DECAY
    meter.count(backward=2 * step * len(items))
    items = replace(items, slope=best[0], multiplier=best[1] * items.size)
    with torch.no_grad():
        value, at, coefficient = _bound(root, items, part, shape, items.slope, items.multiplier)
        true, gap = _truth(root, items, shape, at, coefficient)
    return items, Sight(value, true, gap, coefficient)


def _adam(free: list[Tensor], gradients: tuple[Tensor, ...], moments: list, rate: float, step: int):
    values, kept = [], []
    for v, g, (first, second) in zip(free, gradients, moments, strict=True):
        first, second = 0.9 * first + 0.1 * g, 0.99 * second + 0.01 * g.square()
        move = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-12)
        values.append(v.detach() + rate * move)
        kept.append((first, second))
    return values, kept


def _shape(root: Root, items: Items) -> _Shape:
    low, high = root.units.inputs(root.narrowed(items))
    steep = root.units.steep()
    bends = (low < 0) & (high > 0)
    width = torch.where(bends, high - low, 1.0)
    fixed = torch.where(low >= 0, 1.0, steep)
    return _Shape(
        bends,
        fixed,
        torch.where(bends, (high - steep * low) / width, fixed),
        torch.where(bends, -high * low * (1 - steep) / width, 0.0),
    )


def _bound(
    root: Root, items: Items, part: Problem, shape: _Shape, slope: Tensor, multiplier: Tensor
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """(value (M,), where it is attained, coefficients of the units' outputs (M, U)), not rounded.

    The minimum over the ball is taken at its minimiser, held fixed: the envelope theorem makes the gradient that of the minimum.
    """
    graph, units = root.state.graph, root.units
    lower = torch.where(shape.bends, slope, shape.fixed)
    known = -items.sign * multiplier
    active = {graph.output: root.rows[items.row, items.example if root.rows.shape[1] > 1 else 0][None]}
    for node in units.nodes:
        name = backward.source_of(node)
        active[name] = active.get(name, 0) + units.part(known, node)[None]
    total, seen = root.offsets[items.row, items.example], {}
    at: dict[str, Tensor] = {}
    leaves = {name: leaf for leaf, name in graph.inputs.items()}
    for node in reversed(graph.nodes):
        rows = active.pop(node.name, None)
        if rows is None:
            continue
        if node.op == "input":
            at[leaves[node.name]] = point = _lowest(part, leaves[node.name], rows[0].detach())
            total = total + inner(rows, point)[0]
            continue
        if node in units.nodes:
            seen[node.name] = rows[0].flatten(1)
            positive = rows.clamp_min(0)
            negative = rows - positive
            pulled = positive * units.part(lower, node) + negative * units.part(shape.upper, node)
            back = {backward.source_of(node): pulled}
            total = total + inner(negative, units.part(shape.height, node))[0]
        else:
            moving = root.state.moving(node)
            if not moving:
                total = total + inner(rows, root.state.low[node.name][items.example])[0]
                continue
            back = transpose(root.state.known, root.state.constants, node, rows, moving)
            origin = {m: torch.zeros_like(root.state.low[m][:1]) for m in moving}
            bias = ops.evaluate(node, {**root.state.constants, **origin}, 1)
            total = total + inner(rows, bias.expand(len(items), *bias.shape[1:]))[0]
        for name, new in back.items():
            active[name] = active[name] + new if name in active else new
    unseen = lambda node: torch.zeros(len(items), prod(node.shape), dtype=torch.float64)
    return total, at, torch.cat([seen[node.name] if node.name in seen else unseen(node) for node in units.nodes], 1)


def _lowest(part: Problem, leaf: str, rows: Tensor) -> Tensor:
    """Where in ball and range a linear form is least, (M, ...)."""
    centre = part.inputs[leaf].detach().double()
    if leaf not in part.region:
        return centre
    ball = part.region[leaf]
    low, high = ball.exact_range(centre)
    down, up = ((side.expand_as(centre)).flatten(1) for side in (centre - low, high - centre))
    radius = norms.proof_radius(ball.p, part.radius(leaf)).to(centre.device)
    return centre + extreme(-rows.flatten(1), ball.p, radius, down, up).reshape(centre.shape)


def _truth(
    root: Root, items: Items, shape: _Shape, at: Mapping[str, Tensor], coefficient: Tensor
) -> tuple[Tensor, Tensor]:
    """The row at a point (M,), and by how much the planes of each open unit miss the truth there (M, U): the sum is what bending loses."""
    graph, units = root.state.graph, root.units
    values = dict(root.state.constants)
    values.update({name: at[leaf] for leaf, name in graph.inputs.items() if leaf in at})
    inside = []
    for node in graph.nodes:
        if not node.varies or node.op == "input":
            continue
        if node in units.nodes:
            z = values[backward.source_of(node)]
            inside.append(z.flatten(1))
            values[node.name] = ops.activation(node, values, len(items)).value(z)
        else:
            values[node.name] = ops.evaluate(node, values, len(items))
    meter.count(forward=len(items))
    rows = root.rows[items.row, items.example if root.rows.shape[1] > 1 else 0]
    true = (rows * values[graph.output]).flatten(1).sum(1) + root.offsets[items.row, items.example]
    z = torch.cat(inside, 1)
    f = torch.maximum(z, root.units.steep() * z)
    below, above = f - items.slope * z, shape.upper * z + shape.height - f
    gap = torch.where(coefficient > 0, coefficient * below, -coefficient * above)
    # where the point lies on the planes, what a unit can miss anywhere decides: that of the chord, at the kink
    potential = coefficient.abs() * shape.height
    open_ = shape.bends & (items.sign == 0)
    return true, torch.where(open_, gap.clamp_min(0) + 1e-3 * potential + 1e-30, -1.0)


def proved(root: Root, items: Items) -> Tensor:
    """(M,) the bound again in float64 with the rounding of every step on its account: what a certificate may say."""
    state = root.narrowed(items)
    low, high = root.units.inputs(state)
    steep = root.units.steep()
    slope = torch.where(high <= 0, steep, torch.where(low >= 0, 1.0, items.slope))
    relaxed: dict[str, Planes] = {}
    beside: dict[str, Tensor] = {}
    for node in root.units.nodes:
        name = backward.source_of(node)
        chord = backward.chord(backward.activation(state, node), state.low[name], state.high[name])
        relaxed[node.name] = planes(state, node, lower_slope=root.units.part(slope, node), upper_slope=chord)
        known = root.units.part(-items.sign * items.multiplier, node)[None]
        beside[name] = beside[name] + known if name in beside else known
    rows = root.rows[items.row, items.example if root.rows.shape[1] > 1 else 0][None]
    meter.count(backward=len(items))
    pulled = pull_back(state, state.graph.output, rows, relaxed, beside=beside)
    lower = _concrete.over_balls(root.problem.take(items.example), state, pulled)[0]
    return lower + root.offsets[items.row, items.example] - root.doubt[items.row, items.example]
