"""Sections of l_p balls by subspaces: lengths of the change itself, projections that end inside, nearest changes near the linear program's."""

from math import inf

import numpy as np
import pytest
import torch

from brittle.section import Section


def basis(d, r, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, r, generator=draw, dtype=torch.float64)).Q.T.contiguous()


def shortest(b, a, gap, p, rooms=None):
    """The linear program ``min |c B|_p, <a, c> = gap`` in the range."""
    from scipy.optimize import linprog

    r, d = b.shape
    extra = np.ones((d, 1)) if p == inf else np.eye(d)
    rows = [np.hstack([b.T, -extra]), np.hstack([-b.T, -extra])]
    limits = [np.zeros(2 * d)]
    if rooms is not None:
        none = np.zeros((d, extra.shape[1]))
        rows += [np.hstack([b.T, none]), np.hstack([-b.T, none])]
        limits += [rooms[1], rooms[0]]
    cost = np.r_[np.zeros(r), np.ones(extra.shape[1])]
    equal = np.r_[a, np.zeros(extra.shape[1])][None]
    free = [(None, None)] * r + [(0, None)] * extra.shape[1]
    return linprog(cost, np.vstack(rows), np.concatenate(limits), equal, [gap], bounds=free)


@pytest.mark.parametrize("p", [1, inf])
@pytest.mark.parametrize("r", [5, 26])
def test_the_nearest_change_is_within_some_percent_of_the_linear_program(p, r):
    b = basis(32, r)
    torch.manual_seed(r)
    a, gap = torch.randn(6, r, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.5
    section = Section(b, p, "x")
    c = section.nearest(a, gap, None)
    assert torch.allclose((a * c).sum(1), gap, rtol=1e-12), "the equation holds exactly"
    best = torch.tensor([shortest(b.numpy(), v.numpy(), float(g), p).fun for v, g in zip(a, gap, strict=True)])
    ratio = section.length(c) / best
    assert bool((ratio > 1 - 1e-9).all()) and float(ratio.max()) < 1.05
    plain = section.length(gap[:, None] * a / a.square().sum(1, keepdim=True)) / best
    assert float(ratio.mean()) < 1 + 0.3 * (float(plain.mean()) - 1), "far better than the nearest in l2"


@pytest.mark.parametrize("p", [1, 2, inf])
def test_ranges_hold_and_cost_little(p):
    b = basis(32, 20)
    torch.manual_seed(1)
    base = torch.rand(6, 32, dtype=torch.float64)
    section = Section(b, p, "x", 0.0, 1.0)
    rooms = section.rooms(base)
    a, gap = torch.randn(6, 20, dtype=torch.float64), torch.full((6,), 0.7, dtype=torch.float64)
    c = section.nearest(a, gap, rooms)
    moved = base + c @ b
    assert float(moved.min()) > -1e-9 and float(moved.max()) < 1 + 1e-9
    assert float(((a * c).sum(1) / gap).min()) > 0.9
    if p != 2:
        bounds = [(rooms[0][i].numpy(), rooms[1][i].numpy()) for i in range(6)]
        best = [shortest(b.numpy(), a[i].numpy(), 0.7, p, bounds[i]) for i in range(6)]
        ratios = [float(section.length(c)[i]) / found.fun for i, found in enumerate(best) if found.success]
        assert len(ratios) == 6 and max(ratios) < 1.1


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("ranged", [False, True])
def test_projections_end_inside_and_leave_inner_points_alone(p, ranged):
    b = basis(12, 7)
    torch.manual_seed(2)
    base = torch.rand(40, 12, dtype=torch.float64)
    section = Section(b, p, "x", *((0.0, 1.0) if ranged else (None, None)))
    rooms, radius = section.rooms(base), torch.full((40,), 0.4, dtype=torch.float64)
    far = torch.randn(40, 7, dtype=torch.float64)
    near = section.project(far, radius, rooms)
    assert bool((section.length(near) <= 0.4 * (1 + 1e-12)).all())
    if ranged:
        assert float((base + near @ b).min()) > -1e-12 and float((base + near @ b).max()) < 1 + 1e-12
    assert torch.allclose(section.project(near * 0.999, radius, rooms), near * 0.999, rtol=1e-12)
    scaled = far * section._allowed(far, radius, rooms)[:, None]
    nearer = (near - far).norm(dim=1) < (scaled - far).norm(dim=1)
    assert float(nearer.double().mean()) > 0.75 or p == 2, "nearer than by rescaling alone"


def test_the_length_is_that_of_the_change():
    section = Section(torch.tensor([[0.6, 0.8]]), 1, "x", low=torch.tensor([0.0, -inf]), high=None)
    c = torch.tensor([[1.0], [-2.0]])
    assert section.length(c).tolist() == pytest.approx([1.4, 2.8], rel=1e-7)
    assert section.outside(c, torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist() == [False, True]


def test_degenerate_questions_have_finite_answers():
    section = Section(basis(6, 3), inf, "x", 0.0, 1.0)
    base = torch.zeros(2, 6, dtype=torch.float64)
    nothing = section.nearest(
        torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64), section.rooms(base)
    )
    assert nothing.abs().max() == 0
    stuck = section.nearest(
        torch.ones(2, 3, dtype=torch.float64), torch.full((2,), 1e9, dtype=torch.float64), section.rooms(base)
    )
    assert bool(stuck.isfinite().all()) and not bool(section.outside(stuck * (1 - 1e-9), base).any())
