"""The paper's linear experiment: which direction does a trained linear network look at, and how much of the class feature lies in it?

Data of Theorem 5: x = A z with A (d, d) standard Gaussian, z in {-1, 1}^d, label z_d. With A = QR the only direction that carries the
label exactly is the last row of A^-1, proportional to the last column of Q; the class feature is a_d, the last column of A.
"""

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import softplus

from brittle.randomness import fold, generator
from brittle.studies._codebooks import expected_compression, exponential_points
from brittle.studies._medians import mean_of, median_of
from brittle.studies._parts import Part, curve, measured, shown, verdict
from brittle.studies._study import Claim, Plot, Table

PAPER = "arXiv 2406.16200"
DIMENSIONS = range(7, 18)
# the width is the paper's; its optimiser, batch and number of steps are not known to us
HIDDEN, BATCH, RATE = 3000, 256, 3e-3
PUBLISHED = {"phi": 0.3280, "cos θ₁": 0.3645, "mean difference": 0.0367}  # means of the paper's 18 valid runs
EXAMPLE = {"phi": 0.1480, "cos θ₁": 0.1665, "cos θ₂": 0.9942}  # its Experiment 9


def steps(d: int) -> int:
    """Adam steps: the direction that carries the label is that of a small singular value of A, the smaller the larger d."""
    return 600 if d <= 12 else 1500


def signs(d: int) -> Tensor:
    """All points of {-1, 1}^d: (2^d, d) float64."""
    return ((torch.arange(2**d)[:, None] >> torch.arange(d)) % 2 * 2 - 1).double()


def probe(d: int, run: int, loss: str, hidden: int, updates: int, seed: int) -> dict[str, float]:
    """Train one linear network with a hidden layer on x = A z and compare what it looks at with a_d and with the last row of A^-1.

    loss "squared" or "logistic" on the labels -1, 1; Adam, batches drawn afresh from the 2^d points. phi = |R_dd| / |a_d|;
    cosine_1, cosine_2: |cos| of the trained end-to-end vector with a_d and with the last row of A^-1; accuracy over all points.
    """
    random = generator(seed, "probe training", d, run)
    mix = exponential_points(d, 2, seed=fold(seed, "probe", run)).matrix
    uniform = lambda *shape: (2 * torch.rand(*shape, generator=random) - 1) / sqrt(shape[-1])
    hidden_layer, readout = uniform(hidden, d).requires_grad_(), uniform(1, hidden).requires_grad_()
    optimiser = torch.optim.Adam([hidden_layer, readout], lr=RATE)
    narrow = mix.float()
    for _ in range(updates):
        z = torch.randint(0, 2, (BATCH, d), generator=random).float() * 2 - 1
        score, label = (z @ narrow.T @ hidden_layer.T @ readout.T)[:, 0], z[:, -1]
        error = (score - label).square() if loss == "squared" else softplus(-label * score)
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
    looked_at = (readout.detach().double() @ hidden_layer.detach().double())[0]
    return {**cosines(mix, looked_at), "accuracy": accuracy(mix, looked_at)}


def cosines(mix: Tensor, looked_at: Tensor) -> dict[str, float]:
    """phi, and the two cosines of a direction (d,) with the class feature and with the exact probe."""
    feature, exact = mix[:, -1], torch.linalg.inv(mix)[-1]
    cosine = lambda u, v: float((u @ v).abs() / (u.norm() * v.norm()))
    return {"phi": cosine(exact, feature), "cosine_1": cosine(looked_at, feature), "cosine_2": cosine(looked_at, exact)}


