"""Changes of the live weights during training: in function only. Nothing is written into the module, so nothing has to be put back."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from brittle import meter
from brittle.errors import InputError
from brittle.network import call_with, read_logits
from brittle.problem import Problem


def live_weights(problem: Problem, penalty: str) -> dict[str, Tensor]:
    """The parameters of the live module, by name, each once. Errors: InputError where there is no module."""
    module = problem.network.quiet
    if not isinstance(module, nn.Module):
        raise InputError(penalty, "a torch.nn.Module", type(module).__name__, "train a module")
    return dict(module.named_parameters())


def present(problem: Problem) -> Problem:
    """The problem with its relative balls told the weights as they are now, not as they were when training began."""
    if not any(ball.relative for ball in problem.region.values()):
        return problem
    weights = problem.network.parameters()
    at = lambda leaf, ball: ball.at(weights[leaf.removeprefix("param:")]) if ball.relative else ball
    return replace(problem, region={leaf: at(leaf, ball) for leaf, ball in problem.region.items()})


def logits_with(problem: Problem, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor] | None = None) -> Tensor:
    """(N, C) logits of the live module with some parameters (by name) replaced for the whole batch, at these inputs. Counts N forward passes."""
    meter.count(forward=len(problem))
    values = {**problem.inputs, **(inputs or {})}
    module = problem.network.quiet
    assert isinstance(module, nn.Module)
    if isinstance(problem.x, Tensor):
        return read_logits(problem.network.run(lambda: call_with(module, weights, (values["x"],))))
    named = {name.removeprefix("x."): value for name, value in values.items()}
    return read_logits(problem.network.run(lambda: call_with(module, weights, named=named)))


def gradients(values: Tensor, leaves: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Gradients of the sum of ``values``, zeros where nothing depends on a leaf. Counts ``count`` backward passes."""
    meter.count(backward=count)
    found = (
        torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
        if values.requires_grad
        else [None] * len(leaves)
    )
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), found, strict=True)}
