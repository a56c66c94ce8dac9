"""H13: is the model right often enough, on data varied enough, for a distance to mean something?"""

import torch

from brittle.about import About
from brittle.checks._shared import correct, failed, few, interval, passed, raw_logits, share
from brittle.norms import flat
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H13: clean accuracy with its exact interval, against the most frequent label; balance; duplicates",
    reference="Clopper and Pearson, Biometrika 1934; Carlini et al. 2019, checklist",
    answers="before",
    cost="1 forward pass",
)
TITLE = "clean accuracy, balance, duplicates (H13)"


def clean_accuracy(problem: Problem, *, seed: int = 0) -> Finding:
    """Accuracy with its exact 95 % interval, share of the most frequent label, number of repeated inputs."""
    part = few(problem, 256)
    hits = correct(part, raw_logits(part))
    low, high = interval(hits)
    majority = share(part.labels == part.labels.mode().values)
    doubles = len(part) - len(torch.unique(torch.cat([flat(v).double() for v in part.inputs.values()], 1), dim=0))
    value = f"{share(hits):.3f} in [{low:.3f}, {high:.3f}]"
    note = (
        f"{int(hits.sum())} of {len(part)} examples are classified correctly (95 % interval {low:.2f} to {high:.2f}); the most "
        f"frequent label has a share of {majority:.2f}" + f"; {doubles} inputs are duplicates" * (doubles > 0) + "."
    )
    if high < majority:
        return failed(
            "clean_accuracy",
            TITLE,
            "warn",
            note,
            "The model is worse than always answering the most frequent label, so distances to its boundaries say nothing about "
            "robustness; check that inputs, labels and weights belong together.",
            value=value,
            threshold=f"{majority:.3f}",
        )
    guess = low <= majority < 1
    if guess:
        note = f"{note.removesuffix('.')}, and these examples cannot tell the model from always answering it."
    unbalanced = len(part) >= 16 and majority > 0.5 and part.labels.unique().numel() > 2
    remark = doubles > 0 or unbalanced or guess
    return passed("clean_accuracy", TITLE, note, value=value, threshold=f"{majority:.3f}", remark=remark)
