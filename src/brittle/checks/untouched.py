"""H12: is the user's module, after all that was done, what it was before?"""

from brittle.about import About
from brittle.checks._shared import failed, few, moving, passed
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H12: parameters, buffers, modes, gradients, flags and devices of the user's module are as before, to the last bit",
    reference="SHA-256 of the state before and after",
    answers="before",
    cost="1 forward and 1 backward pass, 1 digest of the weights",
)
TITLE = "module left unchanged (H12)"


def untouched(problem: Problem, *, seed: int = 0) -> Finding:
    """Digest of the module's state, sealed when the examination began (or here), against now. Runs after all other checks."""
    problem.network.seal()
    part = few(problem, 4)
    if moving(part):
        _exercise(part)
    if problem.network.intact():
        return passed("untouched", TITLE, "The module is to the last bit what it was before.", value="equal digests")
    return failed(
        "untouched",
        TITLE,
        "stop",
        "The digest of the module has changed while it was examined.",
        "The module was changed while it was measured, by its own forward (hooks, globals, shared tensors) or by a bug here; "
        "find what writes to it, or report it together with the model.",
        value="different digests",
    )


def _exercise(part: Problem) -> None:
    try:
        part.gradient(moving(part))
    except Exception:  # the check on cut graphs says what to do
        return
