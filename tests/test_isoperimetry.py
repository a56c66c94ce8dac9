"""Quantiles carried into the tail: exact on half-spaces, never from the clean margin, covering at the stated rate."""

import importlib
from math import asin, pi, sin, sqrt

import pytest
import torch
from scipy.special import betainc, ndtr, ndtri
from torch import nn

import brittle as bt
from brittle.noise.isoperimetry import isoperimetry
from brittle.stats import binomial_upper
from half_spaces import LAWS, tail
from zoo import CASES

file = importlib.import_module("brittle.noise.isoperimetry")
TORCH = torch.float64
ROUND = [law for law in LAWS if getattr(law, "p", 2) == 2]


def half_space(distance, n, copies=1):
    module = nn.Linear(n, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(n)[:1])
        module.bias.fill_(distance)
    return bt.Problem(module, torch.zeros(copies, n, dtype=TORCH), torch.ones(copies, dtype=torch.long))


class Fold(nn.Module):
    """2.5 - sum |x_i| / sqrt(n): 1-Lipschitz, clean margin 2.5, and nearly always negative under standard normal noise."""

    def __init__(self, n):
        super().__init__()
        self.inner = nn.Linear(n, 2 * n, bias=False)
        self.outer = nn.Linear(2 * n, 1)
        with torch.no_grad():
            self.inner.weight.copy_(torch.cat([torch.eye(n), -torch.eye(n)]))
            self.outer.weight.fill_(-1 / sqrt(n))
            self.outer.bias.fill_(2.5)

    def forward(self, x):
        return self.outer(torch.relu(self.inner(x)))


# ---- the statement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, truth", [(16, 0.87), (64, 1.0)])
def test_the_clean_margin_is_no_quantile(n, truth):
    """The formula from the clean margin says 0.044; what really fails is 0.87 and 1.000, and the bound stays above it."""
    problem = bt.Problem(Fold(n).double(), torch.zeros(1, n, dtype=TORCH), torch.tensor([1]))
    noise = torch.randn(20_000, n, dtype=TORCH, generator=torch.Generator().manual_seed(0))
    share = float((2.5 - noise.abs().sum(1) / sqrt(n) <= 0).double().mean())
    formula = torch.tensor(-(2.5**2) / 2).exp()
    assert share == pytest.approx(truth, abs=0.02) and formula < 0.045 < share
    assert float(isoperimetry(problem, {"x": bt.Gaussian(1.0)}).upper) >= share - 0.02
    rare = isoperimetry(problem, {"x": bt.Gaussian(0.1)})
    assert float(rare.upper) < 1e-6  # quantiles near 2: it says much where the mean is far from 0


@pytest.mark.parametrize("law", ROUND, ids=str)
def test_half_spaces_are_reached_up_to_the_sampling_error(law):
    """Never below the exact probability, and as if the boundary were 0.15 deviations nearer at most; on a sphere the distance q / L is a
    chord, which reaches less far around than the step in height of a half-space: the formula itself is met."""
    for n in (5, 64):
        deviation = 0.7 if isinstance(law, bt.Gaussian) else 1.5 / sqrt(n)
        for beta in (1.0, 2.0) if n == 5 else (3.0, 5.0):
            distance = beta * deviation
            met = distance - 0.15 * deviation
            if not isinstance(law, bt.Gaussian):
                met = 1.5 * sin(2 * asin(distance / 3.0) - 0.15 * deviation / 1.5)
            upper = float(isoperimetry(half_space(distance, n), {"x": law}).upper)
            assert tail(law, distance, n) <= upper <= tail(law, met, n) * 1.02, (n, beta)


def test_cube_noise_is_below_its_normal_image():
    for distance in (0.9, 1.2, 1.45):
        upper = float(isoperimetry(half_space(distance, 4), {"x": bt.UniformCube(1.5)}).upper)
        scale = 1.5 * sqrt(2 / pi)
        median = 0.0
        assert tail(bt.UniformCube(1.5), distance, 4) <= upper
        assert upper <= ndtr(-(distance - median) / scale + 0.15) * 1.02


