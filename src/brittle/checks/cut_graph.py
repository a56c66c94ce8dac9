"""H8: does the gradient reach everything that moves?"""

import torch

from brittle import meter
from brittle.about import About
from brittle.checks._shared import failed, few, moving, passed
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H8: autograd connects the logits with every leaf that moves",
    reference="torch.autograd.grad with allow_unused; Athalye, Carlini and Wagner 2018, section 3",
    answers="before",
    cost="1 forward and 1 backward pass",
)
TITLE = "cut graph (H8)"
ADVICE = (
    "remove detach, no_grad, argmax, rounding and integer casts from the forward, or replace them by differentiable "
    "stand-ins before asking for witnesses"
)


def cut_graph(problem: Problem, *, seed: int = 0) -> Finding:
    """One backward pass from the sum of all logits to every moving leaf: which leaves are unconnected, and what is raised."""
    part = few(problem, 4)
    point = {k: v.detach().clone().requires_grad_() for k, v in moving(part).items()}
    if not point:
        note = "The inputs are integers and nothing else moves, so there is no gradient to look at."
        return passed("cut_graph", TITLE, note, remark=True)
    meter.count(backward=len(part))
    try:
        with torch.enable_grad(), part.network.recurrent_safe():
            total = part.logits(point).sum()
            unused = _unconnected(total, point)
    except Exception as reason:  # in-place edits, custom functions without a backward, second-order refusals
        return failed(
            "cut_graph",
            TITLE,
            "warn",
            f"The backward pass raises {type(reason).__name__}.",
            f"The model cannot be differentiated ({type(reason).__name__}), so no attack by gradients will find anything; {ADVICE}.",
            value=type(reason).__name__,
        )
    if not unused:
        return passed("cut_graph", TITLE, f"The gradient reaches {', '.join(point)}.", value="connected")
    return failed(
        "cut_graph",
        TITLE,
        "warn",
        f"The logits are not connected with {', '.join(unused)}.",
        f"No gradient reaches {', '.join(unused)}, so attacks are blind there and their distances mean nothing; {ADVICE}.",
        value=f"{len(unused)} of {len(point)} leaves cut",
    )


def _unconnected(total: torch.Tensor, point: dict[str, torch.Tensor]) -> list[str]:
    if not total.requires_grad:
        return list(point)
    gradients = torch.autograd.grad(total, list(point.values()), allow_unused=True)
    return [leaf for leaf, g in zip(point, gradients, strict=True) if g is None]
