"""Compression is built during training, and by which loss: linear networks on d Gaussian codewords of d classes."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from brittle.randomness import fold
from brittle.studies._codebooks import codebook
from brittle.studies._compression_geometry import linear_radii
from brittle.studies._medians import Middle, median_of, slope
from brittle.studies._parts import Part, curve, measured, shown, verdict
from brittle.studies._study import Claim, Plot, Table

STEPS = (1, 10, 100, 1000, 10_000, 1_000_000, 1_000_000_000)
DIMENSIONS = (12, 25, 50, 100, 200)
ADAM_STEPS, RATE = 600, 1e-2  # of the run with softmax cross-entropy: training accuracy is 1 well before


def training_time(d: int, run: int, seed: int) -> dict:
    """Median radius / half distance to the nearest codeword, after gradient descent on the squared loss and after softmax cross-entropy."""
    book = codebook(d, seed=fold(seed, "training", run))
    x, labels, best = book.x, book.labels, book.half_distance
    ratio = lambda weights: float((linear_radii(weights, x, labels) / best).median())
    return {"squared": [ratio(descended(x, t)) for t in STEPS], "cross-entropy": ratio(softmax(x, labels))}


def descended(x: Tensor, steps: int) -> Tensor:
    """Weights (d, N) after ``steps`` of gradient descent from zero on ``|x W^T - I|^2 / 2`` with step 1 / sigma_max^2.

    In closed form: with ``x = U diag(s) V^T``, ``W^T = V diag((1 - (1 - s^2/s_max^2)^steps) / s) U^T``; so 10^9 steps cost as much as one.
    """
    u, s, v = torch.linalg.svd(x)
    gain = -torch.expm1(steps * torch.log1p(-((s / s[0]) ** 2))) / s
    return (v.T * gain @ u.T).T


def softmax(x: Tensor, labels: Tensor) -> Tensor:
    """Weights of a linear softmax classifier after Adam on the whole set, from zero."""
    narrow, weights = x.float(), torch.zeros(len(x), x.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=RATE)
    for _ in range(ADAM_STEPS):
        optimiser.zero_grad()
        cross_entropy(narrow @ weights.T, labels).backward()
        optimiser.step()
    return weights.detach().double()


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """20 codebooks for each dimension."""
    dimensions = (*DIMENSIONS, 500) if full else DIMENSIONS
    return {f"training-d{d}-{run}": (training_time, d, run, seed) for d in dimensions for run in range(20)}


def part(found: Mapping[str, dict]) -> Part:
    """The ratio against steps and against the dimension, by loss."""
    dimensions = sorted({int(k.split("-")[1][1:]) for k in found if k.startswith("training-d")})
    runs = {d: [v for k, v in found.items() if k.startswith(f"training-d{d}-")] for d in dimensions}
    squared = {d: [median_of([r["squared"][i] for r in runs[d]]) for i in range(len(STEPS))] for d in dimensions}
    entropy = {d: median_of([r["cross-entropy"] for r in runs[d]]) for d in dimensions}
    told = [
        c for p, claim in zip(plots(squared, entropy), claims(squared, entropy), strict=True) for c in shown(p, claim)
    ]
    return Part(tuple(told), (table(squared, entropy),), plots(squared, entropy))


def claims(squared: Mapping[int, list[Middle]], entropy: Mapping[int, Middle]) -> tuple[Claim, ...]:
    falls = all(a.value >= b.value for d, row in squared.items() if d >= 50 for a, b in zip(row, row[1:], strict=False))
    begins = all(row[0].value > 0.9 for d, row in squared.items() if d >= 50)
    at = squared[100]
    return (
        Claim(
            "Compression is built during training: the longer gradient descent runs on the squared loss, the smaller radius / optimum",
            "ours",
            "ours" if falls and begins else "only when",
            "d = 100, after " + ", ".join(f"{t:,}: {m.value:.3f}" for t, m in zip(STEPS, at, strict=True)) + " steps",
        ),
        Claim(
            "Linear networks trained to fit d codewords of d classes are 1/√d as robust as the optimum",
            "arXiv 2406.16200, Theorem 1, for trained weights",
            verdict(not escapes(squared, entropy), "only when"),
            f"only when the squared loss is driven to zero: exponent of d after 10⁹ steps {exponent(squared):.2f}; after 100 steps "
            f"{exponent(squared, 100):.2f}; with softmax cross-entropy the ratio stays at "
            f"{min(m.value for m in entropy.values()):.2f} to {max(m.value for m in entropy.values()):.2f} for every d",
        ),
    )


def exponent(squared: Mapping[int, list[Middle]], steps: int = STEPS[-1]) -> float:
    """Of d in the ratio after so many steps."""
    return slope(list(squared), [row[STEPS.index(steps)].value for row in squared.values()])


def escapes(squared: Mapping[int, list[Middle]], entropy: Mapping[int, Middle]) -> bool:
    """Whether cross-entropy escapes the fall with d that the squared loss shows at the end of training."""
    return slope(list(entropy), [m.value for m in entropy.values()]) > exponent(squared) / 2


def table(squared: Mapping[int, list[Middle]], entropy: Mapping[int, Middle]) -> Table:
    rows = [(f"squared loss, {t:,} steps", *(str(squared[d][i]) for d in squared)) for i, t in enumerate(STEPS)]
    rows.append((f"softmax cross-entropy, {ADAM_STEPS} Adam steps", *(str(m) for m in entropy.values())))
    rows.append(("reference 1/√d", *(f"{d**-0.5:.3f}" for d in squared)))
    return Table(
        "Radius / optimum of linear networks on d codewords, by loss and training time",
        ("training", *(f"d = {d}" for d in squared)),
        tuple(rows),
        "Median over 20 codebooks [95 % interval] of the median over codewords of exact radius / half distance to the nearest codeword.",
    )


def plots(squared: Mapping[int, list[Middle]], entropy: Mapping[int, Middle]) -> tuple[Plot, ...]:
    dimensions = list(squared)
    return (
        Plot(
            "Compression is built during training (squared loss)",
            "steps of gradient descent",
            "radius / optimum",
            tuple(measured(f"d = {d}", STEPS, squared[d], "band") for d in dimensions if d >= 50),
            "Bands: 95 % intervals of the median over 20 codebooks. One step gives nearly the optimum; interpolation gives the collapse.",
            log_x=True,
            log_y=True,
        ),
        Plot(
            "The loss decides whether there is a law in d",
            "dimension d = number of classes",
            "radius / optimum",
            (
                measured("squared loss, 10⁹ steps", dimensions, [row[-1] for row in squared.values()]),
                measured("squared loss, 100 steps", dimensions, [row[2] for row in squared.values()]),
                measured("softmax cross-entropy", dimensions, list(entropy.values())),
                curve("reference 1/√d", dimensions, [d**-0.5 for d in dimensions]),
            ),
            "The reference is drawn, not asserted: only interpolation with the squared loss falls like it (and faster).",
            log_x=True,
            log_y=True,
        ),
    )
