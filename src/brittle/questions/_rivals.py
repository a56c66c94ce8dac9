"""Attacks that a check holds against those of a question: cheaper, longer, blind, or on a smoothed copy of the network."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from brittle.attacks._search import random_point
from brittle.attacks.apgd import apgd
from brittle.attacks.boundary_walk import ABOUT as WALK
from brittle.attacks.boundary_walk import boundary_walk
from brittle.attacks.square import square
from brittle.network import Network, copied
from brittle.problem import Problem
from brittle.results import Witness

BETA = 4.0  # sharpness of the smoothed kinks: exp(-4 d) of a gradient is left d beyond a kink; folklore


def rivals(problem: Problem) -> dict[str, Callable[..., Witness]]:
    """Attacks of the region at its present scale, by what they show; about 850 passes per example together.

    "random start ..." are runs of the same short attack from random points: what only one of them breaks tells how much all have missed.
    """
    short = partial(apgd, restarts=1, steps=20, losses=("margin",))
    walk = all(ball.p in WALK.norms and ball.section is None for ball in problem.region.values())
    blind = {"boundary_walk": partial(boundary_walk, steps=6)} if walk else {}
    return {
        "single step": partial(apgd, restarts=1, steps=1, losses=("margin",)),
        "half the region": partial(_in_half, steps=10),
        "twice the steps": partial(apgd, restarts=1, steps=80, losses=("margin",)),
        "short steps": partial(short, step=0.25),
        "long steps": partial(short, step=8.0),
        **{f"random start {run}": partial(_from_random, run=run, attack=short) for run in (1, 2, 3)},
        "square": square,
        **blind,
        "smoothed copy": partial(_on_smoothed, attack=short),
    }


def _in_half(problem: Problem, *, seed: int = 0, steps: int) -> Witness:
    """The whole search in the region of half the size: what it finds lies in the whole region too."""
    return apgd(problem.scaled(0.5), seed=seed, restarts=1, steps=steps, losses=("margin",))


def _from_random(problem: Problem, *, seed: int = 0, run: int, attack: Callable[..., Witness]) -> Witness:
    start = random_point(problem, seed, "rivals", run)
    return attack(problem, seed=seed, start={k: v.to(problem.centre[k].dtype) for k, v in start.items()})


def _on_smoothed(problem: Problem, *, seed: int = 0, attack: Callable[..., Witness]) -> Witness:
    """The witness of a copy whose kinked activations are smooth, tried on the network itself; the clean point where nothing was smoothed."""
    module = problem.network.original
    kept = all(ball.section is None for ball in problem.region.values())
    copy = smoothed(module) if kept and isinstance(module, nn.Module) else None
    if copy is None:
        return problem.witness(problem.centre, "smoothed copy")
    found = attack(replace(problem, module=copy, network=Network(copy)), seed=seed)
    return problem.witness(problem.settle(found.point), "smoothed copy")


def smoothed(module: nn.Module) -> nn.Module | None:
    """A copy with a softplus for every kink of ReLU, ReLU6 and hard tanh modules; None without any.

    >>> import torch
    >>> smoothed(nn.Sequential(nn.Linear(1, 1), nn.Tanh())) is None
    True
    >>> copy = smoothed(nn.Sequential(nn.ReLU()))
    >>> round(float(copy(torch.zeros(1, 1))), 3)  # log(2) / 4
    0.173
    """
    copy, count = copied(module), 0
    for parent in list(copy.modules()):
        for name, child in parent.named_children():
            ends = _ends(child)
            if ends is not None:
                setattr(parent, name, Soft(*ends))
                count += 1
    return copy.eval() if count else None


def _ends(module: nn.Module) -> tuple[float, float | None] | None:
    """Where a clamp begins and ends."""
    if type(module) is nn.ReLU:
        return 0.0, None
    return (module.min_val, module.max_val) if isinstance(module, nn.Hardtanh) else None  # ReLU6 is one


class Soft(nn.Module):
    """``clamp(x, low, high)`` with rounded kinks, which has a gradient everywhere."""

    def __init__(self, low: float, high: float | None) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        risen = self.low + nn.functional.softplus(x - self.low, beta=BETA)
        return risen if self.high is None else risen - nn.functional.softplus(x - self.high, beta=BETA)
