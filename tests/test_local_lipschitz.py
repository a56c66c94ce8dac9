"""Margins less a local Lipschitz constant times the radius: exact where the network is affine, sound where gradients switch."""

from functools import partial
from itertools import product as product_of
from math import inf

import pytest
import torch
from torch import Tensor, nn

from brittle import Ball, InputError, NotCertified, Problem, margin
from brittle.bounds import local_lipschitz as module_of
from brittle.bounds.crown import crown
from brittle.bounds.local_lipschitz import local_lipschitz
from brittle.bounds.product import product
from brittle.graph import graph_of

P = [0, 1, 2, inf]
FORMS = [{}, {"intermediate": "crown"}, {"form": "joint"}]
ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.LeakyReLU]


def square() -> list:
    """Every norm with every activation and every form once; the other combinations are slow."""
    whole = list(product_of(enumerate(P[1:]), enumerate(ACTIVATIONS), enumerate(FORMS)))
    slow = lambda i, j, k: [pytest.mark.slow] if (i + j + k) % 3 else []
    return [pytest.param(p, act, form, marks=slow(i, j, k)) for (i, p), (j, act), (k, form) in whole]


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b).double(), activation())]
    return nn.Sequential(*layers[:-1])


def problem_of(module: nn.Module, region: Ball, count: int = 4, shape: tuple[int, ...] = (4,)) -> Problem:
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return Problem(module.eval(), x, module(x).argmax(1), region)


def sampled(problem: Problem, draws: int = 400) -> Tensor:
    """The least rows at corners, in a few coordinates and inside the region: (N, R)."""
    ball, x, g = problem.region["x"], problem.x, torch.Generator().manual_seed(3)
    least = problem.rows()
    for draw in range(draws):
        v = torch.randn(x.shape, generator=g, dtype=torch.float64)
        v = v * (torch.rand(x.shape, generator=g) < (1.0 if draw % 2 else 0.4))
        v = v.sign() if draw % 3 else v
        low, high = ball.exact_range(x)
        point = torch.minimum(torch.maximum(x + ball.project(4 * ball.radius * v, problem.radius("x")), low), high)
        least = torch.minimum(least, problem.rows({"x": point}))
    return least


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("p", [1, 2, inf])
def test_exact_on_affine_networks(p: float, options: dict) -> None:
    """The distance to a half-space; with a range the exact minimum, which crown has on affine networks."""
    free = problem_of(mlp(4, 3), Ball(p, 0.3))
    linear = free.network.double[0]  # type: ignore[index]
    slopes = linear.weight[free.labels][:, None] - linear.weight
    drop = 0.3 * slopes.norm(p={1: inf, 2: 2, inf: 1}[p], dim=-1).detach()
    others = torch.arange(3) != free.labels[:, None]
    expected = free.rows() - drop[others].reshape(4, 2)
    torch.testing.assert_close(local_lipschitz(free, **options).rows, expected, rtol=0, atol=1e-12)
    cut = free.within(Ball(p, 0.3, low=0, high=1))
    torch.testing.assert_close(local_lipschitz(cut, **options).rows, crown(cut).rows, rtol=0, atol=1e-9)


def test_counted_changes_on_an_affine_network() -> None:
    problem = problem_of(mlp(4, 3), Ball(0, 2, low=0, high=1))
    torch.testing.assert_close(local_lipschitz(problem).rows, crown(problem).rows, rtol=0, atol=1e-12)


