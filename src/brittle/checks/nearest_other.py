"""S3, S4, S8: is a data point of another class closer than the claimed radius, or inside a region that was not broken?"""

from math import inf

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import distances, failed, few, passed, raw_logits, share
from brittle.problem import Problem
from brittle.results import Bracket, Finding
from brittle.spec import margin

ABOUT = About(
    promise="S3, S4, S8: no data point at which the property fails is closer than the witness, or inside a region certified or left unbroken",
    reference="a data point of another class is a witness that costs no attack",
    answers="after",
    cost="1 forward pass",
)
TITLE = "nearest other class in the data (S3, S4, S8)"
SLACK = 1e-6
SHARE = (
    0.01  # of the examples, from which on a search that finds nothing where the data hold a point has failed as a whole
)


def nearest_other(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """For every example the nearest other example whose prediction breaks its property, against both ends of its radius or margin.

    Every such example is a point of the valid range: an attack that finds nothing at any distance (S4), or leaves a margin in a region
    that reaches it (S3), has failed, and the model is not constant.
    """
    leaves = problem.leaves
    known = bracket.quantity in ("radius", "margin") and len(leaves) == 1 and len(problem.inputs) == 1
    if not known or leaves[0] not in problem.inputs:
        return passed(
            "nearest_other",
            TITLE,
            "Only radii and margins of a single input can be compared with distances in the data.",
        )
    part = few(problem, 256)
    distance = torch.where(_fails(part), distances(part), inf).amin(1).cpu()
    inside, shorter, missed = _against(bracket.take(torch.arange(len(part))), distance, part.scale)
    value = f"{int(inside.sum())} inside, {int(shorter.sum())} closer than the witness, of {len(part)}"
    if bool(inside.any()):
        return failed(
            "nearest_other",
            TITLE,
            "stop",
            f"{int(inside.sum())} examples have a data point inside their certified region at which the property fails.",
            f"The certificates of examples {inside.nonzero()[:5, 0].tolist()} are refuted by the data, so a bound has a bug; report "
            "it together with the model.",
            value=value,
            threshold="0",
        )
    if bool(shorter.any()):
        return failed(
            "nearest_other",
            TITLE,
            "invalid" if int(missed.sum()) > 1 and share(missed) > SHARE else "warn",
            f"{int(shorter.sum())} of {len(part)} examples have another example closer than their witness at which the property fails"
            f"{f'; on {int(missed.sum())} the attacks found nothing at all' * bool(missed.any())}.",
            "The data hold shorter ways to another class than the attacks found, so the upper ends are too large; attack with "
            'effort="thorough" and look at the gradient checks.',
            value=value,
            threshold=f"0 (invalid where nothing was found for more than one and {SHARE:.0%})",
        )
    return passed("nearest_other", TITLE, "No data point is closer than a witness.", value=value, threshold="0")


def _against(bracket: Bracket, distance: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) bool: a data point refutes the lower end; the upper end; it does so where no attack found anything."""
    if bracket.quantity == "margin":
        reached = distance <= scale * (1 - SLACK)
        return reached & (bracket.lower > 0), reached & (bracket.upper > 0), reached & (bracket.upper > 0)
    shorter = distance < bracket.upper * (1 - SLACK)
    return distance < bracket.lower * (1 - SLACK), shorter, shorter & bracket.upper.isinf()


def _fails(part: Problem) -> Tensor:
    """(N, N) bool: at the logits of example j the property of example i fails, in its own dtype and in float64."""
    count = len(part)
    i, j = torch.arange(count).repeat_interleave(count), torch.arange(count).repeat(count)
    spec, here = part.spec.take(i), part.device
    with torch.no_grad():
        both = (raw_logits(part), part.double().logits())
    holds = [margin(spec.rows(z[j.to(here)], part.labels[i.to(here)]), spec.rank) > 0 for z in both]
    return ~(holds[0] | holds[1]).reshape(count, count)
