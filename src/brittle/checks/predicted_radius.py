"""S17: is the attack weaker than a prediction that runs no attack?"""

from math import inf

import torch

from brittle.about import About
from brittle.checks._shared import failed, few, passed
from brittle.errors import InputError
from brittle.partners import find_partners, moving_input
from brittle.paths import walk
from brittle.problem import Problem
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="S17: the attacks come as near as the gradients on the way to another class say they could",
    reference="arXiv 2406.16200 for the path; factor and shares measured on the embedded networks",
    norms=(1, 2, inf),
    answers="after",
    cost="at most 43 forward and 40 backward passes on at most 64 examples",
)
NAMED = 8  # rows told by their numbers
TITLE = "attack against attack-free prediction (S17)"
FACTOR = 1.5  # predictions of healthy networks lie within 0.8 to 1.1 of the best attack for nine tenths of their examples (measured)
SHARE = 0.2  # from here on the whole measurement is doubtful: a healthy GRU exceeds the factor for 2 of 64 examples in l2 and l-inf, for 8 of 64 in l1 (measured)


def predicted_radius(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """Upper ends of the radius against the radius predicted from gradients along the way to the nearest correct examples of other classes.

    Every example beyond the factor is a doubt, told by its number. The prediction is an estimate, no bound, so a few of them leave the
    verdict on the rest as it is; a fifth of them (and two) makes the whole measurement doubtful.
    """
    name = "predicted_radius"
    if bracket.quantity != "radius" or len(problem.leaves) != 1 or problem.leaves[0] not in problem.inputs:
        return passed(name, TITLE, "Only radii of a single input can be predicted.")
    part = few(problem, 64)
    try:
        ball = moving_input(problem)[1]
        paths = walk(part, find_partners(part, (problem.x, problem.labels)))
    except InputError as reason:  # one class only, a count of changes, a top-k property
        return passed(
            name, TITLE, f"Not judged: {reason.what}: expected {reason.expected}, got {reason.got}.", value="not judged"
        )
    known = torch.tensor([s == "ok" for s in paths.status])
    if ball.radius == 0 or not bool(known.any()):
        return passed(
            name, TITLE, "Not judged, because nothing could be predicted.", value="not judged", remark=ball.radius > 0
        )
    ratio = bracket.upper[: len(part)][known] * ball.radius / paths.radius.cpu()[known]
    beyond, count = int((ratio > FACTOR).sum()), len(ratio)
    value = f"{beyond} of {count} beyond, median ratio {float(ratio.median()):.3g}"
    threshold = f"{FACTOR} for {SHARE:.0%} of the examples"
    if beyond >= max(2, SHARE * count):
        return failed(
            name,
            TITLE,
            "warn",
            f"The attacked radius of {beyond} of {count} examples is more than {FACTOR} times what gradients along the way to another class predict.",
            "The attacks are weaker than the gradients on the way to other classes say they should be, so the upper ends may be far too "
            'large; attack with effort="thorough", with other losses or more restarts, and look at the gradient checks.',
            value=value,
            threshold=threshold,
        )
    note = f"The attacked radius of {beyond} of {count} examples is more than {FACTOR} times the predicted one."
    if beyond == 0:
        return passed(name, TITLE, note, value=value, threshold=threshold)
    rows = known.nonzero()[:, 0][ratio > FACTOR].tolist()
    which = ", ".join(map(str, rows[:NAMED])) + (f" and {beyond - NAMED} more" if beyond > NAMED else "")
    doubt = (
        f"The attacked radius of {'rows' if beyond > 1 else 'row'} {which} is more than {FACTOR} times what gradients along the way to "
        "another class predict, so these upper ends may be loose; attack those examples with more restarts."
    )
    return failed(name, TITLE, "note", note, doubt, value=value, threshold=threshold)
