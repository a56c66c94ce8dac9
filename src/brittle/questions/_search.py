"""The largest scale that a bound certifies: secant steps on its certified margin, bisection over counts for p = 0."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from math import inf

import torch
from torch import Tensor

from brittle.discovery import Method
from brittle.problem import Problem
from brittle.questions._ends import Evidence
from brittle.spec import margin

ROUNDS = 40  # evaluations of one bound at most: reached only where it is erratic
TREES = 12  # scales that a search by signs tries: each that stays undecided costs a whole tree


class Search:
    """Evaluations of a bound at one scale per example, with every proof kept that holds."""

    def __init__(self, problem: Problem, clean: Tensor, upper: Tensor, evidence: Evidence, reasons: list[str]) -> None:
        self.problem, self.clean, self.upper, self.evidence, self.reasons = problem, clean, upper, evidence, reasons
        # A certified margin must clear zero by more than the rounding of whoever re-evaluates the proof.
        self.guard = 1e-10 * (1 + clean.abs())
        self.reach = _reach(problem)

    def evaluate(self, bound: Callable, at: Tensor, scale: Tensor) -> Tensor:
        """Certified margins of the examples ``at`` at their scales, less the guard; positive ones are recorded as proofs."""
        certificate = bound(self.problem.take(at).scaled(scale))
        value = margin(certificate.rows.to(torch.float64), self.problem.spec.rank).cpu() - self.guard[at]
        holds = (value > 0).nonzero()[:, 0]
        unproved = torch.tensor([not self.evidence.methods[i] for i in at.tolist()])
        further = holds[unproved[holds] | (scale[holds] > self.evidence.scale[at[holds]])]
        self.evidence.record(at[further], scale[further], certificate, further)
        for i, note in zip(at.tolist(), certificate.notes or ("",) * len(at), strict=True):
            self.reasons[i] = self.reasons[i] or note
        return value

    def explain(self, reason: str) -> None:
        self.reasons[:] = [old or reason for old in self.reasons]

    def scale(self, bound: Callable, lower: Tensor, tolerance: float) -> Tensor:
        """Secant steps on the certified margin as a function of the scale, aimed a little below its root.

        A step extrapolates from the last two scales that hold, or interpolates once one is known to fail. It ends where the
        predicted root, or the bracket, leaves less than ``tolerance`` to gain.
        """
        secant = Secant.start(lower, torch.where(lower > 0, inf, self.clean), torch.minimum(self.upper, self.reach))
        open_ = (self.clean > 0) & (secant.low < secant.high)
        trial = torch.where(lower > 0, lower * (1 + tolerance), secant.first())
        for _ in range(ROUNDS):
            at = (open_ & (trial < secant.high)).nonzero()[:, 0]
            if not len(at):
                break
            secant.update(at, trial[at], self.evaluate(bound, at, trial[at]))
            beaten = (secant.low == lower) & (lower > 0)  # it failed just above what an earlier bound proved: leave it
            root = secant.root()
            near = (root - secant.low <= tolerance * secant.low) & (secant.low > 0)
            closed = secant.high.isfinite() & (secant.high - secant.low <= tolerance * secant.high + 1e-12)
            open_ = open_ & ~beaten & ~near & ~closed
            trial = secant.step(root * (1 - tolerance / 4))
        almost = (secant.low >= self.reach * (1 - 2 * tolerance)) & (self.clean > 0)
        return self._beyond(bound, secant.low, almost)

    def decide(self, bound: Callable, lower: Tensor, tolerance: float) -> Tensor:
        """Down from the upper end in doubling steps, then halves of what is open: for bounds that tell a margin's sign, not its size."""
        low, high = lower.clone(), torch.minimum(self.upper, self.reach)
        trial = torch.where(high.isfinite(), high * (1 - 0.9 * tolerance), (2 * low).clamp_min(1))
        for tried in range(1, TREES + 1):
            at = ((self.clean > 0) & (trial > low) & (high - low > tolerance * high)).nonzero()[:, 0]
            if not len(at):
                break
            good = self.evaluate(bound, at, trial[at]) > 0
            low[at[good]], high[at[~good]] = trial[at[good]], trial[at[~good]]
            near = torch.maximum((low + high) / 2, high * (1 - 0.9 * tolerance * 2**tried))
            trial = torch.where(high.isfinite(), near, (2 * low).clamp_min(1))
        return self._beyond(bound, low, (low >= self.reach * (1 - 2 * tolerance)) & (self.clean > 0))

    def _beyond(self, bound: Callable, low: Tensor, almost: Tensor) -> Tensor:
        """Certified on everything the range allows: no change at all breaks the property, the radius is infinite."""
        at = (almost & (self.upper == inf) & self.reach.isfinite()).nonzero()[:, 0]
        if len(at):
            low[at[self.evaluate(bound, at, self.reach[at]) > 0]] = inf
        return low

    def count(self, bound: Callable, lower: Tensor) -> Tensor:
        """p = 0: bisection over whole numbers of harmless changes k, 0 included; the radius is then k + 1."""
        unit = next(iter(self.problem.region.values())).radius
        features = float(_features(self.problem))
        safe = (lower * unit - 1).round()
        broken = torch.where(self.upper.isfinite(), (self.upper * unit).round(), features + 1)
        open_ = (self.clean > 0) & (broken - safe > 1)
        while bool(open_.any()):
            at = open_.nonzero()[:, 0]
            # steps double from what is known: certified counts are small, so bisection from the top would waste passes
            middle = torch.minimum(2 * safe.clamp_min(0) + 1, ((safe + broken) / 2).floor())
            good = self.evaluate(bound, at, middle[at] / unit) > 0
            safe[at[good]], broken[at[~good]] = middle[at[good]], middle[at[~good]]
            open_ = open_ & (broken - safe > 1)
        return torch.where(self.clean > 0, torch.where(safe >= features, inf, (safe + 1) / unit), lower)


