"""Projections onto the span of a few gradients, differentiable."""

import torch
from torch import Tensor

RIDGE = 1e-6  # of the mean squared row length: below it, in single precision, a direction of the span is rounding


def outside(step: Tensor, rows: Tensor) -> Tensor:
    """(N,) share of ``|step|^2`` outside the span of ``rows``, in [0, 1].

    step (N, D), rows (N, R, D) with R <= D. Solved through the R x R Gram matrix with a ridge of 1e-6 of its mean diagonal, so
    that dependent rows (dead units) are allowed and gradients stay finite; all rows zero give 1.
    """
    size = rows.square().sum(-1).mean(1, keepdim=True)[..., None]
    unit = rows / size.clamp_min(torch.finfo(rows.dtype).tiny).sqrt()
    gram = unit @ unit.transpose(1, 2) + RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    seen = unit @ step[..., None]
    inside = (seen * torch.linalg.solve(gram, seen)).sum((1, 2))
    whole = step.square().sum(1)
    return 1 - inside / whole.clamp_min(torch.finfo(step.dtype).tiny)
