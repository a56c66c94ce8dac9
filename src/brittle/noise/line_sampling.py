"""Line sampling: random lines along the design directions, the exact mass of the failures on each (Gaussian noise)."""

from collections.abc import Mapping
from math import inf

import torch

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.laws import Law
from brittle.noise import _lines
from brittle.noise._design import Design, search
from brittle.noise._moving import check_level, moving
from brittle.noise._rare import block, estimated, refused_laws
from brittle.noise._weights import Average
from brittle.problem import Problem
from brittle.results import Bracket, Cost

ABOUT = About(
    promise="an estimate of small failure probabilities under Gaussian noise with an approximate interval; failures that no line meets are missed",
    reference="Koutsourelakis, Pradlwarter, Schueller, Probabilistic Engineering Mechanics 19 (2004)",
    answers="probability",
    cost="about 1,700 forward and 60 backward, whatever the probability",
)
SHARE = 0.2  # of the lines, split evenly over the design points


def line_sampling(
    problem: Problem, laws: Mapping[str, Law], *, seed: int = 0, level: float = 0.95, lines: int = 100
) -> Bracket:
    """Estimate of ``P(margin(v + noise) <= 0)``, one per example, from lines along the design directions.

    Gaussian noise g is split into ``t alpha + g_perp``. Given g_perp, the mass of the failing t is a sum of normal masses of intervals, which a
    scan of the line and root finding at every crossing give; its average over random g_perp is unbiased. Every followed rival has lines of its own that
    count the failures in which its row is the lowest; the nearest one also counts all rows without a lane, so that nothing is counted twice
    or left out.

    Guarantee: none in ``lower`` and ``upper``, which stay 0 and 1; ``interval`` is approximate, at ``level``. A failing interval shorter than the
    1.25 standard deviations between two points of the scan can be missed. NaN in ``estimate`` where the method refuses, and the status says
    why. Much less noisy than :func:`importance_sampling` where boundaries are nearly flat.

    laws   Gaussian on every leaf, with or without a clip; others are refused by status
    lines  per example, at least 30
    Returns ``diagnostics``: effective_size, largest_share, pareto_tail, lines_failing, relative_error, design_distance (N,).
    Errors: InputError for an unknown leaf, a clean point outside the clip, too few lines, a level outside (0, 1).

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> answer = line_sampling(Problem(linear, torch.full((1, 1), 6.0), torch.tensor([1])), {"x": Gaussian(1.0)})
    >>> bool((answer.estimate / 9.866e-10 - 1).abs() < 1e-3)  # exact on half-spaces, but for the float32 of the module
    True
    """
    check_level(level)
    if not (isinstance(lines, int) and lines >= 30):
        raise InputError("lines", "a whole number >= 30", lines, "write for example lines=100")
    question, count = moving(problem, laws), len(problem)
    unknown = refused_laws(problem, laws, lambda law: _lines.straight({"": law}), "line_sampling")
    if unknown is not None:
        return unknown
    with meter.measure() as passes:
        clean = question.margin().cpu() <= 0
        with torch.no_grad():
            width = question.take(torch.arange(1)).rows().shape[1]
        design = search(question, laws)
        design = design.take((~clean[design.example]).nonzero()[:, 0])
        found = _sampled(question, laws, design, width, lines, seed)
    reached = torch.isin(torch.arange(count), design.example).tolist()
    words = [
        w if r else "no direction of the noise leads to a failure"
        for w, r in zip(found.objection(), reached, strict=True)
    ]
    status = tuple(
        "misclassified" if bad else w and f"not estimated: {w}" for bad, w in zip(clean.tolist(), words, strict=True)
    )
    diagnostics = {
        "effective_size": found.size,
        "largest_share": found.share,
        "pareto_tail": found.tail,
        "lines_failing": found.hits,
        "relative_error": found.relative,
        "design_distance": design.nearest(count),
    }
    cost = Cost(passes.forward / count, passes.backward / count, passes.seconds)
    return estimated("line_sampling", found.log_mean, found.interval(level), level, status, cost, diagnostics)


def _sampled(question: Problem, laws: Mapping[str, Law], design: Design, width: int, lines: int, seed: int) -> Average:
    """The sum over the lanes of every example of the averages over their lines."""
    count = len(question)
    own = _lines.own_rows(design, width, count, question.spec.rank)
    each = _allocation(design, count, lines)
    empty = torch.full((count,), -inf, dtype=torch.float64)
    result = Average(
        empty, -empty, torch.zeros_like(empty), torch.zeros_like(empty), empty.clone(), torch.zeros_like(empty)
    )
    reached = design.example.unique()
    for examples in reached.split(block(question, lines)) if len(reached) else ():
        at = torch.isin(design.example, examples).nonzero()[:, 0]
        some, numbers = design.take(at), [each[i] for i in at.tolist()]
        bundle = _lines.cast(question, laws, some, own[at], numbers, seed, "line_sampling")
        masses = _lines.log_masses(question, bundle, some.beta).split(numbers)
        for example in examples.tolist():
            lanes = (some.example == example).nonzero()[:, 0].tolist()
            _add(result, example, [Average.of(masses[lane][None]) for lane in lanes])
    return result


def _add(result: Average, example: int, lanes: list[Average]) -> None:
    """Write the sum of independent averages into a row of ``result``: means add, squared errors add."""
    means = torch.cat([lane.log_mean for lane in lanes])
    total = means.logsumexp(0)
    part = (means - total).exp().nan_to_num(nan=0.0)
    column = lambda name: torch.cat([getattr(lane, name) for lane in lanes])
    result.log_mean[example] = total
    if total > -inf:
        result.relative[example] = (part * column("relative")).nan_to_num(nan=0.0).square().sum().sqrt()
    result.size[example] = column("size").sum()
    result.share[example] = (part * column("share")).amax()
    result.tail[example] = lanes[int(part.argmax())].tail[0]
    result.hits[example] = column("hits").sum()


def _allocation(design: Design, count: int, lines: int) -> list[int]:
    mass = (torch.special.log_ndtr(-design.beta) - torch.special.log_ndtr(-design.nearest(count)[design.example])).exp()
    total = torch.zeros(count, dtype=torch.float64).index_add(0, design.example, mass)[design.example]
    lanes = torch.bincount(design.example, minlength=count)[design.example]
    return ((1 - SHARE) * mass / total + SHARE / lanes).mul(lines).ceil().long().tolist()
