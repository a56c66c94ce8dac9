"""Curved activations: planes and images hold the module's own function, touch it, and agree with a second implementation."""

import dataclasses
from collections.abc import Callable
from math import inf

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brittle import gates, ops
from brittle._checker import planes as checked
from brittle._checker.walk import Model, Moving, forward, rows_below
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.curves import Activation
from brittle.errors import NotCertified
from brittle.graph import graph_of
from brittle.planes import intercepts, least_area
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import matrix

SELU = 1.0507009873554804934193349852946
MISH = lambda z: z * mpmath.tanh(mpmath.log1p(mpmath.exp(z)))
TANH = lambda z: z / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf(0.044715) * z**3)))
ELU = lambda z: z if z > 0 else mpmath.mpf(0.7) * mpmath.expm1(z)

# name -> operation, its arguments, those of the checker, the module's own function, the function itself to any precision
CASES: dict[str, tuple[str, dict, tuple, Callable, Callable]] = {
    "hard-swish": ("hardswish", {}, (), F.hardswish, lambda z: z * min(max(z + 3, 0), 6) / 6),
    "silu": ("silu", {}, (), F.silu, lambda z: z / (1 + mpmath.exp(-z))),
    "gelu": ("gelu", {"approximate": "none"}, (), F.gelu, lambda z: z * mpmath.ncdf(z)),
    "gelu tanh": ("gelu", {"approximate": "tanh"}, (), lambda z: F.gelu(z, approximate="tanh"), TANH),
    "mish": ("mish", {}, (), F.mish, MISH),
    "elu": ("elu", dict(alpha=0.7, scale=1, input_scale=1), (0.7, 1, 1), lambda z: F.elu(z, 0.7), ELU),
    "elu falling": ("elu", dict(alpha=-0.7, scale=1, input_scale=1), (-0.7, 1, 1), lambda z: F.elu(z, -0.7), lambda z: z if z > 0 else -ELU(z)),
    "selu": ("selu", {}, (), F.selu, lambda z: SELU * (z if z > 0 else mpmath.mpf("1.6732632423543772848") * mpmath.expm1(z))),
    "celu": ("celu", dict(alpha=1.3), (1.3,), lambda z: F.celu(z, 1.3), lambda z: z if z > 0 else mpmath.mpf(1.3) * mpmath.expm1(z / mpmath.mpf(1.3))),
    "softplus": ("softplus", dict(beta=2.0, threshold=20.0), (2.0, 20.0), lambda z: F.softplus(z, 2.0), lambda z: mpmath.log1p(mpmath.exp(2 * z)) / 2),
    "log-sigmoid": ("log_sigmoid", {}, (), F.logsigmoid, lambda z: -mpmath.log1p(mpmath.exp(-z))),
    "tanh": ("tanh", {}, (), torch.tanh, mpmath.tanh),
    "sigmoid": ("sigmoid", {}, (), torch.sigmoid, lambda z: 1 / (1 + mpmath.exp(-z))),
}  # fmt: skip
HUMPS = ("silu", "gelu", "gelu tanh", "mish")
OF_EACH_SHAPE = ("hard-swish", "gelu", "elu falling", "softplus", "tanh")  # in whole networks; the others are slow
EACH = 4000


def row(name: str) -> Activation:
    op, arguments, *_ = CASES[name]
    return ops.ACTIVATIONS[op](arguments)


