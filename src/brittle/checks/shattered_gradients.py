"""H10: does the gradient predict what a small move does to the margin?"""

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import (
    REPEATABLE,
    correct,
    failed,
    few,
    moving,
    passed,
    raw_logits,
    repetition,
    share,
    unrepeatable,
)
from brittle.norms import flat, spread
from brittle.problem import Problem
from brittle.randomness import per_example
from brittle.results import Finding

ABOUT = About(
    promise="H10: along random directions, central differences of the margin agree with its gradient",
    reference="Athalye, Carlini and Wagner 2018, shattered gradients; Pintor et al. 2022, unstable predictions",
    answers="before",
    cost="30 forward passes and 1 backward pass",
)
TITLE = "shattered gradients (H10)"
DIRECTIONS = 6
STEPS = (1e-3, 1e-2)  # times the range of the data: from below one grey level of 256 to about three
UNEXPLAINED = 0.5  # a gradient that explains less than half of the change is worse than a coin (folklore)
MANY = 0.25  # share of examples: isolated kinks are no reason for doubt (folklore)


def shattered_gradients(problem: Problem, *, seed: int = 0) -> Finding:
    """Per example, the part of squared central differences that the gradient leaves unexplained, over steps and directions.

    With f the margin, u random with independent normal entries and g the gradient, ``sum (fd - g.u)^2 / sum fd^2`` is 0
    for affine f, 1 for a gradient of zero and large for a gradient without relation to f. Each step has its own ratio; the
    smallest over the steps counts, so that curvature at the large step or rounding at the small one raises no alarm.
    """
    part = few(problem, 16)
    right = correct(part, raw_logits(part))
    if not moving(part) or not bool(right.any()):
        return passed("shattered_gradients", TITLE, "Not looked at: no correct example with a gradient.", remark=True)
    if repetition(part) > REPEATABLE:
        return unrepeatable("shattered_gradients", TITLE)
    part = part.take(right.nonzero()[:, 0])
    part = part.double() if _short(part) else part
    try:
        _, gradient = part.gradient(moving(part))
    except Exception as reason:  # the check on cut graphs says what to do
        note = f"Not looked at: the backward pass raises {type(reason).__name__}."
        return passed("shattered_gradients", TITLE, note, remark=True)
    ratios, changes = zip(*(_unexplained(part, gradient, step, seed) for step in STEPS), strict=True)
    unexplained = torch.stack(ratios).amin(0).cpu()
    shattered = share(unexplained > UNEXPLAINED)
    value = f"{shattered:.0%} of examples, median {float(unexplained.median()):.2g}"
    note = (
        f"Over moves of {STEPS[0]:g} of the data range the margin changes by {float(changes[0].median()):.2g} of the spread of "
        f"the logits, and the gradient leaves {float(unexplained.median()):.2g} of the squared change unexplained (medians)."
    )
    if shattered > MANY:
        return failed(
            "shattered_gradients",
            TITLE,
            "warn",
            note,
            f"On {shattered:.0%} of the examples the gradient does not tell how the margin changes nearby, so attacks by gradients "
            "are misled; look for rounding, winner-take-all or input-dependent random layers, and smooth them or replace their gradient.",
            value=value,
            threshold=f"{UNEXPLAINED:g} on {MANY:.0%} of examples",
        )
    return passed("shattered_gradients", TITLE, note, value=value, threshold=f"{UNEXPLAINED:g} on {MANY:.0%}")


def _unexplained(part: Problem, gradient: dict[str, Tensor], step: float, seed: int) -> tuple[Tensor, Tensor]:
    """(N,) the unexplained share at one step, and (N,) the mean absolute change relative to the spread of the logits."""
    point = moving(part)
    logits = raw_logits(part).double()
    size = (logits.amax(1) - logits.amin(1)).clamp_min(1e-300) if logits.shape[1] > 1 else logits.abs()[:, 0] + 1e-300
    missed, total, moved = (torch.zeros(len(part), dtype=torch.float64, device=part.device) for _ in range(3))
    for k in range(DIRECTIONS):
        change = {leaf: step * _extent(v) * _direction(v, part, leaf, k, seed) for leaf, v in point.items()}
        ahead = part.margin({leaf: v + change[leaf] for leaf, v in point.items()}).double()
        behind = part.margin({leaf: v - change[leaf] for leaf, v in point.items()}).double()
        slope = sum((flat(gradient[leaf]).double() * flat(change[leaf]).double()).sum(1) for leaf in point)
        half = (ahead - behind) / 2
        missed, total, moved = missed + (half - slope).square(), total + half.square(), moved + half.abs()
    floor = (size * 64 * torch.finfo(next(iter(point.values())).dtype).eps).square()  # what rounding alone can change
    ratio = torch.where((total <= floor) & (missed <= floor), torch.zeros_like(total), missed / total.clamp_min(floor))
    return ratio, moved / DIRECTIONS / size


def _direction(value: Tensor, part: Problem, leaf: str, k: int, seed: int) -> Tensor:
    draw = lambda g: torch.randn(value.shape[1:], generator=g, dtype=torch.float64)
    return per_example(draw, seed, part.index, "shattered_gradients", leaf, k).to(value)


def _extent(value: Tensor) -> Tensor:
    """The range of the data of a leaf, over all examples; of one constant its size, of zero 1; shaped for broadcasting."""
    extent = (value.amax() - value.amin()).abs()
    extent = torch.where(extent > 0, extent, value.abs().amax())
    return spread(torch.where(extent > 0, extent, torch.ones_like(extent))[None], value)


def _short(part: Problem) -> bool:
    return any(v.dtype in (torch.float16, torch.bfloat16) for v in moving(part).values())
