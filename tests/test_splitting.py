"""Adaptive multilevel splitting: every law of the package, no gradients, modes that gradients miss, refusals."""

from math import log, sqrt

import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle.noise import _normal_map
from brittle.noise import splitting as file
from brittle.noise.importance_sampling import importance_sampling
from brittle.noise.splitting import splitting
from half_spaces import LAWS, tail


def half_space(distance, n=3, count=1):
    module = nn.Linear(n, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(n)[:1])
        module.bias.fill_(distance)
    return bt.Problem(module, torch.zeros(count, n, dtype=torch.float64), torch.ones(count, dtype=torch.long))


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_map_from_normal_numbers_gives_the_law(law):
    n, source = 4, torch.Generator().manual_seed(0)
    g = torch.randn(100_000, _normal_map.coordinates(law, n), generator=source, dtype=torch.float64)
    first = _normal_map.noise(law, g, torch.zeros(n).double())[:, 0]
    for t in (0.2, 0.8):
        exact = tail(law, t, n)
        assert float((first > t).double().mean()) == pytest.approx(exact, abs=4 * sqrt(exact / 100_000))


def test_normal_numbers_replace_what_the_law_replaces():
    """k coordinates, each equally often, uniform values, whatever the clean point."""
    law, clean, source = bt.Replace(2, low=-1.0, high=3.0), torch.arange(5.0).double(), torch.Generator().manual_seed(0)
    g = torch.randn(20_000, _normal_map.coordinates(law, 5), generator=source, dtype=torch.float64)
    change = _normal_map.noise(law, g, clean)
    moved, values = change != 0, (clean + change)[change != 0]
    assert bool((moved.sum(1) == 2).all()) and float((moved.double().mean(0) - 0.4).abs().max()) < 5 * 0.5 / 141
    assert float(values.min()) >= -1 and float(values.max()) <= 3 and abs(float(values.mean()) - 1) < 5 * 1.16 / 200
    assert abs(float(values.std()) - 4 / sqrt(12)) < 0.02


def test_replaced_coordinates_by_splitting():
    """The first three of eight coordinates must be the chosen ones, 1 in C(8, 3) = 56, and all new values below 0.03: 4.8e-7."""
    problem = bt.Problem(
        lambda x: (x[:, :3].amax(1) - 0.03)[:, None], torch.ones(4, 8), torch.ones(4, dtype=torch.long)
    )
    answer = splitting(problem, {"x": bt.Replace(3)}, particles=150)
    exact = 0.03**3 / 56
    gap = float(answer.estimate.log().mean() - torch.tensor(exact).log())
    assert set(answer.status) == {"ok"} and abs(gap) < 4 * float(answer.diagnostics["relative_error"].mean()) / sqrt(2)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_half_spaces_under_every_law(law):
    distance = 2.8 if isinstance(law, bt.Gaussian) else 1.2
    answer = splitting(half_space(distance, 5, 4), {"x": law}, particles=120)
    exact = tail(law, distance, 5)
    assert set(answer.status) == {"ok"} and answer.kinds.upper == ("none",) * 4
    z = (answer.estimate.log().mean() - torch.tensor(exact).log()) / (answer.diagnostics["relative_error"].mean() / 2)
    assert abs(float(z)) < 4
    inside = (answer.interval[:, 0] < exact) & (exact < answer.interval[:, 1])
    assert int(inside.sum()) >= 3


def test_intervals_cover_over_repetitions():
    """60 estimates of 1.5e-3: 95 % intervals hold it at least 95 % of the time less two standard errors."""
    exact = float(ndtr(-2.97))
    answer = splitting(half_space(2.97, 2, 60), {"x": bt.Gaussian(1.0)}, particles=40, moves=8)
    spoken = ~answer.estimate.isnan()
    inside = (answer.interval[:, 0] <= exact) & (exact <= answer.interval[:, 1])
    assert int(spoken.sum()) >= 50
    assert float(inside[spoken].double().mean()) >= 0.95 - 2 * sqrt(0.95 * 0.05 / 60)
    ratio = answer.estimate[spoken] / exact
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / sqrt(len(ratio))


