"""2,000 simulated experiments per method: exact ends cover at least as often as they say, approximate intervals nearly so."""

from math import sqrt

import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle.noise.importance_sampling import importance_sampling
from brittle.noise.line_sampling import line_sampling
from brittle.noise.monte_carlo import monte_carlo
from brittle.noise.sequential import sequential

pytestmark = pytest.mark.slow
LAWS, MANY = {"x": bt.Gaussian(1.0)}, 2000


def experiments(distance):
    """The same half-space question MANY times; the draws differ, since each has an index of its own."""
    line = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        line.weight.fill_(1.0)
    return bt.Problem(line, torch.full((MANY, 1), distance).double(), torch.ones(MANY).long())


class Wedge(nn.Module):
    """Two faces at a right angle, 4.9 and 5 away: 1 - Phi(4.9) Phi(5)."""

    def forward(self, x):
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0] - 4.9, x[:, 1] - 5.0], 1)


@pytest.mark.parametrize("distance", [0.5, 1.5, 2.5, 3.5])
@pytest.mark.parametrize(
    "method, options", [(monte_carlo, {"draws": 400}), (sequential, {"draws": 1500, "threshold": 0.01})]
)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_exact_ends_cover(method, options, distance, level):
    answer = method(experiments(distance), LAWS, level=level, **options)
    truth, tail = float(ndtr(-distance)), (1 - level) / 2
    below, above = (answer.lower > truth).double().mean(), (answer.upper < truth).double().mean()
    for missed in (below, above):
        assert float(missed) <= tail + 2 * sqrt(tail * (1 - tail) / MANY)


@pytest.mark.parametrize("method, least", [(importance_sampling, 0.94), (line_sampling, 0.94)])
def test_approximate_intervals_nearly_cover(method, least):
    """Log-normal intervals; what refuses is left out, and rare."""
    count = MANY if method is importance_sampling else MANY // 4
    problem = bt.Problem(Wedge(), torch.zeros(count, 5).double(), torch.zeros(count).long())
    answer = method(problem, LAWS, **({"lines": 0} if method is importance_sampling else {}))
    truth = float(ndtr(-4.9) + ndtr(-5.0) * ndtr(4.9))
    spoken = ~answer.estimate.isnan()
    inside = (answer.interval[:, 0] <= truth) & (truth <= answer.interval[:, 1])
    assert float(spoken.double().mean()) > 0.98
    assert float(inside[spoken].double().mean()) >= least
