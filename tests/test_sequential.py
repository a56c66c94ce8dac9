"""Draws that stop once decided: ends that cover at the stopping time, decisions that are right, draws that are few."""

from math import sqrt

import pytest
import torch
from scipy.special import ndtri
from torch import nn

import brittle as bt
from brittle.noise.monte_carlo import monte_carlo
from brittle.noise.sequential import sequential


def half_spaces(probabilities):
    """One logit, x itself; under unit noise example i fails with the i-th probability."""
    module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(1.0)
    distances = torch.tensor([-float(ndtri(p)) for p in probabilities], dtype=torch.float64)
    return bt.Problem(module, distances[:, None], torch.ones(len(distances)).long())


LAWS = {"x": bt.Gaussian(1.0)}


def test_clear_cases_are_decided_early_and_others_are_not_decided():
    answer = sequential(half_spaces([0.5, 0.1, 0.01, 1e-4, 1e-9]), LAWS, draws=3000)
    assert answer.diagnostics["decision"].tolist() == [1, 1, 0, -1, -1]
    assert answer.diagnostics["draws"].tolist() == [256, 256, 3000, 512, 512]
    assert answer.status == ("ok", "ok", "undecided after 3000 draws", "ok", "ok")
    assert float(answer.lower[1]) > 0.01 > float(answer.upper[3]) and answer.confidence == pytest.approx(0.95)
    assert float(answer.upper[4]) > 0.005  # no failure seen is not a probability of 0


def test_the_draws_are_those_of_plain_monte_carlo():
    answer = sequential(half_spaces([0.01]), LAWS, draws=700, seed=3)
    plain = monte_carlo(half_spaces([0.01]), LAWS, draws=700, seed=3)
    assert answer.estimate == plain.estimate and answer.upper > plain.upper and answer.lower < plain.lower


def test_ends_cover_at_the_time_of_stopping():
    """400 repetitions that stop where it suits them: the truth 0.02 is missed by either end at most as often as promised."""
    answer = sequential(half_spaces([0.02] * 400), LAWS, threshold=0.015, draws=1500, level=0.8)
    missed = (answer.lower > 0.02).double().mean(), (answer.upper < 0.02).double().mean()
    assert max(map(float, missed)) <= 0.1 + 2 * sqrt(0.1 * 0.9 / 400)
    assert int((answer.diagnostics["decision"] == 0).sum()) not in (0, 400)


def test_broken_logits_are_failures_and_clipping_is_noted():
    nan = bt.Problem(lambda x: torch.where(x > 0.5, torch.nan, 1.0 + 0 * x), torch.zeros(1, 1), torch.tensor([1]))
    answer = sequential(nan, LAWS)
    assert answer.status == ("nan",) and answer.diagnostics["decision"] == 1 and answer.doubts
    clipped = sequential(half_spaces([0.5]), {"x": bt.Gaussian(1.0).clipped(-0.1, 0.1)})
    assert any("clipping" in doubt for doubt in clipped.doubts)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"draws": 0}, {"level": 1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(bt.InputError):
        sequential(half_spaces([0.5]), LAWS, **options)
