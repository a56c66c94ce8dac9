"""What the parts of the study ``noise`` share: crossings found for all examples at once, slopes and intervals over seeds."""

from collections.abc import Callable, Sequence
from functools import partial
from math import exp, log, pi, sqrt

import torch
from torch import Tensor

from brittle.laws import Gaussian
from brittle.noise.importance_sampling import importance_sampling
from brittle.questions.probability import probability
from brittle.questions.radius import radius
from brittle.studies._noise_nets import LEAF, Network

DRAWS = 20_000
AGREE = 0.045  # relative, in sigma


def crossing(holds: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, steps: int) -> Tensor:
    """(N,) the largest scale found, on a logarithmic axis, at which ``holds`` is true; every example has a bracket of its own."""
    for _ in range(steps):
        middle = (low * high).sqrt()
        yes = holds(middle)
        low, high = torch.where(yes, middle, low), torch.where(yes, high, middle)
    return (low * high).sqrt()


def estimated(network: Network, sigma: Tensor, seed: int, samples: int = 1000) -> Tensor:
    """(N,) estimates of P(class changes) under Gaussian noise, each example with its own standard deviation; 0 where nothing was seen."""
    rare = partial(importance_sampling, samples=samples)
    problem, law = network.problem(sigma), {LEAF: Gaussian(1.0)}
    answer = probability(problem, law, ends="lower", estimators=["monte_carlo", rare], seed=seed)
    assert answer.estimate is not None
    return answer.estimate.nan_to_num(nan=0.0)


def tolerated(network: Network, around: Tensor, target: float, seed: int, steps: int = 7) -> tuple[Tensor, Tensor]:
    """(N,) the standard deviation at which p crosses ``target``, and whether other draws confirm it to 4.5 %.

    Bisection on the estimates of ``bt.probability``, then, where 20,000 plain draws see enough failures to speak (target >= 1e-3), two
    corrections ``sigma (target / p)^(1 / k)`` by such draws, k = d ln p / d ln sigma of a half-space: an error of 20 % in p is then one
    of 2 % in sigma. Rarer targets: more samples, and a second seed must agree.

    around : the distance to the nearest failure that an attack found. At a half-space the answer is that distance / 3.09 for 1e-3; many
    rivals make it smaller, faces that curve away larger, so an eighth to three times the distance is searched.
    """
    k = steepness(target)
    samples = 1000 if target >= 1e-3 else 4000
    sigma = crossing(lambda s: estimated(network, s, seed, samples) <= target, around / 8, 3 * around, steps)
    if target < 1e-3:
        return sigma, ((estimated(network, sigma, seed + 1, samples) / target).log() / k).abs() < AGREE
    first = plain(network, sigma, seed + 1)
    confirmed = ((first / target).log() / k).abs() < AGREE
    sigma = sigma * (target / first) ** (1 / k)
    return sigma * (target / plain(network, sigma, seed + 2)) ** (1 / k), confirmed


def steepness(p: float) -> float:
    """d ln p / d ln sigma of Gaussian noise at a half-space: ``beta phi(beta) / Phi(-beta)``, near ``beta^2 + 1``.

    >>> round(steepness(1e-3), 1), round(steepness(1e-6), 1)
    (10.4, 23.5)
    """
    beta = -float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))
    return beta * exp(-beta * beta / 2) / sqrt(2 * pi) / p


def plain(network: Network, sigma: Tensor, seed: int) -> Tensor:
    """(N,) shares of plain draws that failed, at least half a draw."""
    law = {LEAF: Gaussian(1.0)}
    problem = network.problem(sigma)
    answer = probability(problem, law, ends="lower", estimators=["monte_carlo"], draws=DRAWS, seed=seed)
    assert answer.estimate is not None
    return answer.estimate.clamp_min(0.5 / DRAWS)


def nearest_failure(network: Network, seed: int) -> Tensor:
    """(N,) the l2 distance of the nearest misclassified point that was found: witnessed, so never too small."""
    return radius(network.problem(), ends="upper", effort="quick", seed=seed).upper


def median(values: Sequence[float]) -> float:
    """The middle of the finite and infinite values.

    >>> median([3.0, 1.0, 2.0, 10.0])
    2.5
    """
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student's interval of independent values (seeds).

    >>> [round(v, 3) for v in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    from scipy.special import stdtrit

    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, -float("inf"), float("inf")
    error = sqrt(sum((v - mean) ** 2 for v in values) / (count - 1) / count)
    wide = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return mean, mean - wide, mean + wide


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The exponent k of ``y ~ x^k`` by least squares on logarithms.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    a, b = [log(x) for x in xs], [log(y) for y in ys]
    middle = sum(a) / len(a)
    return sum((u - middle) * v for u, v in zip(a, b, strict=True)) / sum((u - middle) ** 2 for u in a)


def geometric(values: Sequence[float]) -> float:
    """The geometric mean.

    >>> round(geometric([1.0, 4.0]), 6)
    2.0
    """
    return exp(sum(log(v) for v in values) / len(values))
