"""Theorem 6: what gradients along the straight way to another class say of the perturbation that changes the answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brittle import norms
from brittle.randomness import generator
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded
from brittle.studies._medians import median_of
from brittle.studies._parts import Part, shown, verdict
from brittle.studies._study import Claim, Curve, Plot

PAPER = "arXiv 2406.16200"
MIDPOINTS, PAIRS = 200, 60


@dataclass(frozen=True, eq=False)
class Along:
    """At the midpoints of T equal cells of the segment from x to x': all (T, N), float64.

    cosine of -grad g with x' - x, where g = f_own - f_rival; slope: -grad g along the way per unit of t; steepness |grad g|_2; margin g.
    """

    cosine: Tensor
    slope: Tensor
    steepness: Tensor
    margin: Tensor


def along(
    module: Callable[[Tensor], Tensor], x: Tensor, other: Tensor, own: Tensor, rival: Tensor, midpoints: int
) -> Along:
    """Follow the segments from ``x`` (N, ...) to ``other``; ``own`` and ``rival`` (N,) are the classes whose scores are compared."""
    way = norms.flat((other - x).double())
    steps = [_at(module, x + (k + 0.5) / midpoints * (other - x), way, own, rival) for k in range(midpoints)]
    return Along(*(torch.stack(column) for column in zip(*steps, strict=True)))


def _at(module: Callable, point: Tensor, way: Tensor, own: Tensor, rival: Tensor) -> tuple[Tensor, ...]:
    point = point.detach().requires_grad_()
    with torch.enable_grad():
        logits = module(point)
        margin = logits.gather(1, own[:, None])[:, 0] - logits.gather(1, rival[:, None])[:, 0]
        (gradient,) = torch.autograd.grad(margin.sum(), point)
    descent = norms.flat(-gradient.double())
    slope, steepness = (descent * way).sum(1), descent.norm(dim=1)
    tiny = torch.finfo(torch.float64).tiny
    return slope / (steepness * way.norm(dim=1)).clamp_min(tiny), slope, steepness, margin.detach().double()


def linear_identity(dimension: int, pairs: int, seed: int) -> float:
    """Largest relative error of ``(r(x) + r(x')) / 2 = L |cos| / 2`` over pairs on both sides of a random hyperplane."""
    random = generator(seed, "identity", dimension)
    w, offset = torch.randn(dimension, generator=random, dtype=torch.float64), 0.3
    points = torch.randn(4 * pairs, dimension, generator=random, dtype=torch.float64)
    side = points @ w + offset
    x, other = points[side > 0][:pairs], points[side < 0][:pairs]
    count = min(len(x), len(other))
    radii = lambda p: (p @ w + offset).abs() / w.norm()
    way = other[:count] - x[:count]
    cosine = (way @ w).abs() / (w.norm() * way.norm(dim=1))
    mean, predicted = (radii(x[:count]) + radii(other[:count])) / 2, way.norm(dim=1) * cosine / 2
    return float(((mean - predicted).abs() / predicted).max())


def path_identity(name: str, pairs: int, midpoints: int) -> dict[str, list[float]]:
    """Of an embedded network on digits: relative error of the path integral against the difference of scores, per pair, and the curves.

    A pair is a correctly classified test digit and the nearest correctly classified one of another class. cosine and margin: medians
    and quartiles over the pairs at every midpoint; the margin in units of the one at the start.
    """
    module = embedded(name)
    x, other, own, rival = nearest_pairs(module, *held_out_digits(), pairs)
    found = along(module.double(), x.double(), other.double(), own, rival, midpoints)
    g = lambda p: (module(p.double()).gather(1, own[:, None]) - module(p.double()).gather(1, rival[:, None]))[
        :, 0
    ].detach()
    drop = g(x) - g(other)
    error = (found.slope.mean(0) - drop).abs() / drop
    quartiles = lambda v: torch.quantile(v, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=1).tolist()
    return {
        "error": error.tolist(),
        "mean cosine": found.cosine.mean(0).tolist(),
        "cosine": quartiles(found.cosine),
        "margin": quartiles(found.margin / g(x)),
    }


def held_out_digits() -> tuple[Tensor, Tensor]:
    """The 500 test digits: x (500, 64) and labels."""
    x, labels = digits("test")
    return torch.as_tensor(x), labels


def nearest_pairs(module: Callable, x: Tensor, labels: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first correctly classified examples, their nearest correctly classified neighbours of another class, and both labels."""
    with torch.no_grad():
        right = module(x).argmax(1) == labels
    x, labels = x[right], labels[right]
    distance = torch.cdist(norms.flat(x), norms.flat(x))
    neighbour = torch.where(labels[:, None] == labels, torch.inf, distance).argmin(1)[:pairs]
    return x[:pairs], x[neighbour], labels[:pairs], labels[neighbour]


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """The identities; they are exact, so one size is enough."""
    cells = {f"identity-linear-d{d}": (linear_identity, d, 500, seed) for d in (12, 100, 1000)}
    return cells | {f"identity-path-{name}": (path_identity, name, PAIRS, MIDPOINTS) for name in ("mlp", "hardened")}


def part(found: Mapping) -> Part:
    """Both identities as one claim, and the picture of the way."""
    linear = max(found[f"identity-linear-d{d}"] for d in (12, 100, 1000))
    paths = {name: found[f"identity-path-{name}"] for name in ("mlp", "hardened")}
    worst = max(max(row["error"]) for row in paths.values())
    cosines = {name: median_of(row["mean cosine"]) for name, row in paths.items()}
    claim = Claim(
        "The drop of the score difference along the way to another class is the integral of |grad g| cos θ; for a linear rule this makes the mean "
        "radius of two points ½ L |cos θ|",
        f"{PAPER}, Section 5 (path identity)",
        verdict(linear < 1e-9 and worst < 1e-3),
        f"largest relative error {linear:.0e} on linear rules, {worst:.0e} on two ReLU networks with {MIDPOINTS} midpoints",
    )
    robust = Claim(
        "Compression along the way is what adversarial training undoes: cos θ is larger for a hardened network",
        "ours; asked for by the paper's reviewers",
        "ours" if cosines["hardened"].low > cosines["mlp"].high else "not reproduced",
        f"median over {PAIRS} pairs of digits of the mean cos θ: plain {cosines['mlp']}, hardened {cosines['hardened']}; chance 0.10",
    )
    figure = plot(paths)
    return Part(shown(figure, claim, robust), (), (figure,))


def plot(paths: Mapping[str, Mapping]) -> Plot:
    every = range(0, MIDPOINTS, 5)
    times = tuple((k + 0.5) / MIDPOINTS for k in every)
    bands = [
        (name, word, row[key])
        for name, row in paths.items()
        for key, word in (("cosine", "cos θ"), ("margin", "margin / margin at the start"))
    ]
    return Plot(
        "Along the way to the nearest digit of another class",
        "position on the segment (0: the digit, 1: the other one)",
        "cos θ, and margin",
        tuple(
            Curve(f"{word}, {name}", times, *(tuple(q[k] for k in every) for q in (middle, low, high)), style="band")
            for name, word, (low, middle, high) in bands
        ),
        f"Median and quartiles over {PAIRS} pairs. The margin falls only as fast as cos θ lets it.",
        rules=((0.0, "other class wins"),),
    )  # fmt: skip
