"""The exact polish: its programs against a solver of another kind, its points against exact optima and against their neighbours."""

from functools import cache
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle import meter
from brittle.attacks._kinked import Kinked
from brittle.attacks._regions import look, regions_of
from brittle.attacks.linear_regions import linear_regions
from brittle.attacks.multistart import multistart
from brittle.errors import NotCertified
from brittle.results import Witness
from reference import adjacent_regions, exact_optima, regions, tiny_programs


def tiny(seed: int, count: int = 6) -> tuple[nn.Sequential, Tensor, Tensor]:
    """4-8-8-3 in float64, every class reached inside the range."""
    torch.manual_seed(seed)
    first, second, last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
    module = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last).double()
    with torch.no_grad():
        for layer in (first, second):
            layer.weight.mul_(3)
        first.bias.copy_(0.3 * torch.randn(8) - first.weight.sum(1) / 2)
        x = torch.rand(60, 4, dtype=torch.float64)
        last.bias.sub_(module(x).mean(0))
        return module, x[:count], module(x[:count]).argmax(1)


@cache
def polished(seed: int, p: float) -> tuple[bt.Problem, Tensor, Witness]:
    """A problem, what a short multistart finds, and what the walk makes of it."""
    module, x, labels = tiny(seed)
    problem = bt.Problem(module, x, labels, bt.Ball(p=p, radius=1.0, low=0, high=1))
    begin = multistart(problem, restarts=1, steps=20, polishing=2)
    return problem, begin.size, linear_regions(problem, start=begin.point)


def network(problem: bt.Problem) -> nn.Sequential:
    assert isinstance(problem.module, nn.Sequential)
    return problem.module


SEEDS = [(1,), pytest.param((0, 1), marks=pytest.mark.slow)]


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("p", [1, inf])
def test_most_points_are_the_exact_optimum_of_two_hidden_layers(p: float, seeds: tuple[int, ...]) -> None:
    exact, found, count = [], [], 3
    for seed in seeds:
        problem, begin, witness = polished(seed, p)
        assert bool((witness.size <= begin).all()), "longer than it began"
        for one, label in zip(problem.inputs["x"][:count], problem.labels, strict=False):
            exact.append(tiny_programs.radius(network(problem), one, int(label), p, 0.0, 1.0))
        found += witness.size[:count].tolist()
    ratio = np.array(found) / np.array(exact)
    assert (ratio >= 1 - 1e-6).all(), "shorter than the shortest: the reference is wrong"
    assert (ratio <= 1 + 1e-6).mean() >= 0.8, ratio


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize("p", [1, 2, inf])
def test_nothing_is_nearer_in_the_regions_that_meet_at_the_point(p: float, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        problem, _, witness = polished(seed, p)
        for one, point, label, size in zip(
            problem.inputs["x"], witness.point["x"], problem.labels, witness.size, strict=True
        ):
            best = adjacent_regions.nearest(network(problem), one, point, int(label), p, 0.0, 1.0)
            assert float(size) <= best * (1 + 1e-6), (seed, float(size), best)


def test_least_distances_of_one_hidden_layer_are_exact() -> None:
    torch.manual_seed(2)
    first, last = nn.Linear(3, 4), nn.Linear(4, 3)
    module = nn.Sequential(first, nn.ReLU(), last).double()
    with torch.no_grad():
        first.weight.mul_(3)
        first.bias.copy_(0.3 * torch.randn(4) - first.weight.sum(1) / 2)
        x = torch.rand(40, 3, dtype=torch.float64)
        last.bias.sub_(module(x).mean(0))
        x, labels = x[:4], module(x[:4]).argmax(1)
    for p in (1, 2, inf):
        exact = [regions.radius(module, one, int(k), p, 0.0, 1.0) for one, k in zip(x, labels, strict=True)]
        problem = bt.Problem(module, x, labels, bt.Ball(p=p, radius=1.0, low=0, high=1))
        assert linear_regions(problem).size.tolist() == pytest.approx(exact, rel=1e-8)
        if p != 2:
            program = [tiny_programs.radius(module, x[k], int(labels[k]), p, 0.0, 1.0) for k in (0, 1)]
            assert program == pytest.approx(exact[:2], rel=1e-6), "two oracles that disagree"


def test_the_oracle_of_counts_agrees_with_the_affine_one() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3)).double()
    x = torch.rand(3, 4, dtype=torch.float64)
    labels = module(x).argmax(1)
    problem = bt.Problem(module[0], x, labels, bt.Ball(p=0, radius=1.0, low=0, high=1))
    found = [tiny_programs.radius(module, one, int(k), 0, 0.0, 1.0) for one, k in zip(x, labels, strict=True)]
    assert found == exact_optima.affine(problem)


