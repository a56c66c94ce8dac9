"""Tilted noise laws: each law leaned towards a direction, with the exact ratio of its density to that of the law itself.

A tilt ``theta`` has the shape of the leaf; for small tilts every mean is ``covariance theta``. Gaussian noise is shifted; the laws of cubes are
tilted exponentially, ``dQ/dP = exp(<theta, delta> - K(theta))``. On the sphere the tilted law is that of ``r (g + b) / |g + b|`` with g
standard normal and ``b = r theta / sqrt(n)``; the ball is the projection of the sphere in n + 2 dimensions. In the l1 ball it is that of leaning
Laplace variables over the sum of their sizes. Every family of laws is a :class:`Tilt`; all functions are batched over lanes L; D is the size of the leaf.
"""

from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Protocol

import torch
from torch import Tensor

from brittle.laws import Gaussian, Law, UniformBall, UniformSphere
from brittle.noise._tilted_uniform import Cross, Cube, CubeSurface

STEP = 0.25  # of the quadrature, in widths of the integrand: the trapezoidal rule errs by about 2 exp(-2 pi^2 / STEP^2)


class Tilt(Protocol):
    """What importance sampling needs of a law; see the functions of the same names."""

    def reach(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]: ...
    def limit(self, a: Tensor) -> Tensor: ...
    def mean(self, theta: Tensor) -> Tensor: ...
    def base(self, count: int, size: int, generator: torch.Generator) -> Tensor: ...
    def lean(self, theta: Tensor, numbers: Tensor) -> Tensor: ...
    def log_ratio(self, theta: Tensor, delta: Tensor) -> Tensor: ...


def tilt_of(law: Law) -> Tilt | None:
    """The tilt of a law; None for a law without one."""
    if isinstance(law, Gaussian):
        return Normal(law)
    if not isinstance(law, (UniformBall, UniformSphere)):
        return None
    ball = isinstance(law, UniformBall)
    if law.p == inf:
        return Cube(law.radius) if ball else CubeSurface(law.radius)
    return Round(law.radius, 2 * ball) if law.p == 2 else Cross(law.radius, int(ball))


def knows(law: Law) -> bool:
    """Whether the law has a tilt here."""
    return tilt_of(law) is not None


def reach(law: Law, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """``<a, mean of the law tilted by s a>`` and its derivative by s: a (L, D), s (L,). Concave and increasing in s >= 0."""
    return _known(law).reach(a, s)


def limit(law: Law, a: Tensor) -> Tensor:
    """(L,) the largest ``<a, delta>`` over the support."""
    return _known(law).limit(a)


def mean(law: Law, theta: Tensor) -> Tensor:
    """(L, D) the mean of the tilted law (on the l1 and l2 balls and spheres to leading order in the dimension)."""
    return _known(law).mean(theta)


def base(law: Law, count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, m) numbers that :func:`lean` turns into draws: uniform ones for cubes and l1 balls, else standard normals.

    Where that is harmless in float32, which is five times cheaper: its steps of 2^-24 move log weights by less than 1e-5, far below any
    sampling error.
    """
    return _known(law).base(count, size, generator)


def lean(law: Law, theta: Tensor, numbers: Tensor) -> Tensor:
    """(M, D) draws of the law tilted by ``theta`` (D,) from the numbers (M, m) of :func:`base`, in float64."""
    return _known(law).lean(theta, numbers.to(torch.float64, copy=True))


def draw(law: Law, theta: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, D) draws of the law tilted by ``theta`` (D,)."""
    return lean(law, theta, base(law, count, theta.shape[0], generator))


def log_ratio(law: Law, theta: Tensor, delta: Tensor) -> Tensor:
    """(L, K, M) log density of the law tilted by ``theta`` (L, K, D) over that of the law itself, at ``delta`` (L, M, D)."""
    return _known(law).log_ratio(theta, delta)


def _known(law: Law) -> Tilt:
    tilt = tilt_of(law)
    assert tilt is not None
    return tilt


@dataclass(frozen=True)
class Normal:
    """Noise ``A g``, shifted by ``A A^T theta``."""

    law: Gaussian

    def reach(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.law.gathered(a).square().sum(1)
        return s * slope, slope

    def limit(self, a: Tensor) -> Tensor:
        return torch.where(a.abs().amax(1) > 0, inf, 0.0)

    def mean(self, theta: Tensor) -> Tensor:
        return self.law.spread(self.law.gathered(theta))

    def base(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        return torch.randn((count, size), generator=generator, dtype=torch.float32)

    def lean(self, theta: Tensor, numbers: Tensor) -> Tensor:
        return self.law.spread(numbers.add_(self.law.gathered(theta)))

    def log_ratio(self, theta: Tensor, delta: Tensor) -> Tensor:
        return theta @ delta.transpose(1, 2) - self.law.gathered(theta).square().sum(-1, keepdim=True) / 2


@dataclass(frozen=True)
class Round:
    """Uniform on the sphere of ``extra`` more dimensions than the leaf has, projected."""

    radius: float
    extra: int

    def reach(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        size, m = torch.linalg.vector_norm(a, dim=1), a.shape[1] + self.extra
        beta = self.radius / sqrt(m) * s * size
        root = (m + beta.square()).sqrt()
        return self.radius * size * beta / root, self.radius**2 * size.square() * sqrt(m) / root**3

    def limit(self, a: Tensor) -> Tensor:
        return self.radius * torch.linalg.vector_norm(a, dim=1)

    def mean(self, theta: Tensor) -> Tensor:
        m = theta.shape[1] + self.extra
        shift = self.radius / sqrt(m) * theta
        return self.radius * shift / (m + shift.square().sum(1, keepdim=True)).sqrt()

    def base(self, count: int, size: int, generator: torch.Generator) -> Tensor:
        return torch.randn((count, size + self.extra), generator=generator, dtype=torch.float32)

    def lean(self, theta: Tensor, numbers: Tensor) -> Tensor:
        size = theta.shape[0]
        numbers[:, :size] += self.radius / sqrt(numbers.shape[1]) * theta
        return self.radius * numbers[:, :size] / torch.linalg.vector_norm(numbers, dim=1, keepdim=True)

    def log_ratio(self, theta: Tensor, delta: Tensor) -> Tensor:
        inner, m = theta @ delta.transpose(1, 2), theta.shape[-1] + self.extra
        beta = self.radius / sqrt(m) * torch.linalg.vector_norm(theta, dim=-1, keepdim=True)
        return _radial(inner / sqrt(m), m) - _radial(torch.zeros_like(beta), m) - beta.square() / 2


def _radial(s: Tensor, n: int) -> Tensor:
    """log of the integral of ``r^(n-1) exp(-r^2 / 2 + s r)`` over r > 0, by the trapezoidal rule in log r around the mode."""
    mode = (s + (s.square() + 4 * n).sqrt()) / 2
    mode = torch.where(s < 0, n / ((s.square() + 4 * n).sqrt() - s) * 2, mode)  # no cancellation
    width = (mode.square() + n).rsqrt()
    x = torch.arange(-12 - 37 / sqrt(n), 9, STEP, dtype=s.dtype, device=s.device)
    total = torch.full_like(s, -inf)
    for node in x.tolist():  # node by node: a third of the memory of one large tensor
        y = width * node
        r = mode * y.exp()
        total = torch.logaddexp(total, n * (mode.log() + y) - r.square() / 2 + s * r)
    return total + width.log() + log(STEP)
