"""H7: do labels and outputs fit together: their counts, their range, their numbering?"""

from torch import Tensor

from brittle.about import About
from brittle.checks._shared import failed, few, interval, passed, raw_logits, share
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H7: labels are classes of the model, numbered as the model numbers them",
    reference="shapes and histogram; shifted labels are compared by exact intervals (Clopper and Pearson 1934)",
    answers="before",
    cost="1 forward pass",
)
TITLE = "labels and outputs (H7)"


def labels(problem: Problem, *, seed: int = 0) -> Finding:
    """Outputs, labels in use, and whether labels shifted by one fit the predictions much better than the labels as given."""
    part = few(problem, 128)
    logits = raw_logits(part)
    classes = max(2, logits.shape[1])
    shifted = _shift(part, logits) if logits.shape[1] > 1 else None
    counts = problem.labels.cpu().bincount(minlength=classes)
    used = int((counts > 0).sum())
    value = f"{logits.shape[1]} output{'s' * (logits.shape[1] != 1)}, {used} labels in use"
    if shifted is not None:
        by, theirs, ours = shifted
        return failed(
            "labels",
            TITLE,
            "stop",
            f"Labels shifted by {by:+d} agree with {theirs:.0%} of the predictions, the labels as given with {ours:.0%}.",
            f"The labels are numbered differently from the outputs of the model: add {by:+d} to every label (modulo {classes}).",
            value=value,
            threshold="disjoint exact intervals at level 0.99",
        )
    note = f"{_outputs(logits.shape[1])}; {used} of {classes} classes occur, the most frequent {int(counts.max())} times in {len(problem)}."
    return passed("labels", TITLE, note, value=value, remark=logits.shape[1] <= 2 or used == 1 < len(problem))


def _outputs(count: int) -> str:
    if count == 1:
        return "One output, read as a logit that must stay on its side of the threshold (labels 0 and 1)"
    if count == 2:
        return "Two outputs, so every attack has one target and the margin is one difference of logits"
    return f"The model has {count} outputs"


def _shift(part: Problem, logits: Tensor) -> tuple[int, float, float] | None:
    """The shift by one that fits significantly better, its agreement, and that of the labels as given."""
    predicted = logits.argmax(1)
    given = (predicted == part.labels).cpu()
    for by in (1, -1):
        hits = (predicted == (part.labels + by) % logits.shape[1]).cpu()
        varied = bool((predicted != predicted[0]).any())  # a constant model agrees with any labelling of one class
        if varied and interval(hits, 0.995)[0] > max(interval(given, 0.995)[1], 0.5):
            return by, share(hits), share(given)
    return None
