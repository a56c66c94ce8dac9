"""Three model families of the neighbouring papers whose robustness, or kernel, is known in closed form: oracles, not products.

Spiking: Neuman, Dold, Petersen, arXiv 2404.04549 (the neuron as remembered). Truncated: Beliaev et al., arXiv 2201.09369.
Hadamard: Wu et al., arXiv 2209.07736. The certificates and the kernel are derived.
"""

from math import pi

import torch
from torch import Tensor, nn


class SpikingLayer(nn.Module):
    """Firing times t with ``sum_u w_u (t - t_u - d_u)_+ = 1``, w > 0, d >= 0.

    The threshold is crossed after the arrivals that minimise ``(1 + sum_S w_u (t_u + d_u)) / sum_S w_u`` over prefixes S of the sorted
    arrivals. Monotone in every arrival and equivariant to a common delay, hence non-expansive in the largest norm.
    """

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        draw = lambda: torch.rand(outputs, inputs, generator=generator, dtype=torch.float64)
        self.weight, self.delay = nn.Buffer(draw() + 0.05), nn.Buffer(draw())

    def forward(self, times: Tensor) -> Tensor:
        arrivals, order = (times[:, None] + self.delay).sort(-1)
        weight = self.weight.expand(len(times), -1, -1).gather(-1, order)
        return ((1 + (weight * arrivals).cumsum(-1)) / weight.cumsum(-1)).amin(-1)

    def charge(self, times: Tensor, fired: Tensor) -> Tensor:
        """What has been received at the firing times: 1 where they solve the equation."""
        return (self.weight * (fired[..., None] - times[:, None] - self.delay).clamp_min(0)).sum(-1)


class Spiking(nn.Module):
    """Affine encoder, spiking layers, affine decoder."""

    def __init__(self, widths: tuple[int, ...], classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = nn.Linear(widths[0], widths[1]).double()
        layers = [SpikingLayer(a, b, generator) for a, b in zip(widths[1:-1], widths[2:], strict=True)]
        self.layers = nn.Sequential(*layers)
        self.decoder = nn.Linear(widths[-1], classes).double()
        with torch.no_grad():
            for dense in (self.encoder, self.decoder):
                dense.weight.copy_(torch.randn(dense.weight.shape, generator=generator, dtype=torch.float64))
                dense.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.layers(self.encoder(x)))

    def certified(self, x: Tensor, labels: Tensor) -> Tensor:
        """A lower bound on the radius in l-inf: margin over what decoder and encoder can amplify."""
        logits, rows = self(x), self.decoder.weight
        own = torch.arange(len(x))
        steepness = (rows[labels][:, None] - rows).abs().sum(-1) * self.encoder.weight.abs().sum(1).max()
        radii = (logits[own, labels][:, None] - logits) / steepness
        radii[own, labels] = torch.inf
        return radii.amin(1)


class Truncated(nn.Module):
    """One linear rule without its ``k`` largest and ``k`` smallest products; one logit."""

    def __init__(self, weight: Tensor, k: int) -> None:
        super().__init__()
        self.weight, self.k = nn.Buffer(weight), k

    def forward(self, x: Tensor) -> Tensor:
        ordered = (x * self.weight).sort(-1).values
        return ordered[:, self.k : ordered.shape[1] - self.k].sum(-1, keepdim=True)

    def interval(self, x: Tensor, edits: int) -> tuple[Tensor, Tensor]:
        """Least and greatest sum after any ``edits <= k`` coordinates are set to anything: order statistics move by at most that many."""
        ordered = (x * self.weight).sort(-1).values
        first, last = self.k, ordered.shape[1] - self.k
        return ordered[:, first - edits : last - edits].sum(-1), ordered[:, first + edits : last + edits].sum(-1)


def hadamard_kernels(
    x: Tensor, other: Tensor, factors: int, width: int, generator: torch.Generator
) -> tuple[float, float]:
    """Empirical and limiting tangent kernel of ``sqrt(2 / m) sum_r c_r prod_n relu(<a_nr, x>)`` at two points.

    The limit is ``2 N <x, x'> k1 k2^(N-1) + 2 k2^N`` with ``k1 = E[1 1]`` and ``k2 = E[relu relu]`` (arc-cosine kernels).
    """
    a = torch.randn(factors, width, len(x), generator=generator, dtype=torch.float64).requires_grad_()
    c = torch.randn(width, generator=generator, dtype=torch.float64).requires_grad_()
    value = lambda at: (2 / width) ** 0.5 * (c * (a @ at).relu().prod(0)).sum()
    pairs = zip(torch.autograd.grad(value(x), (a, c)), torch.autograd.grad(value(other), (a, c)), strict=True)
    angle = torch.arccos(x @ other / (x.norm() * other.norm()))
    both = (pi - angle) / (2 * pi)
    product = x.norm() * other.norm() * (angle.sin() + (pi - angle) * angle.cos()) / (2 * pi)
    limit = 2 * factors * (x @ other) * both * product ** (factors - 1) + 2 * product**factors
    return float(sum((g * h).sum() for g, h in pairs)), float(limit)
