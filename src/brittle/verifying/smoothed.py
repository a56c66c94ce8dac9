"""Radii of smoothed models: lower ends computed again from the recorded votes, votes and points judged by fresh draws."""

from collections.abc import Mapping
from math import inf

import numpy as np
import torch

from brittle import laws as noise_laws
from brittle._checker.affine import Unknown
from brittle.noise._moving import moving
from brittle.problem import Problem
from brittle.questions._smoothing import reach_of
from brittle.questions._votes import Votes, count_votes
from brittle.questions.smoothed_radius import FIGURES, lower_end
from brittle.randomness import fold
from brittle.stats import clopper_pearson
from brittle.store import Run
from brittle.verifying.draws import DRAWS, MISS
from brittle.verifying.recorded import laws_of
from brittle.verifying.report import Report

TESTS = 3  # of one example: the votes for the label (the recorded and the fresh interval may each miss), the lead at the point


def redraw_smoothed(
    run: Run,
    problem: Problem,
    name: str,
    given: noise_laws.Law | Mapping[str, noise_laws.Law] | None,
    rows: list[dict],
    points: Mapping[str, np.ndarray],
    proofs: Mapping[str, np.ndarray],
    where: str,
    seed: int,
    report: Report,
) -> None:
    """``problem`` moves in the recorded region. ``MISS`` is the share of all smoothed questions together."""
    facts = run.plan.smoothed[name]
    try:
        laws = laws_of(facts["laws"], given)
    except Unknown as reason:
        report.unchecked.append(f"{where}: not checked: {reason}")
        return
    absent = [key for key in FIGURES if key not in proofs] or [leaf for leaf in problem.leaves if leaf not in points]
    if absent:
        report.fail(where, f"the record holds no {absent[0]}")
        return
    error = MISS / (TESTS * run.plan.count * len(run.models) * len(run.plan.smoothed))
    figures = np.stack([proofs[key] for key in FIGURES])
    stored = {leaf: torch.from_numpy(points[leaf]).to(problem.centre[leaf]) for leaf in problem.leaves}
    sizes = problem.size(stored).tolist()
    question = moving(problem, laws)
    for i, row in enumerate(rows):
        here = f"{where}, example {row['example']}"
        report.counts["intervals"] += 1
        for said in _votes(question, problem, laws, facts, figures[:, i].tolist(), row, i, seed, error):
            report.fail(here, said)
        if row["found"]:
            report.counts["witnesses"] += 1
            if abs(sizes[i] - row["upper"]) > 1e-9 * (1 + abs(row["upper"])):
                report.fail(here, f"the point has size {sizes[i]:.9g}, recorded {row['upper']:.9g}")
        elif row["upper"] not in (inf, None) and not (row["upper"] == 0 and row["status"] == "misclassified"):
            report.fail(here, f"the upper end {row['upper']:.6g} has no point")
        if row["found"] or row["status"] == "misclassified":
            around = {leaf: value[i : i + 1] for leaf, value in (stored if row["found"] else problem.centre).items()}
            fresh = _fresh(question, laws, i, seed, "point", around)
            if _leads(fresh, error):
                report.fail(here, "the label leads at the point where the smoothed model is said to have left it")
    report.notes["smoothed models are other models than the one given: their radii say nothing of it"] = None


def _votes(
    question: Problem,
    problem: Problem,
    laws: Mapping[str, noise_laws.Law],
    facts: Mapping,
    figures: list[float],
    row: Mapping,
    i: int,
    seed: int,
    error: float,
) -> list[str]:
    """What is wrong with the votes of one example, and with the lower end that they shall give."""
    label, rival, draws, chosen, other, rivals = figures
    counts = [draws == facts["draws"], label + rival <= draws, chosen + other <= facts["selection"], rivals >= 1]
    if not all(counts) or min(figures) < 0 or any(v != int(v) for v in figures):
        return [f"votes that cannot be: {label:g} and {rival:g} of {draws:g} draws"]
    wrong = []
    tally = lambda most: torch.tensor([most] + [0.0] * (int(rivals) - 1), dtype=torch.float64)
    selected, counted = Votes(chosen, tally(other), facts["selection"]), Votes(label, tally(rival), int(draws))
    lower = lower_end(reach_of(problem, laws), selected, counted, (1 - facts["level"]) / 2)
    if abs(lower - row["lower"]) > 1e-9 * (1 + lower):
        wrong.append(f"the recorded votes give a radius of {lower:.6g}, recorded {row['lower']:.6g}")
    fresh = _fresh(question, laws, i, seed, "votes", None)
    known = _interval(label, int(draws), error)
    again = _interval(fresh.label, fresh.draws, error)
    if known[0] > again[1] or known[1] < again[0]:
        told = f"{label / draws:.4g} of {draws:g} draws, drawn again {fresh.label / fresh.draws:.4g} of {fresh.draws}"
        wrong.append(f"the votes for the label disagree: {told}")
    return wrong


def _fresh(question: Problem, laws: Mapping, i: int, seed: int, purpose: str, around: Mapping | None) -> Votes:
    with torch.no_grad():
        return count_votes(question, i, laws, fold(seed, "verify"), f"verify {purpose}", DRAWS, around=around)


def _interval(hits: float, draws: int, error: float) -> tuple[float, float]:
    low, high = clopper_pearson(torch.tensor([hits], dtype=torch.float64), draws, 1 - error)
    return float(low), float(high)


def _leads(votes: Votes, error: float) -> bool:
    """Whether the draws show that the label leads every rival."""
    rivals = len(votes.others)
    below = _interval(votes.label, votes.draws, error / 2)[0]
    above = max(_interval(float(v), votes.draws, error / 2 / rivals)[1] for v in votes.others)
    return below > above
