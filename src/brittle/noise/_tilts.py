"""Tilted noise laws: each law leaned towards a direction, with the exact ratio of its density to that of the law itself.

A tilt ``theta`` has the shape of the leaf. Independent coordinates are tilted exponentially, ``dQ/dP = exp(<theta, delta> - K(theta))``:
a shifted normal, or truncated exponentials on a cube. On the sphere the tilted law is that of ``r (g + b) / |g + b|`` with g standard
normal and ``b = r theta / sqrt(n)``; the ball is the projection of the sphere in n + 2 dimensions. For small tilts every mean is
``covariance theta``. All functions are batched over lanes L; D is the size of the leaf.
"""

from math import inf, log, sqrt

import torch
from torch import Tensor

from brittle.laws import Gaussian, Law, UniformBall, UniformSphere

STEP = 0.25  # of the quadrature, in widths of the integrand: the trapezoidal rule errs by about 2 exp(-2 pi^2 / STEP^2)


def knows(law: Law) -> bool:
    """Whether the law has a tilt here."""
    return isinstance(law, Gaussian) or _is_cube(law) or _is_round(law)


def reach(law: Law, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """``<a, mean of the law tilted by s a>`` and its derivative by s: a (L, D), s (L,). Concave and increasing in s >= 0."""
    if isinstance(law, Gaussian):
        slope = law.sigma**2 * a.square().sum(1)
        return s * slope, slope
    if _is_cube(law):
        x = _radius(law) * s[:, None] * a
        return (_radius(law) * a * _langevin(x)).sum(1), (_radius(law) ** 2 * a.square() * _langevin_slope(x)).sum(1)
    size, m = torch.linalg.vector_norm(a, dim=1), _ambient(law, a.shape[1])
    beta = _radius(law) / sqrt(m) * s * size
    root = (m + beta.square()).sqrt()
    return _radius(law) * size * beta / root, _radius(law) ** 2 * size.square() * sqrt(m) / root**3


def limit(law: Law, a: Tensor) -> Tensor:
    """(L,) the largest ``<a, delta>`` over the support."""
    if isinstance(law, Gaussian):
        return torch.where(a.abs().amax(1) > 0, inf, 0.0)
    return _radius(law) * torch.linalg.vector_norm(a, 1 if _is_cube(law) else 2, dim=1)


def mean(law: Law, theta: Tensor) -> Tensor:
    """(L, D) the mean of the tilted law (on the sphere to leading order in the dimension)."""
    if isinstance(law, Gaussian):
        return law.sigma**2 * theta
    if _is_cube(law):
        return _radius(law) * _langevin(_radius(law) * theta)
    m = _ambient(law, theta.shape[1])
    shift = _radius(law) / sqrt(m) * theta
    return _radius(law) * shift / (m + shift.square().sum(1, keepdim=True)).sqrt()


def base(law: Law, count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, m) numbers that :func:`lean` turns into draws: uniform ones for a cube, else standard normals.

    In float32, which is five times cheaper: its steps of 2^-24 move log weights by less than 1e-5, far below any sampling error.
    """
    if _is_cube(law):
        return torch.rand((count, size), generator=generator, dtype=torch.float32)
    ambient = _ambient(law, size) if _is_round(law) else size
    return torch.randn((count, ambient), generator=generator, dtype=torch.float32)


def lean(law: Law, theta: Tensor, numbers: Tensor) -> Tensor:
    """(M, D) draws of the law tilted by ``theta`` (D,) from the numbers (M, m) of :func:`base`, in float64."""
    numbers, size = numbers.to(torch.float64, copy=True), theta.shape[0]
    if isinstance(law, Gaussian):
        return numbers.mul_(law.sigma).add_(law.sigma**2 * theta)
    if _is_cube(law):
        x = (_radius(law) * theta).abs().clamp_min(1e-30)  # at 1e-30 the formula is the uniform law to the last bit
        towards = 1 + torch.log1p((1 - numbers) * torch.expm1(-2 * x)) / x
        return _radius(law) * torch.where(theta < 0, -towards, towards)
    numbers[:, :size] += _radius(law) / sqrt(_ambient(law, size)) * theta
    return _radius(law) * numbers[:, :size] / torch.linalg.vector_norm(numbers, dim=1, keepdim=True)


def draw(law: Law, theta: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, D) draws of the law tilted by ``theta`` (D,)."""
    return lean(law, theta, base(law, count, theta.shape[0], generator))


def log_ratio(law: Law, theta: Tensor, delta: Tensor) -> Tensor:
    """(L, K, M) log density of the law tilted by ``theta`` (L, K, D) over that of the law itself, at ``delta`` (L, M, D)."""
    inner = theta @ delta.transpose(1, 2)
    if isinstance(law, Gaussian):
        return inner - law.sigma**2 / 2 * theta.square().sum(-1, keepdim=True)
    if _is_cube(law):
        return inner - _log_sinhc(_radius(law) * theta).sum(-1, keepdim=True)
    m = _ambient(law, theta.shape[-1])
    beta = _radius(law) / sqrt(m) * torch.linalg.vector_norm(theta, dim=-1, keepdim=True)
    return _radial(inner / sqrt(m), m) - _radial(torch.zeros_like(beta), m) - beta.square() / 2


def _is_cube(law: Law) -> bool:
    return isinstance(law, UniformBall) and law.p == inf


def _is_round(law: Law) -> bool:
    return isinstance(law, (UniformBall, UniformSphere)) and law.p == 2


def _radius(law: Law) -> float:
    assert isinstance(law, (UniformBall, UniformSphere))
    return law.radius


def _ambient(law: Law, size: int) -> int:
    """The dimension of the sphere that the law is a projection of."""
    return size if isinstance(law, UniformSphere) else size + 2


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


def _langevin(x: Tensor) -> Tensor:
    """coth x - 1/x; by its series near 0."""
    big = torch.where(x.abs() < 1e-2, 1.0, x)
    return torch.where(x.abs() < 1e-2, x / 3 - x**3 / 45, 1 / big.tanh() - 1 / big)


def _langevin_slope(x: Tensor) -> Tensor:
    size = x.abs().clamp(1e-2, 300)
    return torch.where(x.abs() < 1e-2, 1 / 3 - x.square() / 15, 1 / size.square() - 1 / size.sinh().square())


def _log_sinhc(x: Tensor) -> Tensor:
    """log(sinh x / x); by its series near 0."""
    size = x.abs().clamp_min(1e-2)
    series = x.square() / 6 - x**4 / 180 + x**6 / 2835
    return torch.where(x.abs() < 1e-2, series, size + torch.log1p(-torch.exp(-2 * size)) - (2 * size).log())
