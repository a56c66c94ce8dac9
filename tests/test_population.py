"""bt.population: one number over inputs and noise, whose ends know that draws under one input belong together."""

from math import sqrt

import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle.questions.population import population
from brittle.stats import clopper_pearson


def sample(count, seed, mean=2.0, spread=2.0):
    """Inputs mean + spread g that fail where they are below 0: together with noise of 1, P = Phi(-mean / sqrt(1 + spread^2))."""
    module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(1.0)
    x = mean + spread * torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return bt.Problem(module, x, torch.ones(count).long())


NOISE, EXACT = bt.Gaussian(1.0), float(ndtr(-2 / sqrt(5)))


@pytest.mark.parametrize("draws", [1, 8])
def test_ends_cover_over_samples_of_inputs(draws):
    """100 samples of 25 inputs: each end misses at most as often as promised. Counting draws as independent misses far more often."""
    answers = [population(sample(25, s), NOISE, draws=draws, seed=s, level=0.8) for s in range(100)]
    below = sum(float(a.lower) > EXACT for a in answers) / 100
    above = sum(float(a.upper) < EXACT for a in answers) / 100
    allowed = 0.1 + 2 * sqrt(0.1 * 0.9 / 100)
    assert below <= allowed and above <= allowed and answers[0].confidence == pytest.approx(0.8)
    if draws > 1:
        naive = [clopper_pearson(a.diagnostics["failures"], 25 * draws, 0.8) for a in answers]
        assert sum(float(lo) > EXACT or float(hi) < EXACT for lo, hi in naive) / 100 > 0.4


def test_one_draw_per_input_is_the_binomial_interval():
    problem = sample(300, 1)
    answer = population(problem, NOISE)
    lower, upper = clopper_pearson(answer.diagnostics["failures"], 300)
    assert (
        len(answer) == 1 and answer.lower == lower and answer.upper == upper and answer.guarantee.upper == "statistical"
    )
    assert answer.estimate == answer.diagnostics["failures"] / 300
    assert answer.diagnostics["failing_clean"] == (problem.x <= 0).sum()


def test_the_variance_is_split_between_inputs_and_noise():
    """For inputs at 0 noise decides alone; for inputs far from 0 on both sides the input does."""
    alike = population(sample(400, 1, mean=0.0, spread=1e-9), NOISE, draws=16)
    apart = population(sample(400, 1, mean=0.0, spread=1e9), NOISE, draws=16)
    assert (
        float(alike.diagnostics["within"]) == pytest.approx(0.25, rel=0.05)
        and float(alike.diagnostics["between"]) < 0.005
    )
    assert apart.diagnostics["within"] == 0 and float(apart.diagnostics["between"]) == pytest.approx(0.25, rel=0.05)
    wide = lambda a: float(a.upper - a.lower)
    assert wide(alike) < 0.6 * wide(population(sample(400, 1, mean=0.0, spread=1e-9), NOISE)) < wide(apart)


def test_nothing_goes_below_what_the_inputs_can_show():
    answer = population(sample(100, 1, mean=50.0), NOISE, draws=20)
    assert answer.lower == 0 and answer.estimate == 0 and 0.02 < float(answer.upper) < 0.08


@pytest.mark.parametrize("count, options", [(1, {}), (5, {"draws": 0}), (5, {"level": 1.0})])
def test_bad_questions_are_refused(count, options):
    with pytest.raises(bt.InputError):
        population(sample(count, 1), NOISE, **options)