def accuracy(mix: Tensor, looked_at: Tensor) -> float:
    """Share of all 2^d points that the sign of the score labels correctly."""
    points = signs(len(mix))
    return float(((points @ (mix.T @ looked_at)) * points[:, -1] > 0).double().mean())


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """20 runs at d = 12 with either loss (100 with --full), and 10 (50) of each other dimension with the squared loss."""
    at12, others = (100, 50) if full else (20, 10)
    at = lambda d, loss: {
        f"probe-{loss}-d{d}-{run}": (probe, d, run, loss, HIDDEN if d == 12 else HIDDEN // 3, steps(d), seed)
        for run in range(at12 if d == 12 else others)
    }
    cells = {k: v for d in DIMENSIONS for k, v in at(d, "squared").items()}
    return cells | at(12, "logistic")


def part(found: Mapping[str, dict]) -> Part:
    """The table beside the paper's numbers, the sweep over d, and what another loss does."""
    squared = {d: valid(found, "squared", d) for d in DIMENSIONS}
    logistic = valid(found, "logistic", 12)
    sweep, by_loss = plots(squared, logistic)
    match, over_d, loss = claims(squared[12], logistic, squared)
    told = (*shown(by_loss, match), *shown(sweep, over_d), *shown(by_loss, loss))
    return Part(told, (table(squared[12], logistic),), (by_loss, sweep))


def valid(found: Mapping[str, dict], loss: str, d: int) -> list[dict]:
    """The runs that label all points correctly: the paper keeps only those."""
    runs = [v for k, v in found.items() if k.startswith(f"probe-{loss}-d{d}-")]
    return [r for r in runs if r["accuracy"] == 1]


def claims(at12: list[dict], logistic: list[dict], squared: Mapping[int, list[dict]]) -> tuple[Claim, ...]:
    column = lambda runs, name: mean_of([r[name] for r in runs])
    phi, first, second = (column(at12, n) for n in ("phi", "cosine_1", "cosine_2"))
    other_phi, other = column(logistic, "phi"), column(logistic, "cosine_1")
    matches = abs(first.value - phi.value) < 0.05 and second.value > 0.98
    gaps = {
        d: abs(mean_of([r["cosine_1"] for r in runs]).value - column(runs, "phi").value) for d, runs in squared.items()
    }
    return (
        Claim(
            "A trained linear network looks along the one direction that carries the label (cos θ₂ = 1), so the perturbation that flips it is "
            "|cos θ₁| = φ of the class feature",
            f"{PAPER}, linear experiment, d = 12",
            verdict(matches, "only when"),
            f"squared loss, {len(at12)} runs with accuracy 1: mean φ {phi}, |cos θ₁| {first}, |cos θ₂| {second}; the paper's 18 runs: "
            f"{PUBLISHED['phi']}, {PUBLISHED['cos θ₁']}. E φ = {expected_compression(12):.3f} without selection by accuracy.",
        ),
        Claim(
            "The theoretical and the measured compression coincide for d = 7 … 17",
            f"{PAPER}, linear experiment, figure over d",
            verdict(max(gaps.values()) < 0.05, "only when"),
            f"squared loss: largest difference of the means {max(gaps.values()):.3f} (at d = {max(gaps, key=gaps.__getitem__)}); only one row of the "
            "published figure is known to us",
        ),
        Claim(
            "The match is a property of squared-loss interpolation: with the logistic loss the same network is less compressed than φ predicts",
            "ours",
            "only when" if other.value > 1.5 * other_phi.value else "ours",
            f"logistic loss, d = 12, {len(logistic)} runs with accuracy 1: mean φ {other_phi}, |cos θ₁| {other}, "
            f"{other.value / other_phi.value:.1f} times as large",
        ),
    )


def table(at12: list[dict], logistic: list[dict]) -> Table:
    mean = lambda runs, name: f"{mean_of([r[name] for r in runs]).value:.4f}"
    difference = lambda runs: f"{mean_of([abs(r['phi'] - r['cosine_1']) for r in runs]).value:.4f}"
    return Table(
        "Linear network, d = 12: published and measured",
        ("quantity", "paper, Experiment 9", "paper, mean of 18 runs", f"ours, squared loss, mean of {len(at12)}", f"ours, logistic loss, mean of {len(logistic)}"),
        (
            ("φ = |R_dd| / ‖a_d‖", f"{EXAMPLE['phi']:.4f}", f"{PUBLISHED['phi']:.4f}", mean(at12, "phi"), mean(logistic, "phi")),
            ("|cos θ₁|, trained probe and a_d", f"{EXAMPLE['cos θ₁']:.4f}", f"{PUBLISHED['cos θ₁']:.4f}", mean(at12, "cosine_1"), mean(logistic, "cosine_1")),
            ("|cos θ₂|, trained probe and last row of A⁻¹", f"{EXAMPLE['cos θ₂']:.4f}", None, mean(at12, "cosine_2"), mean(logistic, "cosine_2")),
            ("mean of |φ − |cos θ₁||", None, f"{PUBLISHED['mean difference']:.4f}", difference(at12), difference(logistic)),
        ),
        f"One hidden layer of {HIDDEN} linear units, {steps(12)} Adam steps on batches of {BATCH}; runs count only where all 4,096 points are labelled "
        f"correctly. E φ = {expected_compression(12):.4f}: the paper's 0.328 lies above it, which points to selection by accuracy or to few runs.",
    )  # fmt: skip


def plots(squared: Mapping[int, list[dict]], logistic: list[dict]) -> tuple[Plot, ...]:
    dimensions = list(squared)
    means = lambda name: [mean_of([r[name] for r in squared[d]]) for d in dimensions]
    pairs = lambda runs: ([r["phi"] for r in runs], [median_of([r["cosine_1"]]) for r in runs])
    return (
        Plot(
            "Linear networks on x = A z: theory and measurement over d",
            "dimension d",
            "share of the class feature",
            (
                measured("φ of the same matrices (theory)", dimensions, means("phi")),
                measured("|cos θ₁| of the trained networks", [d + 0.15 for d in dimensions], means("cosine_1")),
                curve("E φ", dimensions, [expected_compression(d) for d in dimensions]),
            ),
            "Means over the runs with accuracy 1, 1.96 standard errors either side; squared loss.",
        ),
        Plot(
            "Linear networks on x = A z run by run, with two losses (d = 12)",
            "φ of the run",
            "|cos θ₁| of the run",
            (
                measured("squared loss", *pairs(squared[12])),
                measured("logistic loss", *pairs(logistic)),
                curve("|cos θ₁| = φ", (0.0, 0.8), (0.0, 0.8)),
            ),
            "On the line: exactly as compressed as the theory says. With the logistic loss training stops caring once points are right.",
        ),
    )
