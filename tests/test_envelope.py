"""Draws from half-spaces: exact ends at any probability, whatever the overlaps; and nothing is said where the half-spaces are no rare events."""

import importlib
from math import log, sqrt

import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle.noise.envelope import envelope
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded
from half_spaces import tail
from test_isoperimetry import half_space, within
from zoo import CASES

file = importlib.import_module("brittle.noise.envelope")
TORCH = torch.float64
LAWS = [bt.Gaussian(0.7), bt.UniformSphere(1.5)]


def wedge(copies=1, distance=4.0, angle=0.3):
    """Three rivals whose half-spaces overlap: two at a small angle, one twice."""
    module = nn.Linear(2, 4).double()
    with torch.no_grad():
        rows = [[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))]]
        module.weight.copy_(torch.tensor(rows))
        module.bias.copy_(torch.tensor([0.0, *[-distance] * 3]))
    return bt.Problem(module, torch.zeros(copies, 2, dtype=TORCH), torch.zeros(copies, dtype=torch.long))


def in_the_wedge(distance=4.0, angle=0.3):
    """P(x >= t or x cos a + y sin a >= t) for normal x, y: two tails less their overlap, by quadrature over x."""
    x = torch.linspace(-12, 12, 200_001, dtype=TORCH)
    a = torch.tensor(angle, dtype=TORCH)
    need = (distance - x * a.cos()) / a.sin()
    inside = torch.where(x >= distance, 1.0, torch.special.ndtr(-need))
    return float(torch.trapezoid(inside * (-x * x / 2).exp() / (2 * torch.pi) ** 0.5, x))


# ---- exact -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("n", [3, 64])
def test_half_spaces_are_enclosed_tightly_at_any_probability(law, n):
    for distance in (0.5, 1.0, 1.3) if isinstance(law, bt.UniformSphere) else (1.0, 4.0, 20.0):
        exact = tail(law, distance, n)
        answer = envelope(half_space(distance, n), {"x": law}, draws=600)
        assert answer.lower <= exact * (1 + 1e-6) and exact <= answer.upper * (1 + 1e-6)
        assert float(answer.lower) >= 0.9 * exact and float(answer.upper) <= 1.1 * exact + 1e-14


def test_overlaps_are_counted_once():
    exact = in_the_wedge()
    assert ndtr(-4.0) < exact < 2 * ndtr(-4.0)
    answer = envelope(wedge(), {"x": bt.Gaussian(1.0)})
    assert float(answer.lower) <= exact <= float(answer.upper)
    assert float(answer.upper) <= 1.15 * exact and float(answer.lower) >= 0.8 * exact
    # two copies and a third: fewer than two thirds of the draws from the union survive the coin
    assert 0.3 < float(answer.diagnostics["acceptance"][0, 0]) < 0.6


