"""Tilted importance sampling: noise leaned towards every likely rival, so that failures of probability 1e-12 are seen and weighed."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, log

import torch
from torch import Tensor

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.laws import Law
from brittle.noise import _lines, _tilts
from brittle.noise._design import Design, descend, perturbed, rows_at, search
from brittle.noise._moving import check_level, moving
from brittle.noise._rare import block, estimated, refused_laws
from brittle.noise._weights import Average
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Bracket, Cost
from brittle.spec import margin

ABOUT = About(
    promise="an estimate of small failure probabilities with an approximate interval; failures far from every design point can be missed",
    reference="Bucklew, Introduction to Rare Event Simulation, 2004; balance heuristic: Veach and Guibas, SIGGRAPH 1995",
    answers="probability",
    cost="about 1,300 forward and 60 backward, whatever the probability",
    effort="standard",
)
DEFENSIVE = 0.05  # share of draws from the law itself: no weight exceeds 1 / 0.05
SPREAD = 0.1  # share that is split evenly over design points, in case their distances mislead
AGREE = 3.0  # standard errors
ROUNDS = 2  # of new design points where weights are too heavy (folklore)


def importance_sampling(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    samples: int = 1000,
    lines: int = 16,
) -> Bracket:
    """Estimate of ``P(margin(v + noise) <= 0)``, one per example, by importance sampling at the design points.

    A damped search finds, for each likely rival, where failing is least unlikely; the law P is tilted there, which gives Q_k. With n_k
    draws from Q_k, and a twentieth of all from P itself, the estimate is the average over failing draws of
    ``dP / sum_k (n_k / n) dQ_k`` (the balance heuristic): unbiased, every weight at most 20. For a half-space at beta standard
    deviations the relative variance of one weight is about ``beta sqrt(pi / 2) - 1``, in any dimension. Where the weights are too heavy, a design
    point was missed: the search goes on from the heaviest draw, and all draws of that example are made anew.

    Guarantee: none in ``lower`` and ``upper``, which stay 0 and 1. ``interval`` is log-normal, approximate, at ``level``. A failure set far from
    every design point is missed unless plain draws find it. NaN in ``estimate`` where the method refuses, and then the status says why:
    fewer than 20 failures seen, heavy-tailed weights (Pareto index > 0.7), one draw that dominates, or, for Gaussian noise, disagreement by
    more than 3 standard errors with line sampling (:mod:`brittle.noise.line_sampling`) on the likeliest rival.

    problem  its region is not looked at, and may be absent
    laws     by leaf: Gaussian, UniformBall, UniformSphere; with or without a clip. Others are refused by status. In an l1 ball single coordinates
             are hard: where the failing direction has one large entry the weights are heavy, and refused when they are too heavy
    seed     of the draws; they depend on it, the leaf and the identity of the example alone
    samples  draws per example; the search costs about 60 forward and 60 backward passes on top
    lines    of the check for Gaussian noise, about 15 forward passes each; 0: no check
    Returns ``diagnostics``: effective_size, largest_share, pareto_tail, failures_seen, relative_error, design_distance (N,), and
    rival_shares (N, R): which row was lowest, as a share of the estimate. Status "misclassified" where the clean point fails.
    Errors: InputError for an unknown leaf, a clean point outside the clip, fewer than 100 samples, a level outside (0, 1).

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> answer = importance_sampling(Problem(linear, torch.full((1, 1), 6.0), torch.tensor([1])), {"x": Gaussian(1.0)})
    >>> bool((answer.estimate / 9.866e-10 - 1).abs() < 0.3)  # P(6 + g <= 0)
    True
    """
    check_level(level)
    if not (isinstance(samples, int) and samples >= 100):
        raise InputError("samples", "a whole number >= 100", samples, "write for example samples=1000")
    question = moving(problem, laws)
    unknown = refused_laws(problem, laws, _tilts.knows, "importance_sampling")
    if unknown is not None:
        return unknown
    with meter.measure() as passes:
        clean = question.margin().cpu() <= 0
        design = _healthy(search(question, laws), clean)
        drawn = _draw(question, laws, design, samples, seed)
        average = Average.of(drawn.scores)
        for again in range(1, ROUNDS + 1):
            heavy = (average.heavy & (average.hits > 0)).nonzero()[:, 0]
            if not len(heavy):
                break
            design = _joined(
                design,
                descend(question, laws, heavy, drawn.row[heavy], {k: v[heavy] for k, v in drawn.heaviest.items()}),
            )
            _redraw(question, laws, design.take(torch.isin(design.example, heavy).nonzero()[:, 0]), drawn, seed, again)
            average = Average.of(drawn.scores)
        objections = _objections(question, laws, design, drawn, average, lines, seed)
    status = tuple(
        "misclassified" if bad else o and f"not estimated: {o}"
        for bad, o in zip(clean.tolist(), objections, strict=True)
    )
    shares = (drawn.by_row - drawn.by_row.logsumexp(1, keepdim=True)).exp().nan_to_num(nan=0.0)
    diagnostics = {
        "effective_size": average.size,
        "largest_share": average.share,
        "pareto_tail": average.tail,
        "failures_seen": average.hits,
        "relative_error": average.relative,
        "design_distance": design.nearest(len(problem)),
        "rival_shares": shares,
    }
    count = len(problem)
    cost = Cost(passes.forward / count, passes.backward / count, passes.seconds)
    return estimated("importance_sampling", average.log_mean, average.interval(level), level, status, cost, diagnostics)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Log scores (N, M): log weight where the draw failed, else -inf; their log sums by the lowest row (N, R); and the noise of the heaviest
    draw by leaf (N, D) with its lowest row (N,)."""

    scores: Tensor
    by_row: Tensor
    heaviest: dict[str, Tensor]
    row: Tensor


