"""The slow, obvious twin of a Lipschitz bound: the longest gradient over every combination of unknown slopes."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor


def longest_gradient(weights: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor], row: Tensor) -> float:
    """max |row W_K D_(K-1) W_(K-1) ... D_1 W_1| over ReLU gates D that the intervals [low, high] of the hidden units allow.

    The norm is convex in every single gate, so the maximum is at 0 or 1 for each.
    """
    choices = [
        [(0.0,) if b <= 0 else (1.0,) if a >= 0 else (0.0, 1.0) for a, b in zip(lo.tolist(), up.tolist(), strict=True)]
        for lo, up in zip(low, high, strict=True)
    ]
    sizes, best = [len(c) for c in choices], 0.0
    for pattern in product(*(entry for layer in choices for entry in layer)):
        gates = torch.tensor(pattern, dtype=torch.float64).split(sizes)
        arriving = row @ weights[-1]
        for gate, weight in zip(reversed(gates), reversed(weights[:-1]), strict=True):
            arriving = (arriving * gate) @ weight
        best = max(best, float(arriving.norm()))
    return best
