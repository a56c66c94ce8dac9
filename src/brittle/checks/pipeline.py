"""H2: does the copy that brittle measures compute what the user's module computes, in its own precision and in float64?"""

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import (
    REPEATABLE,
    difference,
    failed,
    few,
    passed,
    raw_logits,
    repetition,
    rounding,
    unrepeatable,
)
from brittle.network import call, lend
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.results import Finding

ABOUT = About(
    promise="H2: the measured copy gives the logits of the module as given, and float64 agrees with its own precision",
    reference="comparison of two evaluations; tolerance 1000 units in the last place of the logits' dtype",
    answers="before",
    cost="7 forward passes",
)
TITLE = "same function as the user's module (H2)"
EXACT = 1e-3  # own precision and float64 may differ by this share of the largest logit before witnesses get lost to rounding


def pipeline(problem: Problem, *, seed: int = 0) -> Finding:
    """Logits of the quiet copy against the user's module (lent in evaluation mode, put back exactly) and the float64 copy."""
    part = few(problem, 32)
    if repetition(part) > REPEATABLE:
        return unrepeatable("pipeline", TITLE)
    mine, theirs = (_logits(part, how, seed) for how in ("quiet", "original"))
    if mine.shape != theirs.shape:
        return _other_function(
            f"The copy returns shape {tuple(mine.shape)}, the module as given {tuple(theirs.shape)}.", "shape", ""
        )
    gap, tolerance = difference(mine, theirs), rounding(mine)
    flips = int((mine.argmax(1) != theirs.argmax(1)).sum())
    value, limit = f"{gap:.2g}", f"{tolerance:.1g}"
    if gap > tolerance:
        note = f"The copy and the module as given differ by {gap:.2g} of the largest logit and in {flips} of {len(part)} classes."
        return _other_function(note, value, limit)
    return _against_float64(part, mine, seed, value, limit)


def _other_function(note: str, value: str, limit: str) -> Finding:
    return failed(
        "pipeline",
        TITLE,
        "stop",
        note,
        "The copy that would be measured is not the function you gave: the module keeps state that copy.deepcopy does not "
        "carry over (a closure over itself, a global, a mode); wrap it in a function that computes the logits.",
        value=value,
        threshold=limit,
    )


def _against_float64(part: Problem, mine: Tensor, seed: int, value: str, limit: str) -> Finding:
    """The second half: the float64 copy runs and agrees."""
    try:
        exact = _logits(part, "double", seed)
    except Exception as reason:  # user code decides what can go wrong here
        return failed(
            "pipeline",
            TITLE,
            "warn",
            f"The float64 copy cannot be evaluated ({type(reason).__name__}: {_line(reason)}).",
            "The model fixes a precision inside its forward, so that nothing can be confirmed or certified in float64; create "
            "tensors there in the dtype of the input.",
            value="no float64",
            threshold=limit,
        )
    gap = difference(exact, mine)
    if gap > max(EXACT, 16 * torch.finfo(mine.dtype).eps):
        return failed(
            "pipeline",
            TITLE,
            "warn",
            f"Own precision and float64 differ by {gap:.2g} of the largest logit.",
            f"Rounding moves the logits by {gap:.2g} of their size, so that what one precision breaks the other may not; "
            "evaluate the model in float32 or float64.",
            value=f"{gap:.2g} to float64",
            threshold=f"{EXACT:g}",
        )
    note = f"The copy differs from the module as given by {value} of the largest logit, float64 by {gap:.2g}."
    return passed("pipeline", TITLE, note, value=value, threshold=limit)


def _logits(part: Problem, how: str, seed: int) -> Tensor:
    """One evaluation, each with the same state of torch's random generator."""
    devices = [part.device] if part.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(fold(seed, "pipeline"))
        if how == "quiet":
            return raw_logits(part)
        if how == "double":
            return part.double().logits()
        with lend(part.network.original) as module:
            return call(module, part.x)


def _line(reason: Exception) -> str:
    return str(reason).splitlines()[0][:120] if str(reason) else "no message"
