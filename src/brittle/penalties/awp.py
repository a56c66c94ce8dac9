"""Adversarial weight perturbation: the loss at attacked inputs, after the step in every weight tensor that makes it worse."""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import softplus

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._ascent import worst_changes
from brittle.penalties._live import at_rest
from brittle.penalties._losses import Loss, mean_loss
from brittle.penalties._weights import gradients, live_weights, logits_with
from brittle.problem import Problem
from brittle.region import Ball

ABOUT = About(
    promise="the loss at attacked inputs and weights moved uphill by a share of each tensor's length: a lower bound of the worst joint loss",
    reference="Wu, Xia and Wang, Adversarial weight perturbation helps robust generalization, NeurIPS 2020, arXiv 2004.05884",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="steps + 2 forward and backward passes",
)


def awp(
    problem: Problem, *, seed: int = 0, gamma: float = 0.01, steps: int = 7, loss: Loss = "cross-entropy"
) -> Tensor:
    """``L(v, w + e)``: v the attacked inputs of adversarial training, ``e_l = gamma |w_l| g_l / |g_l|`` for every tensor l of two or more axes, ``g = grad_w L(v, w)``.

    A ball relative to each tensor in l2, one step, one change for the batch; biases and normalisation stay, as in the reference's code. e and v are held
    fixed in the gradient. Made to train robustness of the *input*; for robustness of the weights use ``adversarial`` with balls on parameters. The
    inputs move in their balls of the region; without one they stay, and the weights alone move. Balls on parameters are not read.
    ``clean_weight=0`` is the reference. ``radius_warm_up`` grows the input balls and gamma from 0; the reference starts after 0 to 10 epochs.

    gamma  share of each tensor's length: 0.01 with adversarial training, 0.005 with TRADES in the reference
    steps  of the search for v; loss : as for the training loop, which passes its own

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> problem = Problem(linear, torch.tensor([[1.0]]), torch.tensor([0]))
    >>> round(float(awp(problem, gamma=1.0)), 4)  # |w| = sqrt 2, both weights lose 1: the loss is log 2
    0.6931
    """
    if not 0 <= gamma < inf or steps < 0:
        raise InputError("awp", "gamma >= 0, steps >= 0", (gamma, steps), "use gamma=0.01")
    balls = {leaf: ball for leaf, ball in problem.region.items() if leaf in problem.inputs}
    weights = {name: w for name, w in live_weights(problem, "awp").items() if w.dim() > 1 and w.is_floating_point()}
    inputs = _attacked(problem, balls, seed, steps) if balls else {}
    held = {name: w.detach().requires_grad_() for name, w in weights.items()}
    with at_rest(problem), torch.enable_grad(), problem.network.recurrent_safe():
        slopes = gradients(mean_loss(loss, logits_with(problem, held, inputs), problem.labels), held, len(problem))
    share = gamma * float(problem.scale.amin())
    moved = {name: w + share * _uphill(w.detach(), slopes[name]) for name, w in weights.items()}
    meter.count(backward=len(problem))
    return mean_loss(loss, logits_with(problem, moved, inputs), problem.labels)


def _attacked(problem: Problem, balls: dict[str, Ball], seed: int, steps: int) -> dict[str, Tensor]:
    alone = replace(problem, region=balls)
    changes = worst_changes(alone, lambda rows: softplus(torch.logsumexp(-rows, 1)), seed, steps)
    return {leaf: problem.inputs[leaf] + change for leaf, change in changes.items()}


def _uphill(weight: Tensor, slope: Tensor) -> Tensor:
    """The slope, as long as the weight."""
    tiny = torch.finfo(slope.dtype).tiny
    return slope * (torch.linalg.vector_norm(weight) / torch.linalg.vector_norm(slope).clamp_min(tiny))
