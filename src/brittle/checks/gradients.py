"""H9: are the gradients finite and different from zero, and if not, what brings them back?"""

from collections.abc import Callable

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import correct, failed, few, moving, passed, raw_logits, share
from brittle.norms import flat
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H9: the gradient of the margin is finite and not zero on correctly classified examples",
    reference="Carlini and Wagner 2017; Croce and Hein 2020 (scaling); Pintor et al. 2022, unavailable gradients",
    answers="before",
    cost="4 forward and 3 backward passes",
)
TITLE = "zero, NaN or infinite gradients (H9)"
SHARE = 0.01  # of the correct examples, above which the attacks as a whole cannot be believed
TINY = 1e-3  # a median gap between the largest and the smallest logit below this leaves losses flat (folklore)


def gradients(problem: Problem, *, seed: int = 0) -> Finding:
    """Gradient of the margin in its own precision; where it is bad, of the spread-free margin in float64; then of cross-entropy."""
    part = few(problem)
    logits = raw_logits(part)
    right = correct(part, logits)
    if not moving(part) or not bool(right.any()):
        reason = "no leaf carries a gradient" if not moving(part) else "no example is classified correctly"
        return passed("gradients", TITLE, f"Not looked at, because {reason}.", remark=True)
    part, logits = part.take(right.nonzero()[:, 0]), logits[right.to(logits.device)]
    bad = _bad(part, None)
    spread = float((logits.amax(1) - logits.amin(1)).median()) if logits.shape[1] > 1 else float(logits.abs().median())
    if bool(bad.any()):
        return _unusable(part, bad, spread)
    saturated = share(_bad(part, _cross_entropy))
    return _scale(part, saturated, spread)


def _unusable(part: Problem, bad: Tensor, spread: float) -> Finding:
    """Some gradients are bad: does float64, with logits divided by their spread, bring them back?"""
    try:
        persists = bad & _bad(part.double(), lambda rows: rows.amin(1) / max(spread, 1e-300))
    except Exception:  # a model without a float64 copy: the pipeline check tells
        persists = bad
    value = f"{share(bad):.1%} of correct examples, {share(persists):.1%} in float64"
    note = f"The gradient of the margin is zero, NaN or infinite on {share(bad):.1%} of {len(part)} correct examples."
    if not bool(persists.any()):
        advice = (
            "the gradients come back in float64, so evaluate the model in float64 or divide its logits by their spread"
        )
        return failed("gradients", TITLE, "warn", note, f"Gradients underflow or overflow; {advice}.", value=value)
    return failed(
        "gradients",
        TITLE,
        "invalid" if share(persists) > SHARE else "warn",
        note,
        f"On {share(persists):.1%} of the correct examples attacks get no direction, in float64 neither, so their distances "
        "mean nothing there; look for rounding, saturated or custom layers, and square roots or norms at zero.",
        value=value,
        threshold=f"{SHARE:.0%} of correct examples",
    )


def _scale(part: Problem, saturated: float, spread: float) -> Finding:
    """Gradients of the margin are good: is the scale of the logits one at which losses work?"""
    value = f"median spread of the logits {spread:.3g}"
    if saturated > SHARE:
        return failed(
            "gradients",
            TITLE,
            "warn",
            f"The gradient of cross-entropy is exactly zero on {saturated:.1%} of {len(part)} correct examples; {value}.",
            "The logits are so large that cross-entropy saturates and attacks with it fail in silence; use losses of the margin, "
            "or divide the logits by their spread.",
            value=f"{saturated:.1%} saturated",
            threshold=f"{SHARE:.0%}",
        )
    if spread < TINY:
        return failed(
            "gradients",
            TITLE,
            "warn",
            f"The {value} is far below 1.",
            "The logits are so small that cross-entropy is flat and margins drown in rounding; multiply the logits by a constant "
            "(no class changes).",
            value=value,
            threshold=f"{TINY:g}",
        )
    return passed("gradients", TITLE, f"All {len(part)} correct examples have a finite gradient; {value}.", value=value)


def _bad(part: Problem, objective: Callable[[Tensor], Tensor] | None) -> Tensor:
    """(N,) bool on the CPU: the gradient by all moving leaves together is zero, or not finite in any of them."""
    try:
        _, by_leaf = part.gradient(moving(part), objective)
    except Exception:  # what raises is the subject of the check on cut graphs
        return torch.ones(len(part), dtype=torch.bool)
    every = torch.cat([flat(g).double() for g in by_leaf.values()], 1)
    return (~every.isfinite().all(1) | (every == 0).all(1)).cpu()


def _cross_entropy(rows: Tensor) -> Tensor:
    """log(1 + sum exp(-row)): cross-entropy of the untargeted rows, as it is usually computed."""
    return torch.cat([torch.zeros_like(rows[:, :1]), -rows], 1).logsumexp(1)
