"""Draws from the half-spaces that hold all failures, or most of them: exact finite-sample ends at any probability."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from brittle import backward, meter, norms
from brittle.about import About
from brittle.errors import InputError, NotCertified
from brittle.graph import graph_of
from brittle.laws import Gaussian, Law, UniformSphere
from brittle.noise import _design, _tilts, _walls
from brittle.noise._half_spaces import HalfSpaces, half_spaces
from brittle.noise._likely import likely
from brittle.noise._moving import check_level, moving, shape
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Bracket, Cost, Ends
from brittle.spec import margin
from brittle.stats import binomial_lower, binomial_upper

ABOUT = About(
    promise="the failure probability lies between these ends with the stated confidence, however rare failures are",
    reference="Karp, Luby and Madras, J. Algorithms 10 (1989), on the half-spaces of probabilistic CROWN and of design points",
    answers="probability",
    leaves=("input",),
    guarantee="statistical",
    cost="2,000 forward passes, a search for design points, 2 backward passes per unstable unit and budget",
    effort="standard",
)
BUDGETS = (1e-3, 1e-5, 1e-7, 1e-9, 1e-12, 1e-15)  # of the likely event; any choice is sound (folklore)
HOPED = 50.0  # a draw from the half-spaces of the bound fails about so rarely: decides how much may be spent on the event (folklore)
NEARER = 0.1  # standard deviations that design half-spaces are moved inwards, since the boundary is no plane (folklore)
EXACT = 1 + 1e-8  # tails are widened by 1e-9 of themselves and 1e-12 of their logarithm
ROWS = 512


@dataclass(frozen=True, eq=False)
class _Union:
    """Half-spaces ``<w, noise> >= t`` of one example: directions (J, D) in whitened coordinates, thresholds (J,), log probabilities (J,)."""

    rows: Tensor
    threshold: Tensor
    log_tail: Tensor

    @property
    def total(self) -> float:
        return float(self.log_tail.exp().sum())


def envelope(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    draws: int = 2000,
    error: float | None = None,
    budgets: tuple[float, ...] = BUDGETS,
    max_units: int = 2_000,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, both ends exact binomial limits.

    Let H_1 ... H_m be half-spaces with known probabilities T_j, B their sum. Draw j with probability T_j / B, then noise given H_j; let M be the number of
    half-spaces that hold it. Failing and a coin of probability 1 / M together have exactly the probability ``P(fails and in some H_j) / B``, whatever the
    overlaps. So with the limits [a_lo, a_hi] of a binomial proportion

        a_lo B <= p,      p <= a_hi B + eta    where all failures but a probability eta lie in some H_j.

    Half the draws use the half-spaces of ``probabilistic_crown``, for both ends; the other half those through the design points of
    importance sampling, for the lower end, which needs no cover: it is within a small factor of p where these are found.

    Guarantee: "statistical": finite-sample limits for each example on its own, at any p. Failures are judged in float64. With a nearly singular
    covariance the probabilities of the half-spaces can be 1e-5 too large, relative: far below the limits' own width, but not bounded.

    problem   its region is not looked at, and may be absent
    laws      one unclipped law on one input leaf: Gaussian, or UniformSphere with p = 2
    draws     per example; they depend on the seed and the identity of the example alone
    error     probability that one of the two ends is wrong, default 1 - level
    budgets   values of eta to try; the one that promises the smallest upper end is drawn from
    max_units refuse networks with more nonlinear units than this
    Status: "not certified: ..." where nothing could be said of either end.

    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> answer = envelope(Problem(linear, torch.full((1, 1), 6.0), torch.tensor([1])), {"x": Gaussian(1.0)})
    >>> bool(answer.lower < 9.8658e-10 < answer.upper), bool(answer.upper / answer.lower < 1.1)  # Phi(-6)
    (True, True)
    """
    check_level(level)
    error = 1 - level if error is None else error
    if not (isinstance(draws, int) and draws >= 2):
        raise InputError("draws", "a whole number >= 2", draws, "write for example draws=2000")
    if not (budgets and all(0 < b < 1 for b in budgets) and 0 < error < 1):
        raise InputError("budgets and error", "numbers between 0 and 1", (budgets, error), "leave them out")
    question, count = moving(problem, laws), len(problem)
    ends = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(count, 1)
    accepted = torch.full((count, 2), torch.nan, dtype=torch.float64)
    note = _walls.VACUOUS
    with meter.measure() as passes, torch.no_grad():
        try:
            given = _known(question, laws)
            law = half_spaces(question, laws)
            backward.check(graph_of(question), [], max_units, "raise max_units, or rely on covering")
            unions, costs = _covering(question, law, given, budgets)
            designs = _designed(question, law, laws)
            for i in range(count):
                ends[i], accepted[i] = _drawn(
                    question, given, law.leaf, i, unions[i], costs[i], designs[i], seed, draws, error
                )
        except NotCertified as reason:
            note = str(reason)
        wrong = (problem.double().margin() <= 0).tolist()
    low, high = ends[:, 0], ends[:, 1]
    kinds = lambda said, word, blank: tuple(word if s else blank for s in said.tolist())
    told = ((low > 0) | (high < 1)).tolist()
    return Bracket(
        "probability",
        low,
        high,
        Ends(kinds(low > 0, "statistical", "none"), kinds(high < 1, "statistical", "none")),
        tuple("ok" if s else "misclassified" if w else note for s, w in zip(told, wrong, strict=True)),
        Ends(kinds(low > 0, "envelope", ""), kinds(high < 1, "envelope", "")),
        Ends(1 - 2 * error / 3, 1 - error / 3),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        diagnostics={"acceptance": accepted},
    )


