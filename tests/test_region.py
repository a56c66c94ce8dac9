"""Balls and regions: sizes, projections, representable ranges, facts and refusals."""

from math import inf, nan

import pytest
import torch

from brittle.errors import InputError
from brittle.region import Ball, as_region


@pytest.mark.parametrize(("p", "size"), [(0, 2), (1, 7), (2, 5), (inf, 4)])
def test_size_is_the_norm_in_float64(p, size):
    assert Ball(p=p, radius=1).size(torch.tensor([[3.0, 0.0, -4.0]])).tolist() == [size]


@pytest.mark.parametrize("p", [0, 1, 2, inf])
def test_projection_lands_inside_keeps_what_is_inside_and_is_nearest(p):
    torch.manual_seed(0)
    ball, change, radius = (
        Ball(p=p, radius=1),
        torch.randn(20, 5, dtype=torch.float64),
        torch.linspace(0, 3, 20, dtype=torch.float64),
    )
    inside = ball.project(change, radius)
    assert (ball.size(inside) <= radius * (1 + 1e-12) + 1e-15).all()
    assert torch.allclose(ball.project(inside, radius), inside, atol=1e-12)
    for _ in range(50):  # no other point of the ball is nearer in l2
        other = ball.project(torch.randn(20, 5, dtype=torch.float64) * 2, radius)
        assert ((change - inside).norm(dim=1) <= (change - other).norm(dim=1) + 1e-12).all()


def test_groups_count_positions_of_all_channels():
    ball = Ball(p=0, radius=1, groups="channels")
    change = torch.zeros(1, 3, 2, 2)
    change[0, :, 0, 1], change[0, 1, 1, 1] = torch.tensor([1.0, 2.0, 3.0]), 0.5
    assert ball.size(change).tolist() == [2]
    kept = ball.project(change, torch.tensor([1.0]))
    assert ball.size(kept).tolist() == [1] and kept[0, :, 0, 1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_range_is_rounded_inwards_to_what_the_leaf_can_hold(dtype):
    low, high = Ball(p=2, radius=1, low=0.1, high=0.7).range(torch.zeros(1, dtype=dtype))
    assert low.dtype == dtype and float(low) >= 0.1 and float(high) <= 0.7
    step = torch.finfo(dtype).eps
    assert float(low) - 0.1 <= step and 0.7 - float(high) <= step
    wide = Ball(p=2, radius=1, high=1e300).range(torch.zeros(1, dtype=torch.float32))
    assert float(wide[0]) == -inf and float(wide[1]) == torch.finfo(torch.float32).max


def test_facts_tell_two_balls_apart_and_are_plain():
    import json

    balls = [
        Ball(2, 1.0), Ball(inf, 1.0), Ball(2, 2.0), Ball(2, 1.0, low=0), Ball(2, 1.0, high=1), Ball(0, 1, groups="channels"), Ball(0, 1),
        Ball(2, 1.0, shared=True), Ball(2, 1.0, low=torch.zeros(2)), Ball(2, 1.0, low=torch.tensor([0.0, 1e-9])),
    ]  # fmt: skip
    assert len({json.dumps(b.facts(), sort_keys=True, allow_nan=False) for b in balls}) == len(balls)


def test_what_as_region_accepts():
    ball = Ball(2, 1.0)
    assert as_region(None) == {} and as_region(ball) == {"x": ball} and as_region({"w": ball}) == {"w": ball}
    for wrong in ({}, {"x": 1.0}, 0.1, "x"):
        with pytest.raises(InputError, match="region: expected a Ball"):
            as_region(wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p": 3, "radius": 1}, "Ball.p: expected 0, 1, 2 or inf"),
        ({"p": "inf", "radius": 1}, "Ball.p: .* got 'inf'"),
        ({"p": 2, "radius": -1}, "Ball.radius"),
        ({"p": 2, "radius": inf}, "Ball.radius"),
        ({"p": 2, "radius": nan}, "Ball.radius"),
        ({"p": 2, "radius": "far"}, "Ball.radius: .* got far"),
        ({"p": 2, "radius": None}, "Ball.radius"),
        ({"p": 2, "radius": 1, "low": 1, "high": 0}, "low <= high"),
        ({"p": 2, "radius": 1, "low": torch.tensor([0.0, nan]), "high": 1}, "low <= high"),
        ({"p": 2, "radius": 1, "groups": "channels"}, "Ball.groups"),
        ({"p": 2, "radius": 1, "within": torch.eye(3)}, "Ball.within: expected a bt.Subspace, got Tensor"),
    ],
)
def test_balls_that_are_none(options, words):
    with pytest.raises(InputError, match=words):
        Ball(**options)


def test_a_count_that_rounding_put_below_a_whole_number_is_that_number():
    """A bound that allows one change fewer than it states is unsound."""
    from brittle.norms import support

    rows, room = torch.ones(1, 1, 5, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    radius = torch.tensor([3 / 0.7], dtype=torch.float64) * 0.7
    assert radius.item() < 3 and support(rows, 0, radius, room, room).item() >= 3
