"""Restricted balls: changes inside a subspace or orthogonal to it, by the same attacks and bounds."""

from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle import Ball, InputError, Problem, Subspace
from brittle.cures.surgery import surgery


def linear():
    """margin x0 - 2 x1 + 2 x2 at (3, 0, 0): distance 3/3 in all, 3 along e0, 3 / sqrt 8 in its complement."""
    module = nn.Linear(3, 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 2.0], [0, 0, 0]])), module.bias.zero_()
    return module, torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([0])


AXIS = Subspace.given(torch.eye(3)[:1])


@pytest.mark.parametrize(
    ("restriction", "distance"), [({}, 1.0), ({"within": AXIS}, 3.0), ({"orthogonal_to": AXIS}, 3 / 8**0.5)]
)
def test_distances_of_a_linear_network_are_exact_from_both_sides(restriction, distance):
    found = bt.radius(Problem(*linear(), Ball(p=2, radius=1.0, **restriction)), effort="quick")
    assert float(found.upper) == pytest.approx(distance, rel=1e-6)
    assert distance * 0.98 < float(found.lower) <= distance * (1 + 1e-9)


def test_the_witness_is_a_change_in_the_subspace():
    module, x, labels = linear()
    problem = Problem(module, x, labels, Ball(p=2, radius=1.0, orthogonal_to=AXIS))
    assert problem.leaves == ("x.coordinates",)
    found = bt.radius(problem, effort="quick", ends="upper").witness
    change = found.point["x.coordinates"] @ problem.network.original.basis_input
    assert float(change[0, 0]) == 0 and module(x + change).argmax(1) != labels


def test_pythagoras_for_the_three_distances():
    """1 / full^2 = 1 / off^2 + 1 / on^2 inside one linear region."""
    torch.manual_seed(0)
    module, x = nn.Linear(8, 2).double(), torch.rand(4, 8, dtype=torch.float64)
    plane = Subspace.given(torch.randn(3, 8))
    size = lambda **how: (
        bt.radius(
            Problem(module, x, module(x).argmax(1), Ball(p=2, radius=1.0, **how)), effort="quick", ends="upper"
        ).upper
    )
    full, on, off = size(), size(within=plane), size(orthogonal_to=plane)
    assert torch.allclose(full**-2, on**-2 + off**-2, rtol=1e-5)


def test_nothing_off_the_subspace_breaks_a_cured_network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    plane = Subspace.given(torch.randn(2, 6))
    x = torch.randn(3, 2) @ plane.basis.float()
    cured = surgery(module, plane)
    problem = Problem(cured, x, cured(x).argmax(1), Ball(p=2, radius=1.0, orthogonal_to=plane))
    margin = bt.margin(problem, effort="quick")
    assert torch.allclose(margin.lower, margin.upper, atol=1e-4) and bool((margin.lower > 0).all())


def test_keyword_inputs_and_parameters_can_move_beside_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, a, b):
            return self.fc(a) + b

    torch.manual_seed(0)
    module, x = Two(), {"a": torch.rand(2, 3), "b": torch.rand(2, 2)}
    labels = module(**x).argmax(1)
    problem = Problem(
        module, x, labels, {"x.a": Ball(p=2, radius=0.1, within=AXIS), "fc.weight": Ball(p=inf, radius=0.01)}
    )
    assert problem.leaves == ("x.a_coordinates", "param:module.fc.weight")
    found = bt.margin(problem, effort="quick")
    assert bool((found.lower <= found.upper).all()) and bool((found.upper < problem.margin()).all())


def test_what_cannot_be_restricted_is_refused():
    module, x, labels = linear()
    for ball, words in (
        (lambda: Ball(p=inf, radius=1.0, within=AXIS), "p=2"),
        (lambda: Ball(p=2, radius=1.0, low=-9, high=9, within=AXIS), "no valid range"),
        (lambda: Ball(p=2, radius=1.0, within=AXIS, orthogonal_to=AXIS), "both"),
        (lambda: Ball(p=2, radius=1.0, within=Subspace.given(torch.eye(4)[:1])), "3 features"),
        (lambda: Ball(p=2, radius=1.0, orthogonal_to=Subspace.given(torch.eye(3))), "at least one dimension"),
    ):
        with pytest.raises(InputError, match=words):
            Problem(module, x, labels, ball())
    with pytest.raises(InputError, match="restricted to a subspace"):
        bt.audit(module, x, labels, {"a": Ball(p=2, radius=1.0, within=AXIS)}, out="never")
