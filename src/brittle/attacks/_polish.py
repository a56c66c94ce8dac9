"""The last digits of a near failure: a bundle of two cuts that stops at kinks of the boundary, not beside them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from brittle import norms
from brittle.attacks._search import Tracker
from brittle.boundary import Room, nearest_change, rooms
from brittle.problem import Point, Problem

HALVINGS = 30  # of the weight between two cuts; what is left is closed by mixing the two ends
BEYOND = 16  # units in the last place of the leaf, in clean margins, by which the row is aimed below zero: what a witness needs


@dataclass(frozen=True, eq=False)
class Cut:
    """The linear function ``value + <gradient, change>`` of a change of the clean point; value (N,), gradient by leaf (N, ...)."""

    value: Tensor
    gradient: dict[str, Tensor]

    def at(self, change: Point) -> Tensor:
        return self.value + sum((norms.flat(g) * norms.flat(change[leaf])).sum(1) for leaf, g in self.gradient.items())

    def mixed(self, other: "Cut", weight: Tensor) -> "Cut":
        """``weight`` (N,) of this cut and the rest of the other."""
        mix = lambda a, b: norms.spread(weight, a) * a + (1 - norms.spread(weight, a)) * b
        return Cut(mix(self.value, other.value), {k: mix(g, other.gradient[k]) for k, g in self.gradient.items()})


def polish(problem: Problem, tracker: Tracker, steps: int) -> None:
    """From the best failure of each example to a local minimum of the size, in float64; what it finds is in the tracker.

    Every step linearises the row that fails and goes to the nearest change that satisfies this cut and the mean of the cuts before it,
    weighted by their multipliers. Inside one linear region of the network the first step is exact; where the nearest point
    lies on a kink at which the row is locally convex, the two cuts close in on it (Kiwiel's aggregate bundle):
    exactly for p = 2 on tiny networks, while for p = 1 and inf, where several kinks can meet in the nearest point, 1e-3 was left (measured). A mean that lies above
    the row at the iterate is no cut, and is dropped. Of a specification with ``rank`` above 1, with p = 0, or of a section, nothing is polished.

    Reference: Kiwiel, Methods of Descent for Nondifferentiable Optimization, 1985.
    """
    at = (tracker.found & (tracker.value > 0)).nonzero()[:, 0].cpu()
    unsuited = any(ball.p == 0 or ball.section is not None for ball in problem.region.values())
    if problem.spec.rank > 1 or unsuited or not len(at):
        return
    tiny = max(torch.finfo(value.dtype).eps for value in problem.centre.values())
    part = problem.take(at).double()
    here = at.to(problem.device)
    point = {leaf: v[here].double() for leaf, v in tracker.point.items()}
    with torch.no_grad():
        row, reach = part.rows(point).argmin(1, keepdim=True), part.logits().abs().amax(1)
    seen, room = Tracker.of(part, "radius"), rooms(part)
    mean: Cut | None = None
    for _ in range(steps):
        newest = _cut(part, seen, point, row, BEYOND * tiny * reach)
        change = {leaf: v - part.centre[leaf] for leaf, v in point.items()}
        if mean is None:
            mean = newest
        weight = torch.where(mean.at(change) <= newest.at(change), 0.0, 1.0).double()
        mean, change = _nearest_of_two(part, newest, mean, weight, room)
        point = {leaf: v + change[leaf] for leaf, v in part.centre.items()}
    with torch.no_grad():
        seen.see(point, part.rows(point))
    seen.point = {leaf: v.to(tracker.point[leaf]) for leaf, v in seen.point.items()}
    tracker.join_at(at, seen)


def _cut(problem: Problem, seen: Tracker, point: Point, row: Tensor, beyond: Tensor) -> Cut:
    rows, gradient = problem.gradient(point, lambda rows: rows.gather(1, row)[:, 0])
    seen.see(point, rows)
    change = {leaf: v - problem.centre[leaf] for leaf, v in point.items()}
    value = rows.gather(1, row)[:, 0] + beyond
    value = value - sum((norms.flat(g) * norms.flat(change[leaf])).sum(1) for leaf, g in gradient.items())
    gradient = {leaf: g.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for leaf, g in gradient.items()}
    return Cut(value.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), gradient)


def _nearest_of_two(
    problem: Problem, newest: Cut, mean: Cut, least: Tensor, room: dict[str, Room]
) -> tuple[Cut, dict[str, Tensor]]:
    """The smallest change that satisfies both cuts, and their mean by its multipliers; ``least`` (N,): the least weight of the newest.

    At the change of a weight the mean of both cuts is zero. Where the newest is above zero its weight must rise. Where the change
    jumps (p = 1 and inf), the optimum mixes the changes on both sides of the jump.
    """
    nearest = lambda cut: nearest_change(
        problem, {k: -g for k, g in cut.gradient.items()}, cut.value.clamp_min(0), room
    )
    low, high = least, torch.ones_like(least)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        violated = newest.at(nearest(newest.mixed(mean, middle))) > 0
        low, high = torch.where(violated, middle, low), torch.where(violated, high, middle)
    below, above = nearest(newest.mixed(mean, low)), nearest(newest.mixed(mean, high))
    at_low, at_high = newest.at(below), newest.at(above)
    share = (at_low / (at_low - at_high)).nan_to_num(nan=1.0, posinf=1.0, neginf=1.0).clamp(0, 1)
    share = torch.where(at_low <= 0, torch.zeros_like(share), share)
    mixed = {leaf: v + norms.spread(share, v) * (above[leaf] - v) for leaf, v in below.items()}
    return newest.mixed(mean, high), mixed
