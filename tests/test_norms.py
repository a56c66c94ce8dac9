"""l_p geometry against brute force: projections are nearest, steepest directions attain the dual norm, draws have their law."""

from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brittle import norms

NORMS = (1, 2, inf)
vectors = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=6).map(
    lambda v: torch.tensor([v], dtype=torch.float64)
)


@pytest.mark.parametrize("p", [0, *NORMS])
@settings(max_examples=30, deadline=None)
@given(v=vectors, radius=st.floats(0.01, 4))
def test_projection_is_inside_idempotent_and_shortens(p: float, v: torch.Tensor, radius: float) -> None:
    r = torch.tensor([radius], dtype=torch.float64)
    w = norms.project(v, p, r)
    assert float(norms.norm(w, p)) <= radius * (1 + 1e-12)
    torch.testing.assert_close(norms.project(w, p, r), w, rtol=1e-12, atol=1e-12)
    assert bool((w.abs() <= v.abs()).all()) and bool((w * v >= 0).all())
    if float(norms.norm(v, p)) <= radius:
        assert torch.equal(w, v)


@pytest.mark.parametrize("p", NORMS)
@settings(max_examples=30, deadline=None)
@given(v=vectors, radius=st.floats(0.1, 4), seed=st.integers(0, 99))
def test_projection_is_nearest(p: float, v: torch.Tensor, radius: float, seed: int) -> None:
    """The variational inequality <v - Pv, u - Pv> <= 0 for u in the ball singles out the nearest point of a convex set."""
    w = norms.project(v, p, torch.tensor([radius], dtype=torch.float64))
    u = radius * norms.uniform_sphere(tuple(v.shape[1:]), p, torch.Generator().manual_seed(seed), 200)
    assert float(((v - w) * (u - w)).sum(1).max()) <= 1e-9


def test_projection_on_counts_keeps_the_largest() -> None:
    v = torch.tensor([[1.0, -3.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    kept = norms.project(v, 0, torch.tensor([2.0, 1.9]))
    assert kept.tolist() == [[0.0, -3.0, 2.0, 0.0], [1.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("p", NORMS)
@settings(max_examples=30, deadline=None)
@given(g=vectors)
def test_steepest_attains_the_dual_norm(p: float, g: torch.Tensor) -> None:
    v = norms.steepest(g, p)
    assert float(norms.norm(v, p)) <= 1 + 1e-12
    torch.testing.assert_close((g * v).sum(1), norms.norm(g, norms.dual(p)), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("p", NORMS)
@settings(max_examples=30, deadline=None)
@given(a=vectors, radius=st.floats(0.05, 4), down=st.floats(0, 2), up=st.floats(0, 2))
def test_support_is_attained_and_never_too_small(
    p: float, a: torch.Tensor, radius: float, down: float, up: float
) -> None:
    """Against the water filling, its level found by bisection."""
    r = torch.tensor([radius], dtype=torch.float64)
    room = torch.where(a > 0, torch.full_like(a, up), torch.full_like(a, down))
    bound = float(norms.support(a[None], p, r, torch.full_like(a, down), torch.full_like(a, up)))
    size = a[0].abs()
    if p == 1:
        best, left = 0.0, radius
        for s, c in sorted(zip(size.tolist(), room[0].tolist(), strict=True), reverse=True):
            best, left = best + s * min(c, left), left - min(c, left)
    else:
        pace = size if p == 2 else torch.ones_like(size)
        low, high = 0.0, 1e9
        for _ in range(200):  # the level at which the radius is spent
            level = (low + high) / 2
            inside = float(torch.linalg.vector_norm(torch.minimum(level * pace, room), p)) <= radius
            low, high = (level, high) if inside else (low, level)
        best = float((torch.minimum(low * pace, room) * size).sum())
    assert best * (1 - 1e-12) <= bound <= best * (1 + 1e-6) + 1e-9


def test_support_without_a_range_is_the_dual_norm() -> None:
    a = torch.tensor([[[3.0, -4.0]]], dtype=torch.float64)
    for p, value in ((1, 4.0), (2, 5.0), (inf, 7.0)):
        assert float(norms.support(a, p, torch.ones(1, dtype=torch.float64))) == pytest.approx(value, rel=1e-12)
    assert float(norms.support(a, 0, torch.ones(1, dtype=torch.float64))) == inf
    room = torch.full((1, 2), 0.5, dtype=torch.float64)
    assert float(norms.support(a, 0, torch.ones(1, dtype=torch.float64), room, room)) == pytest.approx(2.0)


@pytest.mark.parametrize("p", NORMS)
def test_uniform_ball_has_the_right_radii_and_centre(p: float) -> None:
    """P(|v|_p <= t) = t^D, and every coordinate has mean zero; six standard deviations of the estimates."""
    count, dimension = 20_000, 3
    draws = norms.uniform_ball((dimension,), p, torch.Generator().manual_seed(0), count)
    length = norms.norm(draws, p)
    for t in (0.5, 0.8, 0.95):
        share = t**dimension
        assert abs(float((length <= t).double().mean()) - share) < 6 * (share * (1 - share) / count) ** 0.5
    assert float(draws.mean(0).abs().max()) < 6 / count**0.5
    variance = {1: 1 / 10, 2: 1 / 5, inf: 1 / 3}[p]  # of one coordinate for D = 3: 2 / ((D+1)(D+2)), 1 / (D+2), 1/3
    assert float(draws.var(0).sub(variance).abs().max()) < 6 / count**0.5


@pytest.mark.parametrize("p", NORMS)
def test_uniform_sphere_lies_on_the_sphere(p: float) -> None:
    draws = norms.uniform_sphere((2, 2), p, torch.Generator().manual_seed(0), 2000)
    torch.testing.assert_close(norms.norm(draws, p), torch.ones(2000, dtype=torch.float64))
    assert float(norms.flat(draws).mean(0).abs().max()) < 6 / 2000**0.5
