"""The search at the nodes of a tree: slopes and multipliers raised by Adam, and where to split. In float32, nothing is proved in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brittle import backward, meter, ops
from brittle.bounds._slopes import Rooms, lowest, rooms
from brittle.bounds._tree import Items, Root, clipped
from brittle.transposes import inner, transpose

RATE = 0.4  # first step of the ascent, of a slope and of a multiplier in units of its coefficient: folklore
DECAY = 0.93
CANDIDATES = 3  # units whose halves are bounded, without an ascent, before one of them is split


@dataclass(frozen=True, eq=False)
class Thin:
    """A root in float32."""

    root: Root
    low: Tensor
    high: Tensor
    steep: Tensor
    constants: Mapping[str, Tensor]
    rows: Tensor
    extra: Tensor
    rooms: Rooms
    cut: Mapping[str, Tensor]
    level: Tensor

    @staticmethod
    def of(root: Root) -> "Thin":
        small = lambda v: v.float() if v.is_floating_point() else v
        low, high = root.units.inputs(root.state)
        cut = {} if root.cut is None else {name: a.float() for name, a in root.cut.a.items()}
        return Thin(
            root,
            low.float(),
            high.float(),
            root.units.steep().float(),
            {name: small(value) for name, value in root.state.constants.items()},
            root.rows.float(),
            root.extra.float(),
            rooms(root.problem, root.state),
            cut,
            root.extra.new_zeros(len(root.extra)).float() if root.cut is None else root.cut.c[0].float(),
        )


@dataclass(frozen=True, eq=False)
class Sight:
    """What the search sees of M subproblems: bounds without rounding, where they are attained, the row there, and the unit to split, -1: none bends."""

    value: Tensor
    at: Mapping[str, Tensor]
    true: Tensor
    unit: Tensor
    coefficient: Tensor


@dataclass(frozen=True, eq=False)
class _Shape:
    """The relaxation of M subproblems but for its free slopes, all (M, U)."""

    bends: Tensor
    fixed: Tensor
    upper: Tensor
    height: Tensor


@dataclass(frozen=True, eq=False)
class _Look:
    """A bound (M,), its gradient by slopes, multipliers (M, U) and the multiplier of the cut (M,); the coefficients of the units' outputs, and where it is attained."""

    value: Tensor
    slope: Tensor
    multiplier: Tensor
    last: Tensor
    coefficient: Tensor
    at: dict[str, Tensor]


def ascend(thin: Thin, items: Items, steps: int, enough: Tensor) -> tuple[Items, Sight]:
    """Adam on slopes and multipliers; the best of each subproblem is kept, or the first that exceeds ``enough``. Ends where all exceed ``enough`` (M,)."""
    shape, least = _shape(thin, items), thin.steep.clamp(0, 1)
    free = [items.slope, items.multiplier / items.size, items.last]
    moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in free]
    best_value, best, best_look = torch.full((len(items),), -torch.inf), [v.clone() for v in free], None
    taken = 0
    for step in range(1, steps + 1):
        look = _look(thin, items, shape, free[0], free[1] * items.size, free[2])
        taken += 1
        better = (look.value > best_value) & (
            best_value <= enough
        )  # what is enough stays: no part depends on the others
        best_value = torch.where(better, look.value, best_value)
        for kept, new in zip(best, free, strict=True):
            kept[better] = new[better]
        best_look = look if best_look is None else _either(better, look, best_look)
        if step == steps or bool((best_value > enough).all()):
            break
        gradients = (look.slope, look.multiplier * items.size, look.last)
        moved = [
            v + RATE * DECAY ** (step - 1) * _direction(gradient, moment, step)
            for v, gradient, moment in zip(free, gradients, moments, strict=True)
        ]
        free = [torch.maximum(moved[0].clamp_max_(1), least), moved[1].clamp_min_(0), moved[2].clamp_min_(0)]
    meter.count(forward=taken * len(items), backward=taken * len(items))
    assert best_look is not None
    items = replace(items, slope=best[0], multiplier=best[1] * items.size, last=best[2])
    true, score = _truth(thin, items, shape, best_look)
    unit = _chosen(thin, items, score, best_look, enough)
    return items, Sight(best_value, best_look.at, true, unit, best_look.coefficient)


