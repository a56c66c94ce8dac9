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


@pytest.mark.parametrize("size", [1e-170, 1e-200, 1e-300])
@pytest.mark.parametrize("ranged", [False, True])
def test_squares_that_underflow_do_not_shrink_the_support(size: float, ranged: bool) -> None:
    """|(s, s)|_2 = sqrt(2) s although s^2 is 0 in floating point."""
    a = torch.full((1, 1, 2), size, dtype=torch.float64)
    room = torch.full((1, 2), 1e250, dtype=torch.float64) if ranged else None
    radius = torch.tensor([1e3], dtype=torch.float64)
    assert float(norms.support(a, 2, radius, room, room)) >= 1e3 * 2**0.5 * size * (1 - 1e-15)


def test_a_tiny_radius_with_a_range() -> None:
    a = torch.tensor([[[1.0, 3.0]]], dtype=torch.float64)
    room = torch.ones(1, 2, dtype=torch.float64)
    for radius in (1e-160, 1e-165, 1e-300):
        bound = float(norms.support(a, 2, torch.tensor([radius], dtype=torch.float64), room, room))
        assert bound >= 10**0.5 * radius * (1 - 1e-15)


class Copied(nn.Module):
    """c + 2 values that sum to far less than their sizes, after the input was copied in different ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.register_buffer("at", torch.tensor([0, 0, 0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        copies = {
            "expand": lambda: x.expand(-1, 3),
            "cat": lambda: torch.cat([x, x, x], 1),
            "index": lambda: x.index_select(1, self.at),
        }[self.way]()
        return copies


@pytest.mark.parametrize("way", ["expand", "cat", "index"])
def test_copies_that_are_summed_on_the_way_back_pay_for_rounding(way: str) -> None:
    """Rows 1, 1e16, -1e16 over three copies of x: their sum is rounded to 0 or 2, and x itself is the truth."""
    from brittle import ops
    from brittle.graph import graph_of
    from brittle.relaxation import pull_back

    problem = Problem(
        Copied(way), torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.long), Ball(inf, 0.5)
    )
    graph = graph_of(problem)
    state = intervals.start(problem, graph)
    for node in graph.nodes:
        if node.varies and node.op != "input" and not ops.is_nonlinear(node):
            intervals.forward(state, node)
    for rows in ((1.0, 1e16, -1e16), (1e16, 1.0, -1e16), (-1e16, 1.0, 1e16)):
        arriving = torch.tensor(rows, dtype=torch.float64).reshape(1, 1, 3)
        pulled = pull_back(state, graph.output, arriving, {})
        least = float(pulled.coefficients["x"]) * 1.0 + float(pulled.constant) - float(pulled.slack)
        assert least <= 1.0  # the exact value at x = 1
        most = -(float(-pulled.coefficients["x"]) * 1.0) + float(pulled.slack)
        assert most >= 1.0
