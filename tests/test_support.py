"""norms.support: sound and tight for a ball cut by a box, against linear programming, root search and random feasible points."""

from fractions import Fraction
from math import inf

import numpy as np
import pytest
import torch

from brittle import norms
from reference import boxes


def case(seed: int, rows: int = 3, count: int = 4, features: int = 7) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(seed)
    a = torch.randn(rows, count, features, dtype=torch.float64) * 10.0 ** (seed % 5 - 2)
    a[0, 0] = 0
    down, up = torch.rand(2, count, features, dtype=torch.float64)
    down[1, :3] = 0
    return a, torch.tensor([0.0, 0.05, 0.7, 9.0], dtype=torch.float64), down, up


@pytest.mark.parametrize("p", [0, 1, 2, inf])
def test_equal_to_the_slow_twin_and_never_below(p: float) -> None:
    for seed in range(5):
        a, radius, down, up = case(seed)
        radius = radius.ceil() if p == 0 else radius
        value = norms.support(a, p, radius, down, up)
        for r in range(3):
            for i in range(4):
                truth = boxes.support(a[r, i].numpy(), p, float(radius[i]), down[i].numpy(), up[i].numpy())
                assert value[r, i] >= truth * (1 - 1e-12) - 1e-300
                assert value[r, i] <= truth * (1 + 1e-7) + 1e-9 * float(a.abs().max()), (p, seed, r, i)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_without_a_range_it_is_the_dual_norm(p: float) -> None:
    a, radius, _, _ = case(1)
    truth = radius * torch.linalg.vector_norm(a, norms.dual(p), dim=-1)
    assert torch.allclose(norms.support(a, p, radius), truth, rtol=1e-12)
    wide = torch.full((4, 7), inf, dtype=torch.float64)
    assert torch.allclose(norms.support(a, p, radius, wide, wide), truth, rtol=1e-6)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_never_below_a_feasible_point_in_rationals(p: float) -> None:
    """The best representable feasible point, valued exactly: the slack there is all that rounding leaves."""
    for seed in range(8):
        a, radius, down, up = case(seed, rows=1)
        value = norms.support(a, p, radius, down, up)
        for i in range(4):
            w, r = a[0, i], Fraction(float(radius[i]))
            room = [Fraction(float(c)) for c in torch.where(w > 0, up[i], down[i])]
            size = [Fraction(float(abs(c))) for c in w]
            if p == inf:
                truth = sum(s * min(c, r) for s, c in zip(size, room, strict=True))
            elif p == 1:
                truth, left = Fraction(0), r
                for s, c in sorted(zip(size, room, strict=True), reverse=True):
                    truth, left = truth + s * min(c, left), left - min(c, left)
            else:
                unit = [Fraction(float(v)) for v in np.minimum(room_of(room), size_of(size))]
                norm2 = sum(u * u for u in unit)
                shrink = Fraction(1) if norm2 <= r * r else Fraction(float(r) / float(norm2) ** 0.5 * (1 - 1e-15))
                truth = sum(s * u * min(shrink, 1) for s, u in zip(size, unit, strict=True))
            assert Fraction(float(value[0, i])) >= truth


def room_of(room: list[Fraction]) -> np.ndarray:
    return np.array([float(c) for c in room])


def size_of(size: list[Fraction]) -> np.ndarray:
    return np.array([float(s) for s in size])


def test_one_row_for_many_examples_broadcasts() -> None:
    a, radius, down, up = case(2)
    for p in (0, 1, 2, inf):
        whole = norms.support(a[:, :1].expand(3, 4, 7), p, radius.ceil(), down, up)
        assert torch.allclose(norms.support(a[:, :1], p, radius.ceil(), down, up).expand(3, 4), whole)


def test_extreme_numbers_stay_finite_and_sound() -> None:
    a = torch.tensor([[[1e-100, 1.0, 1e100]]], dtype=torch.float64)
    room = torch.tensor([[1.0, inf, 1e-3]], dtype=torch.float64)
    for p in (1, 2, inf):
        value = norms.support(a, p, torch.tensor([0.5], dtype=torch.float64), room, room)
        assert 0.999e97 <= value < 1e98
