"""S8: is a data point of another class closer than the claimed radius?"""

from math import inf

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import distances, failed, few, passed, raw_logits
from brittle.problem import Problem
from brittle.results import Bracket, Finding
from brittle.spec import margin

ABOUT = About(
    promise="S8: no data point at which the property fails is closer than the witness, or inside the certified radius",
    reference="a data point of another class is a witness that costs no attack",
    answers="after",
    cost="1 forward pass",
)
TITLE = "nearest other class in the data (S8)"
SLACK = 1e-6


def nearest_other(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """For every example the nearest other example whose prediction breaks its property, against both ends of its radius."""
    leaves = problem.leaves
    if bracket.quantity != "radius" or len(leaves) != 1 or len(problem.inputs) != 1 or leaves[0] not in problem.inputs:
        return passed(
            "nearest_other", TITLE, "Only radii of a single input can be compared with distances in the data."
        )
    part = few(problem, 256)
    distance = torch.where(_fails(part), distances(part), inf).amin(1).cpu()
    lower, upper = bracket.lower[: len(part)], bracket.upper[: len(part)]
    inside, shorter = distance < lower * (1 - SLACK), distance < upper * (1 - SLACK)
    value = f"{int(inside.sum())} inside, {int(shorter.sum())} closer than the witness, of {len(part)}"
    if bool(inside.any()):
        return failed(
            "nearest_other",
            TITLE,
            "stop",
            f"{int(inside.sum())} examples have a data point inside their certified radius at which the property fails.",
            f"The certificates of examples {inside.nonzero()[:5, 0].tolist()} are refuted by the data, so a bound has a bug; report "
            "it together with the model.",
            value=value,
            threshold="0",
        )
    if bool(shorter.any()):
        return failed(
            "nearest_other",
            TITLE,
            "warn",
            f"{int(shorter.sum())} of {len(part)} examples have another example closer than their witness at which the property fails.",
            "The data hold shorter ways to another class than the attacks found, so the upper ends are too large; attack with "
            'effort="thorough" and look at the gradient checks.',
            value=value,
            threshold="0",
        )
    return passed("nearest_other", TITLE, "No data point is closer than a witness.", value=value, threshold="0")


def _fails(part: Problem) -> Tensor:
    """(N, N) bool: at the logits of example j the property of example i fails, in its own dtype and in float64."""
    count = len(part)
    i, j = torch.arange(count).repeat_interleave(count), torch.arange(count).repeat(count)
    spec, here = part.spec.take(i), part.device
    with torch.no_grad():
        both = (raw_logits(part), part.double().logits())
    holds = [margin(spec.rows(z[j.to(here)], part.labels[i.to(here)]), spec.rank) > 0 for z in both]
    return ~(holds[0] | holds[1]).reshape(count, count)
