"""The Bayes rule of a mixture of factor analysers per class: a classifier that knows how its data were made."""

import torch
from torch import Tensor, nn

from brittle import randomness
from brittle.about import About
from brittle.errors import InputError
from brittle.references._mixtures import Mixture, fit
from brittle.references._points import as_points

ABOUT = About(
    promise="the Bayes rule of densities fitted to the classes, as a module that every verb can ask, and samples for which it is exact",
    reference="Richardson & Weiss 2021 (JMLR 22, 20-567); Ghahramani & Hinton 1996; Tipping & Bishop 1999",
    answers="module",
    leaves=("input",),
    cost="none of any network; expectation and maximisation on the examples of each class",
)


class BayesRule(nn.Module):
    """Logits ``log prior_c + log p(x | c)`` (N, C), in the dtype of its buffers (float64): their margin is a log ratio of posteriors.

    shape is that of one example; ``sample`` draws from the fitted classes, on which this rule has the least error of all.
    """

    log_prior: Tensor

    def __init__(self, mixtures: list[Mixture], prior: Tensor, shape: torch.Size) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.classes = len(mixtures)
        self.register_buffer("log_prior", prior.log())
        for c, mixture in enumerate(mixtures):
            for name in ("share", "mean", "load", "noise"):
                self.register_buffer(f"{name}_{c}", getattr(mixture, name))

    def mixture(self, label: int) -> Mixture:
        """The fitted density of one class."""
        return Mixture(*(getattr(self, f"{name}_{label}") for name in ("share", "mean", "load", "noise")))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), -1).to(self.log_prior.dtype)
        return torch.stack([self.mixture(c).log_density(rows) for c in range(self.classes)], 1) + self.log_prior

    def sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """(count, ...) draws in float64, and the classes they were drawn from by their prior."""
        draws = randomness.generator(seed, "factor_analysers", "sample")
        labels = torch.multinomial(self.log_prior.exp(), count, replacement=True, generator=draws)
        x = torch.empty(count, self.mixture(0).mean.shape[1], dtype=self.log_prior.dtype)
        for c in range(self.classes):
            at = labels == c
            x[at] = self.mixture(c).sample(int(at.sum()), draws) if bool(at.any()) else x[at]
        return x.reshape(count, *self.shape), labels


def factor_analysers(
    x: object,
    labels: object,
    *,
    components: int = 1,
    factors: int = 8,
    noise: str = "isotropic",
    floor: float = 1e-3,
    steps: int = 50,
    seed: int = 0,
) -> BayesRule:
    """Fit ``components`` factor analysers to every class and return the Bayes rule as a module.

    ``p(x | c) = sum_k share_k N(mean_k, W_k W_k' + Psi_k)`` with W (D, ``factors``) and a diagonal Psi: all variances equal
    ("isotropic", probabilistic principal components, in closed form for one component) or free ("diagonal").

    Guarantee: among all classifiers the rule has the least error on what ``sample`` draws; on the data that it was fitted to it
    is a model. Its radii are asked like those of any network, ``bt.radius(bt.Problem(rule, *rule.sample(100), ball))``, and a
    network trained on samples is held against them: that separates what the data make brittle from what the network does.
    A direction of small noise makes the Bayes rule itself fragile (Richardson & Weiss), so the floor matters: state it.

    floor  the least variance of the noise, in squared units of x
    steps  of expectation and maximisation; an option because they converge slowly and only the likelihood suffers
    seed   of the first means
    Classes are 0..C-1 as the labels say; each needs an example. Errors: InputError for one class, NaN, gaps in the labels.

    >>> x = torch.cat([torch.randn(50, 3) - 2, torch.randn(50, 3) + 2])
    >>> rule = factor_analysers(x, torch.arange(100) // 50, factors=1)
    >>> (rule(x).argmax(1) == torch.arange(100) // 50).double().mean().item() > 0.95
    True
    """
    points = as_points(x, labels, 2)
    y, rows = torch.from_numpy(points.labels), torch.from_numpy(points.x)
    classes = int(y.max()) + 1
    counts = torch.bincount(y.clamp_min(0), minlength=classes)
    if bool((y < 0).any()) or bool((counts == 0).any()):
        raise InputError(
            "labels", f"an example of every class 0..{classes - 1}", sorted(set(y.tolist()))[:8], "renumber them"
        )
    if noise not in ("isotropic", "diagonal") or floor <= 0 or components < 1 or not 1 <= factors < rows.shape[1]:
        raise InputError(
            "options of factor_analysers",
            f'noise "isotropic" or "diagonal", floor > 0, components >= 1, 1 <= factors < {rows.shape[1]}',
            (noise, floor, components, factors),
            "correct them",
        )
    few = [int(c) for c in (counts < components).nonzero()[:, 0]]
    if few:
        raise InputError("components", f"at most the examples of class {few[0]}", components, "use fewer components")
    mixtures = [
        fit(
            rows[y == c],
            components,
            factors,
            floor,
            steps,
            noise == "diagonal",
            randomness.generator(seed, "factor_analysers", c),
        )
        for c in range(classes)
    ]
    shape = x.shape[1:] if isinstance(x, Tensor) else torch.as_tensor(x).shape[1:]
    return BayesRule(mixtures, counts.double() / len(y), shape).eval()
