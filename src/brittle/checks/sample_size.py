"""S12, S13: are there enough independent examples for a share to mean something?"""

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import failed, passed
from brittle.problem import Problem
from brittle.results import Bracket, Finding
from brittle.stats import clopper_pearson

ABOUT = About(
    promise="S12, S13: the exact interval of a share of these examples, repeats and clusters counted once, is narrower than a half",
    reference="Clopper and Pearson, Biometrika 1934; effective number of clusters: Kish, Survey Sampling, 1965",
    answers="after",
    cost="no passes",
)
TITLE = "number of examples (S12, S13)"
WIDE = 0.5  # an interval wider than this cannot tell a good model from a bad one
FINE = 0.1


def sample_size(problem: Problem, bracket: Bracket, *, seed: int = 0, clusters: Tensor | None = None) -> Finding:
    """Width of the exact 95 % interval of a share of one half, the widest there is, at this number of independent examples.

    clusters  (N,) whole numbers: examples with the same one are not independent (frames of a film, speakers, patients); default: inputs
              that are equal to the last bit. They count as Kish's effective number ``N^2 / sum m_k^2``, all that is left if the members
              of a cluster always agree. Other dependence between examples cannot be seen from here.
    """
    examples, groups = len(problem), _groups(problem) if clusters is None else clusters
    sizes = groups.unique(return_counts=True)[1].double()
    count = max(1, int(sizes.sum().square() / sizes.square().sum() + 1e-9))
    low, high = clopper_pearson(torch.tensor([count // 2]), count)
    width = float(high - low)
    alike = f", which count as {count} independent ones (S13)" if count < examples else ""
    value = f"{examples} examples{f', {count} independent' * (count < examples)}, width {width:.2f}"
    note = f"With {examples} examples{alike} a share is known to within {width:.2f} (95 %, draws of one population)."
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
    return passed("sample_size", TITLE, note, value=value, threshold=f"{WIDE:g}", remark=width > FINE or bool(alike))


def _groups(problem: Problem) -> Tensor:
    """(N,) equal for equal inputs."""
    known: dict[tuple[bytes, ...], int] = {}
    parts = [
        v.detach().cpu().reshape(len(v), -1).contiguous().view(torch.uint8).numpy() for v in problem.inputs.values()
    ]
    keys = [tuple(part[i].tobytes() for part in parts) for i in range(len(problem))]
    return torch.tensor([known.setdefault(key, len(known)) for key in keys])
