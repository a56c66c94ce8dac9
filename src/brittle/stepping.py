"""How a step is taken: an optimiser, its rate over time, and weight decay in its two forms."""

import math
from collections.abc import Callable

import torch
from torch import nn

from brittle.errors import InputError

Optimiser = str | Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Schedule = str | Callable[[float], float]


def stepper(
    weights: list[nn.Parameter], optimiser: Optimiser, rate: float, momentum: float, decay: float, decoupled: bool,
    clip: float | None,
) -> Callable[[float], float]:  # fmt: skip
    """A function that takes one step at ``factor`` times the rate, clears the gradients and returns the rate it used."""
    if callable(optimiser):
        made = optimiser(weights)
    elif optimiser == "adam":
        made = torch.optim.Adam(weights, lr=rate)
    elif optimiser == "sgd":
        made = torch.optim.SGD(weights, lr=rate, momentum=momentum)
    else:
        raise InputError("optimiser", '"adam", "sgd" or a function of the parameters', repr(optimiser), "choose one")
    base = [group["lr"] for group in made.param_groups]

    def step(factor: float) -> float:
        for group, own in zip(made.param_groups, base, strict=True):
            group["lr"] = own * factor
        if clip is not None:
            nn.utils.clip_grad_norm_(weights, clip)
        if decay:
            _decay(made, decay, decoupled)
        made.step()
        made.zero_grad(set_to_none=True)
        return base[0] * factor

    return step


def _decay(optimiser: torch.optim.Optimizer, decay: float, decoupled: bool) -> None:
    with torch.no_grad():
        for group in optimiser.param_groups:
            for weight in group["params"]:
                if decoupled:
                    weight.mul_(1 - group["lr"] * decay)
                elif weight.grad is not None:
                    weight.grad.add_(weight, alpha=decay)


def scheduled(schedule: Schedule, epochs: int, warm_up: float) -> Callable[[float], float]:
    """The factor of the rate after so many epochs."""
    shapes = {"cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)), "constant": lambda t: 1.0}
    if not callable(schedule) and schedule not in shapes:
        raise InputError("schedule", '"cosine", "constant" or a function', repr(schedule), "choose one of these")
    shape = schedule if callable(schedule) else shapes[schedule]
    return lambda done: shape(done / epochs) * (min(1.0, done / warm_up) if warm_up > 0 else 1.0)
