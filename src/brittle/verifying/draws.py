"""Statistical ends: drawn again with another seed."""

from collections.abc import Mapping

from brittle import laws as noise_laws
from brittle._checker.affine import Unknown
from brittle.discovery import method
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.store import Run
from brittle.verifying.recorded import laws_of
from brittle.verifying.report import Report

DRAWS = 1000  # per example when a statistical end is drawn again
MISS = 1e-3  # probability that the redraw accuses an honest record, over the whole run


def redraw(
    run: Run,
    problem: Problem,
    name: str,
    given: noise_laws.Law | Mapping[str, noise_laws.Law] | None,
    rows: list[dict],
    where: str,
    seed: int,
    report: Report,
) -> None:
    try:
        laws = laws_of(run.plan.laws[name], given)
    except Unknown as reason:
        report.unchecked.append(f"{where}: not checked: {reason}")
        return
    level = 1 - MISS / (run.plan.count * len(run.models) * len(run.plan.laws))
    fresh = method("noise", "monte_carlo")(problem, laws, seed=fold(seed, "verify"), level=level, draws=DRAWS)
    for row, low, high in zip(rows, fresh.lower.tolist(), fresh.upper.tolist(), strict=True):
        report.counts["intervals"] += 1
        for least, most in ((row["lower"], row["upper"]), (row["interval_lower"], row["interval_upper"])):
            if least is not None and most is not None and (low > most or high < least):
                said = f"recorded [{least:.4g}, {most:.4g}], drawn again [{low:.4g}, {high:.4g}]"
                report.fail(f"{where}, example {row['example']}", f"the probability disagrees: {said}")
        if "proved" in (row["lower_kind"], row["upper_kind"]):
            report.notes["proved ends of probabilities were compared with fresh draws, not proved again"] = None
