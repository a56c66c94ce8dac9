"""Tilted laws that importance sampling leans on: Gaussians of any covariance, l1 balls and cube surfaces, against what is known exactly."""

from math import comb, inf, sqrt

import pytest
import torch
from scipy.special import betainc, ndtr
from torch import nn

import brittle as bt
from brittle import tails
from brittle.noise import _tilted_uniform, _tilts
from brittle.noise.importance_sampling import importance_sampling
from brittle.noise.line_sampling import line_sampling
from brittle.noise.splitting import splitting

SIGMAS = torch.linspace(0.2, 1.5, 6).double()
FACTOR = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
COVARIANCE = FACTOR @ FACTOR.T / 6 + 0.05 * torch.eye(6).double()
SHAPED = {"diagonal": (bt.Gaussian(SIGMAS), SIGMAS.square().diag()), "full": (bt.Gaussian(covariance=COVARIANCE), COVARIANCE)}  # fmt: skip
W = torch.arange(1.0, 7.0).double()


def half_space(distance, weight, count=1):
    """One logit, w.x + distance, at 0."""
    module = nn.Linear(len(weight), 1).double()
    with torch.no_grad():
        module.weight.copy_(weight[None])
        module.bias.fill_(distance)
    return bt.Problem(module, torch.zeros(count, len(weight)).double(), torch.ones(count, dtype=torch.long))


def sum_beyond(law, t, n):
    """P(sum of delta >= t) in the l1 ball: with k positive signs the sum is 2 B - 1 times the norm, B ~ Beta(k, n - k); the norm of the
    ball is that of a sphere with one coordinate more, which is left out of the sum."""
    if isinstance(law, bt.UniformSphere):
        tau = t / law.radius
        one = lambda k: 1.0 if k == n else betainc(n - k, k, (1 - tau) / 2) if k else 0.0
        return sum(comb(n, k) * one(k) for k in range(n + 1)) / 2**n
    grid = (torch.arange(4000).double() + 0.5) / 4000  # P(norm <= s) = s^n, by the midpoint rule in that probability
    return float(torch.tensor([sum_beyond(bt.UniformSphere(law.radius * float(u) ** (1 / n)), t, n) if law.radius * float(u) ** (1 / n) > t else 0.0
                               for u in grid]).mean())  # fmt: skip


@pytest.mark.parametrize("name", SHAPED)
def test_shaped_gaussians_weigh_back(name):
    law, covariance = SHAPED[name]
    theta = 0.7 * W / (W @ covariance @ W).sqrt()
    delta = _tilts.draw(law, theta, 20_000, torch.Generator().manual_seed(1))
    weight = (-_tilts.log_ratio(law, theta[None, None], delta[None])[0, 0]).exp()
    assert float(weight.mean()) == pytest.approx(1.0, abs=5 * float(weight.std()) / 141)
    assert torch.allclose(_tilts.mean(law, theta[None])[0], covariance @ theta, rtol=1e-12)
    second = (weight[:, None, None] * delta[:, :, None] * delta[:, None]).mean(0)
    assert float((second - covariance).abs().max()) < 0.15


@pytest.mark.parametrize("method", [importance_sampling, line_sampling, splitting])
@pytest.mark.parametrize("name", SHAPED)
def test_half_spaces_under_shaped_gaussians(name, method):
    """Exact: Phi(-distance / sqrt(w^T C w)), here 3.4e-6."""
    law, covariance = SHAPED[name]
    deviation, options = float((W @ covariance @ W).sqrt()), {"particles": 60} if method is splitting else {}
    answer = method(half_space(4.5 * deviation, W, 4), {"x": law}, **options)
    assert set(answer.status) == {"ok"}
    gap = answer.estimate.log().mean() - torch.tensor(ndtr(-4.5)).log()
    assert abs(float(gap)) < 4 * float(answer.diagnostics["relative_error"].mean()) / 2 + 1e-6
    if method is not splitting:
        assert torch.allclose(answer.diagnostics["design_distance"], torch.tensor(4.5).double(), rtol=5e-3)


@pytest.mark.parametrize("law", [bt.UniformBall(1.5, 1), bt.UniformSphere(1.5, 1)], ids=str)
@pytest.mark.parametrize("n, t", [(5, 1.1), (40, 0.9)])
def test_sums_in_the_l1_ball(law, n, t):
    """Dense directions: 0.02 to 2e-6, with the errors that the method claims."""
    answer = importance_sampling(half_space(t, torch.ones(n).double(), 10), {"x": law})
    exact = sum_beyond(law, t, n)
    assert set(answer.status) == {"ok"}
    claimed = float(answer.diagnostics["relative_error"].mean())
    assert claimed < 0.15 and abs(float((answer.estimate / exact - 1).mean())) < 3.5 * claimed / sqrt(10)


@pytest.mark.parametrize("extra", [0, 1])
def test_the_best_tilt_of_the_l1_ball_is_chernoffs(extra):
    """At the point of the face that the mean meets, log dQ/dP is the exponent of the half-space bound, whose v is searched on a grid."""
    n, law = 30, (bt.UniformBall if extra else bt.UniformSphere)(2.0, 1)
    a = torch.linspace(0.2, 1.0, n).double()[None]
    s = torch.tensor([40.0]).double()
    theta = s[:, None] * a
    point = _tilts.mean(law, theta)
    exponent = float(_tilts.log_ratio(law, theta[:, None], point[:, None]))
    bound = float(tails.log_cross_along((a * point).sum(1) / 2.0, a, n + extra))
    assert -bound <= exponent + 1e-6 and exponent == pytest.approx(-bound, rel=0.02)


def test_reach_is_concave_so_that_newton_rises_from_below():
    s = torch.linspace(0, 150, 1500).double()
    for a in (torch.ones(30), torch.eye(30)[0], torch.linspace(0.01, 1, 30) ** 3):
        rows = a.double().expand(len(s), -1)
        for law in (
            bt.UniformBall(1.5, 1),
            bt.UniformSphere(1.5, 1),
            bt.UniformSphere(1.5, inf),
            bt.UniformBall(1.5, inf),
        ):
            value, slope = _tilts.reach(law, rows, s)
            assert float(value[0]) == 0 and bool((value.diff() > 0).all()), (law, a[:2])
            assert bool((slope.diff() <= 1e-9 * slope[0]).all()), (law, a[:2])


def test_series_near_zero_meet_the_formulas():
    x = torch.tensor([-1.0, 1.0]).double() * _tilted_uniform.SMALL
    low, high = x * (1 - 1e-9), x * (1 + 1e-9)
    for f in (_tilted_uniform.langevin, _tilted_uniform.langevin_slope, _tilted_uniform.log_sinhc):
        assert torch.allclose(f(low), f(high), rtol=1e-7, atol=0)
    for one, two in zip(_tilted_uniform._coth(low), _tilted_uniform._coth(high)):
        assert torch.allclose(one, two, rtol=1e-7, atol=0)
