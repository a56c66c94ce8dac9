"""S12: are there enough examples for a share to mean something?"""

import torch

from brittle.about import About
from brittle.checks._shared import failed, passed
from brittle.problem import Problem
from brittle.results import Bracket, Finding
from brittle.stats import clopper_pearson

ABOUT = About(
    promise="S12: the exact interval of a share of these examples is narrower than a half",
    reference="Clopper and Pearson, Biometrika 1934",
    answers="after",
    cost="no passes",
)
TITLE = "number of examples (S12)"
WIDE = 0.5  # an interval wider than this cannot tell a good model from a bad one
FINE = 0.1


def sample_size(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """Width of the exact 95 % interval of a share of one half, the widest there is, at this number of examples."""
    count = len(problem)
    low, high = clopper_pearson(torch.tensor([count // 2]), count)
    width = float(high - low)
    value, note = (
        f"{count} examples, width {width:.2f}",
        f"With {count} examples a share is known to within {width:.2f} (95 %).",
    )
    if width > WIDE:
        return failed(
            "sample_size",
            TITLE,
            "warn",
            note,
            f"Shares of {count} examples say little (a 95 % interval is up to {width:.2f} wide); use at least 100 examples, or read "
            "the brackets one by one.",
            value=value,
            threshold=f"{WIDE:g}",
        )
    return passed("sample_size", TITLE, note, value=value, threshold=f"{WIDE:g}", remark=width > FINE)
