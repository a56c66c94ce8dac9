"""Sharpness-aware minimisation: the loss after the one step in all weights that raises it fastest."""

from math import inf

import torch
from torch import Tensor

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._live import at_rest
from brittle.penalties._losses import Loss, mean_loss
from brittle.penalties._weights import gradients, live_weights, logits_with
from brittle.problem import Problem

ABOUT = About(
    promise="the loss at weights moved uphill by a fixed length: to first order the worst loss of that ball; no certificate, and the input is held",
    reference="Foret, Kleiner, Mobahi and Neyshabur, Sharpness-aware minimization for efficiently improving generalization, ICLR 2021; "
    "adaptive: Kwon, Kim, Park and Choi, ASAM, ICML 2021",
    norms=(2,),
    leaves=("parameter",),
    cost="2 forward and backward passes",
)


def sam(
    problem: Problem, *, seed: int = 0, rho: float = 0.05, adaptive: bool = False, loss: Loss = "cross-entropy"
) -> Tensor:
    """``L(w + e)`` with ``e = rho g / |g|``, ``g = grad L(w)`` over all parameters at once; e is held fixed in the gradient.

    What is minimised is ``max {L(w + e): |e|_2 <= rho}`` to first order. ``adaptive`` measures e relative to each weight: ``e = rho w^2 g / |w g|``, so that
    rescaling one layer against the next changes nothing. With ``clean_weight=0`` this is SAM itself. Flat weights give local, not
    global robustness of the input: measure it. ``radius_warm_up`` grows rho from 0. The direction is found on the network at rest.

    rho   length of the step; 0.05 is the reference's
    loss  as for the training loop, which passes its own

    >>> from brittle import Problem
    >>> linear = torch.nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> problem = Problem(linear, torch.tensor([[1.0]]), torch.tensor([0]))
    >>> round(float(sam(problem, rho=2**0.5)), 4)  # both weights lose 1: the margin is 0, the loss log 2
    0.6931
    """
    if not 0 <= rho < inf:
        raise InputError("sam", "rho >= 0", rho, "use 0.05")
    weights = live_weights(problem, "sam")
    held = {name: w.detach().requires_grad_() for name, w in weights.items()}
    with at_rest(problem), torch.enable_grad(), problem.network.recurrent_safe():
        slopes = gradients(mean_loss(loss, logits_with(problem, held), problem.labels), held, len(problem))
    told = {name: held[name].detach().abs() * g if adaptive else g for name, g in slopes.items()}
    length = torch.stack([g.square().sum() for g in told.values()]).sum().sqrt()
    step = rho * float(problem.scale.amin()) / length.clamp_min(torch.finfo(length.dtype).tiny)
    uphill = {name: held[name].detach().square() * g if adaptive else g for name, g in slopes.items()}
    meter.count(backward=len(problem))
    return mean_loss(
        loss, logits_with(problem, {name: w + step * uphill[name] for name, w in weights.items()}), problem.labels
    )
