"""The loss at inputs with random noise: the cheapest of all cures, and the first one to beat."""

import torch
from torch import Tensor

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._live import draws, moving
from brittle.penalties._losses import Loss, mean_loss
from brittle.problem import Problem

ABOUT = About(
    promise="the mean loss at inputs with Gaussian noise; says nothing about the worst case",
    reference="Bishop, Training with noise is equivalent to Tikhonov regularization, Neural Computation 1995",
    leaves=("input",),
    cost="1 forward and 1 backward pass per draw",
)


def noise(
    problem: Problem,
    *,
    seed: int = 0,
    sigma: float = 0.1,
    copies: int = 1,
    clip: bool = False,
    loss: Loss = "cross-entropy",
) -> Tensor:
    """``E loss(x + sigma n)`` with ``n`` standard normal in every feature: the mean over ``copies`` draws for every example.

    To second order in ``sigma`` this is the clean loss plus ``sigma^2 / 2`` times the trace of its Hessian by the input, for the
    squared loss of a good fit the squared Frobenius norm of the Jacobian (Bishop). Training on noise alone is
    ``clean_weight=0`` of the training loop.

    sigma   standard deviation, in the units of the input (0.1 of a pixel range of 1 is folklore)
    copies  noisy copies of every example
    clip    cut the noisy inputs off at the valid range of the input's ball
    loss    as for the training loop, which passes its own

    >>> from torch import nn
    >>> from brittle import Problem
    >>> problem = Problem(nn.Linear(2, 2), torch.zeros(3, 2), torch.tensor([0, 1, 0]))
    >>> noise(problem, sigma=0.5).shape
    torch.Size([])
    """
    if not sigma >= 0 or copies < 1:
        raise InputError("noise", "sigma >= 0 and copies >= 1", (sigma, copies), "correct them")
    x = moving(problem)
    total = None
    for copy in range(copies):
        point = {leaf: _noisy(problem, leaf, value, sigma, clip, seed, copy) for leaf, value in x.items()}
        meter.count(backward=len(problem))
        part = mean_loss(loss, problem.logits(point), problem.labels)
        total = part if total is None else total + part
    assert total is not None
    return total / copies


def _noisy(problem: Problem, leaf: str, value: Tensor, sigma: float, clip: bool, seed: int, copy: int) -> Tensor:
    make = lambda count, generator: torch.randn((count, *value.shape[1:]), generator=generator, dtype=value.dtype)
    moved = value + sigma * draws(problem, make, seed, "noise", leaf, copy)
    if not clip or leaf not in problem.region:
        return moved
    low, high = problem.region[leaf].range(value)
    return torch.minimum(torch.maximum(moved, low), high)