def _direction(gradient: Tensor, moments: tuple[Tensor, Tensor], step: int) -> Tensor:
    first, second = moments
    first.lerp_(gradient, 0.1)
    second.lerp_(gradient.square(), 0.01)
    return (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt_() + 1e-12)


def _either(first: Tensor, one: _Look, other: _Look) -> _Look:
    """What a look at the best values saw; gradients are of no use any more."""
    at = {name: torch.where(first.reshape(-1, *[1] * (v.dim() - 1)), v, other.at[name]) for name, v in one.at.items()}
    coefficient = torch.where(first[:, None], one.coefficient, other.coefficient)
    return replace(one, coefficient=coefficient, at=at)


def _shape(thin: Thin, items: Items) -> _Shape:
    low, high = clipped(thin.low[items.base], thin.high[items.base], items.sign)
    bends = (low < 0) & (high > 0)
    width = torch.where(bends, high - low, 1.0)
    fixed = torch.where(low >= 0, 1.0, thin.steep)
    upper = torch.where(bends, (high - thin.steep * low) / width, fixed)
    return _Shape(bends, fixed, upper, torch.where(bends, -high * low * (1 - thin.steep) / width, 0.0))


def _look(thin: Thin, items: Items, shape: _Shape, slope: Tensor, multiplier: Tensor, last: Tensor) -> _Look:
    """The rows are pulled back to the inputs and minimised there at x*; x* then goes forward through the planes that the rows chose.

    With a unit's plane ``a z`` below and coefficient c > 0 on its output the derivative by a is ``c z``, by the multiplier of ``s z >= 0`` it is
    ``-s z``: planes not chosen and x* itself stand still, by the envelope theorem.
    """
    graph, units, count = thin.root.state.graph, thin.root.units, len(items)
    lower = torch.where(shape.bends, slope, shape.fixed)
    each = lambda v: v if len(v) < 2 else v[items.base]  # one base needs no copies
    active: dict[str, Tensor] = {graph.output: each(thin.rows)[None]}
    for node in units.nodes:
        name = backward.source_of(node)
        active[name] = active.get(name, 0) + units.part(-items.sign * multiplier, node)[None]
    wide = lambda v, like: v.reshape(-1, *[1] * (like.dim() - 1))
    behind = {name: each(a) for name, a in thin.cut.items()}
    for name, a in behind.items():
        active[name] = active.get(name, 0) + (wide(last, a) * a)[None]
    arrived: dict[str, Tensor] = {}
    values: dict[str, Tensor] = dict(thin.constants)
    at: dict[str, Tensor] = {}
    for node in reversed(graph.nodes):
        rows = active.pop(node.name, None)
        if rows is None:
            continue
        if node.op == "input":
            room = tuple(each(side) for side in thin.rooms[node.name])
            lows = lowest(thin.root.problem, thin.root.state, node.name, rows, room)  # type: ignore[arg-type]
            at[node.name] = values[node.name] = lows.expand(count, *lows.shape[1:])
            continue
        if node in units.nodes:
            arrived[node.name] = rows[0].expand(count, *rows.shape[2:])
            positive = rows.clamp_min(0)
            pulled = positive * units.part(lower, node) + (rows - positive) * units.part(shape.upper, node)
            back = {backward.source_of(node): pulled}
        else:
            moving = thin.root.state.moving(node)
            back = transpose(thin.root.state.known, thin.constants, node, rows, moving) if moving else {}
        for name, new in back.items():
            active[name] = active[name] + new if name in active else new
    inside, coefficients = [], []
    for node in graph.nodes:
        if not node.varies or node.op == "input":
            continue
        if node not in units.nodes:
            values[node.name] = ops.evaluate(node, values, count)
            continue
        z = values[backward.source_of(node)]
        form = arrived.get(node.name, torch.zeros_like(z))
        above = torch.addcmul(units.part(shape.height, node), units.part(shape.upper, node), z)
        values[node.name] = torch.where(form < 0, above, units.part(lower, node) * z)
        inside.append(z.flatten(1))
        coefficients.append(form.flatten(1))
    z, coefficient = torch.cat(inside, 1), torch.cat(coefficients, 1)
    known = -items.sign * z
    beyond = each(thin.level)
    for name, a in behind.items():
        beyond = beyond + (a * at[name]).flatten(1).sum(1)
    value = (each(thin.rows) * values[graph.output]).flatten(1).sum(1) + each(thin.extra)
    value = value + (multiplier * known).sum(1) + last * beyond
    beyond = beyond.expand(count)
    return _Look(value, torch.where(shape.bends, coefficient.clamp_min(0) * z, 0.0), known, beyond, coefficient, at)


