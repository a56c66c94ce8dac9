"""The paper's bound from scratch: distances to the walls of the cell, and the closed forms that follow from them.

A second implementation beside ``brittle.noise.cell``, for rectifier networks only, so that the study does not judge that method by itself.
"""

from dataclasses import dataclass
from math import exp, log, sqrt

import torch
from torch import Tensor, nn

from brittle import tails
from brittle.studies._noise_nets import Network


@dataclass(frozen=True, eq=False)
class Distances:
    """l2 distances in the units of the input: ``units`` (N, K) to the walls of hidden units, ``faces`` (N, C - 1) to a change of class."""

    units: Tensor
    faces: Tensor

    @property
    def all(self) -> Tensor:
        return torch.cat([self.units, self.faces], 1)

    @property
    def nearest(self) -> Tensor:
        """(N,) the paper's a(x)."""
        return self.all.amin(1)


def distances(network: Network) -> Distances:
    """``|z_i| / |A_i|`` of every hidden unit, earlier ones frozen, and of every difference of logits. One product of matrices per layer."""
    value = network.starts
    slope = network.factor.expand(len(value), -1, -1)  # d value / d u, (N, units, m)
    near = []
    for layer in network.tail:
        if isinstance(layer, nn.Linear):
            value, slope = layer(value).detach(), layer.weight.detach() @ slope
        else:
            near.append(value.abs() / slope.norm(dim=2))
            open_ = (value > 0).to(value)
            value, slope = value * open_, slope * open_[..., None]
    near = [torch.where(d.isnan(), torch.inf, d) for d in near]  # a unit whose inputs are all shut never moves: 0 / 0
    row = network.labels[:, None]
    own = slope.gather(1, row[..., None].expand(-1, -1, slope.shape[2]))
    gap = (value.gather(1, row) - value) / (own - slope).norm(dim=2)
    others = torch.arange(value.shape[1]) != row
    return Distances(torch.cat(near, 1), gap[others].reshape(len(value), -1))


def paper_bound(a: float, radius: float, n: int, half_spaces: int) -> float:
    """``N exp(-n a^2 / (2 r^2))``: the chance that noise on the sphere of radius r leaves the cell or the class, at most; not capped at 1.

    arXiv 2602.18674, Theorem 3.1 as a public reading note gives it; with ``half_spaces`` = units + classes - 1 it holds for many classes.
    """
    return half_spaces * exp(-n * a * a / (2 * radius * radius))


def paper_radius(a: float, n: int, half_spaces: int, target: float = 1.0) -> float:
    """The noise length up to which the bound is at most ``target``: ``a sqrt(n / (2 ln(N / target)))``.

    >>> round(paper_radius(1.0, 784, 256), 1)
    8.4
    """
    return a * sqrt(n / (2 * log(half_spaces / target)))


def sharp_bound(a: Tensor, radius: float, n: int, half_spaces: int) -> Tensor:
    """The same with the exact tail of the sphere in place of the exponential; 0 where the noise is shorter than a."""
    return half_spaces * tails.log_sphere(a / radius, n).exp()


def own_sigma(found: Distances, target: float) -> Tensor:
    """(N,) the standard deviation of Gaussian noise up to which the union bound over each wall's own distance is at most ``target``."""
    low, high = found.nearest / 60, found.nearest * 60
    for _ in range(50):
        middle = (low * high).sqrt()
        small = torch.special.log_ndtr(-found.all / middle[:, None]).exp().sum(1) <= target
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
    return low