class Trap(nn.Module):
    """Fails beyond 6 along x_0, where the gradient at 0 leads, and beyond 3.5 along |x_1|, where its gradient is 0."""

    def forward(self, x):
        return torch.minimum(6 - x[:, :1], 7.125 - x[:, 1:2] ** 2 * 7.125 / 3.5**2)


def test_a_mode_that_gradients_miss():
    """The second mode holds 4.7e-4, the first 1e-9: importance sampling reports the first or refuses, splitting finds the second."""
    problem = bt.Problem(Trap(), torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1]))
    exact = 2 * float(ndtr(-3.5)) + float(ndtr(-6.0))
    missed = importance_sampling(problem, {"x": bt.Gaussian(1.0)})
    assert missed.estimate.isnan() or float(missed.interval[0, 1]) < exact / 100
    assert missed.estimate.isnan() or any("can miss" in doubt for doubt in missed.doubts)
    found = splitting(problem, {"x": bt.Gaussian(1.0)})
    assert float(found.interval[0, 0]) < exact < float(found.interval[0, 1]) < 10 * exact


def test_steps_without_gradients():
    stairs = lambda x: 4.0 + (4 * x).floor() / 4  # fails where x < -3.75
    problem = bt.Problem(stairs, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1]))
    answer = splitting(problem, {"x": bt.Gaussian(1.0)})
    assert float(answer.interval[0, 0]) < float(ndtr(-3.75)) < float(answer.interval[0, 1])
    assert "no direction" in importance_sampling(problem, {"x": bt.Gaussian(1.0)}).status[0]


def test_what_cannot_be_estimated_is_said():
    laws = {"x": bt.Gaussian(1.0)}
    constant = splitting(bt.Problem(lambda x: 0 * x + 1.0, torch.zeros(1, 1), torch.tensor([1])), laws)
    assert constant.estimate.isnan() and "no particle reached" in constant.status[0] and constant.upper == 1
    wrong = splitting(half_space(-1.0), laws)
    assert wrong.status == ("misclassified",) and wrong.estimate.isnan() and wrong.cost.forward == 1
    strange = splitting(half_space(1.0), {"x": bt.Sampler(lambda x, g: x)})
    assert "does not handle Sampler" in strange.status[0]
    far = splitting(half_space(30.0), laws, particles=20, levels=3)
    assert "no particle reached" in far.status[0]
    needle = lambda x: torch.where(x.norm(dim=1, keepdim=True) < 1e-4, -1.0, 1.0 + x.norm(dim=1, keepdim=True))
    stuck = splitting(
        bt.Problem(needle, torch.full((1, 40), 0.01).double(), torch.tensor([1])), laws, particles=20, moves=1
    )
    assert stuck.estimate.isnan() and any(w in stuck.status[0] for w in ("accepted", "moved", "reached"))
    for options in ({"particles": 3}, {"replicas": 1}, {"moves": 0}, {"levels": 0}):
        with pytest.raises(bt.InputError):
            splitting(half_space(1.0), laws, **options)


def test_copies_that_did_not_move_widen_the_interval():
    """With one move per level some copies stay where they were born: fewer different particles, a larger error than the ideal one."""
    problem, laws = half_space(3.0, 3), {"x": bt.Gaussian(1.0)}
    lazy, lively = (splitting(problem, laws, particles=100, moves=m) for m in (1, 15))
    assert 50 <= float(lazy.diagnostics["distinct"]) < float(lively.diagnostics["distinct"]) <= 100
    logs = torch.full((1, 5), -7.0, dtype=torch.float64)  # replicas that agree to the last bit
    few, many = (file._spread(logs, logs[:, 0], torch.tensor([float(n)])) for n in (25, 100))
    assert float(many) == pytest.approx(sqrt(7 / (log(2) * 500))) and float(few / many) == pytest.approx(2)


def test_examples_do_not_steer_each_other():
    """To the last bit: every example runs by itself."""
    problem, laws = half_space(1.5, 3, 3), {"x": bt.Gaussian(0.8)}
    ask = lambda p, seed=0: splitting(p, laws, particles=50, seed=seed)
    whole = ask(problem)
    assert torch.equal(whole.estimate[1:], ask(problem.take(torch.tensor([1, 2]))).estimate)
    assert len(set(whole.estimate.tolist())) == 3 and not torch.equal(ask(problem, 1).estimate, whole.estimate)
