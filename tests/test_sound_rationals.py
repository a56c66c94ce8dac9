"""Bounds against exact rational arithmetic, where rounding is all that separates them from the truth."""

from fractions import Fraction
from itertools import product
from math import inf

import pytest
import torch
from torch import nn

from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.problem import Problem
from brittle.region import Ball

BOUNDS = {"crown": crown, "ibp": ibp}
Vector = list[Fraction]


def lossy(terms: int, hidden: bool) -> nn.Module:
    """``1 + sum of terms tiny numbers``, each just too small to move a running sum of 1: floating point loses all or many of them."""
    first = nn.Linear(terms, 1, bias=False, dtype=torch.float64)
    last = nn.Linear(1, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        first.weight.fill_(2.0**-53 * 0.99)
        first.weight[0, :64] = 1.0  # one in every lane of a blocked sum
        last.weight.copy_(torch.tensor([[-1.0], [0.0]]))
    return nn.Sequential(first, nn.ReLU(), last) if hidden else nn.Sequential(first, last)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("hidden", [False, True])
def test_a_sum_that_loses_its_small_terms(name: str, hidden: bool) -> None:
    module = lossy(40_000, hidden)
    x = torch.ones(1, 40_000, dtype=torch.float64)
    problem = Problem(module, x, torch.tensor([0]), Ball(inf, 0.0))
    exact = -(64 + (40_000 - 64) * Fraction(2.0**-53 * 0.99))
    bound = Fraction(float(BOUNDS[name](problem).rows[0, 0]))
    assert bound <= exact and float(exact - bound) < 1e-8


def affine(layer: nn.Linear, x: Vector) -> Vector:
    rows, bias = layer.weight.tolist(), layer.bias.tolist()
    return [
        sum((Fraction(w) * v for w, v in zip(r, x, strict=True)), Fraction(b)) for r, b in zip(rows, bias, strict=True)
    ]


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("seed", range(6))
def test_networks_with_nasty_weights_never_exceed_an_exact_vertex(name: str, seed: int) -> None:
    """Weights from 1e-8 to 1e8 and pairs of units that nearly cancel; every corner and the centre, in rationals."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        for parameter in module.parameters():
            exponent = torch.randint(-8, 9, parameter.shape, generator=generator) if seed % 2 else 0
            parameter.copy_(draw(*parameter.shape) * 10.0**exponent)
        if seed % 3 == 0:
            module[4].weight[:, 1::2] = -module[4].weight[:, 0::2] * (1 - 1e-13)
    x = draw(1, 3)
    for radius in (0.0, 1e-9, 0.1, 3.0):
        bound = Fraction(float(BOUNDS[name](Problem(module, x, torch.tensor([0]), Ball(inf, radius))).rows[0, 0]))
        for signs in product((-1, 0, 1), repeat=3):
            point = [Fraction(float(v)) + s * Fraction(radius) for v, s in zip(x[0], signs, strict=True)]
            first = [max(v, Fraction(0)) for v in affine(module[0], point)]
            logits = affine(module[4], [max(v, Fraction(0)) for v in affine(module[2], first)])
            assert bound <= logits[0] - logits[1], (radius, signs)