def cases(count: int = EACH, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals of every size at every place, and slopes."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(count, generator=generator, dtype=torch.float64)
    centre, width = 16 * draw() - 8, 10 ** (4 * draw() - 2.5)
    return centre - width / 2, centre + width / 2, 2 * draw() - 0.5


def points(low: Tensor, high: Tensor, count: int = 65) -> Tensor:
    share = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    return torch.minimum(torch.maximum(low + (high - low) * share, low), high)


def violations(function: Activation, value: Callable, slope: Tensor, low: Tensor, high: Tensor) -> int:
    least, most = intercepts(function, slope, low, high)
    z = points(low, high)
    gap = value(z) - slope * z
    return int(((gap < least) | (gap > most)).any(0).sum())


@pytest.mark.parametrize("name", CASES)
def test_no_value_of_the_module_is_outside_any_plane(name: str) -> None:
    """13 functions, 4000 intervals, three slopes: not one, without tolerance."""
    function, value = row(name), CASES[name][3]
    low, high, drawn = cases()
    for slope in (drawn, *least_area(function, low, high)):
        assert violations(function, value, slope, low, high) == 0


@pytest.mark.parametrize("name", CASES)
def test_planes_touch_the_function(name: str) -> None:
    function, value = row(name), CASES[name][3]
    low, high, drawn = (v[:300] for v in cases(seed=1))
    for slope in (drawn, torch.zeros_like(low), *least_area(function, low, high)):
        found = intercepts(function, slope, low, high)
        for sign, intercept in zip((1.0, -1.0), found, strict=True):
            gap = lambda z, sign=sign, slope=slope, intercept=intercept: sign * (value(z) - slope * z - intercept)
            nearest = torch.minimum(gap(low), gap(high))
            for piece in function.bend or ():
                first, last = low.clamp(piece.left, piece.right), high.clamp(piece.left, piece.right)
                inside = (low <= piece.right) & (high >= piece.left)
                nearest = torch.where(inside, torch.minimum(nearest, zoomed(gap, first, last)), nearest)
            assert nearest.max() < (3e-9 if name == "softplus" else 1e-9)  # softplus: the jump of the module


def zoomed(gap: Callable[[Tensor], Tensor], first: Tensor, last: Tensor) -> Tensor:
    """The least value on an interval with one local least value inside at most, or one at the ends."""
    left, right, best = first, last, torch.minimum(gap(first), gap(last))
    for _ in range(5):
        z = points(left, right)
        least, at = gap(z).min(0)
        step, centre, best = (right - left) / 32, z.gather(0, at[None])[0], torch.minimum(best, least)
        left, right = torch.maximum(centre - step, first), torch.minimum(centre + step, last)
    return best


@pytest.mark.parametrize("name", CASES)
def test_a_point_has_planes_through_it(name: str) -> None:
    function = row(name)
    z = torch.linspace(-9, 9, 181, dtype=torch.float64)
    slope = least_area(function, z, z)[0]
    least, most = intercepts(function, slope, z, z)
    rounding = function.ulps * function.value(z).abs() + function.input_ulps * z.abs() + 2 * (slope * z).abs()
    assert slope.isfinite().all() and (most - least <= 2.0**-50 * rounding + 1e-300).all() and (least <= most).all()
    assert torch.allclose(least + slope * z, function.value(z), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_planes_of_least_area_are_good_ones(name: str) -> None:
    """On a short interval the two planes leave a quarter of curvature times width^2 between them at most (S-shaped: by symmetry less)."""
    function = row(name)
    z = torch.tensor([-4.9, -2.0, -1.0, 0.25, 0.5, 2.5], dtype=torch.float64)
    low, high = z - 0.05, z + 0.05
    below, above = least_area(function, low, high)
    least, most = intercepts(function, below, low, high)[0], intercepts(function, above, low, high)[1]
    between = (above - below) * z + most - least
    assert (between <= 2.2 * 0.1**2 / 8 * 2).all()
    assert (between >= 0).all()


@pytest.mark.parametrize("name", CASES)
def test_values_break_points_and_turns_hold_to_forty_digits(name: str) -> None:
    function, exact = row(name), CASES[name][4]
    unit = 2.0**-53
    with mpmath.workdps(40):
        for z in (-30.0, -8.3, -5.1, -2.9, -1.1, -0.3, -1e-3, -1e-9, 1e-9, 0.02, 0.9, 1.7, 2.99, 6.1, 12.0, 40.0):
            value = float(function.value(torch.tensor(z, dtype=torch.float64)))
            assert abs(value - exact(mpmath.mpf(z))) <= unit * (
                function.ulps * abs(value) + function.input_ulps * abs(z)
            )
        if name in HUMPS:
            assert abs(mpmath.diff(exact, function.kinks[0])) < 1e-15
        for piece in function.bend or ():
            left, right = max(piece.left, -8.0), min(piece.right, 8.0)
            for k in range(1, 24):
                z = mpmath.mpf(left) + (mpmath.mpf(right) - left) * k / 24
                bend, steep = mpmath.diff(exact, z, 2), mpmath.diff(exact, z)
                assert bend * piece.shape > 0 if piece.shape else abs(bend) < 1e-12
                assert abs(steep) <= function.steep
                assert abs(float(piece.slope(torch.tensor(float(z), dtype=torch.float64))) - steep) < 1e-14
            if name in HUMPS and piece.right < inf:
                assert abs(mpmath.diff(exact, mpmath.mpf(piece.right), 2)) < 1e-14


@pytest.mark.parametrize("name", [*HUMPS, "hard-swish"])
def test_a_wrong_break_point_is_caught(name: str) -> None:
    function, value = row(name), CASES[name][3]
    low, high, drawn = cases(20000)
    first, *rest = function.bend or ()
    for shift in (-0.2, 0.2) if name in HUMPS else (0.2,):
        moved = (
            dataclasses.replace(first, right=first.right + shift),
            dataclasses.replace(rest[0], left=first.right + shift),
        )
        wrong = dataclasses.replace(function, bend=(*moved, *rest[1:]))
        slopes = torch.where(
            drawn > 0.5,
            drawn / 10 - 0.12,
            wrong.bend[0].slope(wrong.bend[0].right + 0 * drawn) if name in HUMPS else -0.48,
        )  # type: ignore[index]
        assert violations(wrong, value, slopes, low, high) > 0


@pytest.mark.parametrize("name", CASES)
def test_the_checker_finds_the_same_intercepts_by_itself(name: str) -> None:
    op, _, parameters, value, _ = CASES[name]
    second = checked.activation("gelu tanh" if name == "gelu tanh" else op, parameters)
    assert second is not None
    low, high, slope = cases(1000, seed=2)
    ours = intercepts(row(name), slope, low, high)
    theirs = checked.intercepts(second, slope.numpy(), low.numpy(), high.numpy())
    loose = 3e-9 if name == "softplus" else 1e-10
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a.numpy() - b).max() < loose
    z = points(low, high)
    gap = (value(z) - slope * z).numpy()
    assert (gap >= theirs[0]).all() and (gap <= theirs[1]).all()


@pytest.mark.parametrize("name", CASES)
def test_slopes_lie_in_their_interval(name: str) -> None:
    function, value = row(name), CASES[name][3]
    low, high, _ = (v[:500] for v in cases(seed=3))
    if name == "softplus":
        with pytest.raises(NotCertified, match="jumps"):
            gates.slopes(function, low, high)
        return
    least, most = gates.slopes(function, low, high)
    z = points(low, high).requires_grad_()
    (slope,) = torch.autograd.grad(value(z).sum(), z)
    inside = (z > low) & (z < high)
    loose = 1e-7 if name == "celu" else 1e-13  # its gradient in torch goes through 1 / alpha in float32
    assert float((least - slope)[inside].max()) < loose and float((slope - most)[inside].max()) < loose
    whole = gates.slopes(function, torch.tensor([-inf]).double(), torch.tensor([inf]).double())
    assert whole[1].item() <= function.steep + 1e-9 and whole[0].isfinite().all()


def network(name: str, convolve: bool = False) -> nn.Module:
    class Curved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return CASES[name][3](x)

    torch.manual_seed(5)
    layers = [nn.Linear(6, 10), Curved(), nn.Linear(10, 8), Curved(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.mul_(2.5)  # type: ignore[union-attr, operator]
    return model


@pytest.mark.parametrize(
    "name", [name if name in OF_EACH_SHAPE else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_bounds_of_networks_lie_below_attacks_and_the_checker_agrees(name: str) -> None:
    module = network(name)
    x = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    problem = Problem(module, x, module(x).argmax(1), Ball(p=inf, radius=0.05, low=0, high=1))
    certificate, coarse = crown(problem), ibp(problem)
    coefficients, offsets = (v.numpy() for v in matrix(problem.spec, problem.labels, 3))
    rows = lambda z: torch.as_tensor(np.einsum("rnc,knc->rkn", coefficients, z.detach().numpy()) + offsets[:, None])
    lower = torch.maximum(x - 0.05, torch.zeros(()))
    upper = torch.minimum(x + 0.05, torch.ones(()))
    change = lower + (upper - lower) * torch.rand(400, 3, 6, dtype=torch.float64)
    weights = torch.as_tensor(coefficients)
    for index in range(len(weights)):  # gradient descent on every row, from many starts
        z = change.clone()
        for _ in range(8):
            z = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((module(z) * weights[index]).sum(), z)
            z = torch.minimum(torch.maximum(z - 0.02 * gradient.sign(), lower), upper)
        for points_ in (change, z):
            truth = rows(module(points_))[index].amin(0)
            assert (certificate.rows[:, index] <= truth).all() and (coarse.rows[:, index] <= truth).all()
            if points_ is z:
                assert (certificate.rows[:, index] > truth - 0.3 * (1 + truth.abs())).all()  # of use, not only true
    model = Model(graph_of(problem))
    assert np.allclose(forward(model, {"x": x[0].numpy()}), module(x[:1])[0].detach().numpy(), rtol=0, atol=1e-8)
    proof = {k: v[0].numpy() for k, v in certificate.proof.items() if k.endswith("_slope")}
    ball = Moving(x[0].numpy(), inf, 0.05, 0.0, 1.0)
    again = rows_below(model, {"x": ball}, {}, proof, coefficients[:, 0], offsets[:, 0])
    assert np.abs(again - certificate.rows[0].numpy()).max() < 1e-7


@pytest.mark.parametrize("arguments", [dict(alpha=-1.0), dict(alpha=0.0)])
def test_what_is_not_continuous_is_refused(arguments: dict) -> None:
    with pytest.raises(NotCertified, match="not continuous"):
        ops.ACTIVATIONS["celu"](arguments)
    with pytest.raises(NotCertified, match="beta=-1"):
        ops.ACTIVATIONS["softplus"](dict(beta=-1.0, threshold=20.0))
