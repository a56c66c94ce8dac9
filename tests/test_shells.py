"""Radial shells: exact up to their number on half-spaces, better than the relaxation they mix, and sound."""

from math import sqrt

import pytest
import torch
from torch import nn
from torch.special import ndtr

import brittle as bt
from brittle.noise.proven import proven
from brittle.noise.shells import _mixed, shells
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded


def half_space(dimension, beta):
    linear = nn.Linear(dimension, 1).double()
    with torch.no_grad():
        linear.weight.fill_(1 / sqrt(dimension)), linear.bias.fill_(beta)
    return bt.Problem(linear, torch.zeros(1, dimension, dtype=torch.float64), torch.tensor([1]))


@pytest.mark.parametrize(("dimension", "beta"), [(8, 2.0), (64, 3.0), (784, 5.0)])
def test_half_spaces_are_bounded_closely_from_above(dimension, beta):
    truth = float(ndtr(torch.tensor(-beta, dtype=torch.float64)))
    fine = tuple(10.0**-e for e in torch.linspace(0.02, 13, 90).tolist())
    problem, laws = half_space(dimension, beta), {"x": bt.Gaussian(1.0)}
    few, many = float(shells(problem, laws).upper), float(shells(problem, laws, beyond=fine).upper)
    assert truth < many < few
    assert many < 1.3 * truth and few < 8 * truth  # nine shells; in few dimensions the length varies most


def test_a_length_that_is_longer_or_bounds_that_are_larger_cost_more():
    bounds = [torch.tensor([0.1]), torch.tensor([0.3])]
    assert float(_mixed(bounds, [0.5, 0.01])) == pytest.approx(0.1 + 0.5 * 0.2 + 0.01 * 0.7)
    assert float(_mixed(bounds[::-1], [0.5, 0.01])) == pytest.approx(0.3 + 0.01 * 0.7), (
        "an outer sphere's bound holds inside"
    )


def test_trained_networks_profit_and_draws_stay_below():
    x, labels = digits("test")
    problem, laws = bt.Problem(embedded("mlp"), x[:3], labels[:3]), {"x": bt.Gaussian(0.05)}
    found, single = shells(problem, laws), proven(problem, laws)
    assert bool((found.upper <= single.upper * (1 + 1e-9)).all()) and found.kinds.upper == ("proved",) * 3
    drawn = bt.probability(problem, laws, effort="quick", draws=500)
    assert bool((drawn.lower <= found.upper).all())


def test_other_laws_are_told_why():
    problem = half_space(3, 1.0)
    for laws in ({"x": bt.UniformSphere(1.0)}, {"x": bt.Gaussian(1.0).clipped(-9, 9)}, {"weight": bt.Gaussian(0.1)}):
        assert shells(problem, laws).status[0].startswith("not certified: radial shells")
    with pytest.raises(bt.InputError, match="beyond"):
        shells(problem, {"x": bt.Gaussian(1.0)}, beyond=(2.0,))