def _known(question: Problem, laws: Mapping[str, Law]) -> Gaussian | UniformSphere:
    law = next(iter(laws.values()))
    if isinstance(law, Gaussian) or isinstance(law, UniformSphere) and law.p == 2:
        return law
    raise NotCertified(f"half-spaces of the law {type(law).__name__} cannot be drawn from here")


def _covering(
    question: Problem, law: HalfSpaces, given: Gaussian | UniformSphere, budgets: tuple[float, ...]
) -> tuple[list[_Union | None], list[float]]:
    """Per example the half-spaces of the likely event that promises the smallest upper end, and what lies outside the event."""
    count, each = len(question), len(budgets)
    at = torch.arange(count).repeat_interleave(each)
    tried = torch.tensor([log(b) for b in budgets], dtype=torch.float64).repeat(count)
    copies, seen = question.take(at), law.take(at)
    found = likely(copies, seen, tried, torch.zeros(len(at), dtype=torch.bool))
    base, slope = _walls.specified(found.problem, found.state, seen, found.relaxed)
    slope = -slope.expand(-1, len(at), -1)
    tail = seen.along(base, slope)
    needed = len(base) - question.spec.rank + 1  # any so many rows hold a failing one
    order = tail.argsort(0)[:needed]
    total = tail.gather(0, order).exp().sum(0)
    promise = (found.cost + total / HOPED).reshape(count, each).argmin(1)
    unions, costs = [], []
    for i, best in enumerate(promise.tolist()):
        k = i * each + best
        which = order[:, k]
        unions.append(_union(given, slope[which, k], base[which, k], tail[which, k]))
        costs.append(float(found.cost[k]))
    return unions, costs


def _designed(question: Problem, law: HalfSpaces, laws: Mapping[str, Law]) -> list[_Union | None]:
    """Per example the half-spaces through its design points, moved inwards by a little."""
    given = laws[law.leaf]
    assert isinstance(given, (Gaussian, UniformSphere))
    found = _design.search(question, laws)
    unions: list[_Union | None] = []
    for i in range(len(question)):
        theta = found.tilt[law.leaf][found.example == i]
        if not len(theta):
            unions.append(None)
            continue
        far = (theta * _tilts.mean(given, theta)).sum(1)
        whitened = _whitened(given, theta)
        one = torch.linalg.vector_norm(whitened, dim=1) / (
            1 if isinstance(given, Gaussian) else whitened.shape[1] ** 0.5
        )
        threshold = far - NEARER * one
        tail = law.take(torch.tensor([i])).along(threshold[:, None], theta[:, None].to(question.device))[:, 0]
        unions.append(_union(given, theta, threshold, tail))
    return unions


