"""Randomised smoothing: the radius of the model *with noise on top*, certified from draws alone, whatever the network."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor

from brittle import meter
from brittle.discovery import EFFORTS
from brittle.errors import InputError
from brittle.evidence import Witness
from brittle.laws import Law, as_laws
from brittle.noise._moving import check_level, moving
from brittle.noise._plain import doubts_of
from brittle.problem import Problem
from brittle.questions._methods import check_verb
from brittle.questions._smoothed_attack import break_smoothed
from brittle.questions._smoothing import Reach, reach_of
from brittle.questions._votes import Votes, count_votes
from brittle.results import Bracket, Cost, Ends
from brittle.stats import binomial_lower, binomial_upper

DRAWS = {"quick": 1_000, "standard": 10_000, "thorough": 100_000}  # Cohen et al. use 100 and 100,000
SELECTION = 100
FIGURES = (
    "votes of the label",
    "votes of a rival",
    "draws",
    "selected votes of the label",
    "selected votes of a rival",
    "rivals",
)
QUANTITY = "radius of the smoothed model"


def smoothed_radius(
    problem: Problem,
    law: Law | Mapping[str, Law],
    *,
    effort: str = "standard",
    ends: str = "both",
    seed: int = 0,
    level: float = 0.999,
    draws: int | None = None,
    selection: int = SELECTION,
) -> Bracket:
    """Bracket of the largest scale of the region at which the *smoothed* model keeps the label, one per example.

    The smoothed model answers with the class that the given model names most often under the noise: ``argmax_c P(model(v + noise) = c)``. It is
    another model than the one given, to be deployed with its noise; nothing is said here of the given one, hence the quantity of the bracket, "radius
    of the smoothed model", which never intersects with a radius. Specifications other than "the label keeps winning" ask whether the property holds on more
    than half of the draws.

    Lower end: with ``p`` a lower limit of the label's share and ``q`` an upper one of every rival's the lead survives every change up to

        Gaussian, l2   sigma (Phi^-1(p) - Phi^-1(q)) / 2             Laplace, l1   b max(log(p / q) / 2, -log(1 - p + q))
        cube, l1       a (p - q)                                     Replace, l0   r with 1 - C(n - r, k - r) / C(n, k) < (p - q) / 2

    and in other norms up to the best factor between norms. ``q`` is ``1 - p``, or a limit of its own where ``selection`` draws, made beforehand and used
    for nothing else, say that this reaches further. Limits are one-sided Clopper-Pearson, exact; for rivals the error is split over the classes. Linear
    models under Gaussian noise: the distance itself, in the limit of many draws. With n draws and error alpha no radius exceeds
    ``sigma Phi^-1(alpha^(1 / n))``.
    Upper end: the least size of a point found at which fresh draws reject that the label leads, by a search with gradients of the mean
    over draws. ``witness`` holds these points; its margin is the share of the label less that of the rival there, measured.

    Guarantee: "statistical", both ends together with confidence ``level`` for each example on its own. For N examples at once ask
    ``level = 1 - (1 - level) / N``. It is that of real-valued noise; pseudo-random numbers in float64 stand for it (confessed, as everywhere in this field).

    law        Gaussian, Laplace, UniformCube or Replace, which moves "x", or laws by leaf for several leaves (weights too; Gaussian distances add in squares).
               Clipping is a part of the model that is smoothed
    effort     1,000, 10,000 or 100,000 draws per example; ``draws`` overrides
    ends       "both", "lower" or "upper"
    selection  draws that choose the rival and the way of bounding, apart from all others
    Status: "misclassified" where the smoothed model gives another class with confidence (bracket [0, 0]), "abstained: ..." where the draws do not show that the label leads, "ok".
    ``diagnostics``: votes of the label and of the strongest rival, draws, the same of the selection, and the number of rivals (N,). No upper end is sought for p = 0.
    Errors: InputError for a law or ball without a certificate, a leaf that moves and has no noise, draws or selection below 1.
    Reference: Cohen, Rosenfeld and Kolter, ICML 2019, arXiv 1902.02918; Teng, Lee and Yuan 2020; Yang et al., ICML 2020, arXiv 2002.08118;
    Levine and Feizi, AAAI 2020, arXiv 1911.09272 (theorems proved again here, papers from memory).

    >>> from brittle.laws import Gaussian
    >>> from brittle.region import Ball
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = linear.weight.data.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    >>> problem = Problem(linear, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=1.0))
    >>> answer = smoothed_radius(problem, Gaussian(0.5))  # the distance is 0.6
    >>> bool(0.55 < answer.lower <= 0.6 <= answer.upper < 0.7), answer.guarantee.lower
    (True, 'statistical')
    """
    check_verb(problem, ends, "radius")
    check_level(level)
    if effort not in EFFORTS:
        raise InputError("effort", " | ".join(EFFORTS), effort, "choose one of these")
    draws = DRAWS[effort] if draws is None else draws
    for name, value in (("draws", draws), ("selection", selection)):
        if not (isinstance(value, int) and value >= 1):
            raise InputError(name, "a whole number >= 1", value, f"leave {name} out")
    laws = as_laws(law)
    reach, question, count = reach_of(problem, laws), moving(problem, laws), len(problem)
    tail = (1 - level) / (2 if ends == "both" else 1)
    clipped, lower, upper = dict.fromkeys(laws, 0.0), torch.zeros(count).double(), torch.full((count,), inf).double()
    status, found, figures = ["ok"] * count, [], torch.zeros(6, count, dtype=torch.float64)
    with meter.measure() as passes, torch.no_grad():
        for i in range(count):
            chosen = count_votes(question, i, laws, seed, "selection", selection, clipped)
            votes = count_votes(question, i, laws, seed, "estimation", draws, clipped)
            figures[:, i] = torch.tensor(told(chosen, votes), dtype=torch.float64)
            if ends != "upper":
                lower[i] = lower_end(reach, chosen, votes, tail)
                status[i] = "ok" if lower[i] > 0 else "abstained: the draws do not show that the label leads"
            if ends != "lower":
                wrong, points = votes.rejects(chosen.rival, tail / 2), None
                if wrong:
                    upper[i], status[i] = 0.0, "misclassified"
                elif reach.kind != "replace" and reach.p != 0:
                    guess = float(reach.scale(*chosen.shares()))
                    points = break_smoothed(problem, question, laws, i, seed, guess, chosen.rival, tail / 2, draws)
                    upper[i] = points.size[0]
                found.append(_clean(problem, i, votes, chosen.rival) if points is None else points)
    method = "randomised smoothing"
    said = lambda end: tuple("statistical" if value else "none" for value in end.tolist())
    named = lambda end: tuple(method if value else "" for value in end.tolist())
    settled = torch.tensor([s == "misclassified" for s in status])
    below, above = (lower > 0) | settled, upper.isfinite()
    return Bracket(
        QUANTITY,
        lower,
        upper,
        Ends(said(below), said(above)),
        tuple(status),
        Ends(named(below), named(above)),
        Ends(1.0 if ends == "upper" else 1 - tail, 1.0 if ends == "lower" else 1 - tail),
        witness=Witness.join(found) if found else None,
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        doubts=doubts_of(torch.zeros(count), {k: v / (count * (draws + selection)) for k, v in clipped.items()}, laws),
        level=level,
        diagnostics=dict(zip(FIGURES, figures, strict=True)),
    )


def told(chosen: Votes, votes: Votes) -> list[float]:
    """What a lower end is computed from, in the order of ``FIGURES``; the strongest rival stands for all."""
    most = lambda those: float(those.others.max())
    return [votes.label, most(votes), votes.draws, chosen.label, most(chosen), len(votes.others)]


def lower_end(reach: Reach, chosen: Votes, votes: Votes, tail: float) -> float:
    """The way of bounding is chosen by what the draws of the selection promise, before the others are looked at."""
    promised = [limits(chosen.like(votes.draws), tail, apart) for apart in (False, True)]
    apart = bool(reach.scale(*promised[1]) > reach.scale(*promised[0]))
    return float(reach.scale(*limits(votes, tail, apart)))


def limits(votes: Votes, tail: float, apart: bool) -> tuple[Tensor, Tensor]:
    """A lower limit of the label's share and an upper one of every rival's, both holding but for ``tail``."""
    share = tail / 2 if apart else tail
    label = binomial_lower(torch.tensor([votes.label]), votes.draws, share)
    if not apart:
        return label, 1 - label
    most = votes.others.max()[None]
    rival = binomial_upper(most, votes.draws, tail / 2 / max(1, len(votes.others)))
    return label, torch.minimum(rival, 1 - label)


def _clean(problem: Problem, i: int, votes: Votes, rival: int) -> Witness:
    """The clean point, for examples whose upper end is 0 or was not sought."""
    one = problem.take(torch.tensor([i]))
    lead = torch.tensor([(votes.label - float(votes.others[rival])) / votes.draws], dtype=torch.float64)
    return Witness(one.centre, lead, torch.tensor([False]), torch.tensor([inf]).double(), ("none",), "clean")
