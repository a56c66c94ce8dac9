"""Planes enclose their functions on a grid, at the ends and along chords, whatever the slope; intercepts are the tightest."""

from math import inf

import pytest
import torch

from brittle import ops, planes

FUNCTIONS = {
    "relu": ops.ACTIVATIONS["relu"]({}),
    "leaky": ops.ACTIVATIONS["leaky_relu"]({"negative_slope": 0.1}),
    "relu6": ops.ACTIVATIONS["relu6"]({}),
    "hardtanh": ops.ACTIVATIONS["hardtanh"]({"min_val": -0.5, "max_val": 2.0}),
    "clamp_min": ops.ACTIVATIONS["clamp_min"]({"min": 1.0}),
    "abs": ops.ACTIVATIONS["abs"]({}),
    "tanh": ops.ACTIVATIONS["tanh"]({}),
    "sigmoid": ops.ACTIVATIONS["sigmoid"]({}),
}


def edges() -> tuple[torch.Tensor, torch.Tensor]:
    """Intervals of every kind: crossing, one-sided, points, tiny, huge, ending at a kink."""
    torch.manual_seed(0)
    low = 4 * torch.randn(60, dtype=torch.float64)
    wide = torch.rand(60, dtype=torch.float64) * 6
    special = [
        (-1, 2),
        (-2, 1),
        (0, 1),
        (-1, 0),
        (1, 1),
        (0, 0),
        (-30, 40),
        (-1e-9, 1e-9),
        (3, 9),
        (-900, -800),
        (20, 30),
        (-0.5, 2),
    ]
    extra = torch.tensor(special, dtype=torch.float64)
    return torch.cat([low, extra[:, 0]]), torch.cat([low + wide, extra[:, 1]])


def points(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    grid = low + torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None] * (high - low)
    kinks = torch.tensor([-0.5, 0.0, 1.0, 2.0, 6.0], dtype=torch.float64)[:, None]
    return torch.cat([grid.minimum(high), high[None], torch.minimum(torch.maximum(kinks, low), high)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_planes_enclose_and_touch_for_any_slope(name: str) -> None:
    function, (low, high) = FUNCTIONS[name], edges()
    z = points(low, high)
    value = function.value(z)
    below, above = planes.least_area(function, low, high)
    slopes = [below, above, planes.chord(function, low, high), torch.zeros_like(low)]
    slopes += [torch.rand(len(low), dtype=torch.float64) * 2 - 0.5 for _ in range(3)]
    for slope in slopes:
        least, most = planes.intercepts(function, slope, low, high)
        gap = value - slope * z
        rounding = 4 * 2.0**-53 * (value.abs() + (slope * z).abs())
        assert (gap + rounding >= least).all() and (gap - rounding <= most).all()
        size = 1 + (slope * z).abs().amax(0)
        assert ((gap.amin(0) - least) <= 1e-5 * size).all() and ((most - gap.amax(0)) <= 1e-5 * size).all()


def test_the_planes_of_relu_by_hand() -> None:
    low, high = torch.tensor([-1.0, -2.0, 1.0, -2.0]).double(), torch.tensor([2.0, 1.0, 3.0, -1.0]).double()
    function = FUNCTIONS["relu"]
    below, above = planes.least_area(function, low, high)
    assert torch.allclose(below, torch.tensor([1.0, 0.0, 1.0, 0.0]).double())
    assert torch.allclose(above, torch.tensor([2 / 3, 1 / 3, 1.0, 0.0]).double())
    assert torch.allclose(
        planes.intercepts(function, above, low, high)[1], torch.tensor([2 / 3, 2 / 3, 0.0, 0.0]).double()
    )


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_planes_of_a_bent_function_leave_little_area(name: str) -> None:
    """On a crossing interval the planes through the ends beat the constants by far."""
    function = FUNCTIONS[name]
    low, high = torch.tensor([-1.0, -3.0, 0.5]).double(), torch.tensor([1.5, 0.7, 2.0]).double()
    below, above = planes.least_area(function, low, high)
    area = planes.intercepts(function, above, low, high)[1] - planes.intercepts(function, below, low, high)[0]
    area = area + (above - below) * (low + high) / 2
    assert (area < 0.6 * (function.value(high) - function.value(low))).all()


def test_max_pooling_planes_enclose_and_touch() -> None:
    torch.manual_seed(1)
    pool = ops.MaxPool(torch.tensor([[0, 1, 2, -1], [1, 2, 3, 0]]))
    low = torch.randn(50, 1, 4, dtype=torch.float64)
    high = low + torch.rand(50, 1, 4, dtype=torch.float64) * 2
    chosen = planes._pool_planes(pool, low, high, (1, 2), None, None)
    random = torch.rand(50, 1, 2, 4, dtype=torch.float64)
    given = planes._pool_planes(pool, low, high, (1, 2), random, random)
    again = planes._pool_planes(pool, low, high, (1, 2), chosen.lower_slope, chosen.upper_slope)
    assert torch.equal(again.lower, chosen.lower) and torch.equal(again.upper, chosen.upper)
    for plane in (chosen, given):
        tightest = torch.full((50, 1, 2), inf, dtype=torch.float64)
        for corner in range(16):
            take = torch.tensor([corner >> k & 1 for k in range(4)], dtype=torch.bool)
            x = torch.where(take, high, low)
            seen = planes.windows(pool, x, 0.0)
            value = planes.windows(pool, x, -inf).amax(-1)
            upper = (plane.upper_slope * seen).sum(-1) + plane.upper
            assert (value >= (plane.lower_slope * seen).sum(-1) + plane.lower).all() and (value <= upper).all()
            tightest = torch.minimum(tightest, upper - value)
        assert (tightest < 1e-12).all()
