"""The largest scale that a bound certifies: a power law through its certified margins, bisection over counts for p = 0."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from math import inf

import torch
from torch import Tensor

from brittle.discovery import Method
from brittle.problem import Problem
from brittle.questions._ends import Evidence, clean_witness, scatter
from brittle.results import Certificate, Witness
from brittle.spec import margin

ROUNDS = 40  # evaluations of one bound at most: reached only where it is erratic
MODELLED = 6  # evaluations after which halves take over from the power law, three times what it needs (measured)
TREES = 12  # scales that a search by signs tries: each that stays undecided costs a whole tree
OPEN = 0.97  # of the upper end: where trees stay undecided below it the bracket will not close, and five times the tolerance will do
STRIDE = 6  # steps down from the upper end grow by this factor, until halves are longer: trees that do not close are mostly given up early (folklore)
COARSE = 0.05  # a search no finer than this takes one step above what an earlier bound proved
SHARE = 0.125  # where, on the logarithm of the bracket: one cut held there on all of 50 digits on an MLP (measured)


class Search:
    """Evaluations of a bound at one scale per example, with every proof kept that holds, and the best witness that a bound came across."""

    def __init__(self, problem: Problem, clean: Tensor, upper: Tensor, evidence: Evidence, reasons: list[str]) -> None:
        self.problem, self.clean, self.upper, self.evidence, self.reasons = problem, clean, upper, evidence, reasons
        # A certified margin must clear zero by more than the rounding of whoever re-evaluates the proof.
        self.guard = 1e-10 * (1 + clean.abs())
        self.reach = _reach(problem)
        self.found: Witness | None = None

    def evaluate(self, bound: Callable, at: Tensor, scale: Tensor) -> Tensor:
        """Certified margins of the examples ``at`` at their scales, less the guard; positive ones are recorded as proofs."""
        part = self.problem.take(at).scaled(scale)
        certificate = bound(part)
        self._measure(part, at, certificate)
        value = margin(certificate.rows.to(torch.float64), self.problem.spec.rank).cpu() - self.guard[at]
        holds = (value > 0).nonzero()[:, 0]
        unproved = torch.tensor([not self.evidence.methods[i] for i in at.tolist()])
        further = holds[unproved[holds] | (scale[holds] > self.evidence.scale[at[holds]])]
        self.evidence.record(at[further], scale[further], certificate, further)
        for i, note in zip(at.tolist(), certificate.notes or ("",) * len(at), strict=True):
            self.reasons[i] = self.reasons[i] or note
        return value

    def _measure(self, part: Problem, at: Tensor, certificate: Certificate) -> None:
        """Points that seem to fail, as witnesses: measured again on representable values, inside the region at its scale."""
        if certificate.points.keys() != part.centre.keys():
            return
        same = [(v == part.centre[k]).flatten(1).all(1) for k, v in certificate.points.items()]
        some = (~torch.stack(same).all(0)).cpu().nonzero()[:, 0]
        if not len(some):
            return
        here = part.take(some)
        point = here.settle({k: v[some.to(v.device)] for k, v in certificate.points.items()})
        witness, at = here.witness(point, certificate.method), at[some]
        best = clean_witness(self.problem) if self.found is None else self.found
        better = witness.found & (witness.size < torch.minimum(best.size[at], self.upper[at]))
        if bool(better.any()):
            self.found = scatter(best, at[better], witness.take(better.nonzero()[:, 0]))
            self.upper = self.upper.index_put((at[better],), witness.size[better])

    def explain(self, reason: str) -> None:
        self.reasons[:] = [old or reason for old in self.reasons]

    def scale(self, bound: Callable, lower: Tensor, tolerance: float) -> Tensor:
        """Steps to the root of the certified margin as a function of the scale, aimed a little below it.

        A step takes the root of a power law through the last two values. It ends where that root and the one of their chord, or
        the bracket, leave less than ``tolerance`` to gain: the two part where the margin is no such law. A coarse search above what an
        earlier bound proved takes one step, to the middle of the bracket on a logarithm: between ``crown_ibp`` and the attack, in
        l-inf, ``crown`` certifies a little more than that (measured on two networks).
        """
        curve = Curve.start(self.clean, lower, torch.minimum(self.upper, self.reach))
        open_ = (self.clean > 0) & (curve.low < curve.high)
        once = (lower > 0) & self.upper.isfinite() & (tolerance >= COARSE)
        trial = torch.where(lower > 0, lower * (1 + tolerance), curve.first())
        trial = torch.where(once, (lower * self.upper).sqrt(), trial)
        for _ in range(ROUNDS):
            at = (open_ & (trial < curve.high)).nonzero()[:, 0]
            if not len(at):
                break
            curve.update(at, trial[at], self.evaluate(bound, at, trial[at]))
            beaten = (curve.low == lower) & (lower > 0)  # it failed just above what an earlier bound proved: leave it
            root, furthest = curve.roots()
            near = (furthest - curve.low <= tolerance * curve.low) & (curve.low > 0)
            closed = curve.high.isfinite() & (curve.high - curve.low <= tolerance * curve.high + 1e-12)
            open_ = open_ & ~once & ~beaten & ~near & ~closed
            trial = torch.maximum(root * (1 - tolerance / 4), curve.low * (1 + tolerance / 2))
        almost = (curve.low >= self.reach * (1 - 2 * tolerance)) & (self.clean > 0)
        return self._beyond(bound, curve.low, almost)

    def decide(self, bound: Callable, lower: Tensor, tolerance: float) -> Tensor:
        """Halves of what is open, for bounds that tell a margin's sign and not its size; those that close the bracket come down from
        its upper end in growing steps first.
        """
        low, high = lower.clone(), torch.minimum(self.upper, self.reach)
        first, once = 0.9 * tolerance if closes(bound) else 0.5, tolerance >= COARSE and not closes(bound)
        if once:
            trial = torch.where((low > 0) & self.upper.isfinite(), low * (high / low) ** SHARE, 0.0)
            at = ((self.clean > 0) & (trial > low) & (high - low > tolerance * high)).nonzero()[:, 0]
            good = self.evaluate(bound, at, trial[at]) > 0 if len(at) else at > 0
            low[at[good]] = trial[at[good]]
            high[at] = low[at]
        step = first
        trial = torch.where(high.isfinite(), torch.maximum((low + high) / 2, high * (1 - step)), (2 * low).clamp_min(1))
        for _ in range(TREES):
            coarse = closes(bound) & (high < OPEN * self.upper) & self.upper.isfinite()
            enough = torch.where(coarse, 5 * tolerance, tolerance) * high
            at = ((self.clean > 0) & (trial > low) & (high - low > enough)).nonzero()[:, 0]
            if not len(at):
                break
            good = self.evaluate(bound, at, trial[at]) > 0
            low[at[good]], high[at[~good]] = trial[at[good]], trial[at[~good]]
            high = torch.minimum(high, self.upper)
            step = STRIDE * step
            near = torch.maximum((low + high) / 2, high * (1 - step))
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


def refines(bound: Callable) -> bool:
    """Whether the rows of a bound are refined until they are positive, and no further: by ``leaves`` of a tree or by ``rounds`` of cuts."""
    return bool({"leaves", "rounds"} & _options(bound))


def closes(bound: Callable) -> bool:
    """Whether a bound grows a tree of so many ``leaves``."""
    return "leaves" in _options(bound)


def _options(bound: Callable) -> set[str]:
    return set(signature(bound.function if isinstance(bound, Method) else bound).parameters)


@dataclass
class Curve:
    """The certified margin of every example as a function of the scale, as far as it has been evaluated.

    high, low   the least scale that fails, or the upper end; the largest that holds
    last, before, with values   the last two evaluations; the clean margin at scale 0 stands for a missing one
    """

    clean: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor
    last: Tensor
    last_value: Tensor
    before: Tensor
    before_value: Tensor
    tried: Tensor

    @staticmethod
    def start(clean: Tensor, low: Tensor, upper: Tensor) -> "Curve":
        zero = torch.zeros_like(low)
        return Curve(
            clean, upper, low.clone(), upper.clone(), zero, clean.clone(), zero.clone(), clean.clone(), zero.clone()
        )

    def first(self) -> Tensor:
        """Certified radii of small trained networks lie at 0.43 to 1 of the attacked ones (measured); 1 where there is none."""
        return torch.where(self.upper.isfinite(), 0.65 * self.upper, 1.0)

    def update(self, at: Tensor, scale: Tensor, value: Tensor) -> None:
        self.before[at], self.before_value[at] = self.last[at], self.last_value[at]
        self.last[at], self.last_value[at] = scale, value
        self.tried[at] += 1
        holds = value > 0
        self.low[at[holds]], self.high[at[~holds]] = scale[holds], scale[~holds]

    def roots(self) -> tuple[Tensor, Tensor]:
        """(where the margin is expected to meet zero, the furthest place where it may): inside the bracket, at most ten times what holds."""
        power, chord = self._power(), self._chord()
        far = torch.where(self.high.isfinite(), (self.low + self.high) / 2, 10 * self.low)
        inside = lambda root: root.isfinite() & (root > self.low) & (root < self.high)
        likely = torch.where(inside(power), power, torch.where(inside(chord), chord, far))
        likely = torch.where(self.low > 0, likely, torch.maximum(likely, self.high / 10))
        root = torch.where(self.tried <= MODELLED, likely, far)
        limit = torch.where(self.low > 0, 10 * self.low, inf)
        furthest = torch.where(power.isfinite() & chord.isfinite(), torch.maximum(power, chord), inf)
        return torch.minimum(torch.minimum(root, limit), self.high), torch.minimum(furthest, self.high)

    def _power(self) -> Tensor:
        """The root of ``clean (1 - (s / root)^k)`` through the last two values, or through the last one with the k of its like.

        Measured for crown on trained networks: k = 1.0 to 1.1 where the root lies near the attacked radius, 1.4 at 0.63 of it,
        1.5 to 1.6 at half of it, in l2 as in l-inf; 2 less that share.
        """
        lost, earlier = (1 - value / self.clean for value in (self.last_value, self.before_value))
        power = (lost / earlier).log() / (self.last / self.before).log()
        steep = torch.where(
            (power > 0) & (power < 20), power, torch.nan
        )  # what does not fall, or jumps, follows no law
        usual, root = torch.full_like(lost, 1.3), self.last
        for _ in range(4):
            root = self.last * lost ** (-1 / torch.where(self.tried > 1, steep, usual))
            share = (root / self.upper).nan_to_num(nan=0.7).clamp(0.3, 1)
            usual = torch.where(self.upper.isfinite(), 2 - share, usual)
        return root

    def _chord(self) -> Tensor:
        root = self.last + (self.last - self.before) * self.last_value / (self.before_value - self.last_value)
        return torch.where(self.before_value.isfinite(), root, torch.nan)


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
