"""A copy of the network whose weights may be exchanged, measured like any other."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from brittle import meter
from brittle.network import Network, copied
from brittle.problem import Problem

PIECE = 64  # examples whose gradients by the weights are taken together; memory alone depends on it


def weights_of(problem: Problem) -> dict[str, Tensor]:
    """The parameters that the region moves, by leaf; without any, all of two or more axes: matrices and kernels, no biases, no normalisation."""
    if not isinstance(problem.network.quiet, nn.Module):
        return {}
    every = problem.network.parameters()
    named = {leaf: name for leaf in problem.leaves if (name := problem.parameter_name(leaf)) is not None}
    chosen = {leaf: every[name] for leaf, name in named.items()}
    return chosen or {name: w for name, w in every.items() if w.dim() > 1 and w.is_floating_point()}


@dataclass(frozen=True, eq=False)
class Exchange:
    """A problem on a copy of the network, and the copy's parameters by leaf."""

    problem: Problem
    parameters: Mapping[str, Tensor]

    @staticmethod
    def of(problem: Problem, weights: Mapping[str, Tensor]) -> "Exchange":
        copy = copied(problem.network.quiet)
        held = replace(problem, module=copy, network=Network.live(copy))  # type: ignore[arg-type]
        known = held.network.parameters()
        return Exchange(held, {leaf: known[problem.parameter_name(leaf) or leaf] for leaf in weights})

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[Problem]:
        """The problem while the copy holds these weights; those not named keep their own. All are put back afterwards."""
        before = {leaf: self.parameters[leaf].detach().clone() for leaf in weights}
        try:
            with torch.no_grad():
                for leaf, value in weights.items():
                    self.parameters[leaf].copy_(value)
            yield self.problem
        finally:
            with torch.no_grad():
                for leaf, value in before.items():
                    self.parameters[leaf].copy_(value)

    def logits(self, weights: Mapping[str, Tensor]) -> Tensor:
        """(N, C) with these weights in place."""
        with self.holding(weights) as held, torch.no_grad():
            return held.logits()

    def slopes(self, weights: Mapping[str, Tensor], loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The gradient of ``sum_i loss(rows)_i`` by every exchanged weight, with these in place. One backward pass per example."""
        leaves = list(self.parameters.values())
        total = [torch.zeros_like(v) for v in leaves]
        with self.holding(weights) as held, held.network.recurrent_safe():
            for at in torch.arange(len(held)).split(PIECE):
                for value in leaves:
                    value.requires_grad_(True)
                with torch.enable_grad():
                    found = torch.autograd.grad(loss(held.take(at).rows()).sum(), leaves, allow_unused=True)
                for value in leaves:
                    value.requires_grad_(False)
                total = [t if g is None else t + g for t, g in zip(total, found, strict=True)]
        meter.count(backward=len(held))
        return dict(zip(self.parameters, total, strict=True))
