"""Backward linear bounds whose intermediate intervals hold with high probability instead of always: a proved upper end."""

from collections.abc import Mapping
from math import inf, log

import torch
from torch import Tensor

from brittle import backward, intervals
from brittle.about import About
from brittle.errors import InputError
from brittle.graph import Node, graph_of
from brittle.intervals import State
from brittle.laws import Law
from brittle.noise import _walls
from brittle.noise._half_spaces import HalfSpaces
from brittle.planes import Planes, planes
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
SPARE = log(1e-6)  # share of a budget for what only rounding needs: the box, and far ends of units that are stable


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
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, whose upper end is proved; the lower end is 0.

    Layer by layer, planes ``lo(delta) <= z <= up(delta)`` of every nonlinear unit's input z follow from the intervals of the units
    before. T is the probability of a half-space under the law. A unit is then declared to stay on its linear piece at the cost
    ``P(lo < left end) + P(up > right end)``, if that is at most its budget eta; else it gets the interval
    ``[lo(0) - q |w_lo|, up(0) + q |w_up|]`` with ``T(q) = eta / 2``, at the cost eta. Planes of the specification's rows follow, and

        p <= sum of all costs + sum over rows T(row at 0 / length of its slope).

    On the event that every charged half-space is avoided each interval is true, hence each plane; the rest is the union
    bound. A worst-case interval is r |w| wide, this one q |w| with q of 4 to 8 standard deviations: smaller by a factor that grows
    like the square root of the dimension. Half-space networks: ``P(failure)`` itself, but for the sum over rows.

    Guarantee: proved, not statistical, for the real-arithmetic function of the stored weights and the law in real arithmetic. Tails
    are bounds of section "half-spaces" of :mod:`brittle.tails`; everything is rounded outwards.

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

    def bound(question: Problem, law: HalfSpaces) -> Tensor:
        return _searched(question, law, ordered, chords)

    return _walls.proved(
        "probabilistic_crown", problem, laws, level, max_units, len(slopes) * (len(budgets) + 1), bound
    )


def _searched(question: Problem, law: HalfSpaces, budgets: Tensor, chords: Tensor) -> Tensor:
    """(N,) the smallest bound: every third budget with both rules first, then both neighbours of each example's best."""
    coarse = torch.arange(len(budgets))[1::3] if len(budgets) > 3 else torch.arange(len(budgets))
    at, rule = coarse.repeat_interleave(len(chords)), chords.repeat(len(coarse))
    tried, rule = budgets[at].expand(len(question), -1), rule.expand(len(question), -1)
    if law.bounded:  # intervals over the whole support, which cost nothing
        tried = torch.cat([tried, torch.full((len(question), len(chords)), -inf, dtype=tried.dtype)], 1)
        rule = torch.cat([rule, chords.expand(len(question), -1)], 1)
    values = bounds_of(question, law, tried, rule)
    best = values[:, : len(at)].argmin(1)
    beside = (at[best][:, None] + torch.tensor([-1, 1])).clamp(0, len(budgets) - 1)
    refined = bounds_of(question, law, budgets[beside], rule.gather(1, best[:, None]).expand(-1, 2))
    return torch.cat([values, refined], 1).amin(1)


def bounds_of(question: Problem, law: HalfSpaces, budgets: Tensor, chords: Tensor) -> Tensor:
    """(N, S) the bound of every example for each of its S budgets (logarithms of totals) and rules of slopes, as one batch."""
    count, each = budgets.shape
    at = torch.arange(count).repeat_interleave(each)
    return _bound(question.take(at), law.take(at), budgets.reshape(-1), chords.reshape(-1)).reshape(count, each).cpu()


def _bound(question: Problem, law: HalfSpaces, budget: Tensor, chords: Tensor) -> Tensor:
    """(N,) the sum of costs and tails; ``budget`` (N,) is the logarithm of the total one, ``chords`` (N,) the rule of slopes."""
    budget, chords = budget.to(question.device), chords.to(question.device)
    graph = graph_of(question)
    radius, outside = law.box(budget + SPARE)
    problem = _walls.boxed(question, law, radius)
    state = intervals.start(problem, graph)
    each = budget - log(max(1, _walls.unit_count(graph)))
    costs = [outside.exp()]

    def enclose(state: State, node: Node, at: Tensor, one: Tensor, relaxed: backward.Relaxed) -> tuple[Tensor, Tensor]:
        low, high, cost = _enclose(problem, state, law, node, at, one, relaxed, each)
        costs.append(cost)
        return low, high

    relaxed = backward.relax(state, enclose, lambda state, node, _: _planes(state, node, chords))
    return _walls.summed(torch.stack([*costs, _walls.failing(problem, state, law, relaxed)]))


def _enclose(
    problem: Problem,
    state: State,
    law: HalfSpaces,
    node: Node,
    at: Tensor,
    one: Tensor,
    relaxed: backward.Relaxed,
    budget: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high) (K, N) of the units ``at`` of a node's input, and what they cost together (N,)."""
    source = backward.source_of(node)
    base_low, slope = _walls.pulled_rows(problem, state, law, source, one, relaxed)
    along_low = law.read(-slope)
    base_high, slope = _walls.pulled_rows(problem, state, law, source, -one, relaxed)
    base_high, along_high = -base_high, law.read(-slope)
    free = ~backward.bent(state, node).flatten(1)[:, at].T  # linear already for this example: nothing to pay for
    left, right = _walls.piece(state, node, (base_low + base_high) / 2)
    leaves = law.tail(base_low - left, along_low).exp() + law.tail(right - base_high, along_high).exp()
    most = budget.exp()
    price = (leaves + 2 * (budget + SPARE).exp()) * (1 + 2.0**-50)
    stable = price <= most
    near, far = budget - log(2), budget + SPARE
    reach = lambda along: torch.where(stable, law.quantile(far, along), law.quantile(near, along))
    low, high = base_low - reach(along_low), base_high + reach(along_high)
    low, high = _outward(low, -inf), _outward(high, inf)
    low = torch.where(stable, torch.maximum(low, left), low)
    high = torch.where(stable, torch.minimum(high, right), high)
    cost = torch.where(stable, price, most).masked_fill(free, 0.0)
    return low.masked_fill(free, -inf), high.masked_fill(free, inf), _walls.summed(cost)


def _planes(state: State, node: Node, chords: Tensor) -> Planes:
    """Planes of least area, or for the examples in ``chords`` with a lower plane parallel to the chord."""
    least, parallel = planes(state, node), backward.chord_planes(state, node)
    pick = lambda a, b: torch.where(chords.reshape(-1, *[1] * (a.dim() - 1)), a, b)
    return Planes(
        *(pick(getattr(parallel, f), getattr(least, f)) for f in ("lower_slope", "lower", "upper_slope", "upper"))
    )


def _outward(value: Tensor, towards: float) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, towards))
