"""H4: does the same input give the same logits every time?"""

import torch

from brittle import meter
from brittle.about import About
from brittle.averaging import Averaged, redrawn
from brittle.checks._shared import REPEATABLE, difference, failed, few, passed, raw_logits
from brittle.network import call
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H4: five evaluations of the same inputs agree",
    reference="Athalye, Carlini and Wagner 2018, obfuscated gradients, section 4: randomised classifiers",
    answers="before",
    cost="5 forward passes; 5 more for bt.averaged",
)
TITLE = "randomised forward (H4)"


def random_forward(problem: Problem, *, seed: int = 0) -> Finding:
    """Five forwards of the same inputs, seeds left alone: largest relative change of a logit, and flipped classes."""
    part = few(problem)
    first, *others = [raw_logits(part) for _ in range(5)]
    change = max(difference(first, other) for other in others)
    flips = torch.stack([first.argmax(1) != other.argmax(1) for other in others]).any(0).double().mean()
    limit = max(REPEATABLE, 16 * torch.finfo(first.dtype).eps)
    value = f"{change:.2g}, {float(flips):.1%} flips"
    if change > limit:
        return failed(
            "random_forward",
            TITLE,
            "warn",
            f"Five evaluations of the same inputs differ by {change:.2g} of the largest logit and flip {float(flips):.1%} of the classes.",
            "The forward is random or remembers its calls, so a witness may not fail twice and no radius is well defined; switch "
            "off what draws (dropout, noise) or fix the draw, or measure the mean over many draws: bt.averaged(model).",
            value=value,
            threshold=f"{limit:.1g}",
        )
    if isinstance(part.network.quiet, Averaged) and _draws_agree(part, limit):
        return Finding(
            "random_forward",
            TITLE,
            note="Five draws of the averaged model are the same: nothing in it is random. If its dropout should stay on, call "
            ".train() on those layers before bt.averaged(model).",
            consequence="note",
            value=value,
            threshold=f"{limit:.1g}",
        )
    return passed(
        "random_forward",
        TITLE,
        f"Five evaluations of the same inputs differ by {change:.2g} of the largest logit.",
        value=value,
        threshold=f"{limit:.1g}",
    )


def _draws_agree(problem: Problem, limit: float) -> bool:
    """Whether single draws of the averaged model, five of them, give the same logits."""
    meter.count(forward=5 * len(problem))
    with torch.no_grad():
        first, *others = [call(redrawn(problem.network, 1, number).quiet, problem.x) for number in range(5)]
    return all(difference(first, other) <= limit for other in others)
