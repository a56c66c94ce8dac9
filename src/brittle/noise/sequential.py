"""Plain draws that stop as soon as it is decided on which side of a threshold the failure probability lies."""

from collections.abc import Mapping
from math import log

import torch

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.laws import Law
from brittle.noise._moving import check_level, moving
from brittle.noise._plain import doubts_of, judge, points
from brittle.problem import Problem
from brittle.results import Bracket, Cost, Ends
from brittle.stats import confidence_sequence, log_mixture

ABOUT = About(
    promise="the failure probability lies in the interval with the stated confidence, although the draws stop once a threshold is excluded",
    reference="mixture martingales: Ville 1939, Robbins, Annals of Mathematical Statistics 41 (1970); for classifiers: Voracek, arXiv 2406.17830",
    answers="probability",
    cost="about 5 / threshold forward where nothing fails, fewer far above it",
)


def sequential(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    threshold: float = 0.01,
    draws: int = 20_000,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, from draws that stop once the bracket excludes ``threshold``.

    After k failures in n draws the ends are those p at which the martingale ``M_n(p)`` of :func:`brittle.stats.log_mixture` stays below
    ``2 / (1 - level)``. Its prior is centred at the threshold, where the ends are then tightest.

    Guarantee: each end misses with probability at most ``(1 - level) / 2`` over all n at once, so that looking after every block and stopping when
    it suits costs nothing; both hold together with confidence at least ``level`` for each example on its own. ``estimate`` is the share of
    failures, a little biased away from the threshold by the stopping.

    problem    its region is not looked at, and may be absent
    laws       by leaf: inputs, parameters, or both
    threshold  in (0, 1)
    draws      per example, at most. They are those of ``monte_carlo`` under the same seed, and come in blocks of up to 256
    Returns ``diagnostics``: failures, draws, and decision (N,): -1 below the threshold, 1 above, 0 undecided. Status "undecided after n draws".
    Errors: InputError for an unknown leaf, a clean point outside the clip, a threshold or level outside (0, 1), ``draws`` below 1.

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> problem = Problem(linear, torch.tensor([[0.0], [4.0]]), torch.tensor([1, 1]))
    >>> answer = sequential(problem, {"x": Gaussian(1.0)})  # 0.5 and 3e-5 against 0.01
    >>> answer.diagnostics["decision"].tolist(), answer.diagnostics["draws"].tolist()
    ([1.0, -1.0], [256.0, 512.0])
    """
    check_level(level)
    if not 0 < threshold < 1:
        raise InputError("threshold", "a probability between 0 and 1", threshold, "write for example threshold=0.01")
    if not (isinstance(draws, int) and draws >= 1):
        raise InputError("draws", "a whole number >= 1", draws, "write for example draws=20000")
    question, count, tail = moving(problem, laws), len(problem), (1 - level) / 2
    failures, broken, made = torch.zeros(3, count, dtype=torch.float64)
    clipped = dict.fromkeys(laws, 0.0)
    at = torch.tensor(threshold, dtype=torch.float64)
    enough = (
        -log(tail) + 1e-4
    )  # a little beyond the limit, so that the ends found by bisection exclude the threshold too
    with meter.measure() as passes, torch.no_grad():
        for i in range(count):  # an example that is decided draws no more
            for point in points(question, i, laws, seed, draws, clipped):
                failed, bad = judge(question, i, point)
                failures[i] += failed
                broken[i] += bad
                made[i] += len(next(iter(point.values())))
                if log_mixture(failures[i], made[i], at, threshold) >= enough:
                    break
    lower, upper = confidence_sequence(failures, made, tail, threshold)
    decision = (lower > threshold).double() - (upper < threshold).double()
    status = tuple(
        "nan" if bad else "ok" if side else f"undecided after {draws} draws"
        for bad, side in zip(broken.tolist(), decision.tolist(), strict=True)
    )
    ends = ("statistical",) * count
    return Bracket(
        "probability",
        lower,
        upper,
        Ends(ends, ends),
        status,
        Ends(("sequential",) * count, ("sequential",) * count),
        Ends(1 - tail, 1 - tail),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        doubts=doubts_of(broken, {leaf: amount / float(made.sum()) for leaf, amount in clipped.items()}, laws),
        estimate=failures / made,
        interval=torch.stack([lower, upper], 1),
        level=level,
        diagnostics={"failures": failures, "draws": made, "decision": decision},
    )
