"""What every attack shares: the best point over every query, random starts, and the last step to a witness."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from brittle import norms, randomness
from brittle.problem import Problem
from brittle.results import Witness
from brittle.spec import margin

Point = Mapping[str, Tensor]


def searchable(problem: Problem) -> Problem:
    """The problem to search in: types shorter than 32 bits are searched in float64 and only settled in their own."""
    short = any(value.element_size() < 4 for value in problem.centre.values())
    return problem.double() if short else problem


def sizes(problem: Problem, point: Point) -> Tensor:
    """(N,) multiples of the unscaled region, as :meth:`Problem.size` but in the leaf's dtype and without the range: for searching."""
    worst = None
    for leaf, value in point.items():
        ball = problem.region[leaf]
        change = value.detach() - problem.centre[leaf]
        distance = ball.size(change) if ball.groups else norms.norm(ball.measured(change), ball.p)
        ratio = distance / ball.radius if ball.radius > 0 else torch.where(distance > 0, inf, 0.0)
        worst = ratio if worst is None else torch.maximum(worst, ratio.to(worst))
    assert worst is not None
    return worst


@dataclass
class Tracker:
    """The best point over every query: of smallest size among those that violate (radius), or of smallest margin (margin).

    Nothing that a search has seen can be lost, and a search need not return its last iterate. Iterates with a non-finite
    margin or gradient mark their example as ``broken``.
    """

    problem: Problem
    answers: str
    point: dict[str, Tensor]
    value: Tensor
    broken: Tensor

    @staticmethod
    def of(problem: Problem, answers: str) -> "Tracker":
        first = next(iter(problem.inputs.values()))
        value = torch.full((len(problem),), inf, device=problem.device, dtype=torch.float64)
        broken = torch.zeros(len(problem), dtype=torch.bool, device=first.device)
        return Tracker(problem, answers, {k: v.clone() for k, v in problem.centre.items()}, value, broken)

    @property
    def found(self) -> Tensor:
        return self.value.isfinite()

    def see(self, point: Point, rows: Tensor, where: Tensor | None = None) -> Tensor:
        """Record one query; returns the margins. ``where`` (N,) leaves the other examples alone."""
        margins = margin(rows, self.problem.spec.rank)
        self.record(point, margins, where)
        return margins

    def record(self, point: Point, margins: Tensor, where: Tensor | None = None) -> None:
        """Record a query of known margins (N,)."""
        value, finite = margins.to(torch.float64), margins.isfinite()
        if self.answers == "radius":
            value = torch.where(margins <= 0, sizes(self.problem, point).to(torch.float64), inf)
        better = (value < self.value) & finite
        better = better if where is None else better & where
        self.broken |= ~finite
        self.value = torch.where(better, value, self.value)
        self.point = replaced(better, point, self.point)

    def join(self, other: "Tracker") -> None:
        """Take over what another tracker of the same examples has seen better."""
        better = other.value < self.value
        self.broken |= other.broken
        self.value = torch.where(better, other.value, self.value)
        self.point = replaced(better, other.point, self.point)

    def take(self, at: Tensor) -> "Tracker":
        """What was seen of some of the examples."""
        here = at.to(self.value.device)
        point = {k: v[here] for k, v in self.point.items()}
        return Tracker(self.problem.take(at), self.answers, point, self.value[here], self.broken[here])

    def join_at(self, at: Tensor, part: "Tracker") -> None:
        """Take over what a tracker of the examples ``at`` alone has seen better."""
        here = at.to(self.value.device)
        better = part.value < self.value[here]
        self.broken[here] |= part.broken
        self.value = self.value.index_copy(0, here, torch.where(better, part.value, self.value[here]))
        for leaf, v in self.point.items():
            new = torch.where(norms.spread(better, v[here]), part.point[leaf], v[here])
            self.point[leaf] = v.index_copy(0, here, new)

    def nearest(self, count: int) -> "Tracker":
        """The best of each example, where every one of ``count`` examples had the same number of neighbouring rows here."""
        lanes = self.value.reshape(count, -1)
        at = lanes.argmin(1) + lanes.shape[1] * torch.arange(count, device=lanes.device)
        point = {k: v[at] for k, v in self.point.items()}
        return Tracker(self.problem, self.answers, point, self.value[at], self.broken.reshape(count, -1).any(1))


