"""A8, A10: are misclassified examples counted apart, and did the attack move at all?"""

import torch

from brittle.about import About
from brittle.checks._shared import failed, passed, share
from brittle.problem import Problem
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="A8, A10: misclassified examples have radius 0 and are counted apart; attacks leave few correct examples without a point",
    reference="recount from clean margins",
    answers="after",
    cost="1 forward pass",
)
TITLE = "misclassified and unbroken examples (A8, A10)"
EMPTY = 0.01  # share of correct examples on which an unlimited search may come back with nothing


def counts(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """Clean margins against the status of every example; for a radius, the share of correct examples without any point."""
    wrong = (problem.margin(problem.centre) <= 0).cpu()
    witness = bracket.witness
    if witness is None or bracket.quantity not in ("radius", "margin"):
        note = f"{int(wrong.sum())} of {len(problem)} examples are misclassified without any change."
        return passed("counts", TITLE, note, value=f"{int(wrong.sum())} misclassified")
    held = bracket.upper > 0
    missed = wrong & held & torch.tensor([s != "rounding-only" for s in witness.status])
    if bool(missed.any()):
        return failed(
            "counts",
            TITLE,
            "invalid",
            f"{int(missed.sum())} misclassified examples carry a positive upper end.",
            f"Examples {missed.nonzero()[:5, 0].tolist()} are wrong without any change and are still credited with robustness; report "
            "this measurement.",
            value=f"{int(missed.sum())} credited",
            threshold="0",
        )
    return _unbroken(problem, bracket, witness.found, wrong)


def _unbroken(problem: Problem, bracket: Bracket, found: torch.Tensor, wrong: torch.Tensor) -> Finding:
    """A search without a limit that finds nothing has failed; inside a valid range there may be nothing (S8 knows better)."""
    empty = ~found & ~wrong
    value = f"{int(wrong.sum())} misclassified, {int(empty.sum())} without a point"
    many = bracket.quantity == "radius" and share(empty[~wrong]) > EMPTY
    note = (
        f"On {int(empty.sum())} of {int((~wrong).sum())} correct examples the attacks found no point at any distance."
    )
    if many and any(ball.low is None and ball.high is None for ball in problem.region.values()):
        return failed(
            "counts",
            TITLE,
            "warn",
            note,
            "The attacks came back with nothing where neither distance nor range was limited, so they failed unless the model is "
            'constant; attack with effort="thorough" and look at the gradient checks.',
            value=value,
            threshold=f"{EMPTY:.0%}",
        )
    if many:
        return passed("counts", TITLE, note, value=value, threshold=f"{EMPTY:.0%}", remark=True)
    note = f"{int(wrong.sum())} of {len(wrong)} examples are misclassified without any change and are counted apart."
    return passed("counts", TITLE, note, value=value, threshold=f"{EMPTY:.0%}")
