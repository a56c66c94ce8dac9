"""Tilts of uniform laws with corners: the cube, its surface, the l1 ball and its surface. See :mod:`brittle.noise._tilts`."""

from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = (
    1e-2  # below it functions with a removable singularity at 0 by their series, off by less than 1e-9 of themselves
)


@dataclass(frozen=True)
class Cube:
    """Independent uniform numbers, tilted to truncated exponentials: ``K(theta) = sum_i ln(sinh x_i / x_i)``, x = radius theta."""

    radius: float

    def reach(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        x = self.radius * s[:, None] * a
        return (self.radius * a * langevin(x)).sum(1), (self.radius**2 * a.square() * langevin_slope(x)).sum(1)

    def limit(self, a: Tensor) -> Tensor:
        return self.radius * a.abs().sum(1)

    def mean(self, theta: Tensor) -> Tensor:
        return self.radius * langevin(self.radius * theta)

    def base(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        return torch.rand((count, size), generator=generator, dtype=torch.float32)

    def lean(self, theta: Tensor, numbers: Tensor) -> Tensor:
        x = (self.radius * theta).abs().clamp_min(1e-30)  # at 1e-30 the formula is the uniform law to the last bit
        towards = 1 + torch.log1p((1 - numbers) * torch.expm1(-2 * x)) / x
        return self.radius * torch.where(theta < 0, -towards, towards)

    def log_ratio(self, theta: Tensor, delta: Tensor) -> Tensor:
        return theta @ delta.transpose(1, 2) - log_sinhc(self.radius * theta).sum(-1, keepdim=True)


@dataclass(frozen=True)
class CubeSurface:
    """One coordinate, chosen at random, is -1 or 1, the others are uniform. With ``h(x) = x coth x`` the tilted law chooses coordinate i with
    probability ``h(x_i) / H``, H their sum, and ``K(theta) = sum_i ln(sinh x_i / x_i) + ln(H / n)``."""

    radius: float

    def reach(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        x = self.radius * s[:, None] * a
        h, first, second = _coth(x)
        total = h.sum(1)
        pull = (a * first).sum(1) / total
        value = (a * langevin(x)).sum(1) + pull
        slope = (a.square() * langevin_slope(x)).sum(1) + (a.square() * second).sum(1) / total - pull.square()
        return self.radius * value, self.radius**2 * slope

    def limit(self, a: Tensor) -> Tensor:
        return self.radius * a.abs().sum(1)

    def mean(self, theta: Tensor) -> Tensor:
        h, first, _ = _coth(self.radius * theta)
        return self.radius * (langevin(self.radius * theta) + first / h.sum(1, keepdim=True))

    def base(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        return torch.rand((count, size + 1), generator=generator, dtype=torch.float64)

    def lean(self, theta: Tensor, numbers: Tensor) -> Tensor:
        x = self.radius * theta
        choice = _coth(x)[0].cumsum(0)
        at = torch.searchsorted(choice, numbers[:, -1:] * choice[-1]).clamp_max(len(x) - 1)
        face = torch.where(numbers.gather(1, at) < torch.sigmoid(2 * x)[at], 1.0, -1.0).to(torch.float64)
        return Cube(self.radius).lean(theta, numbers[:, :-1]).scatter_(1, at, self.radius * face)

    def log_ratio(self, theta: Tensor, delta: Tensor) -> Tensor:
        share = _coth(self.radius * theta)[0].mean(-1, keepdim=True).log()
        return Cube(self.radius).log_ratio(theta, delta) - share


@dataclass(frozen=True)
class Cross:
    """``r l / S``: independent Laplace variables l over the sum S of their sizes and of ``extra`` exponential ones (1 for the ball, 0 for its surface).

    Tilted, l_i has the density ``(1 - b_i^2) / 2 exp(-|l_i| + b_i l_i)``. In m = n + extra dimensions, with the sum integrated out,

        dQ/dP = prod_i (1 - b_i^2) / (1 - <b, delta> / r)^m

    whose logarithm is at its largest over b along a direction just the exponent of :func:`brittle.tails.log_cross_along`. Here b is along theta
    and inside the cube: ``b = z / (1 + max |z_i|)`` with ``z = r theta / (m + 1)``.
    """

    radius: float
    extra: int

    def reach(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        m, most = a.shape[1] + self.extra, a.abs().amax(1)
        pace = self.radius / (m + 1)
        v = pace * s / (1 + pace * s * most)
        square = (v[:, None] * a).square()
        g = (2 * v[:, None] * a.square() / (1 - square)).sum(1)
        slope = (2 * a.square() * (1 + square) / (1 - square).square()).sum(1)
        total = m + v * g
        by_v = (m * slope - g.square()) / total.square()
        return self.radius * g / total, self.radius * by_v * pace / (1 + pace * s * most).square()

    def limit(self, a: Tensor) -> Tensor:
        return self.radius * a.abs().amax(1)

    def mean(self, theta: Tensor) -> Tensor:
        b, m = self._lean(theta), theta.shape[-1] + self.extra
        share = 2 * b / (1 - b.square())
        return self.radius * share / (m + (b * share).sum(-1, keepdim=True))

    def base(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        return torch.rand((count, size + self.extra), generator=generator, dtype=torch.float64)

    def lean(self, theta: Tensor, numbers: Tensor) -> Tensor:
        b, n = self._lean(theta), theta.shape[0]
        below, above = 2 * numbers[:, :n] / (1 - b), 2 * (1 - numbers[:, :n]) / (1 + b)
        laplace = torch.where(below < 1, below.clamp_min(1e-300).log() / (1 + b), -above.log() / (1 - b))
        total = laplace.abs().sum(1, keepdim=True) - torch.log1p(-numbers[:, n:]).sum(1, keepdim=True)
        return self.radius * laplace / total

    def log_ratio(self, theta: Tensor, delta: Tensor) -> Tensor:
        b, m = self._lean(theta), theta.shape[-1] + self.extra
        inner = b @ delta.transpose(1, 2) / self.radius
        return torch.log1p(-b.square()).sum(-1, keepdim=True) - m * torch.log1p(-inner)

    def _lean(self, theta: Tensor) -> Tensor:
        z = self.radius * theta / (theta.shape[-1] + self.extra + 1)
        return z / (1 + z.abs().amax(-1, keepdim=True))


def langevin(x: Tensor) -> Tensor:
    """coth x - 1/x; by its series near 0."""
    big = torch.where(x.abs() < SMALL, 1.0, x)
    return torch.where(x.abs() < SMALL, x / 3 - x**3 / 45, 1 / big.tanh() - 1 / big)


def langevin_slope(x: Tensor) -> Tensor:
    """Its derivative, ``1 / x^2 - 1 / sinh^2 x``."""
    size = x.abs().clamp(SMALL, 300)
    return torch.where(x.abs() < SMALL, 1 / 3 - x.square() / 15, 1 / size.square() - 1 / size.sinh().square())


def log_sinhc(x: Tensor) -> Tensor:
    """log(sinh x / x); by its series near 0."""
    size = x.abs().clamp_min(SMALL)
    series = x.square() / 6 - x**4 / 180 + x**6 / 2835
    return torch.where(x.abs() < SMALL, series, size + torch.log1p(-torch.exp(-2 * size)) - (2 * size).log())


def _coth(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``h(x) = x coth x`` and its first two derivatives; by their series near 0."""
    near, size = x.abs() < SMALL, x.abs().clamp(SMALL, 300)
    h = torch.where(near, 1 + x.square() / 3 - x**4 / 45, x.abs().clamp_min(SMALL) / size.tanh())
    first = torch.where(near, 2 * x / 3 - 4 * x**3 / 45, x.sign() * (1 / size.tanh() - size / size.sinh().square()))
    second = torch.where(near, 2 / 3 - 4 * x.square() / 15, 2 * (size / size.tanh() - 1) / size.sinh().square())
    return h, first, second
