"""Strong joint attacks for soundness tests: corners of all balls at once, and sign steps on the inputs and the weights of each example."""

from math import inf

import torch
from torch import Tensor

from brittle.problem import Problem

Point = dict[str, Tensor]


def lowest_rows(problem: Problem, *, steps: int = 8, corners: int = 8, seed: int = 0) -> tuple[Tensor, int]:
    """The least value found of every row (N, R), in float64, over feasible points; and how many points per example were tried."""
    double = problem.double()
    generator = torch.Generator().manual_seed(seed)
    found = double.rows().detach()
    tried = 0
    for _ in range(corners):
        found = torch.minimum(found, double.rows(_corner(double, generator)).detach())
        tried += 1
    for row in range(found.shape[1]):
        point = _corner(double, generator)
        for step in range(steps):
            point = {k: v.detach().clone().requires_grad_() for k, v in point.items()}
            rows = double.rows(point)
            found = torch.minimum(found, rows.detach())
            tried += 1
            slopes = torch.autograd.grad(rows[:, row].sum(), list(point.values()))
            ahead = {k: _steepest(double, k, g, 1.0 - step / steps) for (k, g) in zip(point, slopes, strict=True)}
            point = _feasible(double, {k: (v + ahead[k]).detach() for k, v in point.items()})
        found = torch.minimum(found, double.rows(point).detach())
    return found, tried


def _corner(problem: Problem, generator: torch.Generator) -> Point:
    """Every entry at an end of its interval for p = inf, one entry or a random direction of full length else."""
    point = {}
    for leaf, centre in problem.centre.items():
        ball, scale = problem.region[leaf], problem.scale.reshape(-1, *[1] * (centre.dim() - 1))
        draw = torch.randn(centre.shape, generator=generator, dtype=torch.float64)
        if ball.p == inf:
            direction = draw.sign()
        elif ball.p == 2:
            direction = draw / draw.flatten(1).norm(dim=1).reshape(scale.shape)
        else:
            flat = draw.flatten(1)
            at = flat.abs().argmax(1, keepdim=True)
            direction = torch.zeros_like(flat).scatter(1, at, flat.gather(1, at).sign()).reshape(draw.shape)
        point[leaf] = centre + ball.stretched(direction) * ball.radius * scale
    return _feasible(problem, point)


def _steepest(problem: Problem, leaf: str, slope: Tensor, size: float) -> Tensor:
    ball, scale = problem.region[leaf], problem.scale.reshape(-1, *[1] * (slope.dim() - 1))
    return -2 * size * ball.radius * scale * ball.steepest(slope)


def _feasible(problem: Problem, point: Point) -> Point:
    """Inside ball and range; a last step of 1 - 1e-12 keeps rounding from leaving the ball that was asked about."""
    moved = {}
    for leaf, value in point.items():
        ball, centre = problem.region[leaf], problem.centre[leaf].double()
        change = ball.project(value - centre, problem.radius(leaf)) * (1 - 1e-12)
        low, high = ball.exact_range(centre)
        moved[leaf] = torch.minimum(torch.maximum(centre + change, low), high)
    return moved