def _union(given: Gaussian | UniformSphere, rows: Tensor, threshold: Tensor, tail: Tensor) -> _Union | None:
    """None where a half-space holds the clean point: it is no rare event."""
    rows, threshold, tail = rows.cpu(), threshold.cpu(), tail.cpu()
    live = tail > -650.0  # rarer ones are left to the cost: together below 1e-276 for up to a million rows
    if bool((threshold <= 0).any()) or not bool(live.any()):
        return None
    return _Union(_whitened(given, rows[live]), threshold[live], tail[live])


def _whitened(given: Gaussian | UniformSphere, rows: Tensor) -> Tensor:
    return given.gathered(rows) if isinstance(given, Gaussian) else given.radius * rows


def _drawn(
    question: Problem,
    given: Gaussian | UniformSphere,
    leaf: str,
    i: int,
    cover: _Union | None,
    cost: float,
    design: _Union | None,
    seed: int,
    draws: int,
    error: float,
) -> tuple[Tensor, Tensor]:
    """The ends (2,) of example i, and the shares of accepted draws (2,)."""
    low, high, shares = 0.0, 1.0, [torch.nan, torch.nan]
    for k, union in enumerate((cover, design)):
        if union is None:
            continue
        hits = torch.tensor([_accepted(question, given, leaf, i, union, seed, draws // 2, k)])
        shares[k] = float(hits) / (draws // 2)
        low = max(low, float(binomial_lower(hits, draws // 2, error / 3)) * union.total / EXACT)
        if k == 0:
            high = min(
                1.0, float(binomial_upper(hits, draws // 2, error / 3)) * union.total * EXACT + cost * EXACT + 1e-276
            )
    return torch.tensor([low, high], dtype=torch.float64), torch.tensor(shares, dtype=torch.float64)


def _accepted(
    question: Problem,
    given: Gaussian | UniformSphere,
    leaf: str,
    i: int,
    union: _Union,
    seed: int,
    draws: int,
    part: int,
) -> int:
    """How many of the draws from the union fail and win the coin against overlaps."""
    source = generator(seed, "envelope", part, leaf, int(question.index[i]))
    which = torch.multinomial(union.log_tail.exp() / union.total, draws, replacement=True, generator=source)
    numbers = torch.randn(draws, union.rows.shape[1], generator=source, dtype=torch.float64)
    uniform = torch.rand(draws, 2, generator=source, dtype=torch.float64)
    unit = union.rows / torch.linalg.vector_norm(union.rows, dim=1, keepdim=True)
    noise = _given_half_space(given, unit[which], union.log_tail[which], numbers, uniform[:, 0])
    inside = (noise @ union.rows.T >= union.threshold).sum(1).clamp_min(1)
    changes = given.spread(noise) if isinstance(given, Gaussian) else given.radius * noise
    wide, centre = question.double(), question.double().centre[leaf][i]
    failed = []
    for block in changes.reshape(draws, *shape(question.centre[leaf])).split(ROWS):
        repeated = wide.take(torch.full((len(block),), i))
        rows = repeated.rows({leaf: centre + block.to(centre.device)})
        holds = (margin(rows, question.spec.rank) > 0) & rows.isfinite().all(1)  # as of plain draws: NaN is a failure
        failed.append(~holds.cpu())
    return int((torch.cat(failed) & (uniform[:, 1] * inside <= 1)).sum())


def _given_half_space(
    given: Gaussian | UniformSphere, unit: Tensor, log_tail: Tensor, numbers: Tensor, uniform: Tensor
) -> Tensor:
    """Draws of the whitened law given the half-spaces along ``unit`` (K, D) with these probabilities, by inversion of the tail along it."""
    from scipy.special import betaincinv, ndtri_exp

    log_share = torch.log(uniform.clamp_min(1e-300)) + log_tail
    across = numbers - (numbers * unit).sum(1, keepdim=True) * unit
    if isinstance(given, Gaussian):
        height = -torch.as_tensor(ndtri_exp(log_share.numpy()), dtype=torch.float64)
        return height[:, None] * unit + across
    if unit.shape[1] == 1:  # the sphere is two points, one of them beyond any plane
        return unit
    half = (unit.shape[1] - 1) / 2
    rest = torch.as_tensor(betaincinv(half, 0.5, (2 * log_share.exp()).clamp_max(1).numpy()), dtype=torch.float64)
    across = across / norms.norm(across, 2)[:, None]
    return (1 - rest).clamp_min(0).sqrt()[:, None] * unit + rest.sqrt()[:, None] * across
