"""Plain Monte Carlo: the share of random draws that break the property, with an exact interval."""

from collections.abc import Mapping

import torch

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.laws import Law
from brittle.noise._moving import check_level, moving
from brittle.noise._plain import doubts_of, judge, points
from brittle.problem import Problem
from brittle.results import Bracket, Cost, Ends
from brittle.stats import clopper_pearson

ABOUT = About(
    promise="the failure probability of each example lies in the interval with the stated confidence, whatever the network",
    reference="Clopper and Pearson, Biometrika 26 (1934)",
    answers="probability",
    cost="one forward pass per draw",
    effort="quick",
)


def monte_carlo(
    problem: Problem, laws: Mapping[str, Law], *, seed: int = 0, level: float = 0.95, draws: int = 2000
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, from ``draws`` independent perturbations each.

    Guarantee: with k failures in n draws the ends are the Clopper-Pearson limits, each missing with probability at most
    ``(1 - level) / 2``, so that both hold together with confidence at least ``level`` for each example on its own (not for
    all examples at once). Zero failures give the upper end ``1 - ((1 - level) / 2)^(1 / n)``, about 3.7 / n at 95 %, never 0.
    The function judged is the module in its own dtype, the clean point plus noise rounded to the dtype of the leaf.

    problem  its region is not looked at, and may be absent
    laws     by leaf: inputs, parameters (one draw per example and draw), or both, moved independently of each other
    seed     of the draws; they depend on it, the leaf and the identity of the example alone
    draws    per example

    A law with a clip has the perturbed leaf clipped; the answer is that of the clipped law. Logits that are not finite
    count as failures and are noted; the status is then "nan".
    Memory: ``draws`` are made in blocks of at most 256 or 32 MiB; a block that does not fit is halved when evaluated.
    Errors: InputError for an unknown leaf, a clean point outside the clip, ``draws`` below 1, a level outside (0, 1).

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> answer = monte_carlo(Problem(linear, torch.ones(1, 1), torch.tensor([1])), {"x": Gaussian(1.0)})
    >>> bool(answer.lower < 0.15866 < answer.upper)  # P(1 + g <= 0) = 0.15866
    True
    """
    check_level(level)
    if not (isinstance(draws, int) and draws >= 1):
        raise InputError("draws", "a whole number >= 1", draws, "write for example draws=2000")
    question, count = moving(problem, laws), len(problem)
    clipped = dict.fromkeys(laws, 0.0)
    failures, broken = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    with meter.measure() as passes, torch.no_grad():
        for i in range(count):
            for point in points(question, i, laws, seed, draws, clipped):
                failed, bad = judge(question, i, point)
                failures[i] += failed
                broken[i] += bad
    lower, upper = clopper_pearson(failures, draws, level)
    ends = ("statistical",) * count
    tail = (1 - level) / 2
    return Bracket(
        "probability",
        lower,
        upper,
        Ends(ends, ends),
        tuple("nan" if bad else "ok" for bad in broken.tolist()),
        Ends(("monte_carlo",) * count, ("monte_carlo",) * count),
        Ends(1 - tail, 1 - tail),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        doubts=doubts_of(broken, {leaf: amount / (count * draws) for leaf, amount in clipped.items()}, laws),
        estimate=failures / draws,
        interval=torch.stack([lower, upper], 1),
        level=level,
        diagnostics={"failures": failures},
    )