def test_a_covariance_is_whitened():
    """One normal direction of deviation 2 in a law that is narrow elsewhere."""
    law = bt.Gaussian(covariance=torch.diag(torch.tensor([4.0, 0.01, 0.01])))
    upper = float(isoperimetry(half_space(10.0, 3), {"x": law}).upper)
    assert ndtr(-5.0) <= upper <= ndtr(-4.85)
    each = bt.Gaussian(torch.tensor([2.0, 0.1, 0.1]))
    assert ndtr(-5.0) <= float(isoperimetry(half_space(10.0, 3), {"x": each}).upper) <= ndtr(-4.85)


def test_several_rows_and_ranks():
    """Both rivals of a linear network: the sum of two tails, or with TopK(2) the tail of the farther one."""
    module = nn.Linear(2, 3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        module.bias.copy_(torch.tensor([0.0, -4.0, -5.0]))
    x, labels, laws = torch.zeros(1, 2).double(), torch.tensor([0]), {"x": bt.Gaussian(1.0)}
    first = float(isoperimetry(bt.Problem(module, x, labels), laws).upper)
    both = float(isoperimetry(bt.Problem(module, x, labels, spec=bt.TopK(2)), laws).upper)
    assert ndtr(-4.0) + ndtr(-5.0) <= first <= ndtr(-3.8)
    assert ndtr(-4.0) * ndtr(-5.0) <= both <= first


def test_nine_rivals_fail_nine_times_as_often():
    module = nn.Linear(9, 10).double()
    with torch.no_grad():
        module.weight.copy_(torch.cat([torch.zeros(1, 9), torch.eye(9)]))
        module.bias.copy_(torch.tensor([0.0, *[-4.0] * 9]))
    problem = bt.Problem(module, torch.zeros(1, 9, dtype=TORCH), torch.tensor([0]))
    truth = 1 - (1 - ndtr(-4.0)) ** 9
    assert truth <= float(isoperimetry(problem, {"x": bt.Gaussian(1.0)}).upper) <= 3 * truth


# ---- caps --------------------------------------------------------------------------------------------------------------


def test_caps_move_by_the_angle_between_chords():
    share = torch.tensor([0.5, 0.9, 0.1, 1.0], dtype=TORCH)
    still = file._cap_spread(share, torch.zeros(4, dtype=TORCH), 2.0, 9)
    assert still[2] == pytest.approx(0.1, rel=1e-6) and still[[0, 1, 3]].tolist() == [1.0, 1.0, 1.0]
    chord = torch.full((4,), 2 * 2.0 * torch.sin(torch.tensor(0.2)).item(), dtype=TORCH)
    moved = file._cap_spread(share, chord, 2.0, 9)
    exact = 0.5 * betainc(4.0, 0.5, float(torch.cos(torch.tensor(0.4)).double() ** 2))  # from the equator by 0.4
    assert moved[0] == pytest.approx(exact, rel=1e-5) and moved[2] < 0.1 and moved[3] == 1.0
    assert file._cap_spread(share[:1], torch.tensor([4.1], dtype=TORCH), 2.0, 9).item() == 0.0


# ---- coverage ------------------------------------------------------------------------------------------------------------


def misses(experiments, draws, error, monkeypatch=None):
    """How often the end of a half-space of known probability is below it."""
    problem = half_space(3.0, 2, experiments)
    upper = isoperimetry(
        problem, {"x": bt.Gaussian(1.0)}, draws=draws, error=error, ranks=(0.5,), budgets=(1e-15,)
    ).upper
    return int((upper < ndtr(-3.0)).sum())


def within(count, experiments, error):
    """Not above the nominal rate by more than two standard errors."""
    return count <= experiments * error + 2 * sqrt(experiments * error * (1 - error))


def test_the_end_misses_as_rarely_as_stated():
    assert within(misses(100, 60, 0.2), 100, 0.2)


@pytest.mark.slow
def test_the_end_misses_as_rarely_as_stated_in_many_experiments():
    for error, draws in ((0.2, 50), (0.05, 200)):
        assert within(misses(2000, draws, error), 2000, error)


# ---- refused -------------------------------------------------------------------------------------------------------------


def test_laws_out_of_reach_are_a_status():
    problem = bt.Problem(*CASES[2].make())
    for laws, words in (
        ({"x": bt.UniformBall(0.1, 1)}, "no isoperimetric inequality"),
        ({"x": bt.UniformSphere(0.1, torch.inf)}, "no isoperimetric inequality"),
        ({"x": bt.Gaussian(0.1).clipped(-9, 9)}, "clip"),
        ({"0.weight": bt.Gaussian(0.1)}, "parameter"),
    ):
        bracket = isoperimetry(problem, laws)
        assert all("not certified" in s and words in s for s in bracket.status) and bracket.guarantee.upper == "none"
    wrong = isoperimetry(half_space(-0.5, 2), {"x": bt.Gaussian(0.1)})
    assert wrong.status == ("misclassified",) and wrong.upper == 1


@pytest.mark.parametrize("options", [{"draws": 0}, {"budgets": (2.0,)}, {"ranks": ()}, {"error": 1.0}, {"level": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(bt.InputError):
        isoperimetry(half_space(1.0, 2), {"x": bt.Gaussian(1.0)}, **options)


def test_the_draws_depend_on_seed_and_example_alone():
    module, x, labels = CASES[2].make()
    problem, laws = bt.Problem(module, x, labels), {"x": bt.Gaussian(0.05)}
    whole = isoperimetry(problem, laws, draws=50).upper
    alone = isoperimetry(problem.take(torch.tensor([3])), laws, draws=50).upper
    assert float(alone) == pytest.approx(float(whole[3]), rel=1e-6)
    assert not torch.equal(whole, isoperimetry(problem, laws, draws=50, seed=1).upper)


def test_the_question_uses_it_where_failures_are_rare_and_keeps_its_level():
    problem = half_space(4.5, 40)
    answer = bt.probability(problem, bt.UniformCube(1.5), effort="thorough", draws=2000)
    assert "isoperimetry" in dict(answer.parts) and answer.confidence >= 0.95 - 1e-12 and answer.level == 0.95
    assert answer.guarantee.upper in ("proved", "statistical")
    assert "isoperimetry" not in dict(bt.probability(problem, bt.UniformCube(1.5), ends="lower").parts)


# ---- deliberate mistakes ---------------------------------------------------------------------------------------------------


def shorter(clean):
    return lambda *a, **o: 0.9 * clean(*a, **o)


MUTANTS = {
    "constants ten percent too small": ("lipschitz", shorter),
    "the union of rows dropped": ("_joined", lambda clean: lambda q, b, s, *a: clean(q[:, [0, 0]], b, s[:1], *a)),
    "the sign of the distance": ("_normal_spread", lambda clean: lambda share, d: clean(share, 2 * d)),
    "quantiles one rank too high": ("binomial_upper", lambda clean: lambda k, n, e: clean(k, n, e) / 2),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mistakes_are_caught(name, monkeypatch):
    attribute, make = MUTANTS[name]
    monkeypatch.setattr(file, attribute, make(getattr(file, attribute)))
    with pytest.raises(AssertionError):
        test_several_rows_and_ranks()
        test_nine_rivals_fail_nine_times_as_often()
        upper = float(isoperimetry(half_space(5.0, 64), {"x": bt.Gaussian(1.0)}).upper)
        assert upper >= ndtr(-5.0)


def test_the_clean_margin_in_place_of_a_quantile_is_caught(monkeypatch):
    """The mutant that the literature makes: q is the clean margin, u is 1/2."""

    def clean_margins(question, leaf, given, seed, draws, ranks, error):
        rows = question.double().rows()
        return torch.cat([rows, rows[:, :1]], 1)[..., None], torch.tensor([0.5], dtype=TORCH)

    monkeypatch.setattr(file, "_quantiles", clean_margins)
    with pytest.raises(AssertionError):
        test_the_clean_margin_is_no_quantile(64, 1.0)


def test_one_sided_limits_are_the_beta_quantiles_they_claim():
    assert float(binomial_upper(torch.tensor([0]), 1, 0.1)) == pytest.approx(0.9)
    assert ndtri(0.5) == 0.0
