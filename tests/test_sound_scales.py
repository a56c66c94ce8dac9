"""A proof at a scale holds for the real product of radius and scale, which floating point rounds."""

from fractions import Fraction
from math import inf

import pytest
import torch
from torch import nn

from brittle import intervals, norms
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.problem import Problem
from brittle.region import Ball


@pytest.mark.parametrize("groups", [None, "channels"])
@pytest.mark.parametrize("unit", [1.0, 3.0, 49.0, 98.0, 103.0])
def test_one_change_is_one_change_in_any_unit(unit: float, groups: str | None) -> None:
    """fl(1 / 49) * 49 lies below 1: a box that stays a point there proves something about no change at all."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    x, label = torch.rand(1, 2, 2), torch.zeros(1, dtype=torch.long)
    plain = Problem(module, x, label, Ball(0, 1.0, 0.0, 1.0, groups=groups))
    scaled = Problem(module, x, label, Ball(0, unit, 0.0, 1.0, groups=groups)).scaled(1 / unit)
    endless = Problem(module, x, label, Ball(0, unit, groups=groups)).scaled(1 / unit)
    for bound in (crown, ibp):
        assert torch.equal(bound(plain).rows, bound(scaled).rows)
        assert (bound(endless).rows == -inf).all()


def test_boxes_hold_the_exact_corners() -> None:
    """Cancellation leaves a corner with many more bits than the rounded product of radius and scale has."""
    torch.manual_seed(1)
    x = -torch.rand(500, 2, dtype=torch.float64) - 0.5
    for p in (1, 2, inf):
        problem = Problem(nn.Identity(), x, torch.zeros(500, dtype=torch.long), Ball(p, 0.7))
        problem = problem.scaled((x[:, 0].abs() + 1e-6) / 0.7)
        low, high = intervals.box(problem, "x")
        for i in range(500):
            exact = Fraction(problem.region["x"].radius) * Fraction(float(problem.scale[i]))
            assert Fraction(float(high[i, 0])) >= Fraction(float(x[i, 0])) + exact
            assert Fraction(float(low[i, 0])) <= Fraction(float(x[i, 0])) - exact


def test_the_radius_of_a_proof_is_rounded_up() -> None:
    assert norms.proof_radius(0, torch.tensor([3 / 0.7 * 0.7, 2.5, 0.0], dtype=torch.float64)).tolist() == [3, 2, 0]
    assert norms.proof_radius(2, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == [0.0, 1 + 2.0**-52]
