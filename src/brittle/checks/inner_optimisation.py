"""H11: does the forward run an optimisation of its own (purification, test-time adaptation)?"""

from torch.overrides import TorchFunctionMode

from brittle.about import About
from brittle.checks._shared import failed, few, passed, raw_logits
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H11: one forward pass takes no gradients",
    reference="Croce et al. 2022, evaluating adversarial robustness of adaptive test-time defences",
    answers="before",
    cost="1 forward pass",
)
TITLE = "optimisation inside the forward (H11)"


class _Counter(TorchFunctionMode):
    """Counts calls that take gradients; a function mode sees them inside no_grad and inside torch.func too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") in ("grad", "backward") and callable(func)
        return func(*args, **(kwargs or {}))


def inner_optimisation(problem: Problem, *, seed: int = 0) -> Finding:
    """Calls of ``autograd.grad`` and ``backward`` during one forward pass of the quiet copy."""
    part = few(problem, 8)
    with _Counter() as counter:
        raw_logits(part)
    if counter.count:
        return failed(
            "inner_optimisation",
            TITLE,
            "invalid",
            f"One forward pass takes {counter.count} gradients.",
            "The model optimises inside its forward (purification, test-time adaptation), so gradients through it say little; attack "
            "it adaptively, on the loop unrolled or on the classifier behind it, before believing any distance.",
            value=str(counter.count),
            threshold="0",
        )
    return passed("inner_optimisation", TITLE, "One forward pass takes no gradients.", value="0", threshold="0")
