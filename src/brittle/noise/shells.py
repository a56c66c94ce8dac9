"""Gaussian noise as a mixture of spheres: relaxation over every ball, caps on every shell."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from brittle import tails
from brittle.about import About
from brittle.errors import InputError
from brittle.evidence import Cost
from brittle.laws import Gaussian, Law, UniformSphere
from brittle.noise._moving import moving
from brittle.noise._walls import VACUOUS
from brittle.noise.proven import proven
from brittle.problem import Problem
from brittle.results import Bracket, Ends, bracket_of

ABOUT = About(
    promise="the failure probability is at most this number, proved in float64 with outward rounding",
    reference="derived from Weng et al., PROVEN, ICML 2019, arXiv 1812.08329: its bound on spheres, mixed over the length of the noise",
    answers="probability",
    leaves=("input",),
    ends="upper",
    cost="2 backward passes per unstable unit and shell",
)
BEYOND = (0.9, 0.5, 0.1, 1e-2, 1e-4, 1e-6, 1e-9, 1e-12, 1e-18)  # probabilities that the noise is longer than each shell


def shells(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    beyond: tuple[float, ...] = BEYOND,
    max_units: int = 2_000,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, whose upper end is proved; the lower end is 0.

    A Gaussian vector is a uniform direction times an independent length. Let ``u_k`` bound the failures on the sphere of radius ``r_k`` (``proven``:
    planes on its ball, then caps). The same planes hold on smaller spheres, where caps are smaller, so ``u_k`` bounds every sphere inside. With
    ``r_1 < r_2 < ...`` and ``Q(r)`` the probability of a longer noise,

        p <= u_1 + sum over k > 1 of Q(r_(k-1)) (u_k - u_(k-1)) + Q(r_K) (1 - u_K).

    A little better than ``proven``, which charges the whole tail of the length once; ``probabilistic_crown`` beats both.

    Guarantee: proved, not statistical, for the real-arithmetic function of the stored weights and the law in real arithmetic.

    problem   its region is not looked at, and may be absent
    laws      one unclipped Gaussian with one sigma, on one input leaf
    beyond    probabilities that the noise is longer than the shells, each a radius to try
    max_units refuse networks with more nonlinear units than this
    seed, level   not used: nothing is random
    Status: as in ``proven``; "not certified: ..." for other laws.

    >>> linear = torch.nn.Linear(3, 1)
    >>> _ = torch.nn.init.ones_(linear.weight), torch.nn.init.zeros_(linear.bias)
    >>> problem = Problem(linear, torch.ones(1, 3), torch.tensor([1]))
    >>> bool(0.0416 < shells(problem, {"x": Gaussian(1.0)}).upper < 0.09)  # Phi(-sqrt 3) = 0.0416; nine shells are coarse in three dimensions
    True
    """
    if not beyond or not all(0 < b < 1 for b in beyond):
        raise InputError("beyond", "probabilities between 0 and 1", beyond, "leave beyond out")
    moving(problem, laws)  # a wrong leaf or a clean point outside the range is told as by every method
    leaf, law = next(iter(laws.items()))
    if len(laws) > 1 or not isinstance(law, Gaussian) or law.clip is not None or not isinstance(law.sigma, float | int):
        return _nothing(problem, "not certified: radial shells need one unclipped Gaussian with one sigma")
    if leaf not in problem.inputs:
        return _nothing(problem, "not certified: radial shells are for noise on an input")
    dimension = problem.inputs[leaf][0].numel()
    lengths = sorted(tails.normal_norm_quantile(b, dimension) for b in beyond)
    parts = [
        proven(problem, {leaf: UniformSphere(float(law.sigma) * r)}, seed=seed, level=level, max_units=max_units)
        for r in lengths
    ]
    # the radius of a sphere is rounded once, its length in deviations is taken a little smaller
    upper = _mixed([b.upper for b in parts], [tails.normal_norm(r * (1 - 2.0**-50), dimension) for r in lengths])
    said = (upper < 1).tolist()
    notes = [b.status for b in parts][0]
    return Bracket(
        "probability",
        torch.zeros_like(upper),
        upper,
        Ends(("none",) * len(problem), tuple("proved" if s else "none" for s in said)),
        tuple("ok" if s else VACUOUS if n == "ok" else n for s, n in zip(said, notes, strict=True)),
        Ends(("",) * len(problem), tuple("shells" if s else "" for s in said)),
        cost=sum((b.cost for b in parts), Cost()),
    )


def _mixed(bounds: list[Tensor], longer: list[float]) -> Tensor:
    """The sum of the docstring; every term is positive, so that upper bounds of all factors give an upper bound."""
    rising = torch.stack(bounds).cummax(0).values
    total = rising[0] + longer[-1] * (1 - rising[-1])
    for (inner, outer), tail in zip(pairwise(rising), longer, strict=False):
        total = total + tail * (outer - inner)
    return (total * (1 + 2.0**-48)).clamp_max(1.0)


def _nothing(problem: Problem, status: str) -> Bracket:
    wrong = (problem.double().margin() <= 0).tolist()
    return replace(
        bracket_of("probability", len(problem)), status=tuple("misclassified" if w else status for w in wrong)
    )
