"""Laws that every certified bound obeys, as functions that raise AssertionError: the suite runs them, the mutants must break them."""

from collections.abc import Callable
from fractions import Fraction
from math import inf

import numpy as np
import torch
from torch import nn

import zoo
from brittle import norms
from brittle.problem import Problem
from brittle.region import Ball
from reference import boxes

Bound = Callable[[Problem], object]


def affine_problem(p: float, radius: float, ranged: bool, seed: int, features: int = 5, scale: float = 1.0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(features, 3, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.randn(3, features, generator=generator, dtype=torch.float64) * scale)
        module.bias.copy_(torch.randn(3, generator=generator, dtype=torch.float64))
    x = torch.rand(4, features, generator=generator, dtype=torch.float64)
    x[0, :2] = torch.tensor([0.0, 1.0])  # on the edge of the range: no room at all
    labels = torch.tensor([0, 1, 2, 0])
    return Problem(module, x, labels, Ball(p, radius, 0.0, 1.0) if ranged else Ball(p, radius))


def closed_form(problem: Problem) -> torch.Tensor:
    """Exact rows of an affine problem, from the slow twin of the support function."""
    module, ball = problem.module, next(iter(problem.region.values()))
    rows = problem.rows().detach().clone()
    weight = module.weight.detach().numpy()
    for i, label in enumerate(problem.labels.tolist()):
        rivals = [j for j in range(len(weight)) if j != label]
        x = problem.x[i].numpy()
        far = 1e3 if ball.low is None else None
        down, up = (np.full_like(x, far), np.full_like(x, far)) if far else (x - 0.0, 1.0 - x)
        for k, j in enumerate(rivals):
            rows[i, k] -= boxes.support(weight[j] - weight[label], ball.p, ball.radius, down, up)
    return rows


def exact_on_affine(bound: Bound, norms_: tuple[float, ...] = (0, 1, 2, inf)) -> None:
    """Equal to the closed form, for every p, with and without a binding range; never above it."""
    base = affine_problem(inf, 1.0, False, seed=1)
    for p in norms_:
        for ranged in (True, False) if p else (True,):
            for radius in (1.0, 2.0) if p == 0 else (0.05, 0.4, 3.0):
                problem = base.within(Ball(p, radius, 0.0, 1.0) if ranged else Ball(p, radius))
                truth, rows = closed_form(problem), bound(problem).rows
                assert (rows <= truth + 1e-9).all(), (p, ranged, radius, rows - truth)
                assert torch.allclose(rows, truth, atol=1e-6), (p, ranged, radius, rows - truth)


def sound_in_rationals(bound: Bound) -> None:
    """Never above the exact rational value at the worst vertex, where the true slack is zero; nasty scales included."""
    for seed in range(12):
        scale = (1.0, 1e8, 1e-8)[seed % 3]
        problem = affine_problem(inf, 0.1 + seed / 37, False, seed, features=9, scale=scale)
        weight, bias = problem.module.weight.detach(), problem.module.bias.detach()
        rows = bound(problem).rows
        for i, label in enumerate(problem.labels.tolist()):
            for k, j in enumerate([j for j in range(3) if j != label]):
                exact = Fraction(float(bias[label])) - Fraction(float(bias[j]))
                for d in range(9):
                    w = Fraction(float(weight[label, d])) - Fraction(float(weight[j, d]))
                    x, r = Fraction(float(problem.x[i, d])), Fraction(problem.region["x"].radius)
                    exact += w * x - abs(w) * r
                assert Fraction(float(rows[i, k])) <= exact, (seed, i, k)


def clean_at_radius_zero(bound: Bound) -> None:
    for case in zoo.CASES:
        module, x, labels = case.make()
        problem = Problem(module, x, labels, Ball(inf, 0.1, case.low, case.high))
        rows, truth = bound(problem.scaled(0.0)).rows, problem.double().rows()
        assert (rows <= truth + 1e-12).all() and torch.allclose(rows, truth, atol=1e-8), case.name


def small_nets() -> list[tuple[nn.Module, torch.Tensor]]:
    """Networks of one or two inputs, small enough for a grid."""
    torch.manual_seed(5)
    nets: list[nn.Module] = [
        nn.Sequential(nn.Linear(1, 1), act, nn.Linear(1, 2))
        for act in (nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.3), nn.ReLU6(), nn.Hardtanh())
    ]
    for net in nets:
        with torch.no_grad():
            net[0].weight.fill_(3.0)
            net[0].bias.fill_(0.2)
            net[2].weight.copy_(torch.tensor([[1.0], [-2.0]]))
    nets += [nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(1)]
    nets += [nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 3))]
    nets += [Shortcut(), Pooled()]
    return [
        (net.eval(), torch.tensor([[0.1, -0.3], [-0.4, 0.2]])[:, : 1 if i < 6 else 2]) for i, net in enumerate(nets)
    ]


