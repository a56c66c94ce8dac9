"""What a proof needs to know of a law: how likely noise falls beyond a half-space, and how far half-spaces of a given probability lie."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, log, sqrt
from typing import Any

import torch
from torch import Tensor

from brittle import replacement, tails
from brittle.errors import NotCertified
from brittle.laws import Gaussian, Law, Replace, UniformBall, UniformSphere
from brittle.problem import Problem
from brittle.tails import Lengths

ROUNDED = 1 + 2.0**-50  # a radius is multiplied by a scale of 1 and added to a centre
FARTHEST = 60.0  # standard deviations: Phi(-60) is 1e-784


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """Half-spaces ``<w, delta> >= t`` under one law on one input leaf; logarithms are natural, rounded outwards.

    leaf      the input that moves
    bounded   no draw lies outside the support: a log probability of -inf is a fair target
    read      directions w (..., D) -> what the law needs to know of them, its "reading": lengths, a deviation ...
    tail      (t, reading) -> log of a bound of the probability, cheap; for Gaussians and p = 2 laws exact
    along     (t, w (..., D)) -> the same, from the direction itself where that is tighter
    quantile  (log probability, reading) -> a threshold beyond which there is at most that probability
    box       log probability (N,) -> half-width of a box that holds the noise but for that probability, and what is then
              left outside it (log): a bounded law needs nothing
    widest    the reading of the worst direction of length 1
    taken     the same for some of the examples, for a law that depends on the clean point
    exact     the tail is the probability itself, widened by 1e-9 of it and 1e-12 of its logarithm
    least     for exact laws: the reading rounded inwards, for probabilities from below
    """

    leaf: str
    bounded: bool
    read: Callable[[Tensor], Any]
    tail: Callable[[Tensor, Any], Tensor]
    along: Callable[[Tensor, Tensor], Tensor]
    quantile: Callable[[Tensor, Any], Tensor]
    box: Callable[[Tensor], tuple[Tensor, Tensor]]
    widest: Any
    taken: Callable[[Tensor], "HalfSpaces"] | None = None
    exact: bool = False
    least: Callable[[Tensor], Any] | None = None

    def take(self, at: Tensor) -> "HalfSpaces":
        """The half-spaces of the examples ``at``."""
        return self if self.taken is None else self.taken(at)


def half_spaces(problem: Problem, laws: Mapping[str, Law]) -> HalfSpaces:
    """The half-spaces of the one law of ``laws``, which ``problem`` has as its moving leaf.

    Raises :class:`NotCertified` for several leaves, a parameter, a clipped law, a law without a tail.
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
    value = problem.inputs[leaf]
    dimension = value[0].numel()
    if type(law) is Gaussian:
        return _normal(leaf, law, dimension)
    if isinstance(law, (UniformBall, UniformSphere)) and law.p == 2:
        shadow = dimension + 2 * isinstance(law, UniformBall)
        return _round(leaf, law.radius, shadow, dimension)
    if isinstance(law, (UniformBall, UniformSphere)) and law.p == 1:
        return _cross(leaf, law.radius, dimension + isinstance(law, UniformBall))
    if isinstance(law, (UniformBall, UniformSphere)) and law.p == inf:
        return _cube(leaf, law.radius, dimension, isinstance(law, UniformSphere))
    if type(law) is Replace:
        return _replaced(leaf, law, value.detach().flatten(1).double())
    raise NotCertified(f"no tail bound for the law {type(law).__name__} of leaf {leaf!r}")


def unit(dimension: int) -> Lengths:
    """The longest lengths of a direction with ``|w|_2 = 1``."""
    one = torch.ones((), dtype=torch.float64)
    return Lengths(one * sqrt(dimension) * (1 + 1e-12), one, one)


def _normal(leaf: str, law: Gaussian, dimension: int) -> HalfSpaces:
    """Exact for every covariance: ``<w, noise>`` is normal with standard deviation ``|A^T w|``."""
    widest, feature = law.largest
    known: dict[float, float] = {}

    def read(rows: Tensor) -> Tensor:
        if law.covariance is not None:
            return tails.deviations(rows, law.covariance.to(rows.device))
        return tails.lengths(law.gathered(rows)).two * (1 + 2.0**-51)

    def least(rows: Tensor) -> Tensor:
        if law.covariance is not None:
            return tails.least_deviations(rows, law.covariance.to(rows.device))
        return tails.shortest(law.gathered(rows)) * (1 - 2.0**-51)

    def tail(t: Tensor, deviation: Tensor) -> Tensor:
        return _at(t, deviation, tails.log_normal)

    def box(target: Tensor) -> tuple[Tensor, Tensor]:  # a union bound over features, of any dependence
        return feature * tails.quantile(tails.log_normal, target - log(2 * dimension), FARTHEST) * ROUNDED, target

    return HalfSpaces(
        leaf,
        False,
        read,
        tail,
        lambda t, rows: tail(t, read(rows)),
        lambda target, deviation: _quantile(tails.log_normal, target, FARTHEST, known) * deviation * ROUNDED,
        box,
        torch.tensor(widest, dtype=torch.float64),
        exact=True,
        least=least,
    )


