"""Backward linear bounds whose intermediate intervals hold with high probability instead of always: proved ends."""

from collections.abc import Mapping
from math import inf, log

import torch
from torch import Tensor

from brittle import backward
from brittle.about import About
from brittle.errors import InputError
from brittle.intervals import State
from brittle.laws import Gaussian, Law
from brittle.noise import _first_layer, _walls
from brittle.noise._half_spaces import HalfSpaces
from brittle.noise._likely import Likely, likely
from brittle.problem import Problem
from brittle.results import Bracket

ABOUT = About(
    promise="the failure probability is at most this number, proved in float64 with outward rounding",
    reference="union bound over half-spaces along CROWN's backward planes; nearest: Weng et al., ICML 2019, arXiv 1812.08329",
    answers="probability",
    leaves=("input",),
    ends="upper",
    cost="2 backward passes per unstable unit and setting, about 16 settings",
    effort="standard",
)
DECADES = (*range(1, 15), 17, 20, 30)
BUDGETS = tuple(10.0**-k for k in DECADES)  # a decade apart where it matters; any choice is sound (folklore)
SLOPES = ("adaptive", "chord")
WALK = (2, 2, 1, 1)  # decades that the budget of the sharper last step moves at a time, down first


def probabilistic_crown(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    budgets: tuple[float, ...] = BUDGETS,
    slopes: tuple[str, ...] = SLOPES,
    max_units: int = 2_000,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, both ends proved; the lower end is mostly 0.

    Layer by layer, planes ``lo(delta) <= z <= up(delta)`` of every nonlinear unit's input z follow from the intervals of the units
    before. T is the probability of a half-space under the law. A unit is then declared to stay on its linear piece at the cost
    ``P(lo < left end) + P(up > right end)``, if that is at most its budget eta; else it gets the interval
    ``[lo(0) - q |w_lo|, up(0) + q |w_up|]`` with ``T(q) = eta / 2``, at the cost eta. Planes of the specification's rows follow, and

        p <= sum of all costs + sum over rows T(row at 0 / length of its slope).

    On the event that every charged half-space is avoided each interval is true, hence each plane; the rest is the union
    bound. A worst-case interval is r |w| wide, this one q |w| with q of 4 to 8 standard deviations: smaller by a factor that grows
    like the square root of the dimension. Half-space networks: ``P(failure)`` itself, but for the sum over rows.

    Gaussian noise: rows are also pulled back to the outputs of the first layer only, whose mean concentrates (``_first_layer``); the smaller bound of each row
    counts. That certifies 1.1 to 1.2 times the noise. The lower end, where the law is round (Gaussian, p = 2) and nearly everything fails,

        p >= P(upper plane of a row < 0) - sum of all costs.

    Guarantee: proved, not statistical, for the real-arithmetic function of the stored weights and the law in real arithmetic; the upper end also holds
    for the law scaled by any factor below 1. Tails are bounds of section "half-spaces" of :mod:`brittle.tails`; everything is rounded outwards.

    problem   its region is not looked at, and may be absent
    laws      one unclipped law on one input leaf
    budgets   total budgets to try, split evenly over units; every third, then the neighbours of each example's best
    slopes    rules for the plane below a piecewise-linear unit, as in ``crown``
    max_units refuse networks with more nonlinear units than this: every setting costs two backward passes for each of them
    seed, level   not used: nothing is random
    Status: "not certified: ..." where nothing below 1 could be proved, "misclassified" where the clean point fails.

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> answer = probabilistic_crown(Problem(linear, torch.full((1, 1), 3.0), torch.tensor([1])), {"x": Gaussian(1.0)}, budgets=(1e-9,))
    >>> round(float(answer.upper), 6)  # Phi(-3)
    0.00135
    """
    if not budgets or not all(0 < b < 1 for b in budgets):
        raise InputError("budgets", "probabilities between 0 and 1", budgets, "leave budgets out")
    if not slopes or not set(slopes) <= set(SLOPES):
        raise InputError("slopes", f"some of {', '.join(SLOPES)}", slopes, "leave slopes out")

    ordered = torch.tensor(sorted(map(log, budgets)), dtype=torch.float64)
    chords = torch.tensor([s == "chord" for s in slopes])
    given = next(iter(laws.values()), None)

    def bound(question: Problem, law: HalfSpaces) -> tuple[Tensor, Tensor]:
        lower, upper, best = _searched(question, law, ordered, chords)
        if isinstance(given, Gaussian):
            upper = torch.minimum(upper, _sharpened(question, law, given, ordered, chords, best))
        return lower, upper

    copies = len(slopes) * (len(budgets) + 1)
    return _walls.proved("probabilistic_crown", problem, laws, level, max_units, copies, bound)


def _searched(question: Problem, law: HalfSpaces, budgets: Tensor, chords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) the largest lower and the smallest upper bound, and which budget gave it: every third budget with both rules first, then
    both neighbours of each example's best."""
    coarse = torch.arange(len(budgets))[1::3] if len(budgets) > 3 else torch.arange(len(budgets))
    at, rule = coarse.repeat_interleave(len(chords)), chords.repeat(len(coarse))
    tried, rule = budgets[at].expand(len(question), -1), rule.expand(len(question), -1)
    if law.bounded:  # intervals over the whole support, which cost nothing
        tried = torch.cat([tried, torch.full((len(question), len(chords)), -inf, dtype=tried.dtype)], 1)
        rule = torch.cat([rule, chords.expand(len(question), -1)], 1)
    lower, values = bounds_of(question, law, tried, rule)
    best = values[:, : len(at)].argmin(1)
    beside = (at[best][:, None] + torch.tensor([-1, 1])).clamp(0, len(budgets) - 1)
    below, refined = bounds_of(question, law, budgets[beside], rule.gather(1, best[:, None]).expand(-1, 2))
    tried = torch.cat([values, refined], 1)
    return torch.cat([lower, below], 1).amax(1), tried.amin(1), at[best]


def bounds_of(question: Problem, law: HalfSpaces, budgets: Tensor, chords: Tensor) -> tuple[Tensor, Tensor]:
    """(N, S) lower and upper bounds for each of an example's S budgets (logarithms of totals) and rules of slopes, as one batch."""
    count, each = budgets.shape
    at = torch.arange(count).repeat_interleave(each)
    copies, law = question.take(at), law.take(at)
    found = likely(copies, law, budgets.reshape(-1), chords.reshape(-1))
    upper = found.cost + _walls.any_of(_walls.failing(*_parts(found, law)), copies.spec.rank)
    lower = _walls.surely_failing(*_parts(found, law)) - found.cost * (1 + 2.0**-40)
    return lower.reshape(count, each).cpu(), upper.reshape(count, each).cpu() * (1 + 2.0**-50)


def _sharpened(
    question: Problem, law: HalfSpaces, given: Gaussian, budgets: Tensor, chords: Tensor, best: Tensor
) -> Tensor:
    """(N,) the smallest bound with the mean of the first layer, over a few budgets: down while the cost is the larger part of it."""
    rule = chords.new_zeros(len(question)) if not bool(chords.all()) else chords.new_ones(len(question))
    at, smallest = (best - WALK[0]).clamp_min(0), torch.ones(len(question), dtype=torch.float64)
    for step in (*WALK[1:], 0):
        found = likely(question, law, budgets[at], rule)
        rows = _first_layer.sharpened(found, law, given, _walls.failing(*_parts(found, law)))
        left = _walls.any_of(rows, question.spec.rank)
        smallest = torch.minimum(smallest, ((found.cost + left) * (1 + 2.0**-50)).cpu())
        at = (at + torch.where(found.cost > left, -step, step).cpu()).clamp(0, len(budgets) - 1)
    return smallest


def _parts(found: Likely, law: HalfSpaces) -> tuple[Problem, State, HalfSpaces, backward.Relaxed]:
    return found.problem, found.state, law, found.relaxed
