"""The squared Frobenius norm of the input-to-logits Jacobian, by random projections."""

import torch
from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._live import at_rest, draws, leaves, moving, slope
from brittle.problem import Problem

ABOUT = About(
    promise="an unbiased estimate of the mean squared Frobenius norm of the Jacobian of the logits",
    reference="Hoffman, Roberts and Yaida, Robust learning with Jacobian regularization, arXiv 1908.02729 (with a factor 1/2)",
    leaves=("input",),
    cost="1 forward and 3 backward passes per projection (K x 3 without)",
)


def jacobian(problem: Problem, *, seed: int = 0, projections: int | None = 1) -> Tensor:
    """``mean_i |J(x_i)|_F^2`` with ``J`` the (K, D) Jacobian of the logits by the input.

    For ``v`` uniform on the unit sphere of R^K, ``E K |v^T J|^2 = |J|_F^2``: each projection costs one gradient and is unbiased, so
    stochastic training sees the right objective. The network is read at rest: no dropout, running statistics of batch norm.

    projections   directions per example; None sums over all K logits, which is exact and costs K gradients

    >>> from torch import nn
    >>> from brittle import Problem
    >>> linear = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> float(jacobian(Problem(linear, torch.zeros(1, 2), torch.tensor([0])), projections=None))
    25.0
    """
    if projections is not None and projections < 1:
        raise InputError("projections", "a number >= 1, or None for all logits", projections, "correct it")
    x = leaves(moving(problem))
    with at_rest(problem):
        logits = problem.logits(x)
        outputs = logits.shape[1]
        if projections is None:
            return sum((slope(logits[:, k], x).square().sum(1) for k in range(outputs)), logits.new_zeros(())).mean()
        total = logits.new_zeros(len(problem))
        for k in range(projections):
            make = lambda count, generator: torch.randn((count, outputs), generator=generator, dtype=torch.float64)
            v = draws(problem, make, seed, "jacobian", k)
            v = (v / torch.linalg.vector_norm(v, dim=1, keepdim=True)).to(logits.dtype)
            total = total + outputs * slope((v * logits).sum(1), x).square().sum(1)
    return (total / projections).mean()
