"""Noise as a map of standard normal numbers, for methods that walk among them and know nothing else of a law."""

from math import inf, log, sqrt

import torch
from torch import Tensor

from brittle.laws import Gaussian, Law, Replace, UniformBall, UniformSphere


def knows(law: Law) -> bool:
    """Whether the law is such a map."""
    return isinstance(law, (Gaussian, UniformBall, UniformSphere, Replace))


def coordinates(law: Law, size: int) -> int:
    """How many normal numbers make noise on a leaf of so many coordinates.

    l2 ball: the projection of a sphere with two more, l1 ball: with one more; cube surface: one to choose the face; replacement: a score
    and a value for every coordinate.
    """
    if isinstance(law, Replace):
        return 2 * size
    ball, p = isinstance(law, UniformBall), getattr(law, "p", 0)
    return size + (int(p) * ball if p in (1, 2) else int(p == inf and not ball))


def noise(law: Law, normal: Tensor, clean: Tensor) -> Tensor:
    """The change (M, D) of a clean point (D,) that standard normal numbers (M, m) stand for: exactly the law where they are normal."""
    size = len(clean)
    if isinstance(law, Gaussian):
        return law.spread(normal)
    if isinstance(law, Replace):
        which = normal[:, :size].topk(law.k, 1).indices
        values = law.values(torch.special.ndtr(normal[:, size:].gather(1, which)))
        return torch.zeros_like(normal[:, :size]).scatter_(1, which, values - clean[which])
    assert isinstance(law, (UniformBall, UniformSphere))
    if law.p == 2:
        return law.radius * normal[:, :size] / torch.linalg.vector_norm(normal, dim=1, keepdim=True)
    if law.p == 1:
        laplace = -normal.sign() * (log(2) + torch.special.log_ndtr(-normal.abs()))
        return law.radius * laplace[:, :size] / laplace.abs().sum(1, keepdim=True)
    cube = torch.erf(normal[:, :size] / sqrt(2))
    if isinstance(law, UniformSphere):
        face = (size * torch.special.ndtr(normal[:, size:])).long().clamp_max(size - 1)
        cube.scatter_(1, face, normal.gather(1, face).sign())
    return law.radius * cube