def allocation(design: Design, count: int, samples: int) -> list[int]:
    """Draws of each lane, in proportion to Phi(-beta) but for a part that is split evenly; the rest is for the law itself."""
    mass = torch.special.log_ndtr(-design.beta)
    total = torch.full((count,), -inf, dtype=torch.float64)
    for lane, example in enumerate(design.example.tolist()):
        total[example] = torch.logaddexp(total[example], mass[lane])
    lanes = torch.bincount(design.example, minlength=count).clamp_min(1)
    share = (1 - SPREAD) * (mass - total[design.example]).exp() + SPREAD / lanes[design.example]
    return (share * (1 - DEFENSIVE) * samples).floor().long().tolist()


def _healthy(design: Design, clean: Tensor) -> Design:
    """No lane for examples that fail already."""
    return design.take((~clean[design.example]).nonzero()[:, 0])


def _draw(question: Problem, laws: Mapping[str, Law], design: Design, samples: int, seed: int) -> Drawn:
    """Draw, judge and weigh, in blocks of examples whose size depends on shapes alone."""
    count = len(question)
    with torch.no_grad():
        width = question.take(torch.zeros(1, dtype=torch.long)).rows().shape[1]
    nothing = lambda columns: torch.full((count, columns), -inf, dtype=torch.float64)
    heaviest = {k: torch.zeros(count, v.shape[1], dtype=torch.float64) for k, v in design.tilt.items()}
    drawn = Drawn(nothing(samples), nothing(width), heaviest, torch.zeros(count, dtype=torch.long))
    _redraw(question, laws, design, drawn, seed, 0)
    return drawn


def _redraw(question: Problem, laws: Mapping[str, Law], design: Design, drawn: Drawn, seed: int, again: int) -> None:
    """Write the draws of all examples of ``design`` into ``drawn``; ``again`` separates the draws of one round from those of another."""
    samples = drawn.scores.shape[1]
    each = allocation(design, len(question), samples)
    alive = design.example.unique()
    for examples in alive.split(block(question, samples)) if len(alive) else ():
        at = torch.isin(design.example, examples).nonzero()[:, 0]
        _draw_block(question, laws, design.take(at), [each[i] for i in at.tolist()], examples, seed, again, drawn)


def _joined(design: Design, more: Design) -> Design:
    """Both, the lanes of one example as neighbours."""
    cat = lambda name: torch.cat([getattr(design, name), getattr(more, name)])
    both = Design(
        cat("example"), cat("row"), {k: torch.cat([v, more.tilt[k]]) for k, v in design.tilt.items()}, cat("beta")
    )
    return both.take(both.example.argsort(stable=True))