def _truth(thin: Thin, items: Items, shape: _Shape, look: _Look) -> tuple[Tensor, Tensor]:
    """The row at a point (M,), and by how much the planes of each open unit miss the truth there (M, U): the sum is what bending loses."""
    graph, units = thin.root.state.graph, thin.root.units
    values = {**thin.constants, **look.at}
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
    true = inner(thin.rows[items.base][None], values[graph.output])[0] + thin.extra[items.base]
    z = torch.cat(inside, 1)
    f = torch.maximum(z, thin.steep * z)
    below, above = f - items.slope * z, shape.upper * z + shape.height - f
    gap = torch.where(look.coefficient > 0, look.coefficient * below, -look.coefficient * above)
    # where the point lies on the planes, what a unit can miss anywhere decides: that of the chord, at the kink
    potential = look.coefficient.abs() * shape.height
    open_ = shape.bends & (items.sign == 0)
    return true, torch.where(open_, gap.clamp_min(0) + 1e-3 * potential + 1e-30, -1.0)


def _chosen(thin: Thin, items: Items, score: Tensor, look: _Look, enough: Tensor) -> Tensor:
    """(M,) the unit to split: of the few that miss most, the one whose halves are bounded best by the slopes at hand; -1 where none bends."""
    best = score.topk(min(CANDIDATES, score.shape[1]), 1)
    unit = torch.where(best.values[:, 0] < 0, -1, best.indices[:, 0])
    at = ((look.value <= enough) & (best.values[:, -1] >= 0)).nonzero()[:, 0]
    if not len(at) or best.indices.shape[1] == 1:
        return unit
    gains = []
    for place in best.indices[at].unbind(1):
        halves = [half for half in halved(items.take(at), place, look.coefficient[at])]
        values = [_look(thin, h, _shape(thin, h), h.slope, h.multiplier, h.last).value for h in halves]
        low, high = torch.minimum(*values), torch.maximum(*values)
        gains.append(torch.minimum(low, enough[at]) + 0.1 * torch.minimum(high, enough[at]))
    meter.count(forward=2 * len(gains) * len(at), backward=2 * len(gains) * len(at))
    unit[at] = best.indices[at].gather(1, torch.stack(gains, 1).argmax(1, keepdim=True))[:, 0]
    return unit


def halved(items: Items, unit: Tensor, coefficient: Tensor) -> list[Items]:
    """Both signs of a unit (M,) of each; slopes and multipliers go on from where they are."""
    at = unit[:, None]
    size = items.size.scatter(1, at, coefficient.gather(1, at).abs().clamp_min(1e-6))
    return [replace(items, sign=items.sign.scatter(1, at, sign), size=size) for sign in (1.0, -1.0)]