BENT = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.2),
    "hardtanh": nn.Hardtanh(-0.4, 0.5),
    "relu6": nn.ReLU6(),
    "pool": nn.Sequential(nn.Unflatten(1, (1, 8)), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 8)),
}


@pytest.mark.parametrize("kind", list(BENT))
def test_a_wall_bends_the_row_by_its_gain(kind: str) -> None:
    """With one bent layer, row = linear + sum over walls of gain max(0, s), at any distance (of maxima of two)."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(5, 8), BENT[kind], nn.Linear(8, 3)).double()
    x, far = torch.randn(2, 4, 5, dtype=torch.float64)
    problem = bt.Problem(module, x, torch.zeros(4, dtype=torch.long), bt.Ball(p=2, radius=1.0))
    view = look(problem, regions_of(problem), x, torch.ones(4, dtype=torch.long))
    walls = [list(range(view.quantities.shape[1]))] * 4
    step = far - x
    q = view.quantities.detach() + (torch.stack(view.slopes(walls)) * step[:, None]).sum(2)
    bend = (view.gains * (view.side() * q).clamp_min(0)).sum(1)
    assert float(bend.abs().min()) > 0
    told = view.rows[:, 1] + (view.gradient * step).sum(1) + bend
    torch.testing.assert_close(told, problem.rows({"x": far})[:, 1].detach(), rtol=1e-9, atol=1e-9)


def test_first_layer_gradients_cost_one_pass_for_all_examples() -> None:
    problem, _, _ = polished(1, 2)
    found = regions_of(problem)
    view = look(problem, found, problem.inputs["x"], torch.zeros(6, dtype=torch.long))
    with meter.measure() as cost:
        view.slopes([[0, 1, 9]] * 6)  # two of the first layer, one of the second
    assert cost.backward == 2 + 6


@pytest.mark.parametrize("p", [1, 2, inf])
def test_no_point_of_a_grid_is_nearer_than_the_solution_of_a_program(p: float) -> None:
    rng = np.random.default_rng(0)
    side = np.linspace(-0.5, 0.5, 41)
    grid = np.stack(np.meshgrid(side, side, side), -1).reshape(-1, 3)
    for _ in range(20):
        gains, slopes = rng.random(3) + 0.1, rng.normal(size=(3, 3))
        room = np.full(3, 0.5)
        f = Kinked(0.2, rng.normal(size=3), gains, -0.1 * rng.random(3), slopes, room, room)
        does = grid[f.value + grid @ f.gradient + np.maximum(0, f.offsets + grid @ slopes.T) @ gains <= 0]
        if not len(does):
            continue
        lengths = np.linalg.norm(does, p, axis=1)
        v = f.nearest(p, does[lengths.argmin()])
        assert v is not None and f.at(v) <= 1e-9
        assert np.linalg.norm(v, p) <= lengths.min() * (1 + 1e-9)


@pytest.mark.parametrize("layer", [nn.Tanh(), nn.Softplus()])
def test_curved_networks_keep_the_start(layer: nn.Module) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2)).double()
    x = torch.rand(2, 3, dtype=torch.float64)
    problem = bt.Problem(module, x, module(x).argmax(1), bt.Ball(p=2, radius=1.0))
    with pytest.raises(NotCertified):
        regions_of(problem)
    begin = multistart(problem, restarts=1, steps=5)
    again = linear_regions(problem, start=begin.point)
    assert bool((again.size <= begin.size * (1 + 1e-9)).all())


def test_thorough_ends_with_it_within_its_passes() -> None:
    problem, begin, _ = polished(1, inf)
    problem, begin = problem.take(torch.arange(3)), begin[:3]
    alone = bt.radius(problem, ends="upper", attacks=["linear_regions", "hlrf"])
    first = bt.radius(problem, ends="upper", attacks=["hlrf"])
    assert bool((alone.upper <= first.upper).all()) and bool((alone.upper < first.upper).any())
    whole = bt.radius(problem, ends="upper", effort="thorough")
    assert whole.cost.forward + whole.cost.backward <= 2100
    assert bool((whole.upper <= begin).all())
