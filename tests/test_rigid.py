"""A valid range together with a dense subspace can leave nothing to move: the answer says so, and only then."""

from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle import Ball, Problem, Subspace
from brittle.questions._rigid import RIGID, rigid


def question(x, plane, p=2, **room):
    torch.manual_seed(0)
    module = nn.Linear(x.shape[1], 2).double()
    return Problem(module, x, module(x).argmax(1), Ball(p=p, radius=1.0, within=plane, **room))


def dense(dimension: int, features: int = 12) -> Subspace:
    return Subspace.given(
        torch.randn(dimension, features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )


@pytest.mark.parametrize("p", [2, inf])
def test_images_at_the_end_of_their_range_cannot_move_in_a_dense_subspace(p):
    """All pixels 0: a direction with entries of both signs leaves [0, 1] either way. The third image is grey and moves."""
    x = torch.zeros(3, 12, dtype=torch.float64)
    x[2] = 0.5
    problem = question(x, dense(2), p, low=0.0, high=1.0)
    assert rigid(problem, torch.ones(3, dtype=torch.bool)).tolist() == [True, True, False]
    found = bt.radius(problem, effort="quick", ends="upper", attacks=["fmn"])
    assert found.upper[:2].tolist() == [inf, inf] and [s.startswith(RIGID) for s in found.status] == [True, True, False]
    assert any("2 of 3 examples" in doubt and "leave out low and high" in doubt for doubt in found.doubts)
    margin = bt.margin(problem, effort="quick", ends="upper", attacks=["apgd"])
    assert [s.startswith(RIGID) for s in margin.status] == [True, True, False]


def test_it_is_decided_exactly():
    """A positive direction can rise from 0 and cannot from 1; without a range nothing holds; free features hold nothing."""
    up = Subspace.given(torch.ones(1, 4))
    everyone = torch.ones(1, dtype=torch.bool)
    held = lambda x, plane, **room: bool(rigid(question(x, plane, **room), everyone)[0])
    zero, mixed = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([[0.0, 1.0, 0.5, 0.5]], dtype=torch.float64)
    assert not held(zero, up, low=0.0, high=1.0) and not held(zero + 1, up, low=0.0, high=1.0)
    assert held(mixed, up, low=0.0, high=1.0) and not held(mixed, up, low=0.0) and not held(mixed, up)
    assert not held(mixed, Subspace.given(torch.eye(4)[2:]), low=0.0, high=1.0)
    two = Subspace.given(torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]]))
    assert held(torch.tensor([[0.0, 0, 1, 1]], dtype=torch.float64), two, low=0.0, high=1.0)
    assert not held(torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64), two, low=0.0, high=1.0)


def test_a_feature_that_is_constant_in_the_data_holds_nothing_by_rounding():
    """The decomposition leaves 1e-16 where it should leave 0: at the end of the range that once forbade every other direction."""
    data = torch.rand(40, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    data[:, [3, 5, 7, 9]] = 0.0
    plane = Subspace.pca(data, energy=0.8)
    noise = plane.basis[:, [3, 5, 7, 9]]
    assert 0 < float(noise.abs().max()) < 1e-14
    problem = question(data[:4] * 0.5 + 0.2 * (data[:4] > 0), plane, low=0.0, high=1.0)
    assert float(problem.network.original.lift_input[[3, 5, 7, 9]].abs().max()) == 0
    found = bt.radius(problem, effort="quick", ends="upper", attacks=["hlrf"])
    free = bt.radius(question(problem.x["input"], plane), effort="quick", ends="upper", attacks=["hlrf"])
    short = free.witness.point["x.coordinates"] @ problem.network.original.lift_input.T + problem.x["input"]
    inside = ((short >= -1e-12) & (short <= 1)).all(1)
    assert bool(inside.any()), "choose other data: no shortest change lies in the range"
    torch.testing.assert_close(
        found.upper[inside], free.upper[inside], rtol=1e-5, atol=0
    )  # settling shortens by 2^-20 and twice as much
