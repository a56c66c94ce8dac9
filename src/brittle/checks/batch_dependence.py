"""H5: are the logits of an example its own, whatever else is in the batch?"""

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
    rows_of,
    unrepeatable,
)
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Finding

ABOUT = About(
    promise="H5: an example gets the same logits alone, in its batch and in a shuffled batch",
    reference="definition of a per-example classifier; tolerance 1e-3 of the largest logit",
    answers="before",
    cost="7 forward passes and 4 single ones",
)
TITLE = "batch-dependent outputs (H5)"
RELATIVE = (
    1e-3  # other batch sizes sum in another order (about 1e-6 in float32); batch statistics move far more (folklore)
)


def batch_dependence(problem: Problem, *, seed: int = 0) -> Finding:
    """Logits of single examples, of half the batch and of a permuted batch against those of the whole batch."""
    part = few(problem)
    whole = raw_logits(part)
    if repetition(part) > REPEATABLE:
        return unrepeatable("batch_dependence", TITLE)
    order = torch.randperm(len(part), generator=generator(seed, "batch_dependence"))
    gaps = [difference(whole, raw_logits(part, rows_of(part, order))[order.argsort().to(whole.device)])]
    sizes = [s for s in (1, (len(part) + 1) // 2) if s < len(part)]
    refused = ""
    for size in sizes:
        try:
            gaps.append(_in_parts(part, whole, size))
        except Exception as reason:  # a fixed batch size, or statistics that need more than one example
            refused = refused or f"a batch of {size} raises {type(reason).__name__}"
    return _verdict(max(gaps), max(RELATIVE, 64 * torch.finfo(whole.dtype).eps), refused)


def _in_parts(part: Problem, whole: Tensor, size: int) -> float:
    """The largest difference over the first four batches of this size."""
    starts = range(0, len(part) - size + 1, size)[:4]
    batches = [torch.arange(s, s + size) for s in starts]
    return max(
        difference(whole, whole.index_copy(0, b.to(whole.device), raw_logits(part, rows_of(part, b)))) for b in batches
    )


def _verdict(gap: float, limit: float, refused: str) -> Finding:
    value, threshold = f"{gap:.2g}{', ' * bool(refused)}{refused}", f"{limit:.1g}"
    if gap > limit:
        return failed(
            "batch_dependence",
            TITLE,
            "invalid",
            f"Logits change by {gap:.2g} of the largest one when the rest of the batch changes.",
            "The logits of an example depend on its neighbours in the batch, so no claim about a single example holds; let the "
            "normalisation use stored statistics (eval mode with track_running_stats) or statistics of the example alone.",
            value=value,
            threshold=threshold,
        )
    if refused:
        return failed(
            "batch_dependence",
            TITLE,
            "warn",
            f"The model takes only some batch sizes: {refused}.",
            f"The model refuses other batch sizes ({refused}), which every attack and bound needs; export it with a dynamic batch axis.",
            value=value,
            threshold=threshold,
        )
    return passed(
        "batch_dependence",
        TITLE,
        f"Alone, in halves and shuffled, logits differ by {gap:.2g} of the largest one.",
        value=value,
        threshold=threshold,
    )
