"""Mixtures of factor analysers: densities with a low-rank and a diagonal part, fitted by expectation and maximisation."""

from dataclasses import dataclass, replace
from math import log, pi

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mixture:
    """``sum_k share_k N(mean_k, load_k load_k' + diag(noise_k))``: share (K,), mean (K, D), load (K, D, F), noise (K, D)."""

    share: Tensor
    mean: Tensor
    load: Tensor
    noise: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        """(N,) at x (N, D)."""
        return self.joint(x).logsumexp(1)

    def joint(self, x: Tensor) -> Tensor:
        """(N, K) log of share times density. By the lemmas of Woodbury and Sylvester only F x F matrices are factored."""
        columns = [self._component(x, k) for k in range(len(self.share))]
        return torch.stack(columns, 1) + self.share.log()

    def _component(self, x: Tensor, k: int) -> Tensor:
        scaled = (x - self.mean[k]) / self.noise[k].sqrt()
        load = self.load[k] / self.noise[k].sqrt()[:, None]
        inner = torch.eye(load.shape[1], dtype=x.dtype, device=x.device) + load.T @ load
        factor = torch.linalg.cholesky(inner)
        explained = torch.linalg.solve_triangular(factor, load.T @ scaled.T, upper=False)
        square = scaled.square().sum(1) - explained.square().sum(0)
        logdet = self.noise[k].log().sum() + 2 * factor.diagonal().log().sum()
        return -(square + logdet + x.shape[1] * log(2 * pi)) / 2

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, D) draws."""
        k = torch.multinomial(self.share, count, replacement=True, generator=generator)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=self.mean.dtype)
        factors, noise = draw(count, self.load.shape[2]), draw(count, self.mean.shape[1])
        low_rank = torch.einsum("ndf,nf->nd", self.load[k], factors)
        return self.mean[k] + low_rank + noise * self.noise[k].sqrt()


def fit(
    x: Tensor, components: int, factors: int, floor: float, steps: int, diagonal: bool, generator: torch.Generator
) -> Mixture:
    """Maximum likelihood for x (N, D) from ``components`` random examples as first means; ``floor`` bounds every noise from below.

    Each step gives every example to the components by its present densities and then refits each component: by the closed
    form of Tipping & Bishop (1999) where the noise is the same in all directions, by one step of Ghahramani & Hinton (1996)
    where it is diagonal. It ends after ``steps``, or when the mean log likelihood gains less than 1e-4.
    """
    first = x[torch.randperm(len(x), generator=generator)[:components]]
    closest = torch.cdist(x, first).argmin(1)
    weights = torch.nn.functional.one_hot(closest, components).to(x) * 0.9 + 0.1 / components
    mixture = _principal(x, weights, factors, floor)
    before = -float("inf")
    for _ in range(steps if components > 1 or diagonal else 0):
        joint = mixture.joint(x)
        reached = float(joint.logsumexp(1).mean())
        if reached - before < 1e-4:
            break
        before, weights = reached, joint.softmax(1)
        mixture = _refined(x, weights, mixture, floor) if diagonal else _principal(x, weights, factors, floor)
    return mixture


def _principal(x: Tensor, weights: Tensor, factors: int, floor: float) -> Mixture:
    """Weighted probabilistic principal components: noise = the mean of the variances left out, factors = the others less noise."""
    parts = [_principal_one(x, w, factors, floor) for w in weights.T]
    mean, load, noise = (torch.stack(p) for p in zip(*parts, strict=True))
    return Mixture(_shares(weights), mean, load, noise)


def _principal_one(x: Tensor, weight: Tensor, factors: int, floor: float) -> tuple[Tensor, Tensor, Tensor]:
    share = weight / weight.sum()
    mean = share @ x
    scaled = (x - mean) * share.sqrt()[:, None]
    _, values, axes = torch.linalg.svd(scaled, full_matrices=False)
    variances = values.square()
    kept, left = variances[:factors], variances[factors:].sum()
    noise = (left / max(1, x.shape[1] - factors)).clamp_min(floor)
    load = torch.zeros(x.shape[1], factors, dtype=x.dtype)
    load[:, : len(kept)] = axes[:factors].T * (kept - noise).clamp_min(0).sqrt()
    return mean, load, noise.expand(x.shape[1]).clone()


def _refined(x: Tensor, weights: Tensor, now: Mixture, floor: float) -> Mixture:
    """One step of maximisation with diagonal noise: regress x on the expected factors and 1, component by component."""
    new = [_refined_one(x, w, now.mean[k], now.load[k], now.noise[k], floor) for k, w in enumerate(weights.T)]
    mean, load, noise = (torch.stack(p) for p in zip(*new, strict=True))
    return replace(now, share=_shares(weights), mean=mean, load=load, noise=noise)


def _refined_one(
    x: Tensor, weight: Tensor, mean: Tensor, load: Tensor, noise: Tensor, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    share = (weight / weight.sum())[:, None]
    inner = torch.eye(load.shape[1], dtype=x.dtype) + load.T @ (load / noise[:, None])
    gain = torch.linalg.solve(inner, (load / noise[:, None]).T)  # (F, D)
    factors = torch.cat([(x - mean) @ gain.T, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    second = factors.T @ (share * factors)
    second[:-1, :-1] += torch.linalg.inv(inner)  # the variance of the factors around their expectation
    cross = x.T @ (share * factors)
    joined = torch.linalg.solve(second, cross.T).T  # (D, F + 1)
    left = (share * x.square()).sum(0) - (joined * cross).sum(1)
    return joined[:, -1], joined[:, :-1], left.clamp_min(floor)


def _shares(weights: Tensor) -> Tensor:
    return weights.mean(0).clamp_min(1e-12)
