"""Subproblems of a search tree: a row of the specification on the part of the region where some units have a known sign."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brittle import backward, meter
from brittle.bounds import _concrete
from brittle.bounds._cuts import Cut, beside_cut
from brittle.bounds._slopes import LEVELS
from brittle.bounds._units import Units
from brittle.intervals import State
from brittle.planes import Planes, planes
from brittle.problem import Problem
from brittle.relaxation import pull_back


@dataclass(frozen=True, eq=False)
class Items:
    """M subproblems, float32.

    base          (M,) which row of which example: an index into those of :class:`Root`
    sign          (M, U) 1: the unit is >= 0 here, -1: <= 0, 0: not split
    slope         (M, U) of the lower plane of units that bend; multiplier (M, U) >= 0 of what is known of split ones
    size          (M, U) the unit of a multiplier: the coefficient that the unit had when it was split
    last          (M,) >= 0 the multiplier of the cut
    """

    base: Tensor
    sign: Tensor
    slope: Tensor
    multiplier: Tensor
    size: Tensor
    last: Tensor

    def __len__(self) -> int:
        return len(self.base)

    def take(self, at: Tensor) -> "Items":
        return Items(*(getattr(self, name)[at] for name in self.__dataclass_fields__))

    def as_stored(self) -> "Items":
        """Slopes and multipliers rounded to what a proof keeps of them."""
        return replace(
            self,
            slope=(self.slope * LEVELS).round() / LEVELS,
            multiplier=torch.where(self.sign != 0, self.multiplier, 0.0),
        )

    @staticmethod
    def join(parts: list["Items"]) -> "Items":
        return Items(*(torch.cat([getattr(p, name) for p in parts]) for name in Items.__dataclass_fields__))

    @staticmethod
    def whole(slopes: Tensor) -> "Items":
        """The rows of all bases, unsplit, (B, U) slopes to start from."""
        zero = torch.zeros_like(slopes, dtype=torch.float32)
        return Items(torch.arange(len(slopes)), zero, slopes.float(), zero.clone(), zero + 1, zero[:, 0].clone())


@dataclass(frozen=True, eq=False)
class Root:
    """What subproblems share: B bases, each a row of an example over its whole region, or behind a cut.

    example, row   (B,) which
    problem, state of B examples; their intervals hold behind the cut
    rows, extra    (B, C) the forms on the logits, and what is added to them (B,); target (B,): positive by so much is settled
    cut            a (B, *shape) by input, c (1, B): ``<a, x> + c <= 0`` wherever the row could be at most its target; None: the whole region
    """

    example: Tensor
    row: Tensor
    problem: Problem
    state: State
    units: Units
    rows: Tensor
    extra: Tensor
    target: Tensor
    cut: Cut | None = None

    def intervals(self, items: Items) -> tuple[Tensor, Tensor]:
        """Those of all units on the parts, (M, U): of the base, cut at zero where a unit is split. Of an empty part anything is true, and its interval is kept one."""
        low, high = (side[items.base] for side in self.units.inputs(self.state))
        return clipped(low, high, items.sign)

    def narrowed(self, items: Items) -> State:
        """The same of every node."""
        low = {name: value[items.base] for name, value in self.state.low.items()}
        high = {name: value[items.base] for name, value in self.state.high.items()}
        for node in self.units.nodes:
            name = backward.source_of(node)
            low[name], high[name] = clipped(low[name], high[name], self.units.part(items.sign, node))
        return State(self.state.graph, len(items), self.state.constants, low=low, high=high, known=self.state.known)


def clipped(low: Tensor, high: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
    top = torch.where(sign < 0, high.clamp_max(0), high)
    bottom = torch.where(sign > 0, low.clamp_min(0), low)
    low = torch.where(sign < 0, torch.minimum(bottom, top), bottom)
    return low, torch.maximum(low, top)


def planes_of(root: Root, state: State, slopes: Tensor) -> dict[str, Planes]:
    """The planes of all units over the intervals of a part, with lower slopes (M, U) where they bend."""
    low, high = root.units.inputs(state)
    slope = torch.where(high <= 0, root.units.steep(), torch.where(low >= 0, 1.0, slopes.double()))
    relaxed: dict[str, Planes] = {}
    for node in root.units.nodes:
        name = backward.source_of(node)
        chord = backward.chord(backward.activation(state, node), state.low[name], state.high[name])
        relaxed[node.name] = planes(state, node, lower_slope=root.units.part(slope, node), upper_slope=chord)
    return relaxed


def proved(root: Root, items: Items) -> Tensor:
    """(M,) the bound again in float64 with the rounding of every step on its account: what a certificate may say."""
    state = root.narrowed(items)
    relaxed = planes_of(root, state, (items.slope * LEVELS).round().double() / LEVELS)
    beside: dict[str, Tensor] = {}
    for node in root.units.nodes:
        name = backward.source_of(node)
        known = root.units.part((-items.sign * items.multiplier).double(), node)[None]
        beside[name] = beside[name] + known if name in beside else known
    meter.count(backward=len(items))
    pulled = pull_back(state, state.graph.output, root.rows[items.base][None], relaxed, beside=beside)
    if root.cut is not None:
        cut = Cut({name: a[items.base] for name, a in root.cut.a.items()}, root.cut.c[:, items.base])
        pulled = beside_cut(state, pulled, items.last.double()[None], cut)
    return _concrete.over_balls(root.problem.take(items.base), state, pulled)[0] + root.extra[items.base]