def _draw_block(
    question: Problem,
    laws: Mapping[str, Law],
    design: Design,
    each: list[int],
    examples: Tensor,
    seed: int,
    again: int,
    drawn: Drawn,
) -> None:
    samples, lanes = drawn.scores.shape[1], torch.bincount(design.example, minlength=len(question))[examples].tolist()
    at = 0
    tilt = {
        k: torch.zeros(len(examples), max(lanes) + 1, v.shape[1], dtype=torch.float64) for k, v in design.tilt.items()
    }
    share = torch.full((len(examples), max(lanes) + 1), -inf, dtype=torch.float64)
    delta = {k: torch.empty(len(examples), samples, v.shape[1], dtype=torch.float64) for k, v in design.tilt.items()}
    for i, own in enumerate(lanes):  # lanes of one example are neighbours, examples in rising order
        numbers = each[at : at + own]
        numbers.append(samples - sum(numbers))  # the last component is the law itself: tilt 0
        share[i, [*range(own), -1]] = torch.tensor(numbers, dtype=torch.float64).div(samples).log()
        for k, law in laws.items():
            tilt[k][i, :own] = design.tilt[k][at : at + own]
            source = generator(seed, "importance_sampling", k, int(question.index[examples[i]]), again)
            block = _tilts.base(law, samples, tilt[k].shape[2], source).split(numbers)
            torch.cat([_tilts.lean(law, tilt[k][i, n if n < own else -1], part) for n, part in enumerate(block)], out=delta[k][i])  # fmt: skip
        at += own
    ratio = torch.stack([_tilts.log_ratio(law, tilt[k], delta[k]) for k, law in laws.items()]).sum(0)
    ratio[:, -1] = 0.0  # the law over itself, to the last bit
    weight = -(share[:, :, None] + ratio).logsumexp(1)
    failed, lowest = judged(question, examples, delta)
    scores = torch.where(failed, weight, -inf)
    drawn.scores[examples] = scores
    best = scores.argmax(1)
    drawn.row[examples] = lowest.gather(1, best[:, None])[:, 0]
    for k, v in delta.items():
        drawn.heaviest[k][examples] = v[torch.arange(len(examples)), best]
    most = scores.amax(1, keepdim=True).clamp_min(-1e300)
    by_row = torch.zeros(len(examples), drawn.by_row.shape[1], dtype=torch.float64)
    drawn.by_row[examples] = by_row.scatter_add_(1, lowest, (scores - most).exp()).log() + most - log(samples)


def judged(question: Problem, examples: Tensor, delta: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """For noise (B, M, D) by leaf on the examples (B,): which draws break the property (B, M), and the lowest row of each."""
    shape = next(iter(delta.values())).shape[:2]
    with torch.no_grad():
        logits, rows = rows_at(question, examples.repeat_interleave(shape[1]), perturbed(question, examples, delta))
    failed = (margin(rows, question.spec.rank) <= 0) | ~logits.isfinite().all(1)
    return failed.cpu().reshape(shape), rows.nan_to_num(nan=-inf).argmin(1).cpu().reshape(shape)


def _objections(
    question: Problem, laws: Mapping[str, Law], design: Design, drawn: Drawn, average: Average, lines: int, seed: int
) -> list[str]:
    words = average.objection()
    reached = torch.zeros(len(question), dtype=torch.bool)
    reached[design.example] = True
    words = [
        w if r else "no direction of the noise leads to a failure" for w, r in zip(words, reached.tolist(), strict=True)
    ]
    if not lines or not _lines.straight(laws):
        return words
    checked = torch.tensor([i for i, w in enumerate(words) if not w], dtype=torch.long)
    parts = checked.split(block(question, lines))
    off = [gap for part in parts for gap in _disagreement(question, laws, design, drawn, average, part, lines, seed)]
    for i, gap in zip(checked.tolist(), off, strict=True):
        if not gap <= AGREE:
            words[i] = f"line sampling along the design direction disagrees by {gap:.1f} standard errors"
    return words


def _disagreement(
    question: Problem,
    laws: Mapping[str, Law],
    design: Design,
    drawn: Drawn,
    average: Average,
    examples: Tensor,
    lines: int,
    seed: int,
) -> list[float]:
    """How many standard errors the two estimates of "fails, and the nearest lane's rows are lowest" lie apart, in logarithms."""
    if not len(examples):
        return []
    main = _lines.main_lanes(design, len(question))[examples]
    own = _lines.own_rows(design, drawn.by_row.shape[1], len(question), question.spec.rank)[main]
    chosen = design.take(main)
    bundle = _lines.cast(question, laws, chosen, own, [lines] * len(main), seed, "importance_sampling lines")
    by_lines = Average.of(_lines.log_masses(question, bundle, chosen.beta).reshape(len(main), lines))
    weighed = drawn.by_row[examples].masked_fill(~own, -inf).logsumexp(1)
    error = (by_lines.relative.square() + average.relative[examples].square()).sqrt()
    return ((by_lines.log_mean - weighed).abs() / error).nan_to_num(nan=inf).tolist()
