"""One linear relaxation over a set that holds the noise, then the tail of its planes: a proved upper end."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf, log

import torch
from torch import Tensor

from brittle import tails
from brittle.about import About
from brittle.errors import InputError
from brittle.laws import Gaussian, Law
from brittle.noise import _walls
from brittle.noise._half_spaces import ROUNDED, HalfSpaces
from brittle.noise.probabilistic_crown import BUDGETS, bounds_of
from brittle.problem import Problem
from brittle.results import Bracket

ABOUT = About(
    promise="the failure probability is at most this number, proved in float64 with outward rounding",
    reference="Weng et al., PROVEN, ICML 2019, arXiv 1812.08329, in the form of CROWN planes over a cover of the noise",
    answers="probability",
    leaves=("input",),
    ends="upper",
    cost="2 backward passes per unstable unit and setting: 2 settings for bounded noise, 34 for Gaussian noise",
    effort="thorough",
)


def proven(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    outside: tuple[float, ...] = BUDGETS,
    max_units: int = 2_000,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, whose upper end is proved; the lower end is 0.

    If on a set R every row of the specification is at least ``<a, delta> + b``, then

        p <= P(delta outside R) + sum over rows T(b / length of a).

    Bounded laws: R is the support, the first term is 0, and so is p inside a certified ball. Gaussian: R is an l2 ball, an ellipsoid where
    the covariance says so, whose radius comes from the tails ``outside`` to try, the chi tail. The planes are those of ``crown`` with both rules of slopes.
    Beaten by ``probabilistic_crown``, whose intervals are about sqrt(n) / 6 times narrower; kept as the published yardstick.

    Guarantee: proved, not statistical, for the real-arithmetic function of the stored weights and the law in real arithmetic.

    problem   its region is not looked at, and may be absent
    laws      one unclipped law on one input leaf
    outside   Gaussian tails to try; the smallest bound of each example counts
    max_units refuse networks with more nonlinear units than this
    seed, level   not used: nothing is random
    Status: as in ``probabilistic_crown``.

    >>> from brittle.laws import UniformSphere
    >>> linear = torch.nn.Linear(3, 1)
    >>> _ = torch.nn.init.ones_(linear.weight), torch.nn.init.zeros_(linear.bias)
    >>> problem = Problem(linear, torch.ones(1, 3), torch.tensor([1]))
    >>> [round(float(proven(problem, {"x": UniformSphere(r)}).upper), 4) for r in (1.7, 2.0)]  # at sqrt 3 from the boundary
    [0.0, 0.067]
    """
    if not outside or not all(0 < b < 1 for b in outside):
        raise InputError("outside", "probabilities between 0 and 1", outside, "leave outside out")
    law = next(iter(laws.values()), None)
    tried = [log(b) for b in outside] if isinstance(law, Gaussian) else [-inf]

    def bound(question: Problem, law_: HalfSpaces) -> Tensor:
        dimension = question.inputs[law_.leaf][0].numel()
        parts = [_over(question, law_, law, dimension, target) for target in tried]
        return torch.stack(parts).amin(0)

    return _walls.proved("proven", problem, laws, level, max_units, 2, bound)


def _over(question: Problem, law: HalfSpaces, given: Law | None, dimension: int, target: float) -> Tensor:
    if isinstance(given, Gaussian):
        law = _ball(law, given, dimension, target)
    free = torch.full((len(question), 2), -inf, dtype=torch.float64)
    return bounds_of(question, law, free, torch.tensor([False, True]).expand(len(question), -1))[1].amin(1)


def _ball(law: HalfSpaces, given: Gaussian, dimension: int, target: float) -> HalfSpaces:
    """Only the last step looks at the law; until then noise is anywhere in the ball, and outside it with the chi tail."""
    threshold = tails.normal_norm_quantile(max(2.718281828459045**target, 1e-300), dimension)
    radius, lost = threshold * ROUNDED, log(tails.normal_norm(threshold, dimension))
    furthest = (
        radius * given.largest[1] * ROUNDED
    )  # the noise is A g with |g|_2 <= radius: a feature moves its deviation times that
    return replace(
        law,
        bounded=True,
        exact=False,
        tail=lambda t, deviation: torch.where(t > radius * deviation, -inf, torch.zeros_like(t)),
        quantile=lambda _, deviation: radius * deviation * ROUNDED,
        box=lambda wanted: (torch.full_like(wanted, furthest), torch.full_like(wanted, lost * (1 - 1e-12))),
    )
