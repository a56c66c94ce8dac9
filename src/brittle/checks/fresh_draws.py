"""Do points found against the mean over a few draws of a random model still fail under draws that nobody has seen?"""

from dataclasses import replace

import torch

from brittle.about import About
from brittle.averaging import Averaged, redrawn
from brittle.checks._shared import failed, passed
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.results import Bracket, Finding
from brittle.spec import margin
from brittle.stats import clopper_pearson

ABOUT = About(
    promise="EOT: points found on the mean over fixed draws of a random model fail on about half of new draws or more",
    reference="Athalye, Carlini and Wagner 2018, obfuscated gradients, section 4: randomised classifiers",
    answers="after",
    cost="64 forward passes on at most 16 examples of averaged models, none otherwise",
)
TITLE = "failures under fresh draws (EOT)"
DRAWS, MOST = 64, 16
MISS = 1e-3  # per example: probability that a point which fails on half of all draws is counted as one that does not


def fresh_draws(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """One draw of the model at a time, at the points that were found: is a failure rate of one half refuted at most of them?

    A point on the boundary of the mean fails on about half of the draws, where margins are spread evenly about their mean. Far fewer mean that the
    search fitted the draws that it saw.
    """
    name, witness = "fresh_draws", bracket.witness
    if not isinstance(problem.network.quiet, Averaged):
        return passed(name, TITLE, "The model is not an average over draws.")
    if witness is None or not bool(witness.found.any()):
        return passed(name, TITLE, "No point is claimed to break the property.")
    at = witness.found.nonzero()[:MOST, 0]
    part, point, fails = problem.take(at), witness.take(at).point, torch.zeros(len(at), dtype=torch.float64)
    with torch.no_grad():
        for number in range(DRAWS):
            one = replace(part, network=redrawn(part.network, 1, fold(seed, "fresh draws", number)))
            fails += (margin(one.rows(point), one.spec.rank) <= 0).cpu()
    rare = clopper_pearson(fails, DRAWS, 1 - 2 * MISS)[1] < 0.5
    rate = float(fails.mean() / DRAWS)
    value, threshold = f"{int(rare.sum())} of {len(at)} points", "half of them"
    if float(rare.double().mean()) > 0.5:
        return failed(
            name,
            TITLE,
            "warn",
            f"At {value} less than half of {DRAWS} new draws fail; the mean failure rate is {rate:.0%}.",
            "The points fit the draws that the attack saw and not the random model; average over more draws (bt.averaged(model, draws=64)), and read "
            "bt.failure_rate for how often each point fails.",
            value=value,
            threshold=threshold,
        )
    return passed(
        name, TITLE, f"New draws fail at {rate:.0%} of the points on average.", value=value, threshold=threshold
    )
