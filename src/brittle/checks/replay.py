"""A7: do the stored points still fail in a fresh forward with another batch size?"""

import torch

from brittle.about import About
from brittle.checks._shared import failed, passed
from brittle.problem import Point, Problem
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="A7: every stored point breaks the property again, evaluated in batches of another size and order",
    reference="replay of the witnesses",
    answers="after",
    cost="1 forward pass",
)
TITLE = "stored points replayed (A7)"
BATCH = 7  # no divisor of the usual chunk sizes


def replay(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """The margin at every found point, in reversed order and in batches of seven: still not positive?"""
    witness = bracket.witness
    if witness is None or not bool(witness.found.any()):
        return passed("replay", TITLE, "No point is claimed to break the property.")
    order = witness.found.nonzero()[:, 0].flip(0)
    margins = torch.cat([_margin(problem, witness.take(at).point, at) for at in order.split(BATCH)])
    lost = order[~(margins <= 0)]
    value = f"{len(lost)} of {len(order)} points"
    if len(lost):
        return failed(
            "replay",
            TITLE,
            "invalid",
            f"{value} do not break the property when they are evaluated again.",
            f"The points of examples {sorted(lost.tolist())[:5]} do not fail twice, so their distances are no upper ends; look at the "
            "checks on random forwards and batch dependence, and count these examples as unbroken.",
            value=value,
            threshold="0",
        )
    note = f"All {len(order)} stored points break the property again in batches of {BATCH}."
    return passed("replay", TITLE, note, value=value, threshold="0")


def _margin(problem: Problem, point: Point, at: torch.Tensor) -> torch.Tensor:
    return problem.take(at).margin(point).double().cpu()
