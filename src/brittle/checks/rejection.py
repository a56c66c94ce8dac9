"""A13: does the model hold a rejection class or a detector that the question leaves out?"""

from collections.abc import Mapping

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import failed, few, passed
from brittle.network import read_logits
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="A13: no output beyond the labelled classes and no second head with a score per example is ignored",
    reference="Carlini et al. 2019, checklist: attack the whole defence; Tramer 2022, detecting adversarial examples",
    answers="before",
    cost="1 forward pass",
)
TITLE = "rejection class or detector (A13)"
ENOUGH = 20  # examples per class, from which on a class that never occurs among balanced labels has odds of exp(-20)


def rejection(problem: Problem, *, seed: int = 0) -> Finding:
    """Labels that are exactly the first K of K + 1 outputs; other tensors among the outputs that hold one or two numbers per example."""
    part = few(problem, 16)
    output = _output(part)
    outputs = read_logits(output).shape[1]
    heads = _heads(output, len(part))
    value = f"{outputs} outputs, {int(problem.labels.max()) + 1} labels, {len(heads)} further scores"
    if heads:
        return failed(
            "rejection",
            TITLE,
            "warn",
            f"Beside its logits the model returns {', '.join(heads)} with one or two numbers per example.",
            f"The model returns {', '.join(heads)}, perhaps a detector, which nothing here looks at; if what it flags counts as "
            "safe, make it part of the logits, and attack both at once.",
            value=value,
        )
    if _one_left_over(problem.labels, outputs):
        sure = len(problem) >= ENOUGH * outputs
        note = (
            f"The labels are the classes 0 to {outputs - 2}, each of which occurs, and the model has one output more."
        )
        if not sure:
            return passed("rejection", TITLE, note, value=value, remark=True)
        return failed(
            "rejection",
            TITLE,
            "warn",
            note,
            f"Output {outputs - 1} is the label of nothing, perhaps a rejection class, and an answer of it counts as a failure; where "
            "rejecting is safe, radii are larger than said: ask class by class with bt.Targeted.",
            value=value,
        )
    return passed("rejection", TITLE, "The outputs are the labelled classes and nothing else.", value=value)


def _output(part: Problem) -> object:
    """What the quiet copy returns, whole."""
    x, module = part.x, part.network.quiet
    with torch.no_grad():
        return part.network.run(lambda: module(x) if isinstance(x, Tensor) else module(**x))


def _heads(output: object, count: int) -> list[str]:
    """Names of the further floating outputs of shape (N,), (N, 1) or (N, 2)."""
    if isinstance(output, Mapping):
        named = {str(k): v for k, v in output.items()}
    elif isinstance(output, (tuple, list)):
        named = {f"output {i}": v for i, v in enumerate(output)}
    else:
        return []
    taken = "logits" if "logits" in named else next((k for k, v in named.items() if isinstance(v, Tensor)), "")
    small = lambda v: (
        isinstance(v, Tensor) and v.is_floating_point() and v.shape[:1] == (count,) and v.numel() <= 2 * count
    )
    return [name for name, value in named.items() if name != taken and small(value)]


def _one_left_over(labels: Tensor, outputs: int) -> bool:
    """The labels are exactly 0 .. K - 1 of K + 1 outputs, with K at least 2."""
    return outputs > 2 and torch.equal(labels.unique().cpu(), torch.arange(outputs - 1))
