"""Random perturbations: a law draws the change of one leaf of one example."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import Protocol

import torch
from torch import Tensor

from brittle import norms
from brittle.errors import InputError


class Law(Protocol):
    """A noise law of one leaf.

    ``draws`` gives independent changes (count, *shape) in float64, ``draw`` one of them; ``support`` is (p, radius) of the
    smallest ball that holds every draw; ``clip`` is the range that the perturbed leaf is clipped to, or None.
    """

    @property
    def clip(self) -> tuple[float, float] | None: ...
    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...
    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor: ...
    def scaled(self, factor: float) -> "Law": ...
    def clipped(self, low: float, high: float) -> "Law": ...
    def support(self) -> tuple[float, float]: ...
    def facts(self) -> dict[str, object]: ...


@dataclass(frozen=True)
class Gaussian:
    """Independent normal changes with standard deviation ``sigma`` in every feature, unclipped unless said otherwise.

    >>> Gaussian(0.1).clipped(0, 1)
    Gaussian(sigma=0.1, clip=(0, 1))
    """

    sigma: float
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _positive("Gaussian.sigma", self.sigma)
        _range("Gaussian.clip", self.clip)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.draws(1, shape, generator)[0]

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.sigma * torch.randn((count, *shape), generator=generator, dtype=torch.float64)

    def scaled(self, factor: float) -> "Gaussian":
        return replace(self, sigma=self.sigma * factor)

    def clipped(self, low: float, high: float) -> "Gaussian":
        return replace(self, clip=(low, high))

    def support(self) -> tuple[float, float]:
        """(p, radius) of the smallest ball that holds every draw: unbounded for a Gaussian."""
        return 2, inf

    def facts(self) -> dict[str, object]:
        return {"law": "Gaussian", "sigma": self.sigma, "clip": self.clip}


@dataclass(frozen=True)
class UniformBall:
    """Uniform in the l_p ball of the given radius, p in {1, 2, inf}; p = inf is independent uniform noise."""

    radius: float
    p: float = 2
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _positive("UniformBall.radius", self.radius)
        _norm("UniformBall.p", self.p)
        _range("UniformBall.clip", self.clip)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.draws(1, shape, generator)[0]

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.radius * norms.uniform_ball(shape, self.p, generator, count)

    def scaled(self, factor: float) -> "UniformBall":
        return replace(self, radius=self.radius * factor)

    def clipped(self, low: float, high: float) -> "UniformBall":
        return replace(self, clip=(low, high))

    def support(self) -> tuple[float, float]:
        """(p, radius) of the smallest ball that holds every draw."""
        return self.p, self.radius

    def facts(self) -> dict[str, object]:
        return {
            "law": "UniformBall",
            "radius": self.radius,
            "p": "inf" if self.p == inf else self.p,
            "clip": self.clip,
        }


@dataclass(frozen=True)
class UniformSphere:
    """Uniform on the surface of the l_p ball, p in {1, 2, inf}: every draw has exactly that norm, up to rounding."""

    radius: float
    p: float = 2
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _positive("UniformSphere.radius", self.radius)
        _norm("UniformSphere.p", self.p)
        _range("UniformSphere.clip", self.clip)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.draws(1, shape, generator)[0]

    def draws(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self.radius * norms.uniform_sphere(shape, self.p, generator, count)

    def scaled(self, factor: float) -> "UniformSphere":
        return replace(self, radius=self.radius * factor)

    def clipped(self, low: float, high: float) -> "UniformSphere":
        return replace(self, clip=(low, high))

    def support(self) -> tuple[float, float]:
        """(p, radius) of the smallest ball that holds every draw."""
        return self.p, self.radius

    def facts(self) -> dict[str, object]:
        return {
            "law": "UniformSphere",
            "radius": self.radius,
            "p": "inf" if self.p == inf else self.p,
            "clip": self.clip,
        }


def as_laws(law: "Law | Mapping[str, Law]") -> dict[str, Law]:
    """Laws by leaf; a lone law moves the input ``"x"``."""
    laws = dict(law) if isinstance(law, Mapping) else {"x": law}
    for name, value in laws.items():
        if not all(hasattr(value, part) for part in ("draws", "support", "facts")):
            raise InputError(
                f"law of {name!r}", "a noise law", type(value).__name__, "write for example bt.Gaussian(0.1)"
            )
    if not laws:
        raise InputError("law", "at least one leaf that moves", "an empty mapping", 'write {"x": bt.Gaussian(0.1)}')
    return laws


def _positive(what: str, value: float) -> None:
    if not (isfinite(value) and value > 0):
        raise InputError(what, "a finite number > 0", value, "give it in the units of the leaf")


def _norm(what: str, p: float) -> None:
    if p not in (1, 2, inf):
        raise InputError(what, "1, 2 or inf", p, "choose one of these norms")


def _range(what: str, clip: tuple[float, float] | None) -> None:
    if clip is not None and not clip[0] <= clip[1]:
        raise InputError(what, "low <= high", clip, "swap them")