def test_a_covariance_and_a_rank():
    law = bt.Gaussian(covariance=torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
    answer = envelope(half_space(10.0, 2), {"x": law})
    assert 0.9 * ndtr(-5.0) <= float(answer.lower) <= ndtr(-5.0) <= float(answer.upper) <= 1.1 * ndtr(-5.0)
    problem = wedge()
    second = bt.Problem(problem.module, problem.x, problem.labels, spec=bt.TopK(2))
    exact = float(ndtr(-4.0))  # two of three rivals win where the doubled one does, or all
    answer = envelope(second, {"x": bt.Gaussian(1.0)})
    assert float(answer.lower) <= exact * 1.0001 and exact <= float(answer.upper) * 1.0001


def test_draws_of_a_half_space_lie_in_it_with_the_right_law():
    for law in (bt.Gaussian(1.0), bt.UniformSphere(1.0)):
        source = torch.Generator().manual_seed(0)
        unit = torch.nn.functional.normalize(torch.ones(1, 5, dtype=TORCH)).expand(4000, -1)
        height = 2.0 if isinstance(law, bt.Gaussian) else 0.6
        probability = tail(law, height, 5)
        numbers = torch.randn(4000, 5, generator=source, dtype=TORCH)
        uniform = torch.rand(4000, generator=source, dtype=TORCH)
        drawn = file._given_half_space(law, unit, torch.full((4000,), log(probability), dtype=TORCH), numbers, uniform)
        along = drawn @ unit[0]
        assert float(along.min()) >= height - 1e-6
        higher = height * 1.2
        share, exact = float((along >= higher).double().mean()), tail(law, higher, 5) / probability
        assert abs(share - exact) <= 4 * sqrt(exact * (1 - exact) / 4000)
        if isinstance(law, bt.UniformSphere):
            assert torch.allclose(drawn.norm(dim=1), torch.ones(4000, dtype=TORCH))


def test_trained_digits_are_enclosed_to_a_factor():
    """The lower end from design points is within a factor of the estimate of importance sampling, and below it by its interval."""
    data = digits("test")
    problem = bt.Problem(embedded("mlp"), data.x[:3], data.labels[:3])
    for law in (bt.Gaussian(0.09), bt.UniformSphere(0.6)):
        answer = envelope(problem, {"x": law})
        estimate = bt.probability(problem, law, estimators=["importance_sampling"])
        assert estimate.interval is not None and estimate.estimate is not None
        told = ~estimate.estimate.isnan()
        assert bool(told.any())
        assert bool((answer.lower <= 1.3 * estimate.interval[:, 1])[told].all())
        assert bool((answer.lower >= 0.3 * estimate.estimate)[told].all())
        assert bool((answer.upper >= estimate.interval[:, 0])[told].all())


# ---- coverage ----------------------------------------------------------------------------------------------------------------


def misses(experiments, draws, error):
    """How often the bracket of the wedge, of known probability, misses it on either side."""
    exact = in_the_wedge()
    answer = envelope(wedge(experiments), {"x": bt.Gaussian(1.0)}, draws=draws, error=error)
    return int(((answer.lower > exact) | (answer.upper < exact)).sum())


def test_the_ends_miss_as_rarely_as_stated():
    assert within(misses(60, 60, 0.3), 60, 0.3)


@pytest.mark.slow
def test_the_ends_miss_as_rarely_as_stated_in_many_experiments():
    assert within(misses(2000, 200, 0.15), 2000, 0.15)


# ---- refused -----------------------------------------------------------------------------------------------------------------


def test_laws_out_of_reach_and_likely_failures_are_a_status():
    problem = bt.Problem(*CASES[2].make())
    for laws, words in (
        ({"x": bt.UniformCube(0.1)}, "cannot be drawn from"),
        ({"x": bt.Gaussian(0.1).clipped(-9, 9)}, "clip"),
        ({"0.weight": bt.Gaussian(0.1)}, "parameter"),
    ):
        bracket = envelope(problem, laws)
        assert all("not certified" in s and words in s for s in bracket.status) and bracket.guarantee.upper == "none"
    wrong = envelope(half_space(-0.5, 2), {"x": bt.Gaussian(0.1)})
    assert wrong.status == ("misclassified",) and wrong.upper == 1 and wrong.lower == 0


@pytest.mark.parametrize("options", [{"draws": 1}, {"budgets": (2.0,)}, {"error": 0.0}, {"level": 1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(bt.InputError):
        envelope(half_space(1.0, 2), {"x": bt.Gaussian(1.0)}, **options)


# ---- deliberate mistakes -------------------------------------------------------------------------------------------------------

MUTANTS = {
    "overlaps counted twice": (
        "_accepted",
        lambda clean: lambda q, g, leaf, i, u, *a: clean(q, g, leaf, i, apart(u), *a),
    ),
    "the other side drawn": ("_given_half_space", lambda clean: lambda g, unit, *a: clean(g, -unit, *a)),
    "half the total": ("_covering", lambda clean: lambda *a: ([halved(u) for u in clean(*a)[0]], clean(*a)[1])),
}


def apart(union):
    """Thresholds so far away that no half-space but the drawn one is ever counted."""
    return file._Union(union.rows, union.threshold + 100, union.log_tail)


def halved(union):
    return file._Union(union.rows, union.threshold, union.log_tail - log(2))


@pytest.mark.parametrize("name", MUTANTS)
def test_mistakes_are_caught(name, monkeypatch):
    attribute, make = MUTANTS[name]
    monkeypatch.setattr(file, attribute, make(getattr(file, attribute)))
    with pytest.raises(AssertionError):
        test_overlaps_are_counted_once()
        test_half_spaces_are_enclosed_tightly_at_any_probability(LAWS[0], 3)
