"""What a proof needs to know of a law: how likely noise falls beyond a half-space, and how far half-spaces of a given probability lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, log

import torch
from torch import Tensor

from brittle import tails
from brittle.errors import NotCertified
from brittle.laws import Gaussian, Law, UniformBall, UniformSphere
from brittle.problem import Problem
from brittle.tails import Lengths

ROUNDED = 1 + 2.0**-50  # a radius is multiplied by a scale of 1 and added to a centre
FARTHEST = 60.0  # standard deviations: Phi(-60) is 1e-784


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """Half-spaces ``<w, delta> >= t`` under one law on one input leaf; logarithms are natural, rounded outwards.

    leaf      the input that moves
    bounded   no draw lies outside the support: a log probability of -inf is a fair target
    tail      (t, lengths of w) -> log of a bound of the probability, cheap; for Gaussian and p = 2 laws exact
    along     (t, w (..., D)) -> the same, from the direction itself where that is tighter
    quantile  (log probability, lengths of w) -> a threshold beyond which there is at most that probability
    box       log probability (N,) -> half-width of a box that holds the noise but for that probability, and what is then
              left outside it (log): a bounded law needs nothing
    """

    leaf: str
    bounded: bool
    tail: Callable[[Tensor, Lengths], Tensor]
    along: Callable[[Tensor, Tensor], Tensor]
    quantile: Callable[[Tensor, Lengths], Tensor]
    box: Callable[[Tensor], tuple[Tensor, Tensor]]


def half_spaces(problem: Problem, laws: Mapping[str, Law]) -> HalfSpaces:
    """The half-spaces of the one law of ``laws``, which ``problem`` has as its moving leaf.

    Raises :class:`NotCertified` for several leaves, a parameter, a clipped law, an unknown law.
    """
    if len(laws) != 1:
        raise NotCertified("noise on several leaves at once: this bound takes one input")
    leaf, law = next(iter(laws.items()))
    if problem.parameter_name(leaf) is not None:
        raise NotCertified(f"noise on parameter {leaf}: this bound takes an input")
    if law.clip is not None:
        raise NotCertified(
            "noise clipped to a range is not in a half-space with its known probability: leave the clip out"
        )
    dimension = problem.inputs[leaf][0].numel()
    if type(law) is Gaussian:
        return _round(leaf, law.sigma, tails.log_normal, FARTHEST, dimension)
    if isinstance(law, (UniformBall, UniformSphere)) and law.p == 2:
        shadow = dimension + 2 * isinstance(law, UniformBall)
        return _round(leaf, law.radius, lambda t: tails.log_sphere(t, shadow), 1.0, dimension)
    if isinstance(law, (UniformBall, UniformSphere)) and law.p == 1:
        return _cross(leaf, law.radius, dimension + isinstance(law, UniformBall))
    if isinstance(law, (UniformBall, UniformSphere)) and law.p == inf:
        return _cube(leaf, law.radius, dimension, isinstance(law, UniformSphere))
    raise NotCertified(f"no tail is known for the law {type(law).__name__} of leaf {leaf!r}")


def _round(leaf: str, scale: float, log_tail: tails.LogTail, most: float, dimension: int) -> HalfSpaces:
    """Laws that look the same from every direction."""

    def tail(t: Tensor, lengths: Lengths) -> Tensor:
        ratio = t / (scale * lengths.two)  # no direction at all: nothing ever moves, t / 0
        return torch.where(t > 0, log_tail(ratio.nan_to_num(nan=0.0, posinf=2 * FARTHEST)), 0.0).masked_fill(
            (t > 0) & (lengths.two == 0), -inf
        )

    def quantile(target: Tensor, lengths: Lengths) -> Tensor:
        few, at = target.unique(return_inverse=True)  # a handful of budgets, many examples
        return scale * tails.quantile(log_tail, few, most)[at] * lengths.two * ROUNDED

    def box(target: Tensor) -> tuple[Tensor, Tensor]:
        if most == 1.0:
            return torch.full_like(target, scale * ROUNDED), torch.full_like(target, -inf)
        return scale * tails.quantile(log_tail, target - log(2 * dimension), most) * ROUNDED, target

    return HalfSpaces(leaf, most == 1.0, tail, lambda t, rows: tail(t, tails.lengths(rows)), quantile, box)


def _cube(leaf: str, radius: float, dimension: int, surface: bool) -> HalfSpaces:
    variance = 1 / 3 + (2 / (3 * dimension) if surface else 0.0)
    cheap = lambda t, lengths: tails.log_cube_surface(t, lengths, dimension) if surface else tails.log_cube(t, lengths)
    sharp = lambda t, rows: cheap(t, tails.lengths(rows)) if surface else tails.log_cube_along(t, rows)
    return HalfSpaces(
        leaf,
        True,
        lambda t, lengths: cheap(t / radius, lengths),
        lambda t, rows: sharp(t / radius, rows),
        lambda target, lengths: radius * tails.cube_quantile(target, lengths, variance) * ROUNDED,
        lambda target: (torch.full_like(target, radius * ROUNDED), torch.full_like(target, -inf)),
    )


def _cross(leaf: str, radius: float, degrees: int) -> HalfSpaces:
    return HalfSpaces(
        leaf,
        True,
        lambda t, lengths: tails.log_cross(t / radius, lengths, degrees),
        lambda t, rows: tails.log_cross_along(t / radius, rows, degrees),
        lambda target, lengths: radius * tails.cross_quantile(target, lengths, degrees) * ROUNDED,
        lambda target: (torch.full_like(target, radius * ROUNDED), torch.full_like(target, -inf)),
    )