def replaced(mask: Tensor, new: Point, old: Point) -> dict[str, Tensor]:
    """``new`` for the examples ``mask`` (N,), ``old`` for the others. Copies what changes, nothing where nothing does: most steps
    of a search better few examples. Neither point is written to."""
    at = mask.nonzero()[:, 0]
    if not len(at):
        return dict(old)
    return {leaf: _replaced(at, mask, new[leaf].detach(), value) for leaf, value in old.items()}


def _replaced(at: Tensor, mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    if new.shape != old.shape or new.dtype != old.dtype or at.device != old.device:
        return torch.where(norms.spread(mask, old), new, old)
    if len(at) == len(old):
        return new.clone(memory_format=torch.contiguous_format)  # searches may write to their iterates
    return old.clone(memory_format=torch.contiguous_format).index_copy_(0, at, new.index_select(0, at))


def random_point(problem: Problem, seed: int, *path: int | str, surface: bool = False) -> dict[str, Tensor]:
    """One random point of the region for every example, from its own generator: uniform in each leaf's ball, or an extreme one
    (``surface``: for p = inf a corner, for p = 0 random features at their range), then cut off at the range."""
    return {
        leaf: problem.project_leaf(leaf, value + _draw(problem, leaf, value, surface, seed, *path))
        for leaf, value in problem.centre.items()
    }


def _draw(problem: Problem, leaf: str, value: Tensor, surface: bool, seed: int, *path: int | str) -> Tensor:
    p, shape = problem.region[leaf].p, tuple(value.shape[1:])
    if p == 0:  # every feature gets a random change; the projection keeps as many as the ball allows
        one = lambda generator: torch.randn(shape, generator=generator, dtype=torch.float64)
        reach = torch.full_like(problem.scale, 10.0)  # beyond most ranges, so that the features kept end at one
    else:
        extreme = lambda generator: norms.uniform_sphere(shape, p, generator)
        one = extreme if surface else lambda generator: norms.uniform_ball(shape, p, generator)
        reach = problem.radius(leaf)
    change = randomness.per_example(one, seed, problem.index, *path, leaf).to(value)
    if surface and p == inf:
        change = change.sign()
    return problem.region[leaf].stretched(change) * norms.spread(reach.to(value), value)


def random_direction(problem: Problem, seed: int, *path: int | str) -> dict[str, Tensor]:
    """Normal numbers shaped like the moving leaves, from each example's own generator."""
    normal = lambda value: (
        lambda generator: torch.randn(tuple(value.shape[1:]), generator=generator, dtype=torch.float64)
    )
    return {
        leaf: randomness.per_example(normal(value), seed, problem.index, *path, leaf).to(value)
        for leaf, value in problem.centre.items()
    }


def margin_witness(problem: Problem, tracker: Tracker, method: str) -> Witness:
    """Settle and re-measure the point of smallest margin; the clean point where that came out no better."""
    witness = problem.witness(problem.settle(tracker.point), method)
    own = problem.margin(problem.centre).double().cpu()
    wrong = torch.zeros(len(problem), dtype=torch.bool)
    asked = (~(witness.margin <= own) | (own <= 0)).nonzero()[:, 0]  # elsewhere the clean point says nothing
    if len(asked):
        part, kept = problem.take(asked), witness.take(asked)
        clean = part.witness(part.centre, method)
        witness = _spread_over(witness, asked, _either(kept.margin <= clean.margin, kept, clean))
        wrong[asked] = clean.found
    return _marked(witness, wrong, tracker)


def radius_witness(problem: Problem, tracker: Tracker, method: str, steps: int = 10) -> Witness:
    """Shorten the best violating point towards the clean point, settle it, re-measure it.

    The crossing on the segment is bracketed by the Illinois variant of regula falsi, on settled points of the problem itself, so
    that the point returned is one that was queried. It has to fail by more than rounding, in its own dtype and in float64, so that
    whoever replays it in another batch agrees; where it does not, it is moved out again, a little further each time. Costs ``steps``
    + 6 forward passes at least.
    """
    clean = problem.witness(problem.centre, method)
    found = tracker.found.cpu()
    at = (found & (clean.margin > 0)).nonzero()[:, 0]
    if not len(at):
        return _say(clean, clean, tracker)
    part = problem.take(at)
    sure = _surely(part)
    far = {k: v[at.to(v.device)].to(part.centre[k].dtype) for k, v in tracker.point.items()}
    crossing = torch.ones(len(at), dtype=torch.float64)
    if any(ball.p != 0 for ball in problem.region.values()):
        crossing = _crossing(part, far, clean.margin[at], sure, steps)
    witness = part.witness(_between(part, far, crossing), method)
    for attempt in range(12):  # by 2^-22 of the distance up to all of it
        weak = (~_solid(witness, sure)).nonzero()[:, 0]
        if not len(weak):
            break
        few = part.take(weak)
        further = _between(
            few, {k: v[weak.to(v.device)] for k, v in far.items()}, crossing[weak] * (1 + 2.0 ** (2 * attempt - 22))
        )
        tried, kept = few.witness(further, method), witness.take(weak)
        better = tried.found & (~kept.found | _solid(tried, sure[weak]))
        witness = _spread_over(witness, weak, _either(better, tried, kept))
    return _say(_spread_over(clean, at, witness), clean, tracker)


def _solid(witness: Witness, sure: Tensor) -> Tensor:
    """(N,) bool: fails by more than rounding, in its own dtype and in float64."""
    exact = witness.margin if witness.margin64 is None else witness.margin64
    return witness.found & (torch.maximum(witness.margin, exact) <= -sure)


def _surely(problem: Problem) -> Tensor:
    """(N,) how far below zero a margin must lie that another batch size, and so another order of summation, cannot lift it."""
    with torch.no_grad():
        logits = problem.logits()
    return 8 * torch.finfo(logits.dtype).eps * logits.abs().amax(1).double().cpu()


def _between(problem: Problem, far: Point, t: Tensor) -> dict[str, Tensor]:
    centre = problem.centre
    point = {k: centre[k] + norms.spread(t.to(v), v) * (v - centre[k]) for k, v in far.items()}
    return problem.settle(point, torch.full_like(problem.scale, inf))


def _crossing(problem: Problem, far: Point, clean: Tensor, sure: Tensor, steps: int) -> Tensor:
    """The t in (0, 1] at which the margin on the segment falls surely below zero, from the failing side."""
    low, high = torch.zeros_like(clean), torch.ones_like(clean)
    at_low, at_high = clean + sure, problem.margin(_between(problem, far, high)).double().cpu() + sure
    kept = at_high <= 0
    last = torch.zeros_like(low)
    for _ in range(steps):
        t = high - at_high * (high - low) / (at_high - at_low)
        t = torch.where(t.isfinite() & (t > low) & (t < high), t, (low + high) / 2)
        value = problem.margin(_between(problem, far, t)).double().cpu() + sure
        fails = value <= 0
        # Illinois: an end that stays twice has its value halved, so that the other end moves too
        at_low = torch.where(fails, torch.where(last > 0, at_low / 2, at_low), value)
        at_high = torch.where(fails, value, torch.where(last < 0, at_high / 2, at_high))
        low, high = torch.where(fails, low, t), torch.where(fails, t, high)
        last = torch.where(fails, 1.0, -1.0)
    return torch.where(kept, high, 1.0)


def _either(first: Tensor, one: Witness, other: Witness) -> Witness:
    count = len(first)
    return Witness.join([one, other]).take(torch.arange(count) + count * (~first).long())


def _spread_over(base: Witness, at: Tensor, part: Witness) -> Witness:
    order = torch.arange(len(base.margin))
    order[at] = len(base.margin) + torch.arange(len(at))
    return Witness.join([base, part]).take(order)


def _say(witness: Witness, clean: Witness, tracker: Tracker) -> Witness:
    """Misclassified examples keep the clean point; an example whose search broke down and found nothing says so."""
    wrong = clean.found
    return _marked(_either(~wrong, witness, clean) if bool(wrong.any()) else witness, wrong, tracker)


def _marked(witness: Witness, wrong: Tensor, tracker: Tracker) -> Witness:
    broken = tracker.broken.cpu() & ~witness.found
    status = tuple(
        "misclassified" if w else "nan" if b else s
        for w, b, s in zip(wrong.tolist(), broken.tolist(), witness.status, strict=True)
    )
    return replace(witness, status=status)