def splits(bound: Callable) -> bool:
    """Whether a bound grows a tree of so many ``leaves``: its rows are refined until they are positive, and no further."""
    return "leaves" in signature(bound.function if isinstance(bound, Method) else bound).parameters


@dataclass
class Secant:
    """Per example: the last two scales that hold, the least one that fails, and the values there (inf: not evaluated)."""

    before: Tensor
    before_value: Tensor
    low: Tensor
    low_value: Tensor
    high: Tensor
    high_value: Tensor

    @staticmethod
    def start(low: Tensor, value: Tensor, high: Tensor) -> "Secant":
        unknown = torch.full_like(low, inf)
        return Secant(low.clone(), unknown.clone(), low.clone(), value.clone(), high.clone(), unknown.clone())

    def first(self) -> Tensor:
        """Certified radii of small trained networks lie at 0.5 to 0.9 of the attacked ones (measured); 1 where there is none."""
        return torch.where(self.high.isfinite(), 0.7 * self.high, 1.0)

    def update(self, at: Tensor, scale: Tensor, value: Tensor) -> None:
        good, up, down = value > 0, at[value > 0], at[value <= 0]
        self.before[up], self.before_value[up] = self.low[up], self.low_value[up]
        self.low[up], self.low_value[up] = scale[good], value[good]
        # Illinois: an end that stays put twice loses half its value, so that the chord moves to it
        self.high_value[up] *= 0.5
        stuck = at[(value <= 0) & self.high_value[at].isfinite()]
        self.low_value[stuck] *= 0.5
        self.high[down], self.high_value[down] = scale[~good], value[~good]

    def root(self) -> Tensor:
        """Where the chord through the two known scales meets zero; never beyond ten times what holds or the known upper end."""
        inside = self.low + (self.high - self.low) * self.low_value / (self.low_value - self.high_value)
        beyond = self.low + (self.low - self.before) * self.low_value / (self.before_value - self.low_value)
        root = torch.where((self.high_value <= 0) & inside.isfinite(), inside, beyond)
        far = torch.where(self.low > 0, 10 * self.low, self.first())
        root = torch.where(root.isfinite() & (root > self.low), torch.minimum(root, far), far)
        return torch.minimum(root, self.high)

    def step(self, wanted: Tensor) -> Tensor:
        """The wanted scale, kept off the ends of the bracket by a twentieth of it."""
        room = torch.where(self.high.isfinite(), self.high - self.low, 10 * self.low)
        return torch.minimum(torch.maximum(wanted, self.low + 0.05 * room), self.low + 0.95 * room)


def _reach(problem: Problem) -> Tensor:
    """The scale at which the region holds every point that the ranges allow; inf without ranges."""
    reach = torch.zeros(len(problem), dtype=torch.float64)
    for leaf, centre in problem.centre.items():
        ball = problem.region[leaf]
        low, high = ball.exact_range(centre)
        wide = centre.detach().to(torch.float64)
        furthest = torch.maximum(high - wide, wide - low).expand_as(wide)
        distance = ball.size(furthest).cpu() if bool(furthest.isfinite().all()) else torch.full_like(reach, inf)
        reach = torch.maximum(reach, distance / ball.radius if ball.radius > 0 else torch.zeros_like(reach))
    return reach * (1 + 1e-9)


def _features(problem: Problem) -> int:
    (leaf,) = problem.leaves
    shape = problem.centre[leaf].shape
    return shape[2:].numel() if problem.region[leaf].groups else shape[1:].numel()
