"""The physical limit every figure is held against: bare forward and backward passes of the same module in the same run."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def seconds(work: Callable[[], object], repeat: int = 3) -> float:
    """The least processor time of several runs, after one that is not counted."""
    work()
    best = float("inf")
    for _ in range(repeat):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


def passes(module: nn.Module, x: Tensor, forward: float, backward: float) -> float:
    """Processor seconds of so many forward and backward passes per example, nothing else around them."""

    def ahead() -> None:
        with torch.no_grad():
            module(x)

    def both() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(module(leaf).sum(), leaf)

    rounds = 20
    one_ahead = seconds(lambda: [ahead() for _ in range(rounds)]) / rounds
    one_both = seconds(lambda: [both() for _ in range(rounds)]) / rounds
    return max(forward - backward, 0) * one_ahead + backward * one_both
