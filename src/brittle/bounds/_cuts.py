"""A row against itself: on the part of the region where a row could fail its own planes hold less, so everything there is tighter.

Where ``row <= level``, every linear form below the row is at most ``level`` too: a half-space ``<a, x> + c <= 0``, a *cut*. Intervals and planes need only hold on
the region behind the cut; from them comes a better form of the row, which is the next cut. With any multiplier ``g >= 0``
``min over region and cut of f >= min over region of f + g (<a, x> + c)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, prod
from time import perf_counter

import torch
from torch import Tensor

from brittle import backward, intervals, meter
from brittle.bounds import _concrete
from brittle.bounds._slopes import LEVELS, Rooms, climb, free_nodes, lowest, rooms, sketch, starts
from brittle.bounds._units import steepness
from brittle.graph import Node
from brittle.intervals import UNIT, State
from brittle.planes import Planes, intercepts, planes
from brittle.problem import Problem
from brittle.relaxation import Pulled, pull_back
from brittle.transposes import inner

HALVINGS = 10  # of the logarithm of a multiplier, in a range of e^10: 1 %, and the bound is flat at its top
LARGEST = float(torch.finfo(torch.float32).max)
STALLED = 0.04  # of what is missing: a round that gains less ends the chain (folklore)


@dataclass(frozen=True, eq=False)
class Round:
    """What proves one round again, U the units of all free nodes on one axis.

    planes       (U,) uint8: lower slopes, under the intervals of this round, of the planes that single units are pulled back through
    slopes       (U,) uint8: those that the row is pulled back through
    multipliers  (2, U) float32: of the cut of the round before, in the lower and the upper end of every unit
    last         float32: in the bound of the row itself
    """

    planes: Tensor
    slopes: Tensor
    multipliers: Tensor
    last: Tensor


@dataclass(frozen=True)
class Budget:
    """steps of the ascent in a round; rounds after the first; the level at which a row is done; ends: of the clock."""

    steps: int
    rounds: int
    level: float
    ends: float


@dataclass(frozen=True, eq=False)
class Cut:
    """``sum over inputs of <a, x> + c <= 0`` wherever the row is at most its level: a (1, *shape) by input node, c (1, 1)."""

    a: Mapping[str, Tensor]
    c: Tensor


def one_example(state: State, at: int) -> State:
    """The intervals of one example of a batch, to be tightened."""
    low, high, sizes = ({k: v[at : at + 1] for k, v in d.items()} for d in (state.low, state.high, state.magnitudes))
    return State(state.graph, 1, state.constants, low=low, high=high, known=state.known, magnitudes=sizes)


def chain(
    problem: Problem,
    state: State,
    relaxed: dict[str, Planes],
    row: Tensor,
    extra: Tensor,
    budget: "Budget",
) -> tuple[float, list[Round], Cut | None]:
    """A lower bound of ``row + extra``, (1, 1, C) of one example, what proves it again, and the newest cut. ``min(bound, level)`` is what it says of the whole region.

    state    of that example alone: its intervals are tightened
    relaxed  planes of every nonlinear node over them
    """
    free = [node for node in free_nodes(state) if node.name in relaxed]
    total = sum(prod(node.shape) for node in free)
    room, relaxed, cut = rooms(problem, state), dict(relaxed), None
    best, taken, before = -torch.inf, [], -torch.inf
    for _ in range(budget.rounds + 1):
        multipliers = torch.zeros(2, total, device=problem.device)
        if cut is not None:
            for node in free:
                start, stop = starts(free)[node.name]
                multipliers[:, start:stop] = _tighten(problem, state, node, relaxed, cut, room)
                relaxed[node.name] = _stored(state, node)
        slopes = _climbed(problem, state, relaxed, row, budget, total)
        pulled = pull_back(state, state.graph.output, row, with_slopes(state, relaxed, slopes))
        value, last = _behind(problem, state, pulled, cut, room)
        value = float(value + extra)
        own = [(relaxed[node.name].lower_slope.flatten() * LEVELS).round().clamp(0, LEVELS) for node in free]
        thin = torch.cat(own).to(torch.uint8) if own else torch.zeros(0, dtype=torch.uint8)
        taken.append(Round(thin, slopes[0, 0], multipliers, last[0, 0].float()))
        best = max(best, value)
        gained, before = value - before, value
        missing = budget.level - value
        cut = _cut(state, pulled, extra - budget.level)
        if not missing >= 0 or gained < STALLED * missing or perf_counter() > budget.ends:
            break
    return best, taken, cut


def with_slopes(state: State, relaxed: Mapping[str, Planes], slopes: Tensor) -> dict[str, Planes]:
    """Planes whose free lower slopes are those of each row, (R, N, U) uint8 in units of 1 / 255.

    One intercept serves every slope between those of the two pieces: ``min f(z) - a z`` is concave in a, so the lesser of both ends is below all.
    """
    found = dict(relaxed)
    free = [node for node in free_nodes(state) if node.name in relaxed]
    for node, (start, stop) in zip(free, starts(free).values(), strict=True):
        source, plane, least = backward.source_of(node), relaxed[node.name], steepness(node)
        function, bends = backward.activation(state, node), backward.bent(state, node)
        low, high = state.low[source], state.high[source]
        ends = [intercepts(function, torch.full_like(low, a), low, high)[0] for a in (least, 1.0)]
        slope = (slopes[..., start:stop].double() / LEVELS).clamp(least, 1).reshape(*slopes.shape[:2], *node.shape)
        found[node.name] = replace(
            plane,
            lower_slope=torch.where(bends, slope, plane.lower_slope),
            lower=torch.where(bends, torch.minimum(*ends), plane.lower),
        )
    return found


def _climbed(
    problem: Problem, state: State, relaxed: Mapping[str, Planes], row: Tensor, budget: Budget, total: int
) -> Tensor:
    seen = sketch(problem, state, state.graph.output, relaxed)
    return (
        torch.zeros(1, 1, total, dtype=torch.uint8, device=problem.device)
        if seen is None
        else climb(seen, row, budget.steps, budget.ends)
    )


def _stored(state: State, node: Node) -> Planes:
    """The planes of least area, their lower slopes rounded to what a proof keeps of them."""
    best, bends = planes(state, node), backward.bent(state, node)
    thin = ((best.lower_slope * LEVELS).round() / LEVELS).clamp(steepness(node), 1)
    slope = torch.where(bends, thin, best.lower_slope)
    return planes(state, node, lower_slope=slope, upper_slope=best.upper_slope)


def _tighten(
    problem: Problem, state: State, node: Node, relaxed: Mapping[str, Planes], cut: Cut, room: Rooms
) -> Tensor:
    """Intersect the intervals of the bent units of a node with what holds behind the cut; the multipliers (2, units)."""
    source = backward.source_of(node)
    size = state.low[source][0].numel()
    multipliers = torch.zeros(2, size, device=problem.device)
    at = backward.bent(state, node).flatten(1)[0].nonzero()[:, 0]
    if not len(at) or state.known[source].op == "input":
        return multipliers
    for side, sign in ((0, 1.0), (1, -1.0)):
        values = []
        for some in at.split(backward.rows_at_once(state)):
            one = torch.zeros(len(some), size, dtype=torch.float64, device=some.device)
            one[torch.arange(len(some), device=some.device), some] = sign
            rows = one.reshape(len(some), 1, *state.low[source].shape[1:])
            value, found = _behind(problem, state, pull_back(state, source, rows, relaxed), cut, room)
            multipliers[side, some] = found[:, 0].float()
            values.append(value)
        meter.count(backward=len(at))
        end = torch.cat(values).T
        low, high = state.low[source].flatten(1).clone(), state.high[source].flatten(1).clone()
        if side == 0:
            low[:, at] = torch.minimum(torch.fmax(low[:, at], end), high[:, at])
        else:  # of an empty part anything is true, and its interval is kept one
            high[:, at] = torch.maximum(torch.fmin(high[:, at], -end), low[:, at])
        state.low[source] = low.reshape(state.low[source].shape)
        state.high[source] = high.reshape(state.high[source].shape)
    return multipliers


def _cut(state: State, pulled: Pulled, extra: Tensor) -> Cut:
    """The half-space of a pulled row, its coefficients taken as the exact numbers that they are."""
    lost = sum(backward.evaluation_loss(state, pulled, name) for name in pulled.coefficients)
    a = {name: rows[0].expand(state.count, *rows.shape[2:]) for name, rows in pulled.coefficients.items()}
    total = pulled.constant - pulled.slack - lost + extra
    return Cut(a, total - 16 * UNIT * (pulled.constant.abs() + pulled.slack + extra.abs()))


def _behind(problem: Problem, state: State, pulled: Pulled, cut: Cut | None, room: Rooms) -> tuple[Tensor, Tensor]:
    """(least values (R, 1) over the region behind a cut, the multipliers as stored)."""
    if cut is None or not bool(cut.c.isfinite()):
        plain = _concrete.over_balls(problem, state, pulled)
        return plain, torch.zeros_like(plain)
    pulled = _on_all(pulled, cut)
    found = _multipliers(problem, state, pulled.coefficients, cut, room).double()
    together = beside_cut(state, pulled, found, cut)
    return _concrete.over_balls(problem, state, together), found


def _on_all(pulled: Pulled, cut: Cut) -> Pulled:
    """Forms with rows of zeros on the inputs that the cut reads and they do not: what it says there is part of the sum."""
    rest = {name: a for name, a in cut.a.items() if name not in pulled.coefficients}
    zeros = {name: a.new_zeros(len(pulled.constant), *a.shape) for name, a in rest.items()}
    coefficients, roundings = {**pulled.coefficients, **zeros}, {**pulled.roundings, **dict.fromkeys(rest, 0)}
    return replace(pulled, coefficients=coefficients, roundings=roundings)


def beside_cut(state: State, pulled: Pulled, found: Tensor, cut: Cut) -> Pulled:
    """Pulled rows with multiples (R, N) of the cuts added to them."""
    pulled = _on_all(pulled, cut)
    wide = lambda name: found.reshape(*found.shape, *[1] * (cut.a[name].dim() - 1)) * cut.a[name]
    added = {name: wide(name) for name in pulled.coefficients}
    sizes = sum(
        inner(added[name].abs() + rows.abs(), state.largest(name)) for name, rows in pulled.coefficients.items()
    )
    arrived = 2 * max(pulled.roundings.values(), default=0)  # paid of the parts: their sum may cancel
    return Pulled(
        {name: rows + added[name] for name, rows in pulled.coefficients.items()},
        dict.fromkeys(pulled.roundings, 0),
        pulled.constant + found * cut.c,
        pulled.slack + (8 + arrived) * UNIT * (sizes + found * cut.c.abs() + pulled.constant.abs()) + intervals.TINY,
    )


def _multipliers(problem: Problem, state: State, forms: Mapping[str, Tensor], cut: Cut, room: Rooms) -> Tensor:
    """(R, 1) float32: where the bound, concave in its multiplier, is about highest; 0 where the cut already holds at the minimiser."""
    flat = {name: rows.expand(len(rows), 1, *rows.shape[2:]).flatten(2).float() for name, rows in forms.items()}
    a = {name: cut.a[name].flatten(1).float()[None] for name in forms}
    c = min(max(float(cut.c), -LARGEST), LARGEST)
    boxes = {name: _box(problem, state, name, room[name]) for name in forms}

    def beyond(g: Tensor) -> Tensor:
        total = g.new_full((len(g),), c)
        for name, rows in flat.items():
            form, mine, box = torch.addcmul(rows, g[:, None, None], a[name]), a[name][0, 0], boxes[name]
            if box is None:
                total = total + lowest(problem, state, name, form, room[name]).flatten(1) @ mine
            else:  # at a corner of a box
                total = total + (box[0] @ mine - form[:, 0].sign_() @ (box[1] * mine))
        return total

    length = lambda part: sum(v.square().sum((-1, -2)) for v in part.values()).sqrt()  # type: ignore[union-attr]
    unit = (length(flat) / length(a).clamp_min(1e-30)).clamp_min(1e-30).log()
    wanted = (beyond(torch.zeros_like(unit)) > 0).nonzero()[:, 0]
    found = unit.new_zeros(len(unit), 1)
    if not len(wanted):
        return found
    flat = {name: rows[wanted] for name, rows in flat.items()}
    near, far = unit[wanted] - 6, unit[wanted] + 4
    for _ in range(HALVINGS):
        middle = (near + far) / 2
        more = beyond(middle.exp()) > 0
        near, far = torch.where(more, middle, near), torch.where(more, far, middle)
    found[wanted, 0] = far.exp().clamp_max(LARGEST)
    return found


def _box(
    problem: Problem, state: State, name: str, room: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """The middle and half the width of what one input of one example may be in l-inf, flat; None in other norms, without a bound, and for what stands still."""
    centre, radius, down, up = room
    leaf = next(leaf for leaf, node in state.graph.inputs.items() if node == name)
    if not len(radius) or problem.region[leaf].p != inf or not bool(radius.isfinite().all()):
        return None
    low, high = centre.flatten() - torch.minimum(down[0], radius), centre.flatten() + torch.minimum(up[0], radius)
    return (low + high) / 2, (high - low) / 2


def arrays(found: Mapping[tuple[int, int], list[Round]], level: Tensor, rows: int) -> dict[str, Tensor]:
    """The rounds by example and row, padded with zeros."""
    if not found:
        return {}
    units = len(next(iter(found.values()))[0].slopes)
    most, count = max(len(rounds) for rounds in found.values()), len(level)
    arrays = {
        "cuts.level": level,
        "cuts.rounds": torch.zeros(count, rows, dtype=torch.uint8),
        "cuts.planes": torch.zeros(count, rows, most, units, dtype=torch.uint8),
        "cuts.slopes": torch.zeros(count, rows, most, units, dtype=torch.uint8),
        "cuts.multipliers": torch.zeros(count, rows, most, 2, units, dtype=torch.float32),
        "cuts.last": torch.zeros(count, rows, most, dtype=torch.float32),
    }
    for at, taken in found.items():
        arrays["cuts.rounds"][at] = len(taken)
        for name in ("planes", "slopes", "multipliers", "last"):
            for number, one in enumerate(taken):
                arrays[f"cuts.{name}"][at][number] = getattr(one, name)
    return arrays
