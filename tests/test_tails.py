"""Half-space tails: never below 50-digit arithmetic, hardly above where they claim to be exact, and never below a draw count."""

from math import inf, log

import mpmath
import pytest
import torch
from scipy.special import ndtr

from brittle import norms, tails

DIMENSIONS = (1, 2, 3, 10, 64, 784, 150528)
tensor = lambda *values: torch.tensor(values, dtype=torch.float64)


def exact_sphere(t: float, n: int) -> mpmath.mpf:
    """P(u_1 >= t), by the incomplete beta integral of t^2 where the tail is not tiny, of 1 - t^2 where it is."""
    with mpmath.workdps(40):
        if n == 1:
            return mpmath.mpf(0.5) if t <= 1 else mpmath.mpf(0)
        a, square = mpmath.mpf(n - 1) / 2, mpmath.mpf(t) ** 2
        power = mpmath.exp(a * mpmath.log1p(-square)) / (a * mpmath.beta(a, 0.5))
        return power * mpmath.hyp2f1(a, 0.5, a + 1, 1 - square) / 2


def test_normal_tails_against_many_digits():
    for t in (-2.0, 0.0, 0.5, 3.0, 6.0, 20.0, 40.0, 300.0):
        with mpmath.workdps(40):
            exact = float(mpmath.log(mpmath.erfc(mpmath.mpf(t) / mpmath.sqrt(2)) / 2))
        assert 0 <= float(tails.log_normal(tensor(t))) - exact <= 1e-8 * max(1, -exact)


@pytest.mark.parametrize("n", DIMENSIONS)
def test_sphere_tails_against_many_digits(n):
    deviations = tensor(0.01, 0.5, 1, 3, 6, 12, 30, 36)
    for t in (deviations / n**0.5).tolist() + [0.3, 0.9, 0.999]:
        if t >= 1 or n > 1000 and t > 0.2:
            continue
        exact, value = exact_sphere(t, n), float(tails.log_sphere(tensor(t), n))
        assert value >= float(mpmath.log(exact))
        if exact > 1e-280:
            assert value <= float(mpmath.log(exact)) + 1e-7
        else:
            assert value <= float(mpmath.log(exact)) + 0.01 * abs(float(mpmath.log(exact)))


def test_a_ball_is_the_shadow_of_a_sphere_and_nothing_lies_outside():
    """n = 1: uniform on [-1, 1]."""
    assert tails.log_sphere(tensor(0.25), 3).exp().item() == pytest.approx(0.375, rel=1e-8)
    assert tails.log_sphere(tensor(1.0001), 5).item() == -inf
    assert tails.log_sphere(tensor(1.0, 1.001), 1).tolist() == [pytest.approx(log(0.5)), -inf]


def test_simple_bounds_of_the_sphere_are_bounds():
    """The two formulas of the derivation, where the exact value is at hand."""
    for n in DIMENSIONS[1:6]:
        t = torch.linspace(0.01, min(0.99, 30 / n**0.5), 40).double()
        exact = tails.log_sphere(t, n)
        half = log(0.5) + (n - 1) / 2 * torch.log1p(-t * t)
        mills = (n - 1) / 2 * torch.log1p(-t * t) - torch.log(t) - 0.5 * log(2 * torch.pi * (n - 1))
        assert bool((exact <= half + 1e-8).all()) and bool((exact <= mills + 1e-8).all())
        assert bool((half <= -n * t * t / 2 + 1e-8 + (n == 2) * 10).all())