def test_by_hand_where_a_unit_switches() -> None:
    """relu(x) - 2 relu(-x) + 1 at x = 1 / 4: within 1 / 8 its slope is 1, within 1 / 2 both units switch."""
    module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    values = ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, -2.0]], [1.0])
    with torch.no_grad():
        for tensor, value in zip(module.parameters(), values, strict=True):
            tensor.copy_(torch.tensor(value))
    x = torch.tensor([[0.25]], dtype=torch.float64)
    for radius, drop in ((0.125, 0.125), (0.5, 1.5)):  # slopes [0, 1] + [0, 2] are added up where both may switch
        problem = Problem(module, x, torch.tensor([1]), Ball(inf, radius))
        assert float(local_lipschitz(problem).rows) == pytest.approx(1.25 - drop, abs=1e-12)
    joint = local_lipschitz(Problem(module, x, torch.tensor([1]), Ball(2, 0.5)), form="joint").rows
    assert float(joint) == pytest.approx(1.25 - 1.5, rel=1e-2)


@pytest.mark.parametrize(("p", "activation", "options"), square())
def test_below_every_point_of_the_region(p: float, activation: type[nn.Module], options: dict) -> None:
    for ball in (Ball(p, 0.2), Ball(p, 0.2, low=0, high=1)):
        problem = problem_of(mlp(4, 6, 5, 3, activation=activation), ball).scaled(torch.tensor([0.1, 0.5, 1.0, 2.0]))
        assert bool((local_lipschitz(problem, **options).rows <= sampled(problem, 30)).all())


@pytest.mark.parametrize("p", P)
def test_convolutions_pooling_and_a_residual_sum(p: float) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3, padding=1).double(), nn.Conv2d(2, 2, 3, padding=1).double()
            self.last = nn.Linear(8, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x).relu()
            return self.last(nn.functional.max_pool2d(h - self.second(h).relu(), 2).flatten(1))

    torch.manual_seed(2)
    problem = problem_of(Net(), Ball(p, 2 if p == 0 else 0.1, low=0, high=1), 3, (1, 4, 4))
    rows = local_lipschitz(problem).rows
    assert bool(rows.isfinite().all()) and bool((rows <= sampled(problem, 30)).all())


def test_gradients_lie_in_their_enclosures() -> None:
    """Where the slack is zero: at the centre and near it, of every row, entry by entry; and the width vanishes with the region."""
    problem = problem_of(mlp(4, 8, 6, 3), Ball(inf, 0.15))
    state = module_of._intervals(problem, graph_of(problem))
    rows = module_of.backward.specification(problem, state)[0]
    ((centre, radius),) = module_of.enclosures(state, rows).values()
    g = torch.Generator().manual_seed(1)
    for _ in range(50):
        x = (
            problem.x + 0.15 * (2 * torch.rand(problem.x.shape, generator=g, dtype=torch.float64) - 1)
        ).requires_grad_()
        for row in range(2):
            (gradient,) = torch.autograd.grad(problem.rows({"x": x})[:, row].sum(), x)
            assert bool(((gradient - centre[row]).abs() <= radius[row]).all())
    small = problem.scaled(1e-9)
    state = module_of._intervals(small, graph_of(small))
    assert float(module_of.enclosures(state, rows)["x"][1].max()) < 1e-12


@pytest.mark.parametrize("p", [1, 2, inf])
def test_tighter_than_the_product_of_norms(p: float) -> None:
    problem = problem_of(mlp(4, 8, 6, 3), Ball(p, 0.05))
    ours = local_lipschitz(problem).rows
    assert bool((ours >= product(problem).rows).all())
    assert bool((local_lipschitz(problem, intermediate="crown").rows >= ours - 1e-12).all())
    assert bool((local_lipschitz(problem, form="joint").rows >= ours).all())


def test_asked_by_name_and_what_it_refuses() -> None:
    problem = problem_of(mlp(4, 8, 3), Ball(2, 0.01))
    answer = margin(problem, bounds=[partial(local_lipschitz, form="joint")])
    assert set(answer.methods.lower) == {"local_lipschitz"} and bool((answer.lower <= answer.upper).all())
    with pytest.raises(InputError, match="form"):
        local_lipschitz(problem, form="sum")
    with pytest.raises(NotCertified, match="0.weight moves"):
        local_lipschitz(problem.within({"0.weight": Ball(inf, 0.01)}))
