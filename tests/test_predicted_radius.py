"""The check against the attack-free prediction fires on a weak attack and stays silent on healthy networks."""

from dataclasses import replace
from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.checks.predicted_radius import predicted_radius
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded


def question(name: str, p: float, count: int = 32) -> bt.Problem:
    data = digits("test")
    return bt.Problem(embedded(name), data.x[:count], data.labels[:count], bt.Ball(p, 0.5, low=0, high=1))


def random_direction(problem, *, seed=0, start=None):
    """A deliberately weak attack: the shortest failing point on one random line, by doubling."""
    x = problem.x
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign()
    best = problem.witness({"x": x}, "random_direction")
    for scale in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
        found = problem.witness(
            problem.settle({"x": (x + scale * 0.1 * way).clamp(0, 1)}, torch.full((len(x),), inf)), "random_direction"
        )
        take = (found.found & ~best.found).long()
        both = bt.Witness.join([best, found])
        best = both.take(torch.arange(len(x)) + len(x) * take)
    return best


@pytest.mark.parametrize("p", [2, inf])
@pytest.mark.parametrize("name", ["mlp", "hardened", "cnn", "gru"])
def test_healthy_networks_raise_no_doubt(name, p):
    problem = question(name, p)
    found = predicted_radius(problem, bt.radius(problem, ends="upper", effort="quick", attacks=["hlrf"]))
    assert found.consequence == "none" if name != "gru" else found.consequence in ("none", "note"), found.value


@pytest.mark.slow
@pytest.mark.parametrize("effort", ["quick", "standard"])
@pytest.mark.parametrize("p", [2, inf])
@pytest.mark.parametrize("name", ["mlp", "hardened", "cnn", "gru"])
def test_healthy_networks_raise_no_doubt_at_any_effort(name, p, effort):
    problem = question(name, p, 64)
    assert predicted_radius(problem, bt.radius(problem, ends="upper", effort=effort)).consequence in ("none", "note")


@pytest.mark.parametrize("p", [2, inf])
def test_a_weak_attack_is_recognised(p):
    problem = question("mlp", p)
    weak = bt.radius(problem, ends="upper", attacks=[random_direction])
    found = predicted_radius(problem, weak)
    assert found.consequence == "warn" and "weaker than" in found.doubt


def test_the_factor_and_the_share_decide():
    problem = question("mlp", 2)
    bracket = bt.radius(problem, ends="upper", effort="quick", attacks=["hlrf"])
    stretched = lambda factor, count: replace(
        bracket, upper=bracket.upper * torch.where(torch.arange(32) < count, factor, 1.0).double()
    )
    assert predicted_radius(problem, stretched(1.2, 32)).consequence == "none"
    few = predicted_radius(problem, stretched(1.9, 3))
    assert (
        few.consequence == "note" and "of rows 0, 1, 2 is more" in few.doubt
    )  # every example beyond the factor is a doubt
    assert predicted_radius(problem, stretched(1.9, 12)).consequence == "warn"
    assert predicted_radius(problem, stretched(inf, 12)).consequence == "warn"


def test_what_cannot_be_predicted_is_not_judged():
    problem = question("mlp", 2, 12)
    bracket = bt.radius(problem, ends="upper", effort="quick", attacks=["hlrf"])
    alone = problem.take((problem.labels == problem.labels[0]).nonzero()[:, 0])
    told = predicted_radius(alone, bracket.take((problem.labels == problem.labels[0]).nonzero()[:, 0]))
    assert told.value == "not judged" and "at least two classes" in told.note
    assert predicted_radius(problem.within({"0.weight": bt.Ball(2, 0.1)}), bracket).consequence == "none"
    step = nn.Sequential(Step(), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        step[1].weight.copy_(torch.tensor([[1.0, 1, -1, -1], [-1.0, -1, 1, 1]]))
    flat = bt.Problem(step, torch.tensor([[0.0, 0, 1, 1], [1.0, 1, 0, 0]]), torch.tensor([1, 0]), bt.Ball(2, 1.0))
    assert "nothing could be predicted" in predicted_radius(flat, bracket.take(torch.arange(2))).note


class Step(nn.Module):
    """A layer whose gradient is zero wherever it exists."""

    def forward(self, x):
        return (x > 0.5).to(x.dtype)
