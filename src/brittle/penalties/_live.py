"""What every penalty shares: the live network at rest, input gradients that can be differentiated again, draws in order of identity."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from brittle import meter, norms, randomness
from brittle.errors import InputError
from brittle.problem import Problem

SECOND = (
    2  # backward passes that differentiating a gradient once more costs: through it, and through the forward under it
)


@contextmanager
def at_rest(problem: Problem) -> Iterator[None]:
    """The live module in evaluation mode, modes put back afterwards; gradients still reach its parameters.

    An input gradient belongs to one example only where the others of its batch do not enter it, and a search for a bad
    point must leave no trace in the running statistics.
    """
    module = problem.network.quiet
    modules = list(module.modules()) if isinstance(module, nn.Module) else []
    modes = [m.training for m in modules]
    try:
        for m in modules:
            object.__setattr__(m, "training", False)
        with problem.network.recurrent_safe():
            yield
    finally:
        for m, mode in zip(modules, modes, strict=True):
            object.__setattr__(m, "training", mode)


def moving(problem: Problem) -> dict[str, Tensor]:
    """The inputs a penalty looks at: those with a ball, or every floating one where no input has a ball."""
    floating = {k: v for k, v in problem.inputs.items() if v.is_floating_point()}
    chosen = {k: v for k, v in floating.items() if k in problem.region} or floating
    if not chosen:
        raise InputError("penalty", "an input of floating-point numbers", "integers only", "penalise embedded inputs")
    return chosen


def flat(point: dict[str, Tensor]) -> Tensor:
    """All leaves of every example in one row: (N, D)."""
    return torch.cat([norms.flat(v) for v in point.values()], 1)


def order(problem: Problem) -> Tensor:
    """(N,) each example's place in the batch sorted by identity: what is drawn by place does not depend on the order of the batch."""
    return problem.index.argsort(stable=True).argsort(stable=True)


def draws(problem: Problem, make: Callable[[int, torch.Generator], Tensor], seed: int, *path: int | str) -> Tensor:
    """``make(N, generator)`` of shape (N, ...), given out to the examples in order of identity, on their device."""
    return make(len(problem), randomness.generator(seed, *path))[order(problem)].to(problem.device)


def leaves(point: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same point as fresh leaves of a graph."""
    return {k: v.detach().clone().requires_grad_() for k, v in point.items()}


def slope(values: Tensor, point: dict[str, Tensor]) -> Tensor:
    """(N, D) gradient of ``values`` (N,) by the inputs, which can be differentiated again by the parameters.

    Counts its own backward pass and those of the second differentiation that the training loop will do.
    """
    meter.count(backward=(1 + SECOND) * len(values))
    if not values.requires_grad:
        return torch.zeros_like(flat(point)).detach()
    found = torch.autograd.grad(values.sum(), list(point.values()), create_graph=True, allow_unused=True)
    return flat({k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(point.items(), found, strict=True)})


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """(N,) cosines of the rows; 0 where a row is zero."""
    tiny = torch.finfo(a.dtype).tiny
    unit = lambda v: v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(tiny)
    return (unit(a) * unit(b)).sum(1)


def mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean over the examples ``where`` (N,); exactly 0 where there is none, with a gradient of 0."""
    kept = torch.where(where, values, 0.0)
    return kept.sum() / where.sum().clamp_min(1)


def input_norm(problem: Problem) -> float:
    """The p of the input's ball; 2 where no input has one. Several inputs with different p are refused."""
    found = {ball.p for leaf, ball in problem.region.items() if leaf in problem.inputs} or {2}
    if len(found) > 1 or 0 in found:
        raise InputError("penalty", "one norm p of 1, 2 or inf for all inputs", sorted(found), "give them the same p")
    return found.pop()
