"""Exact radii of linear classifiers."""

from math import inf

import torch
from torch import Tensor


def linear_radii(weights: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """l2 distance of every example to the nearest decision boundary of ``argmax(weights @ x)``; 0 where the label does not win.

    weights (K, d), x (N, d), labels (N,). Between the label y and a rival j the boundary is the hyperplane (w_y - w_j) x = 0, so the
    distance is ``min_j (w_y - w_j) x / |w_y - w_j|``. Returns (N,).

    >>> linear_radii(torch.eye(2), torch.tensor([[3.0, 1.0]]), torch.tensor([0])).item()  # |3 - 1| / sqrt(2)
    1.4142135381698608
    """
    scores = x @ weights.T
    margins = scores.gather(1, labels[:, None]) - scores
    between = torch.cdist(weights[labels], weights, compute_mode="donot_use_mm_for_euclid_dist")
    rival = torch.arange(len(weights)) != labels[:, None]
    return torch.where(rival, margins / between.clamp_min(1e-300), inf).min(1).values.clamp_min(0)
