"""The probability that random noise breaks the property, per example: estimated, and where possible proved from above."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, reduce
from operator import and_

import torch
from torch import Tensor

from brittle import meter
from brittle.discovery import EFFORTS, Method, method, portfolio
from brittle.errors import InputError, NotCertified
from brittle.laws import Law, as_laws
from brittle.problem import Problem
from brittle.questions._ends import certify
from brittle.questions._estimates import contradiction, merged, on_some, rare, statuses, unanswered, undecided, warnings
from brittle.questions._methods import Choice, chosen
from brittle.results import Bracket, Cost, Ends

DRAWS = {"quick": 500, "standard": 2000, "thorough": 20000}  # folklore: 0 failures prove p < 0.7 %, 0.2 %, 0.02 %
SHARE = 1 / 50  # of the error, for every further method whose end rests on draws (folklore)


def probability(
    problem: Problem,
    law: Law | Mapping[str, Law],
    *,
    effort: str = "standard",
    ends: str = "both",
    seed: int = 0,
    level: float = 0.95,
    draws: int | None = None,
    threshold: float | None = None,
    estimators: Choice = None,
    bounds: Choice = None,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example: the probability that noise breaks the property.

    Guarantee: ``lower`` and ``upper`` hold together with confidence ``level`` for each example on its own. The upper end is
    "proved" where a certified region covers the noise, and may then be 0; zero failures in n draws are never reported
    as 0. ``estimate`` and ``interval`` are approximate: those of the plain draws where these saw ten failures, else, at effort "standard", of
    importance sampling where that is to be believed, and at "thorough" of splitting where importance sampling refuses. They can miss failures;
    the ends cannot. ``parts`` holds every method's own bracket with its figures: ``dict(answer.parts)["importance_sampling"].diagnostics``.

    With a ``threshold`` the only question is on which side of it p lies, and draws stop as soon as the bracket excludes it
    (:func:`brittle.noise.sequential.sequential`); proofs are sought only where the draws did not decide.

    law      a noise law, which moves "x", or laws by leaf (inputs, parameters, both). Noise is unclipped unless
             ``law.clipped(low, high)`` says otherwise. The region of the problem is not looked at, and may be left out
    effort   "quick", "standard" or "thorough": 500, 2,000 or 20,000 draws per example, and which bounds certify
    ends     "both", or "lower" / "upper" alone: no certificate is sought for the lower end; the other end stays open
    seed     of the draws
    draws    per example, instead of those of the effort; with a threshold at most so many, by default ten times those of the effort
    threshold   a probability in (0, 1)
    estimators, bounds   names or functions to use instead of the portfolio. Of several that draw plainly (``monte_carlo``, ``sequential``) each end
             holds at ``level``, and the tightest together as ``.confidence`` says
    Status: "ok"; "misclassified" where the property fails without noise (the bracket is that of p all the same); "not certified: ..." where no
    upper end is proved although one was sought, "not estimated: ..." where a method for rare failures refused, or both; "undecided after n draws".
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
    if threshold is not None and estimators is not None:
        raise InputError("threshold", "no estimators beside it", estimators, "leave one of the two out")
    if draws is None:
        draws = DRAWS[effort] * (1 if threshold is None else 10)
    offered: dict[str, object] = {"draws": draws}
    offered |= {} if threshold is None else {"threshold": threshold}
    offered |= {} if ends == "lower" else {"certify": partial(_certified, effort=effort, bounds=bounds)}
    methods = _estimators(estimators, problem, effort, threshold)
    with meter.measure() as passes:
        wrong = (problem.margin() <= 0).tolist()
        parts = _asked(problem, laws, methods, offered, seed, level, estimators is None)
        if estimators is None and effort == "thorough":
            parts += _fallback(problem, laws, dict(parts), seed, level)
    if not parts:
        raise InputError("estimators", "at least one noise method", "none", "leave estimators out")
    answer = replace(reduce(and_, (part for _, part in parts)), diagnostics={}, parts=tuple(parts))
    answer, speakers = merged(_open(answer, ends), [part for part in parts if part[1].estimate is not None])
    count = len(problem)
    cost = Cost(passes.forward / count, passes.backward / count, passes.seconds)
    doubts = (*warnings(answer, speakers), *contradiction(answer, speakers))
    status = statuses(answer, wrong, speakers, ends != "lower", threshold)
    said = None if answer.level is None else level
    return replace(answer, cost=cost, doubts=doubts, status=status, level=said)


def _asked(
    problem: Problem,
    laws: Mapping[str, Law],
    methods: list[tuple[str, Callable]],
    offered: Mapping[str, object],
    seed: int,
    level: float,
    thrift: bool,
) -> list[tuple[str, Bracket]]:
    """Every method's own bracket. With ``thrift``, estimators after the first see only the examples on which it saw too little, and nobody
    sees those on which a sequential method has decided."""
    parts: list[tuple[str, Bracket]] = []
    further = [f for _, f in methods if _stated(f, "guarantee") == "statistical"]
    drawn = 1 - (1 - level) * (1 - SHARE * len(further))  # so that all ends from draws hold together at ``level``
    for name, function in methods:
        certifies = proves(function)
        if "certify" not in offered and (certifies or _stated(function, "ends") == "upper"):
            continue  # the upper end was not asked for
        options = _accepted(function, {**offered, "error": SHARE * (1 - level)} if function in further else offered)
        sure = level if function in further else drawn
        ask = lambda some, f=function, o=options, c=sure: f(some, laws, seed=seed, level=c, **o)
        where = torch.ones(len(problem), dtype=torch.bool)
        if thrift and parts:
            where = undecided(parts[0][1]) & (where if certifies else rare(parts[0][1]))
        part = on_some(ask, problem, where)
        parts += [] if part is None else [(name, part)]
    return parts


def _fallback(
    problem: Problem, laws: Mapping[str, Law], parts: Mapping[str, Bracket], seed: int, level: float
) -> list[tuple[str, Bracket]]:
    """Splitting, which needs no gradient, where importance sampling refused."""
    if "importance_sampling" not in parts:
        return []
    ask = lambda some: method("noise", "splitting")(some, laws, seed=seed, level=level)
    part = on_some(ask, problem, unanswered(parts))
    return [] if part is None else [("splitting", part)]


def _estimators(choice: Choice, problem: Problem, effort: str, threshold: float | None) -> list[tuple[str, Callable]]:
    """Named ones, or the portfolio: estimators first, those of less effort before others, so that plain draws speak first."""
    if choice is not None:
        return chosen("noise", choice, problem, effort, "probability")
    found = sorted(portfolio("noise", effort, "probability"), key=lambda m: (proves(m), EFFORTS.index(m.about.effort)))
    if threshold is not None:
        found = [method("noise", "sequential"), *(m for m in found if proves(m))]
    return [(m.name, m) for m in found]


def proves(function: Callable) -> bool:
    """Whether a method gives a proved upper end and nothing else."""
    upper_only = _stated(function, "ends") == "upper" and _stated(function, "guarantee") != "statistical"
    return upper_only or _takes(function, "certify")


def _stated(function: Callable, what: str) -> str:
    return getattr(function.about, what, "") if isinstance(function, Method) else ""


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
