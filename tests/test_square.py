"""The score-based attack without gradients: exact on affine networks, blind to masked gradients, on images and on vectors."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle import meter
from brittle.attacks.square import square
from brittle.boundary import best_change, rooms


def affine(p: float, radius: float, shape: tuple[int, ...], low: float | None, high: float | None) -> bt.Problem:
    """Three examples of one random linear function; every example has its own clean point."""
    torch.manual_seed(11)
    features = torch.Size(shape).numel()
    module = nn.Sequential(nn.Flatten(), nn.Linear(features, 2))
    x = torch.rand(3, *shape)
    return bt.Problem(module, x, module(x).argmax(1), bt.Ball(p=p, radius=radius, low=low, high=high))


def drop(problem: bt.Problem, p: float) -> Tensor:
    """How far the margin of a linear function can fall inside the ball and its range: linear programming by water filling."""
    _, gradient = problem.gradient(problem.centre)
    a = -gradient["x"].reshape(len(problem), -1)
    v, _ = best_change(a, p, problem.radius("x").to(a), rooms(problem)["x"].towards(a))
    return (a * v).sum(1)


@pytest.mark.parametrize(
    "p, radius, within, high", [(1, 0.7, 1e-5, None), (1, 0.7, 1e-5, 1.0), (2, 0.5, 0.02, 1.0), (inf, 0.2, 1e-5, 1.0)]
)
def test_exact_on_affine_networks(p: float, radius: float, within: float, high: float | None) -> None:
    problem = affine(p, radius, (6,), None if high is None else 0.0, high)
    fell = problem.margin().double() - square(problem, steps=500).margin
    assert bool(((drop(problem, p) - fell).abs() <= within * drop(problem, p)).all())


@pytest.mark.parametrize("p, radius, share", [(2, 0.5, 0.85), (inf, 0.2, 0.95), (0, 3, 0.99)])
def test_most_of_the_way_on_affine_images(p: float, radius: float, share: float) -> None:
    problem = affine(p, radius, (1, 4, 4), 0.0, 1.0)
    fell = problem.margin().double() - square(problem, steps=600).margin
    best = drop(problem, p)
    assert bool((fell <= best * (1 + 1e-5)).all()) and bool((fell >= share * best).all())


class Signs(nn.Module):
    """A network of thresholds: its gradient is zero wherever it exists."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Linear(36, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sign(self.first(x.flatten(1))))


@pytest.mark.parametrize("p, radius", [(2, 1.5), (inf, 0.2)])
def test_networks_of_thresholds_are_broken_where_gradients_see_nothing(p: float, radius: float) -> None:
    module, x = Signs(), torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    problem = bt.Problem(module, x, module(x).argmax(1), bt.Ball(p=p, radius=radius, low=0, high=1))
    assert bool((problem.gradient(problem.centre)[1]["x"] == 0).all())
    witness = square(problem, steps=150)
    assert bool(witness.found.all()) and bool((problem.size(witness.point) <= 1).all())


def test_several_leaves_and_targets() -> None:
    """Input and weights of a linear function: each leaf alone reaches part of the drop, both together the exact one."""
    module, x = nn.Linear(2, 3), torch.tensor([[1.0, 2.0]])
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[2.0, 1.0], [0.0, 0.0], [9.0, 9.0]]))
        module.bias.zero_()
    region = {"x": bt.Ball(p=inf, radius=0.1), "bias": bt.Ball(p=inf, radius=0.5)}
    problem = bt.Problem(module, x, torch.tensor([0]), region, bt.Targeted(1))
    witness = square(problem, steps=60)
    assert float(witness.margin) == pytest.approx(4 - 0.1 * 3 - 2 * 0.5, abs=1e-6)


def test_plateaus_are_crossed() -> None:
    """Half the coordinates must move the right way before anything changes: a random walk gets there."""
    module = lambda x: torch.stack([0.5 - (x.sum(1) > 9.5).double(), 0 * x[:, 0].double()], 1)
    problem = bt.Problem(module, torch.full((4, 16), 0.5), torch.zeros(4).long(), bt.Ball(p=inf, radius=0.2))
    assert bool(square(problem, steps=400).found.all())


def test_queries_are_counted_and_steps_are_checked() -> None:
    problem = affine(2, 0.5, (6,), None, None)
    with meter.measure() as passes:
        square(problem, steps=20)
    assert (passes.forward, passes.backward) == ((20 + 1 + 3) * len(problem), 0)
    with pytest.raises(bt.InputError, match="steps"):
        square(problem, steps=0)