def _round(leaf: str, radius: float, shadow: int, dimension: int) -> HalfSpaces:
    """Exact: uniform on the sphere, or in the ball, which is the projection of a sphere in more dimensions."""
    log_tail = lambda t: tails.log_sphere(t, shadow)
    known: dict[float, float] = {}
    tail = lambda t, lengths: _at(t, radius * lengths.two, log_tail)
    return HalfSpaces(
        leaf,
        True,
        tails.lengths,
        tail,
        lambda t, rows: tail(t, tails.lengths(rows)),
        lambda target, lengths: radius * _quantile(log_tail, target, 1.0, known) * lengths.two * ROUNDED,
        lambda target: (torch.full_like(target, radius * ROUNDED), torch.full_like(target, -inf)),
        unit(dimension),
        exact=True,
        least=lambda rows: replace(tails.lengths(rows), two=tails.shortest(rows)),
    )


def _cube(leaf: str, radius: float, dimension: int, surface: bool) -> HalfSpaces:
    variance = 1 / 3 + (2 / (3 * dimension) if surface else 0.0)
    cheap = lambda t, lengths: tails.log_cube_surface(t, lengths, dimension) if surface else tails.log_cube(t, lengths)
    sharp = lambda t, rows: cheap(t, tails.lengths(rows)) if surface else tails.log_cube_along(t, rows)
    return HalfSpaces(
        leaf,
        True,
        tails.lengths,
        lambda t, lengths: cheap(t / radius, lengths),
        lambda t, rows: sharp(t / radius, rows),
        lambda target, lengths: radius * tails.cube_quantile(target, lengths, variance) * ROUNDED,
        lambda target: (torch.full_like(target, radius * ROUNDED), torch.full_like(target, -inf)),
        unit(dimension),
    )


def _cross(leaf: str, radius: float, degrees: int) -> HalfSpaces:
    return HalfSpaces(
        leaf,
        True,
        tails.lengths,
        lambda t, lengths: tails.log_cross(t / radius, lengths, degrees),
        lambda t, rows: tails.log_cross_along(t / radius, rows, degrees),
        lambda target, lengths: radius * tails.cross_quantile(target, lengths, degrees) * ROUNDED,
        lambda target: (torch.full_like(target, radius * ROUNDED), torch.full_like(target, -inf)),
        unit(degrees),
    )


def _replaced(leaf: str, law: Replace, clean: Tensor) -> HalfSpaces:
    """k coordinates of ``clean`` (N, D) replaced: changes are spread around ``middle - clean``, by half the range at most."""
    given = replacement.Replacement.of(clean, law.k, law.low, law.high)
    most = given.furthest() * ROUNDED
    return HalfSpaces(
        leaf,
        True,
        lambda rows: replacement.read(rows, given),
        replacement.log_tail,
        lambda t, rows: replacement.log_tail_along(t, rows, given),
        replacement.quantile,
        lambda target: (most.expand(target.shape), torch.full_like(target, -inf)),
        replacement.widest(given),
        lambda at: _replaced(leaf, law, clean[at.to(clean.device)]),
    )


def _at(t: Tensor, deviation: Tensor, log_tail: tails.LogTail) -> Tensor:
    """The tail at so many deviations. No direction at all: nothing ever moves, t / 0."""
    ratio = (t / deviation).nan_to_num(nan=0.0, posinf=2 * FARTHEST)
    return torch.where(t > 0, log_tail(ratio), 0.0).masked_fill((t > 0) & (deviation == 0), -inf)


def _quantile(log_tail: tails.LogTail, target: Tensor, most: float, known: dict[float, float]) -> Tensor:
    """For a handful of budgets and many examples; ``known`` keeps what was found before."""
    few, at = target.unique(return_inverse=True)
    new = [t for t in few.tolist() if t not in known]
    if new:
        wanted = torch.tensor(new, dtype=target.dtype)
        known.update(zip(new, tails.quantile(log_tail, wanted, most).tolist(), strict=True))
    return torch.tensor([known[t] for t in few.tolist()], dtype=target.dtype, device=target.device)[at]
