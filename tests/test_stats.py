"""Binomial intervals: their defining equations hold exactly, and they cover, unless the draws that selected also estimate."""

import math

import pytest
import torch
from scipy.stats import binom

from brittle.errors import InputError
from brittle.stats import (
    binomial_lower,
    binomial_upper,
    clopper_pearson,
    confidence_sequence,
    log_mixture,
    mean_lower,
    median_interval,
    union_confidence,
)


@pytest.mark.parametrize("n", [1, 7, 100, 2000])
def test_limits_solve_their_defining_equations(n):
    k = torch.arange(0, n + 1, max(1, n // 7))
    lower, upper = clopper_pearson(k, n, 0.9)
    inner = k > 0
    assert torch.allclose(torch.tensor(binom.sf(k[inner] - 1, n, lower[inner])), torch.tensor(0.05).double(), rtol=1e-9)
    inner = k < n
    assert torch.allclose(torch.tensor(binom.cdf(k[inner], n, upper[inner])), torch.tensor(0.05).double(), rtol=1e-9)


@pytest.mark.parametrize("n", [1, 10, 500])
def test_no_failures_and_nothing_but_failures(n):
    lower, upper = clopper_pearson(torch.tensor([0, n]), n)
    assert lower[0] == 0 and upper[1] == 1
    assert float(upper[0]) == pytest.approx(1 - 0.025 ** (1 / n))
    assert float(lower[1]) == pytest.approx(0.025 ** (1 / n))


@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_exact_coverage_is_never_below_the_level(n, level):
    k = torch.arange(n + 1)
    lower, upper = clopper_pearson(k, n, level)
    for p in torch.linspace(0.001, 0.999, 97).tolist():
        mass = torch.tensor(binom.pmf(k, n, p))
        assert float(mass[lower > p].sum()) <= (1 - level) / 2 + 1e-12
        assert float(mass[upper < p].sum()) <= (1 - level) / 2 + 1e-12


def test_simulated_coverage():
    generator = torch.Generator().manual_seed(0)
    p, n, repeats = 0.03, 120, 4000
    k = (torch.rand(repeats, n, generator=generator) < p).sum(1)
    lower, upper = clopper_pearson(k, n, 0.9)
    assert float(((lower <= p) & (p <= upper)).double().mean()) >= 0.9


def test_draws_that_selected_must_not_estimate():
    """Ten equally likely classes: the limit for the most frequent one misses far too often, on fresh draws it does not."""
    generator = torch.Generator().manual_seed(1)
    repeats, n, classes = 2000, 100, 10
    draws = torch.randint(classes, (repeats, n), generator=generator)
    fresh = torch.randint(classes, (repeats, n), generator=generator)
    counts = torch.nn.functional.one_hot(draws, classes).sum(1)
    best = counts.argmax(1)
    same, separate = counts.amax(1), (fresh == best[:, None]).sum(1)
    missed = lambda k: float((binomial_lower(k, n, 0.05) > 1 / classes).double().mean())
    assert missed(same) > 0.3
    assert missed(separate) <= 0.05


def test_draws_may_differ_by_example():
    together = binomial_upper(torch.tensor([1, 1]), torch.tensor([10, 20]), 0.05)
    assert together.tolist() == [float(binomial_upper(torch.tensor([1]), n, 0.05)) for n in (10, 20)]


def test_confidences_unite():
    assert union_confidence(0.975, 0.975) == pytest.approx(0.95)
    assert union_confidence(0.3, 0.4) == 0.0
    assert union_confidence() == 1.0


@pytest.mark.parametrize("failures, draws, level", [(1, 10, 1.0), (1, 10, 0.0), (11, 10, 0.9), (-1, 10, 0.9)])
def test_what_is_no_binomial_count_is_refused(failures, draws, level):
    with pytest.raises(InputError):
        clopper_pearson(torch.tensor([failures]), draws, level)


@pytest.mark.parametrize("n, p, around", [(1, 0.3, 0.5), (40, 0.03, 0.01), (200, 0.9, 0.2)])
def test_the_mixture_is_a_martingale(n, p, around):
    """Its mean over all outcomes of n draws is 1, exactly."""
    k = torch.arange(n + 1)
    value = log_mixture(k, n, torch.full((n + 1,), p, dtype=torch.float64), around).exp()
    assert float((torch.tensor(binom.pmf(k, n, p)) * value).sum()) == pytest.approx(1, rel=1e-10)


def test_the_ends_of_a_confidence_sequence_solve_their_equation():
    k, n = torch.tensor([0, 1, 7, 499, 500]), 500
    lower, upper = confidence_sequence(k, n, 0.025, around=0.3)
    assert lower[0] == 0 and upper[-1] == 1 and bool(((lower <= k / n) & (k / n <= upper)).all())
    for end, inner in ((lower, k > 0), (upper, k < n)):
        at = log_mixture(k[inner], n, end[inner], 0.3)
        assert torch.allclose(at, torch.full_like(at, -math.log(0.025)), atol=1e-6) and bool(
            (at >= -math.log(0.025)).all()
        )


@pytest.mark.parametrize("p", [0.002, 0.03, 0.5])
def test_a_confidence_sequence_covers_at_all_times_at_once(p):
    """1,000 runs of 2,000 draws, looked at after every draw: each end ever misses in at most 10 % of the runs, and in some."""
    draws = torch.rand(1000, 2000, generator=torch.Generator().manual_seed(5)) < p
    k, n = draws.cumsum(1), torch.arange(1, 2001).expand(1000, -1)
    excluded = log_mixture(k, n, torch.tensor(p, dtype=torch.float64), 0.01) >= math.log(10)
    below, above = (excluded & (k > n * p)).any(1), (excluded & (k < n * p)).any(1)
    error = 2 * math.sqrt(0.1 * 0.9 / 1000)
    assert float(below.double().mean()) <= 0.1 + error and float(above.double().mean()) <= 0.1 + error
    assert float((below | above).double().mean()) <= 0.1 + error  # one martingale: not even both together
    assert float((below | above).double().mean()) >= 0.02


def test_the_bet_on_a_mean_is_fair():
    """Over all outcomes of three draws from {0, 0.3, 1} the mixture has mean 1, and the limit is where it is 1 / tail."""
    values, chances = torch.tensor([[0.0, 0.3, 1.0], [0.2, 0.5, 0.3]], dtype=torch.float64)
    m, stakes = float((values * chances).sum()), [1.0, *(2.0**-j for j in range(1, 9))]
    bet = lambda v, m: sum(w * math.prod(1 - c + c * x / m for x in v) for c, w in zip(stakes, [0.5, *[1 / 16] * 8]))
    total = sum(
        float(chances[[a, b, c]].prod()) * bet(values[[a, b, c]].tolist(), m)
        for a in range(3)
        for b in range(3)
        for c in range(3)
    )
    assert total == pytest.approx(1, rel=1e-12)
    drawn = values[torch.multinomial(chances, 200, replacement=True, generator=torch.Generator().manual_seed(1))]
    assert bet(drawn.tolist(), mean_lower(drawn, 0.05)) == pytest.approx(20, rel=1e-4)
    assert mean_lower(torch.zeros(10), 0.05) == 0


def test_the_limit_of_a_mean_covers_and_beats_hoeffding_where_values_hardly_vary():
    source = torch.Generator().manual_seed(2)
    clusters = torch.rand(300, 80, generator=source) < 0.3
    values = clusters * torch.rand(300, 80, generator=source)  # mean 0.15
    missed = sum(1 - mean_lower(1 - v, 0.1) < 0.15 for v in values) / 300
    assert 0.003 < missed <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / 300)
    calm = 0.5 + 0.02 * torch.rand(200, generator=source)
    assert float(calm.mean()) - mean_lower(calm, 0.05) < 0.25 * math.sqrt(math.log(20) / 400)


def test_the_interval_of_a_median_covers_and_is_the_shortest_that_does():
    draw = torch.Generator().manual_seed(0)
    ends = [median_interval(torch.randn(25, generator=draw).exp()) for _ in range(2000)]
    covered = sum(low <= 1 <= high for low, high in ends) / 2000
    assert (
        0.95 - 2 * (0.05 * 0.95 / 2000) ** 0.5 < covered < 0.975
    )  # 25 values: k = 8 covers with 0.957, k = 9 with 0.892
    assert median_interval(torch.tensor([3.0, float("nan"), 1.0])) == (1.0, 3.0)
    assert all(v != v for v in median_interval(torch.tensor([float("nan")])))