class Shortcut(nn.Module):
    """A residual path that matters: without it the sign of the slope changes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.inner(x)) - 3 * x)


class Pooled(nn.Module):
    """Max pooling over windows that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(2, 9), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(nn.functional.max_pool2d(self.inner(x).reshape(-1, 1, 3, 3), 2, stride=1), 1))


def below_brute_force(bound: Bound) -> None:
    """Below the least value on a dense grid over the region (grid points outside the ball left out)."""
    for module, x in small_nets():
        whole = Problem(module, x, module(x).argmax(1))
        for p in (1, 2, inf):
            problem = whole.within(Ball(p, 0.5, -0.75, 0.4))
            rows = bound(problem).rows
            for i in range(len(x)):
                centre = x[i].double()
                points = boxes.grid((centre - 0.5).clamp_min(-0.75), (centre + 0.5).clamp_max(0.4), 25)
                points = points[norms.norm(points - centre, p) <= 0.5]
                with torch.no_grad():
                    logits = problem.network.double(points)
                truth = problem.spec.rows(logits, problem.labels[i].expand(len(points))).amin(0)
                assert (rows[i] <= truth + 1e-12).all(), (type(module).__name__, p, rows[i] - truth)


def falls_with_radius(bound: Bound) -> None:
    for case in zoo.CASES[2:]:
        module, x, labels = case.make()
        problem = Problem(module, x, labels, Ball(2, 0.1, case.low, case.high))
        rows = torch.stack([bound(problem.scaled(s)).rows for s in (0.0, 0.3, 1.0, 3.0)])
        assert (rows.diff(dim=0) <= 1e-9).all(), case.name


def examples_are_independent(bound: Bound) -> None:
    """Unchanged, up to rounding, by splitting and permuting the batch."""
    for case in zoo.CASES[2:]:
        module, x, labels = case.make()
        problem = Problem(module, x, labels, Ball(inf, 0.05, case.low, case.high)).scaled(
            torch.linspace(0.5, 1.5, len(x))
        )
        rows = bound(problem).rows
        assert rows.dtype == torch.float64
        order = torch.arange(len(x)).flip(0)
        assert torch.allclose(bound(problem.take(order)).rows, rows[order], atol=1e-9), case.name
        parts = [bound(problem.take(torch.tensor([i]))).rows for i in range(len(x))]
        assert torch.allclose(torch.cat(parts), rows, atol=1e-9), case.name


def weights_and_inputs_at_corners(bound: Bound) -> None:
    """One layer whose weights, bias and input all move: multilinear, so the truth is at a corner. Attained where signs agree."""
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[-1.0, -2.0], [0.5, 0.25]]))
        module.bias.copy_(torch.tensor([5.0, 0.0]))
    x, e = torch.tensor([[0.5, 0.75]]), 0.1
    ball = Ball(inf, e)
    problem = Problem(module, x, torch.tensor([0]), {"x": ball, "weight": ball, "bias": ball})
    row = bound(problem).rows[0, 0]
    change = boxes.vertices(-e * torch.ones(8, dtype=torch.float64), e * torch.ones(8, dtype=torch.float64))
    moved = x.double() + change[:, :2]
    weight = module.weight.detach().double() + change[:, 2:6].reshape(-1, 2, 2)
    logits = torch.einsum("koi,ki->ko", weight, moved) + module.bias.detach().double() + change[:, 6:]
    truth = (logits[:, 0] - logits[:, 1]).amin()
    assert row <= truth
    assert torch.isclose(row, truth, atol=1e-9)


def weights_of_two_layers_at_corners(bound: Bound) -> None:
    """relu(w x + b) between two layers that all move, all values positive: multilinear, attained at a corner where the unit is active."""
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        for tensor, value in zip(module.parameters(), ([[3.0]], [0.5], [[-1.0], [1.0]], [9.0, 0.0]), strict=True):
            tensor.copy_(torch.tensor(value))
    x, e = torch.tensor([[1.0]]), 0.25
    names = ("x", "0.weight", "0.bias", "2.weight", "2.bias")
    row = bound(Problem(module, x, torch.tensor([0]), {name: Ball(inf, e) for name in names})).rows[0, 0]
    truth = 9.0 - 2 * e - (2.0 + 2 * e) * ((3.0 + e) * (1.0 + e) + 0.5 + e)
    assert row <= truth
    assert torch.isclose(row, torch.tensor(truth, dtype=torch.float64), atol=1e-9)


INPUT_LAWS = (
    sound_in_rationals, clean_at_radius_zero, below_brute_force, falls_with_radius, examples_are_independent,
)  # fmt: skip
