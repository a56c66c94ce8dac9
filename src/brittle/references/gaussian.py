"""The best robust classifier of two Gaussians that differ in their means: closed form in l2."""

from dataclasses import dataclass
from functools import cached_property
from math import erfc, sqrt

import torch
from torch import Tensor, nn

from brittle.about import About
from brittle.errors import InputError
from brittle.references._points import as_points

ABOUT = About(
    promise="no classifier has a smaller robust error on these two Gaussians, and the linear rule that is returned has it",
    reference="optimality of linear rules: Bhagoji, Cullina & Mittal 2019 (arXiv 1909.12272, abstract); the formula is derived",
    norms=(2,),
    answers="error",
    leaves=("input",),
    cost="none of any network; one eigendecomposition of the covariance",
)


@dataclass(frozen=True, eq=False)
class TwoGaussians:
    """Classes 0 and 1, equally likely, ``N(centre -+ mean, covariance)`` with mean (D,), covariance (D, D), centre (D,), float64.

    Under an l2 budget ``radius`` the worst shift of the means is ``z``, the nearest to them in the metric of the covariance:
    ``z = argmin {(mean - z)' S^-1 (mean - z): |z| <= radius}``; the best rule is ``sign((x - centre) w)``, ``w = S^-1 (mean - z)``,
    and its robust error ``Phi(-sqrt((mean - z)' S^-1 (mean - z)))``. For ``S = sigma^2 I`` it is ``Phi(-(|mean| - radius) / sigma)``.
    """

    mean: Tensor
    covariance: Tensor
    centre: Tensor

    @cached_property
    def _axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues, eigenvectors, and the mean in their coordinates."""
        values, vectors = torch.linalg.eigh(self.covariance)
        if bool(values[0] <= values[-1] * 1e-14):
            raise InputError(
                "covariance",
                "a positive definite matrix",
                f"the eigenvalue {float(values[0]):.3g}",
                "add a noise floor to it",
            )
        return values, vectors, vectors.T @ self.mean

    def _shift(self, radius: float) -> float:
        """The s >= 0 with ``|z| = radius``, where ``z = s (s + S)^-1 mean``: |z| grows with s, from 0 to |mean|."""
        from scipy.optimize import brentq

        values, _, mean = self._axes
        if not 0 <= radius:
            raise InputError("radius", "a number >= 0", radius, "0 is the plain Bayes rule")
        if radius == 0:
            return 0.0
        excess = lambda s: float((mean * (s / (s + values))).norm()) - radius
        high = float(values[-1])
        while excess(high) < 0:
            high *= 4
        return float(brentq(excess, 0.0, high, xtol=1e-15 * high))  # pyright: ignore[reportArgumentType]  (its stubs know of tuples only)

    def weights(self, radius: float = 0.0) -> Tensor:
        """(D,) the normal of the best rule at this radius; zeros where the budget reaches the means and nothing helps."""
        values, vectors, mean = self._axes
        if radius >= float(mean.norm()):
            return torch.zeros_like(mean)
        return vectors @ (mean / (self._shift(radius) + values))

    def error(self, radius: float = 0.0) -> float:
        """The least probability that a perturbation of length ``radius`` or less changes a class: no classifier has less."""
        w = self.weights(radius)
        return normal_tail(sqrt(float(w @ self.covariance @ w)))

    def module(self, radius: float = 0.0) -> nn.Module:
        """The best rule as a float64 module on inputs (N, ...): two logits, whose margin is the log density ratio at radius 0."""
        w = self.weights(radius)
        layer = nn.Linear(len(w), 2, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.stack([-w, w]))
            layer.bias.copy_(torch.stack([w @ self.centre, -w @ self.centre]))
        return nn.Sequential(nn.Flatten(), layer).eval()

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(count, D) draws in float64 and their classes, as many of one as of the other (but for one)."""
        values, vectors, _ = self._axes
        labels = torch.arange(count) % 2
        noise = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return self.centre + (2 * labels[:, None] - 1) * self.mean + (noise * values.sqrt()) @ vectors.T, labels


def normal_tail(z: float) -> float:
    """P(N(0, 1) > z)."""
    return erfc(z / sqrt(2)) / 2


def gaussian(x: object, labels: object, *, p: float = 2, floor: float = 1e-3) -> TwoGaussians:
    """Two Gaussians of a common covariance fitted to two classes: half the difference of the class means, the pooled covariance.

    What it answers is exact for the fitted Gaussians, and an idealisation of the data that they were fitted to. Known
    Gaussians are written down without data: ``TwoGaussians(mean, covariance, centre)``.

    floor  added to the variance of every direction, relative to the mean variance: directions in which the data do not vary
           would otherwise tell the classes apart for certain
    Errors: InputError unless p = 2 and there are exactly two classes (0 and 1 by their order), for NaN, for a floor < 0.

    >>> rule = TwoGaussians(torch.tensor([2.0, 0.0]).double(), torch.eye(2).double(), torch.zeros(2).double())
    >>> round(rule.error(), 4), round(rule.error(1.0), 4)  # Phi(-2) and Phi(-1)
    (0.0228, 0.1587)
    """
    if p != 2:
        raise InputError("p", "2: other budgets have no closed form", p, "sample the fit and measure a network instead")
    if floor < 0:
        raise InputError("floor", "a number >= 0", floor, "0.001 is usual")
    points = as_points(x, labels, p)
    classes, which = torch.from_numpy(points.labels).unique(return_inverse=True)
    if len(classes) != 2:
        raise InputError("labels", "exactly two classes", len(classes), "choose two, or use factor_analysers")
    rows = torch.from_numpy(points.x)
    means = torch.stack([rows[which == k].mean(0) for k in (0, 1)])
    within = rows - means[which]
    covariance = within.T @ within / max(1, len(rows) - 2)
    covariance += floor * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    return TwoGaussians((means[1] - means[0]) / 2, covariance, means.mean(0))