def directions(n: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(n)
    rows = torch.randn(4, n, generator=g, dtype=torch.float64)
    rows[0] = 1.0
    rows[1] = torch.eye(n)[0]
    rows[2] *= torch.rand(n, generator=g, dtype=torch.float64) ** 8
    return rows


UNIFORM = {
    "cube": (lambda n, g, k: norms.uniform_ball((n,), inf, g, k), lambda t, w, n: tails.log_cube_along(t, w)),
    "cube, lengths": (lambda n, g, k: norms.uniform_ball((n,), inf, g, k), lambda t, w, n: tails.log_cube(t, tails.lengths(w))),
    "surface of the cube": (
        lambda n, g, k: norms.uniform_sphere((n,), inf, g, k), lambda t, w, n: tails.log_cube_surface(t, tails.lengths(w), n),
    ),
    "l1 ball": (lambda n, g, k: norms.uniform_ball((n,), 1, g, k), lambda t, w, n: tails.log_cross_along(t, w, n + 1)),
    "l1 ball, lengths": (
        lambda n, g, k: norms.uniform_ball((n,), 1, g, k), lambda t, w, n: tails.log_cross(t, tails.lengths(w), n + 1),
    ),
    "l1 surface": (lambda n, g, k: norms.uniform_sphere((n,), 1, g, k), lambda t, w, n: tails.log_cross_along(t, w, n)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_bounds_by_direction_hold_against_draws(name, n):
    draw, bound = UNIFORM[name]
    count, rows = 40_000, directions(n)
    values = draw(n, torch.Generator().manual_seed(7), count) @ rows.T
    for level in (0.5, 0.1, 1e-2, 1e-3):
        t = values.quantile(1 - level, dim=0).clamp_min(1e-9)
        share = (values >= t).double().mean(0)
        limit = bound(t, rows, n).exp()
        assert bool((limit >= share - 4 * (share / count).sqrt()).all()), (name, n, level, limit, share)
        assert bool((limit <= 1).all())


def test_uniform_numbers_have_exact_tails_to_compare_with():
    """n = 1: P(u >= t) = (1 - t) / 2, also for the l1 ball; the Chernoff bounds are above, and 0 beyond the support."""
    t, one = torch.linspace(0.05, 0.99, 30).double(), torch.ones(30, 1).double()
    for bound in (tails.log_cube_along(t, one), tails.log_cross_along(t, one, 2)):
        assert bool((bound.exp() >= (1 - t) / 2).all())
    beyond = tensor(1.01)
    assert tails.log_cube_along(beyond, one[:1]).item() == tails.log_cross_along(beyond, one[:1], 2).item() == -inf
    assert tails.log_cube_surface(beyond, tails.lengths(one[:1]), 1).item() == -inf


def test_sums_of_many_uniform_numbers_against_many_digits():
    """Irwin-Hall: the exact tail of a sum of 12 uniform numbers; Chernoff loses less than a factor 12 here, Hoeffding thousands."""
    n = 12
    for t in (3.0, 6.0, 9.0):
        x = mpmath.mpf(n - t) / 2  # P(sum of n uniforms on [0, 1] <= (n - t) / 2)
        exact = sum((-1) ** k * mpmath.binomial(n, k) * (x - k) ** n for k in range(int(x) + 1)) / mpmath.factorial(n)
        ratio = float(tails.log_cube_along(tensor(t), torch.ones(1, n).double()).exp() / float(exact))
        assert 1 <= ratio < 25, ratio
        assert tails.log_cube(tensor(t), tails.lengths(torch.ones(1, n).double())) >= log(float(exact) * ratio) - 1e-6


def infimum(height, start) -> float:
    """The minimum over s of a smooth function with 40 digits: the zero of its derivative."""
    with mpmath.workdps(40):
        s = mpmath.findroot(lambda v: mpmath.diff(height, v), start, solver="anderson", verify=False)
        return float(height(s))


def cube_chernoff(row: list[float], t: float) -> float:
    height = lambda s: sum(mpmath.log(mpmath.sinh(s * w) / (s * w)) for w in row) - s * t
    return infimum(height, (mpmath.mpf("0.1"), mpmath.mpf(20)))


def cross_chernoff(row: list[float], t: float, degrees: int) -> float:
    """Over z > 0, v = z / (1 + z) of the largest v allowed."""
    largest = max(map(abs, row))
    v = lambda z: z / (1 + z) / largest
    height = lambda z: degrees * mpmath.log(1 - t * v(z)) - sum(mpmath.log(1 - (w * v(z)) ** 2) for w in row)
    return infimum(height, (mpmath.mpf("0.05"), mpmath.mpf(8)))


@pytest.mark.parametrize("which", [0, 2, 3])
def test_the_cube_has_chernoffs_bound_to_six_digits(which):
    row = directions(12)[which]
    for share in (0.2, 0.5, 0.8):
        t = share * float(row.abs().sum())
        exact = cube_chernoff(row.tolist(), t)
        assert exact <= float(tails.log_cube_along(tensor(t), row)) <= exact + 1e-6 * max(1, -exact)


@pytest.mark.parametrize("degrees", [12, 13])
@pytest.mark.parametrize("which", [0, 2, 3])
def test_the_l1_ball_has_the_bound_of_its_exponential_form(which, degrees):
    """min over v of degrees ln(1 - v t) - sum ln(1 - v^2 w^2); v is searched on a grid, which costs up to 2 % of the logarithm."""
    row = directions(12)[which]
    for share in (0.3, 0.6, 0.9):
        t = share * float(row.abs().max())
        exact = cross_chernoff(row.tolist(), t, degrees)
        value = float(tails.log_cross_along(tensor(t), row, degrees))
        assert exact <= value <= 0.98 * exact + 1e-6, (share, exact, value)


def test_deviations_are_never_too_short():
    """sqrt(w^T C w) against 40 digits, for well and badly conditioned C, and where nearly everything cancels."""
    g = torch.Generator().manual_seed(0)
    factor = torch.randn(8, 8, generator=g, dtype=torch.float64)
    narrow = torch.ones(8, 8).double() + 1e-9 * torch.eye(8).double()
    cancels = torch.tensor([1.0, -1.0] * 4).double()
    for covariance in (factor @ factor.T, narrow, torch.eye(8).double() * 1e-300):
        for row in (*directions(8), cancels):
            value = float(tails.deviations(row, covariance))
            with mpmath.workdps(40):
                w, c = [mpmath.mpf(v) for v in row.tolist()], covariance.tolist()
                exact = mpmath.sqrt(sum(w[i] * mpmath.mpf(c[i][j]) * w[j] for i in range(8) for j in range(8)))
            assert exact <= value and (value <= exact * (1 + 1e-12) or covariance is narrow)
    assert float(tails.deviations(cancels * 1e-200, factor @ factor.T)) > 0


def test_lengths_are_never_too_short():
    rows = directions(40) * tensor(1.0, 1e-200, 1e150, 1e-8)[:, None]
    along = tails.lengths(rows)
    for i, row in enumerate(rows.tolist()):
        with mpmath.workdps(40):
            two = mpmath.sqrt(sum(mpmath.mpf(v) ** 2 for v in row))
            one = sum(abs(mpmath.mpf(v)) for v in row)
        assert float(along.two[i]) >= two and float(along.one[i]) >= one
        assert float(along.two[i]) <= two * 7 and float(along.largest[i]) == max(map(abs, row))


@pytest.mark.parametrize("target", [-1.0, -7.0, -40.0, -400.0])
def test_quantiles_keep_what_they_promise(target):
    goal, rows = tensor(target), directions(30)
    z = tails.quantile(tails.log_normal, goal, 60.0)
    assert tails.log_normal(z) <= goal <= tails.log_normal(z - 1e-9) + 1e-6
    tau = tails.quantile(lambda t: tails.log_sphere(t, 30), goal, 1.0)
    assert tails.log_sphere(tau, 30) <= goal
    along = tails.lengths(rows)
    q = tails.cube_quantile(goal, along, 1 / 3)
    assert bool((tails.log_cube(q * (1 + 1e-12), along) <= goal + 1e-6).all())
    q = tails.cross_quantile(goal, along, 31)
    assert bool((tails.log_cross(q * (1 + 1e-12), along, 31) <= goal + 1e-6).all())


def test_dimension_matters_by_the_right_amount():
    """Mutants: n - 2 or n + 2 in place of n change the tail at three standard deviations by more than its slack."""
    t = tensor(3 / 64**0.5)
    assert abs(float(tails.log_sphere(t, 64) - tails.log_sphere(t, 66))) > 1e-2
    assert float(tails.log_sphere(tensor(3 / 784**0.5), 784).exp()) == pytest.approx(1.32e-3, rel=0.01)
    assert float(ndtr(-3)) == pytest.approx(float(tails.log_normal(tensor(3.0)).exp()), rel=1e-8)


@pytest.mark.parametrize("name", UNIFORM)
def test_nothing_lies_at_infinity(name):
    """A unit without an end on one side asks for this tail: 1 instead of 0 would make it pay for all."""
    bound = UNIFORM[name][1]
    assert bound(tensor(inf), directions(5), 5).tolist() == [-inf] * 4
    assert tails.log_normal(tensor(inf)).item() == tails.log_sphere(tensor(inf), 5).item() == -inf
