"""The probability that random noise breaks the property, per example: estimated, and where possible proved from above."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from operator import and_

import torch
from torch import Tensor

from brittle import meter
from brittle.discovery import EFFORTS, Method, portfolio
from brittle.errors import InputError, NotCertified
from brittle.laws import Law, as_laws
from brittle.problem import Problem
from brittle.questions._ends import certify
from brittle.questions._methods import Choice, chosen
from brittle.results import Bracket, Cost, Ends

DRAWS = {"quick": 500, "standard": 2000, "thorough": 20000}  # folklore: 0 failures prove p < 0.7 %, 0.2 %, 0.02 %


def probability(
    problem: Problem,
    law: Law | Mapping[str, Law],
    *,
    effort: str = "standard",
    ends: str = "both",
    seed: int = 0,
    level: float = 0.95,
    draws: int | None = None,
    estimators: Choice = None,
    bounds: Choice = None,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example: the probability that noise breaks the property.

    Guarantee: ``lower`` and ``upper`` hold together with confidence ``level`` for each example on its own. The upper end is
    "proved" where a certified region covers the noise, and may then be 0; zero failures in n draws are never reported
    as 0. ``estimate`` and ``interval`` are those of the estimator.

    law      a noise law, which moves "x", or laws by leaf (inputs, parameters, both). Noise is unclipped unless
             ``law.clipped(low, high)`` says otherwise. The region of the problem is not looked at, and may be left out
    effort   "quick", "standard" or "thorough": 500, 2,000 or 20,000 draws per example, and which bounds certify
    ends     "both", or "lower" / "upper" alone: no certificate is sought for the lower end; the other end stays open
    seed     of the draws
    draws    per example, instead of those of the effort
    estimators, bounds   names or functions to use instead of the portfolio
    Errors: InputError for an unknown leaf, a law that is none, a level outside (0, 1).

    >>> from brittle.laws import UniformBall
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> problem = Problem(linear, torch.tensor([[0.5]]), torch.tensor([1]))
    >>> answer = probability(problem, UniformBall(1.0), effort="quick")  # P(0.5 + u <= 0) = 0.25
    >>> bool(answer.lower < 0.25 < answer.upper), answer.guarantee.upper
    (True, 'statistical')
    """
    laws = as_laws(law)
    if ends not in ("both", "lower", "upper"):
        raise InputError("ends", '"both", "lower" or "upper"', repr(ends), "choose one of these")
    if effort not in EFFORTS:
        raise InputError("effort", " | ".join(EFFORTS), effort, "choose one of these")
    offered = {"draws": DRAWS[effort] if draws is None else draws}
    offered |= {} if ends == "lower" else {"certify": partial(_certified, effort=effort, bounds=bounds)}
    with meter.measure() as passes:
        parts = [
            function(problem, laws, seed=seed, level=level, **_accepted(function, offered))
            for _, function in _estimators(estimators, problem, effort)
            if ends != "lower" or not _takes(function, "certify")
        ]
    if not parts:
        raise InputError("estimators", "at least one noise method", "none", "leave estimators out")
    answer = _open(reduce(and_, parts), ends)
    count = len(problem)
    cost = Cost(passes.forward / count, passes.backward / count, passes.seconds)
    return replace(answer, cost=cost, doubts=(*answer.doubts, *_contradiction(answer)))


def _estimators(choice: Choice, problem: Problem, effort: str) -> list[tuple[str, Callable]]:
    """Named ones, or the portfolio; estimators first, so that ``estimate`` and the status are theirs."""
    if choice is not None:
        return chosen("noise", choice, problem, effort, "probability")
    found = [(m.name, m) for m in portfolio("noise", effort, "probability")]
    return sorted(found, key=lambda entry: _takes(entry[1], "certify"))


def _takes(function: Callable, option: str) -> bool:
    return option in inspect.signature(function.function if isinstance(function, Method) else function).parameters


def _accepted(function: Callable, offered: Mapping[str, object]) -> dict[str, object]:
    """Those of the offered options that the method has and that its caller has not bound already."""
    bound = function.keywords if isinstance(function, partial) else {}
    return {name: value for name, value in offered.items() if _takes(function, name) and name not in bound}


def _certified(problem: Problem, effort: str, bounds: Choice) -> Tensor:
    """(N,) certified lower bounds of the margin over the region of ``problem``, the best of all chosen bounds."""
    methods = chosen("bounds", bounds, problem, effort, "margin")
    if not methods:
        raise NotCertified("no bound knows balls of this kind on these leaves")
    values, _, notes, _ = certify(problem, methods)
    if not bool((values > -torch.inf).any()) and any(notes):
        raise NotCertified(next(n for n in notes if n).removeprefix("not certified: "))
    return values


def _open(answer: Bracket, ends: str) -> Bracket:
    """The bracket with the end that was not asked for left open."""
    none, blank = ("none",) * len(answer), ("",) * len(answer)
    if ends == "upper":
        return replace(
            answer,
            lower=torch.zeros_like(answer.lower),
            kinds=Ends(none, answer.kinds.upper),
            methods=Ends(blank, answer.methods.upper),
            confidences=Ends(1.0, answer.confidences.upper),
        )
    if ends == "lower":
        return replace(
            answer,
            upper=torch.ones_like(answer.upper),
            kinds=Ends(answer.kinds.lower, none),
            methods=Ends(answer.methods.lower, blank),
            confidences=Ends(answer.confidences.lower, 1.0),
        )
    return answer


def _contradiction(answer: Bracket) -> tuple[str, ...]:
    """An estimator's interval above a proved upper end: a doubt, since an interval may miss, but not often."""
    if answer.interval is None or answer.level is None:
        return ()
    proved = torch.tensor([kind == "proved" for kind in answer.kinds.upper])
    above = proved & (answer.interval[:, 0] > answer.upper)
    if not bool(above.any()):
        return ()
    return (
        f"analytic bound contradicts Monte Carlo on {int(above.sum())} of {len(above)} examples: the interval lies above the "
        f"proved upper end, which chance explains in {50 * (1 - answer.level):.3g} % of the cases; else one of the two has a bug",
    )
