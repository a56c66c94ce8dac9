"""Trained ReLU networks on the two sets: one codeword per class, and random labels. Attacked radii against the exact optimum."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from brittle.problem import Problem
from brittle.questions.optimum import optimum
from brittle.questions.radius import radius
from brittle.randomness import fold
from brittle.region import Ball
from brittle.studies._codebooks import codebook, random_labels
from brittle.studies._medians import Middle, median_of, slope
from brittle.studies._parts import Part, curve, measured, shown, verdict
from brittle.studies._study import Claim, Plot, Table
from brittle.training import train

WIDTH, EPOCHS, RATE = 512, 500, 1e-3
DIMENSIONS, RUNS = (12, 50, 100), 5
KINDS = {
    "codebook, cross-entropy": ("codebook", "cross-entropy", 0.0),
    "codebook, squared loss": ("codebook", "squared", 0.0),
    "random labels, cross-entropy": ("labels", "cross-entropy", 0.0),
    "random labels, cross-entropy and noise": ("labels", "cross-entropy", 0.5),
}


def relu_network(
    kind: str, d: int, loss: str, noise: float, run: int, width: int, epochs: int, seed: int
) -> dict[str, float]:
    """Train one network of two hidden layers on d points in d dimensions and measure its mean l2 radius against the optimum.

    kind "codebook" (d classes) or "labels" (two, random); noise: standard deviation of Gaussian noise on the inputs, for that much as much weight
    as the clean loss. ratio = mean attacked radius (an upper end; 0 where misclassified) / optimum of the finite set.
    """
    made = (
        codebook(d, seed=fold(seed, "relu", run))
        if kind == "codebook"
        else random_labels(d, d, seed=fold(seed, "relu", run))
    )
    x, labels = made.x.float(), made.labels
    penalties = {"noise": {"weight": 1.0, "sigma": noise}} if noise else None
    trained = train(
        network(d, int(labels.max()) + 1, width, fold(seed, "weights", run)), x, labels, loss=loss, penalties=penalties, epochs=epochs,
        batch=None, rate=RATE, schedule="constant", seed=fold(seed, "relu training", run),
    )  # fmt: skip
    found = radius(
        Problem(trained.module, x, labels, Ball(p=2, radius=1.0)), ends="upper", effort="standard", seed=seed
    )
    best = optimum(x, labels).mean
    return {
        "ratio": float(found.upper.mean()) / best,
        "optimum": best,
        "accuracy": _accuracy(trained.module, x, labels),
    }


def network(inputs: int, outputs: int, width: int, seed: int) -> nn.Module:
    """inputs-width-width-outputs with ReLU, torch's own initialisation drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        )


def _accuracy(module: nn.Module, x: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((module(x).argmax(1) == labels).double().mean())


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """Five networks for every set, loss and dimension."""
    dimensions = (*DIMENSIONS, 200) if full else DIMENSIONS
    return {
        f"relu-{k}-d{d}-{run}": (relu_network, kind, d, loss, noise, run, WIDTH, EPOCHS, seed)
        for k, (kind, loss, noise) in enumerate(KINDS.values())
        for d in dimensions
        for run in range(RUNS)
    }


def part(found: Mapping[str, dict]) -> Part:
    """What of the collapse is left in trained ReLU networks."""
    dimensions = sorted({int(k.split("-")[2][1:]) for k in found if k.startswith("relu-")})
    rows = {
        name: {d: median_of([found[f"relu-{k}-d{d}-{run}"]["ratio"] for run in range(RUNS)]) for d in dimensions}
        for k, name in enumerate(KINDS)
    }
    figure = plot(rows, dimensions)
    return Part(shown(figure, *claims(rows)), (table(rows, dimensions),), (figure,))


def claims(rows: Mapping[str, Mapping[int, Middle]]) -> tuple[Claim, ...]:
    exponent = {name: slope(list(row), [m.value for m in row.values()]) for name, row in rows.items()}
    ends = lambda name: (
        f"{[m.value for m in rows[name].values()][0]:.2f} → {[m.value for m in rows[name].values()][-1]:.2f}"
    )
    first, second, third, fourth = rows
    books = max(abs(exponent[n]) for n in (first, second))
    span = f"(d = {min(rows[first])} → {max(rows[first])})"
    return (
        Claim(
            "Trained non-linear networks with one class per codeword are 1/√d as robust as the optimum",
            "arXiv 2406.16200, the abstract's reading of Theorem 1 for trained networks",
            verdict(books > 0.4, "not reproduced"),
            f"radius / optimum {span}: cross-entropy {ends(first)}, squared loss {ends(second)}; exponents of d {exponent[first]:.2f} and "
            f"{exponent[second]:.2f}: a decline, no collapse within {EPOCHS} steps",
        ),
        Claim(
            "With random labels trained ReLU networks do lose against the optimum as d grows",
            "ours; agrees with the bias that Vardi, Yehudai and Shamir 2022 (arXiv 2202.04347) prove for gradient flow",
            "ours" if exponent[third] < -0.2 else "not reproduced",
            f"radius / optimum {span}, d points in d dimensions: {ends(third)}, exponent {exponent[third]:.2f}; with Gaussian noise in training "
            f"{ends(fourth)}, exponent {exponent[fourth]:.2f}",
        ),
    )  # fmt: skip


def table(rows: Mapping[str, Mapping[int, Middle]], dimensions: list[int]) -> Table:
    reference = ("reference 1/√d", *(f"{d**-0.5:.3f}" for d in dimensions))
    return Table(
        "Trained ReLU networks: mean attacked radius / optimum of the finite set",
        ("set and loss", *(f"d = {d}" for d in dimensions)),
        (*((name, *(str(m) for m in row.values())) for name, row in rows.items()), reference),
        f"d points in d dimensions, two hidden layers of {WIDTH}, {EPOCHS} Adam steps on the whole set. Median of {RUNS} networks [smallest, largest: "
        "covers the median with 94 %]. Attacks give upper ends: the truth may be smaller.",
    )


def plot(rows: Mapping[str, Mapping[int, Middle]], dimensions: list[int]) -> Plot:
    return Plot(
        "Trained ReLU networks: no law in 1/√d on codewords, a decline on random labels",
        "dimension d = number of points",
        "radius / optimum",
        (
            *(measured(name, dimensions, list(row.values())) for name, row in rows.items()),
            curve("reference 1/√d", dimensions, [d**-0.5 for d in dimensions]),
        ),
        f"Medians of {RUNS} networks with the smallest and largest.",
        log_x=True,
        log_y=True,
    )
