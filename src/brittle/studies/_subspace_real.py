"""MNIST and CIFAR-10 as they are (``--full``): exactly empty pixels, principal components, cures and their price."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from brittle.randomness import fold
from brittle.sources.assets import cifar10, mnist
from brittle.studies._medians import Middle, median_of
from brittle.studies._parts import Part
from brittle.studies._study import Claim, Table

TRAINING, TESTED, RUNS = 10_000, 500, 5
ATTACKED = {
    784: 24,
    3072: 6,
}  # by features: changes orthogonal to some of 3,072 dimensions are nearly as many coordinates
ENERGIES = (0.99, 0.95, 0.9)
NETWORKS = ("mnist-mlp", "mnist-mlp-he", "mnist-adam", "mnist-decay", "mnist-cnn", "cifar10-mlp", "cifar10-cnn")
WORDS = {
    "mnist-mlp": "MNIST, 784-200-200-10, gradient descent", "mnist-mlp-he": "the same, first layer 2.45 times as large", "mnist-adam": "the same, Adam",
    "mnist-decay": "the same, weight decay 0.001", "mnist-cnn": "MNIST, two convolutions and a dense layer",
    "cifar10-mlp": "CIFAR-10, 3072-200-200-10", "cifar10-cnn": "CIFAR-10, two convolutions and a dense layer",
}  # fmt: skip


def real(kind: str, run: int, seed: int) -> dict:
    """Train on 10,000 images; shares, distances and surgery (a projected input for convolutions) off the exact span and off principal components."""
    from brittle.cures.projection import projection
    from brittle.cures.surgery import surgery

    source = kind.split("-")[0]
    (x, labels), (test, truth) = (_images(source, s, n) for s, n in (("train", TRAINING), ("test", TESTED)))
    module = _network(kind, x.shape[1:], fold(seed, "real", kind.split("-")[0], run))
    done = _train(kind, module, x, labels, run + seed)
    span, *components = _planes(source, TRAINING)
    found = {"span": span.dimension, **_row("span", done, module, test, truth, seed, span, span.codimension > 0)}
    for energy, plane in zip(ENERGIES, components, strict=True):
        word = f"{100 * energy:g}"
        found |= {f"{word}_dimension": plane.dimension, **_row(word, done, module, test, truth, seed, plane, True)}
        cured = projection(done, plane) if kind.endswith("cnn") else surgery(done, plane)
        after, right = _size(cured, test, truth, seed)
        found |= {f"{word}_after": after, f"{word}_accuracy_after": right}
    found["radius"], found["accuracy"] = _size(done, test, truth, seed)
    return found


def _images(source: str, part: str, count: int) -> tuple[Tensor, Tensor]:
    x, labels = {"mnist": mnist, "cifar10": cifar10}[source](part, count)
    return torch.as_tensor(x), torch.as_tensor(labels)


@lru_cache(maxsize=2)
def _planes(source: str, count: int) -> tuple:
    """The exact span of the training images and their principal components: the same for every cell of a worker, and slow to find in 3,072 dimensions."""
    from brittle.subspace import Subspace

    x, _ = _images(source, "train", count)
    return Subspace.span(x), *(Subspace.pca(x, energy=energy) for energy in ENERGIES)


def _network(kind: str, shape: torch.Size, seed: int) -> nn.Sequential:
    channels, side = shape[0], shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind.endswith("cnn"):
            module = nn.Sequential(
                nn.Conv2d(channels, 16, 4, 2, 1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 4, 2, 1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(32 * (side // 4) ** 2, 10),
            )
        else:
            module = nn.Sequential(
                nn.Flatten(),
                nn.Linear(shape.numel(), 200),
                nn.ReLU(),
                nn.Linear(200, 200),
                nn.ReLU(),
                nn.Linear(200, 10),
            )
    if kind.endswith("he"):
        with torch.no_grad():
            module[1].weight.mul_(2.45)  # type: ignore[union-attr,operator]
    return module


def _train(kind: str, module: nn.Module, x: Tensor, labels: Tensor, seed: int) -> nn.Module:
    from brittle.training import train

    adam = kind.endswith("adam")
    return train(
        module, x, labels, optimiser="adam" if adam else "sgd", rate=1e-3 if adam else 0.1, momentum=0.0, schedule="cosine",
        epochs=12, batch=64, weight_decay=1e-3 if kind.endswith("decay") else 0.0, decoupled=False, seed=seed,
    ).module  # fmt: skip


def _row(
    word: str, done: nn.Module, initial: nn.Module, x: Tensor, labels: Tensor, seed: int, plane, some: bool
) -> dict:
    """Median share and law, and the smallest perturbations inside and orthogonal to the subspace over |x|; nothing where nothing is off it."""
    from brittle.problem import Problem
    from brittle.questions.diagnose import diagnose
    from brittle.region import Ball

    names = ("share", "chance", "at_init", "gain", "ratio", "off", "on")
    if not some:
        return {f"{word}_{n}": None for n in names}
    problem = Problem(done, x, labels, Ball(p=2, radius=1.0))
    right, attacked = (problem.margin() > 0).nonzero()[:, 0], ATTACKED[x[0].numel()]
    found = diagnose(
        problem.take(right), "subspace", subspace=plane, initial=initial, attacked=attacked, seed=seed
    ).columns
    length = x[right[:attacked]].flatten(1).norm(dim=1)
    middle = lambda n: float(found[n].nanmedian()) if n in found else None  # type: ignore[union-attr]
    relative = lambda n: _finite((found[n][:attacked] / length).median())  # type: ignore[index]
    values = ("share", "chance", "share_at_init", "removable_gain", "ratio")
    return {
        f"{word}_{n}": v
        for n, v in zip(names, (*map(middle, values), relative("off_radius"), relative("on_radius")), strict=True)
    }


def _size(network: nn.Module, x: Tensor, labels: Tensor, seed: int) -> tuple[float | None, float]:
    """Median smallest l2 perturbation over |x| of the first examples that are right, and clean accuracy."""
    from brittle.problem import Problem
    from brittle.questions.radius import radius
    from brittle.region import Ball

    problem = Problem(network, x, labels, Ball(p=2, radius=1.0))
    right = (problem.margin() > 0).nonzero()[:, 0]
    few = problem.take(right[: ATTACKED[x[0].numel()]])
    sizes = radius(few, effort="quick", ends="upper", seed=seed).upper / few.inputs["x"].flatten(1).norm(dim=1)
    return _finite(sizes.median()), len(right) / len(problem)


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None


def calls(full: bool, seed: int) -> dict[str, tuple]:
    """With ``full``: five runs of every network."""
    return {f"real-{k}-{run}": (real, k, run, seed) for run in range(RUNS) for k in NETWORKS} if full else {}


def part(found: Mapping[str, dict]) -> Part:
    if not any(k.startswith("real-") for k in found):
        return Part()
    runs = lambda word: [v for k, v in found.items() if k.rsplit("-", 1)[0] == f"real-{word}"]
    middle = lambda word, name: median_of([r.get(name) for r in runs(word)])
    return Part(claims(middle), tables(middle))


def claims(middle: Callable[[str, str], Middle]) -> tuple[Claim, ...]:
    plain, he, adam, decay = ("mnist-mlp", "mnist-mlp-he", "mnist-adam", "mnist-decay")
    ratio = [middle(k, "span_ratio") for k in (plain, he, adam)]
    share = {k: middle(k, "span_share") for k in (plain, he, adam, decay)}
    gains = {k: middle(k, "95_after").value / middle(k, "radius").value for k in NETWORKS}
    most = max(middle(k, "95_share").value for k in NETWORKS)
    below = all(middle(k, "95_share").value < middle(k, "95_chance").value for k in NETWORKS)
    return (
        Claim(
            "MNIST has exactly empty dimensions, and what a trained network reads of them is the noise it was drawn with, under Adam too", "ours, on data the paper did not test",
            "ours" if all(abs(r.value - 1) < 0.03 for r in ratio) else "not reproduced",
            f"10,000 images span {middle(plain, 'span').value:.0f} of 784 dimensions, most of the others pixels that are always 0; measured / predicted off gradient: gradient descent {ratio[0]}, "
            f"larger initialisation {ratio[1]}, Adam {ratio[2]}",
        ),
        Claim(
            "How much of the sensitivity lies off the span depends on the initialisation, on MNIST as on digits", "ours",
            "ours" if share[he].low > share[plain].high > share[decay].value else "only when",
            f"share off the span: {share[plain]} by default, {share[he]} at 2.45 times the initialisation, {share[adam]} with Adam, {share[decay]} with weight decay 0.001; by chance "
            f"{middle(plain, 'span_chance').value:.2f}",
        ),
        Claim(
            "On natural images the low-variance directions carry less than chance of the sensitivity, and cutting them gains little", "ours",
            "ours" if below and max(gains.values()) < 1.6 else "only when",
            f"share off the components with 95 % of the variance at most {most:.2f}; surgery or projection there lengthens the smallest perturbation by "
            + ", ".join(f"{k} {g:.2f}" for k, g in gains.items()),
        ),
    )  # fmt: skip


def tables(middle: Callable[[str, str], Middle]) -> tuple[Table, ...]:
    rows = []
    for k in NETWORKS:
        for word in ("span", *(f"{100 * e:g}" for e in ENERGIES)):
            dimension = middle(k, "span" if word == "span" else f"{word}_dimension")
            cells = (
                _cell(middle(k, f"{word}_{n}")) for n in ("share", "chance", "at_init", "gain", "ratio", "off", "on")
            )
            after = (_cell(middle(k, n)) for n in (f"{word}_after", "radius", f"{word}_accuracy_after", "accuracy"))
            rows.append(
                (
                    WORDS[k],
                    "exact span" if word == "span" else f"{word} % of the variance",
                    _cell(dimension),
                    *cells,
                    *after,
                )
            )
    columns = (
        "network", "subspace", "dimension", "share off", "chance", "at initialisation", "largest gain", "off gradient, measured / predicted", "off distance / |x|",
        "on distance / |x|", "distance after surgery", "distance / |x|", "accuracy after", "clean accuracy",
    )  # fmt: skip
    note = (
        f"Trained on the first {TRAINING:,} images for 12 epochs; medians over {TESTED} test images ({ATTACKED[784]} of MNIST and {ATTACKED[3072]} of CIFAR-10 attacked) and {RUNS} runs [94 % interval]. Convolutions: a projected input "
        "instead of surgery. A dash: nothing is off the subspace, or no law is derived."
    )
    return (Table("MNIST and CIFAR-10 as they are", columns, tuple(rows), note),)


def _cell(middle: Middle) -> str:
    return str(middle) if middle.runs else "–"
