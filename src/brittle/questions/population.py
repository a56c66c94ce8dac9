"""The probability that a random input under random noise breaks the property: one number for a population, not for its sample."""

from collections.abc import Mapping

import torch

from brittle import meter
from brittle.errors import InputError
from brittle.laws import Law, as_laws
from brittle.noise.monte_carlo import monte_carlo
from brittle.problem import Problem
from brittle.results import Bracket, Cost, Ends
from brittle.stats import clopper_pearson, mean_lower


def population(
    problem: Problem,
    law: Law | Mapping[str, Law],
    *,
    draws: int = 1,
    seed: int = 0,
    level: float = 0.95,
) -> Bracket:
    """Bracket of ``P(margin(V + noise) <= 0)``, one number: V is a random input of the population that the problem's inputs were drawn from.

    Draws under one input are a cluster: they share its p, so that counting them as independent would claim far too much. With one draw per input
    the failures of N inputs are binomial, and the ends are Clopper and Pearson's, exact. With more, the ends bound the mean of the N shares of
    failing draws, which are independent and lie in [0, 1] (:func:`brittle.stats.mean_lower`); that gains where p varies little between inputs and
    loses a little where it is nearly 0 or 1. No number of draws, and no proof for these inputs, goes below what N inputs can show, about 4 / N.

    Guarantee: both ends hold together with confidence ``level``, provided that the inputs are independent draws of the population (a random
    test set is; its first rows, or augmented copies, are not). Inputs that fail without noise count as failures: leave them out of the problem to
    ask about correctly classified inputs. For these N inputs themselves ask :func:`brittle.questions.probability.probability`.

    law    a noise law, which moves "x", or laws by leaf; unclipped unless ``law.clipped(low, high)`` says otherwise
    draws  per input
    Returns ``diagnostics``: failing_clean, failures (1,); for more than one draw between and within (1,), the parts of the variance of one
    judgement that come from the input and from the noise. Where between dominates, only more inputs help.
    Errors: InputError for an unknown leaf, a law that is none, fewer than 2 inputs, ``draws`` below 1, a level outside (0, 1).

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> x = 2 + torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    >>> answer = population(Problem(linear, x, torch.ones(1000).long()), Gaussian(1.0))  # P(2 + g + h <= 0) = 0.0786
    >>> len(answer), bool(answer.lower < 0.0786 < answer.upper)
    (1, True)
    """
    laws, count = as_laws(law), len(problem)
    if count < 2:
        raise InputError("population", "at least 2 inputs", count, "give the problem a random sample of inputs")
    with meter.measure() as passes:
        clean = (problem.margin() <= 0).sum()
        plain = monte_carlo(problem, laws, seed=seed, level=level, draws=draws)
    failures, tail = plain.diagnostics["failures"], (1 - level) / 2
    shares = failures / draws
    if draws == 1:
        lower, upper = clopper_pearson(failures.sum()[None], count, level)
    else:
        lower = torch.tensor([mean_lower(shares, tail)], dtype=torch.float64)
        upper = torch.tensor([1 - mean_lower(1 - shares, tail)], dtype=torch.float64)
    diagnostics = {"failing_clean": clean.cpu().double()[None], "failures": failures.sum()[None]}
    if draws > 1:
        within = (shares * (1 - shares)).mean()[None] * draws / (draws - 1)
        diagnostics |= {"between": (shares.var()[None] - within / draws).clamp_min(0), "within": within}
    return Bracket(
        "probability",
        lower,
        upper,
        Ends(("statistical",), ("statistical",)),
        ("ok" if "nan" not in plain.status else "nan",),
        Ends(("monte_carlo",), ("monte_carlo",)),
        Ends(1 - tail, 1 - tail),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        doubts=plain.doubts,
        estimate=shares.mean()[None],
        interval=torch.stack([lower, upper], 1),
        level=level,
        diagnostics=diagnostics,
    )
