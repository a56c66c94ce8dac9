"""A small audit that takes about a second: what the tests of run folders run, kill, resume and compare."""

from math import inf
from pathlib import Path

import torch
from torch import Tensor, nn

import brittle as bt
from brittle import files, runs

REGIONS = {"l2": bt.Ball(p=2, radius=1.0, low=0, high=1), "linf": bt.Ball(p=inf, radius=0.1, low=0, high=1)}
LAWS = {"noise": bt.Gaussian(0.2)}
QUIET = {"effort": "quick", "chunk": 2, "diagnostics": [], "checks": False, "progress": False, "report": None}


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    """6-12-3 with weights large enough that all classes occur; the last of six labels is wrong."""
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 1)
        x = torch.rand(6, 6)
        labels = module(x).argmax(1)
        labels[5] = (labels[5] + 1) % 3
    return module, x, labels


def audit(out: Path, module=None, **options):
    """Three chunks, two regions unless told otherwise."""
    model, x, labels = mlp()
    regions = {} if "regions" in options else {"regions": REGIONS}
    return runs.audit(model if module is None else module, x, labels, out=out, **{**QUIET, **regions, **options})


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a run folder but the timings and the lock."""
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.parent.name != "timings" and f.name != files.LOCK
    }
