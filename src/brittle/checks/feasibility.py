"""A6: does every stored point keep its budget and its valid range?"""

import torch

from brittle.about import About
from brittle.checks._shared import failed, passed
from brittle.problem import Problem
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="A6: every witness lies inside its range, at the size that is claimed for it",
    reference="recomputed in float64 from the stored values",
    answers="after",
    cost="no passes",
)
TITLE = "budget and range of the stored points (A6)"
RELATIVE = 1e-6


def feasibility(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """Sizes of all found points, recomputed from the stored values, against the sizes claimed for them."""
    witness = bracket.witness
    if witness is None or not bool(witness.found.any()):
        return passed("feasibility", TITLE, "No point is claimed to break the property.")
    size, found = problem.size(witness.point), witness.found
    limit = witness.size
    if bracket.quantity == "radius":
        limit = torch.minimum(limit, torch.where(found, bracket.upper, limit))
    elif bracket.quantity in ("margin", "accuracy"):
        limit = torch.minimum(limit, problem.scale)
    outside = found & ~(size <= limit * (1 + RELATIVE))
    value = f"{int(outside.sum())} of {int(found.sum())} points"
    if bool(outside.any()):
        return failed(
            "feasibility",
            TITLE,
            "invalid",
            f"{value} leave their range or are larger than claimed.",
            f"The points of examples {outside.nonzero()[:5, 0].tolist()} are not allowed in the region that was asked about; discard "
            "this measurement and report the attack that made them.",
            value=value,
            threshold=f"{RELATIVE:g} relative",
        )
    note = f"All {int(found.sum())} stored points keep their budget and their range."
    return passed("feasibility", TITLE, note, value=value, threshold=f"{RELATIVE:g} relative")
