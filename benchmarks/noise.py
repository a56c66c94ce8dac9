"""How much Gaussian noise every bound certifies, as a share of what the network really tolerates. Prints Markdown.

    python benchmarks/noise.py                 digits, the embedded 64-100-100-10
    python benchmarks/noise.py mnist fashion   784-128-128-10 trained here in a minute; needs scripts/fetch_assets.py
    python benchmarks/noise.py depth           64-64-64-64-10 and 64-(48 five times)-10, trained here on digits
    --quick                                    three inputs instead of ten

Per input, by bisection on a logarithmic axis: the largest sigma at which a method proves p <= p0, over the sigma at which p is
p0 by importance sampling (16,000 draws at the end). p need not grow with sigma: both are crossings that were found, not proved to be single.
Inputs: the first correctly classified ones of the test set. Medians, and the least and the largest.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from math import exp, log
from pathlib import Path

import torch
from torch import Tensor, nn

import brittle as bt
from brittle.noise.cell import cell
from brittle.noise.covering import covering
from brittle.noise.importance_sampling import importance_sampling
from brittle.noise.isoperimetry import isoperimetry
from brittle.noise.probabilistic_crown import probabilistic_crown
from brittle.noise.proven import proven
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded

INPUTS, TARGETS, STEPS = 3 if "--quick" in sys.argv else 10, (1e-3, 1e-6), 12
LOW, HIGH = 1e-5, 2.0  # sigma, in the units of a pixel


def certify(problem: bt.Problem) -> Tensor:
    from brittle.bounds.crown import crown

    return crown(problem).rows.amin(1)


METHODS: dict[str, Callable] = {
    "A1 closed form in N and n (paper)": partial(cell, distances="nearest"),
    "A each unit's own distance": cell,
    "worst-case CROWN l2 + chi tail": partial(covering, certify=certify, steps=tuple(10.0**-k for k in range(1, 15))),
    "B PROVEN": proven,
    "D probabilistic CROWN": probabilistic_crown,
    "G isoperimetry from 2,000 draws, 99.9 %": isoperimetry,
}
BETTER = ("D probabilistic CROWN", "G isoperimetry from 2,000 draws, 99.9 %")


def crossing(judge: Callable[[float], bool], low: float = LOW, high: float = HIGH) -> float:
    """The largest sigma found, geometrically, at which ``judge`` says yes."""
    for _ in range(STEPS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if judge(middle) else (low, middle)
    return low


def true_sigma(problem: bt.Problem, target: float) -> float:
    """Where the estimate of importance sampling crosses the target; plain draws decide where it refuses."""

    def below(sigma: float, samples: int = 1000) -> bool:
        estimate = float(importance_sampling(problem, {"x": bt.Gaussian(sigma)}, samples=samples).estimate)
        if estimate != estimate:  # refused: too few or too many failures for a tilt
            estimate = float(bt.probability(problem, bt.Gaussian(sigma), effort="quick", bounds=[], estimators=["monte_carlo"]).estimate)  # fmt: skip
        return estimate <= target

    rough = crossing(below, 1e-3)
    return crossing(partial(below, samples=16_000), rough * 0.9, rough * 1.1)


def table(name: str, module: nn.Module, x: Tensor, labels: Tensor) -> None:
    with torch.no_grad():
        right = (module(x).argmax(1) == labels).nonzero()[:, 0]
    accuracy, right = len(right) / len(x), right[:INPUTS]
    problems = [bt.Problem(module, x[i : i + 1], labels[i : i + 1]) for i in right.tolist()]
    truth = {target: [true_sigma(problem, target) for problem in problems] for target in TARGETS}
    said = ", ".join(f"{sorted(truth[t])[len(problems) // 2]:.3f} at {t:g}" for t in TARGETS)
    print(f"\n### {name}\n\nAccuracy {accuracy:.3f}; {len(problems)} inputs; true sigma, median: {said}.\n")
    print(
        "| method | "
        + " | ".join(f"p <= {t:g}" for t in TARGETS)
        + " | s per bound |\n|---|"
        + "---|" * (len(TARGETS) + 1)
    )
    kept: dict[tuple[str, float], list[float]] = {}
    for method, function in METHODS.items():
        cells, spent, calls = [], 0.0, 0
        for target in TARGETS:
            ratios = []
            for problem, sigma in zip(problems, truth[target], strict=True):
                started = time.process_time()
                proves = lambda s, f=function, p=problem, t=target: float(f(p, {"x": bt.Gaussian(s)}).upper) <= t
                ratios.append(crossing(proves, LOW, sigma * 1.5) / sigma)
                spent, calls = spent + time.process_time() - started, calls + STEPS
            cells.append(summary(ratios))
            kept[method, target] = ratios
        print(f"| {method} | {' | '.join(cells)} | {spent / calls:.3f} |", flush=True)
    both = [summary([max(pair) for pair in zip(*(kept[m, t] for m in BETTER), strict=True)]) for t in TARGETS]
    print(f"| the better of D and G | {' | '.join(both)} | |", flush=True)


def summary(ratios: list[float]) -> str:
    middle = exp(torch.tensor([log(r) for r in ratios]).quantile(0.5))
    return f"{middle:.3g} ({min(ratios):.3g} to {max(ratios):.3g})"


def trained(widths: tuple[int, ...], x: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Plain cross-entropy, Adam, no regularisation of any kind."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    for _ in range(epochs):
        for at in torch.randperm(len(x)).split(128):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[at]), labels[at]).backward()
            optimiser.step()
    return module.eval()


def images(loader: str) -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import assets

    read = getattr(assets, loader)
    (x, y), (tx, ty) = ((v.flatten(1).float(), w) for v, w in (read("train"), read("test")))
    table(f"784-128-128-10, {loader}", trained((784, 128, 128, 10), x, y, 5), tx, ty)


def depth() -> None:
    train, test = digits("train"), digits("test")
    for widths in ((64, 64, 64, 64, 10), (64, *[48] * 5, 10)):
        name = "-".join(map(str, widths)) + ", digits"
        table(name, trained(widths, train.x, train.labels, 100), test.x, test.labels)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for section in [a for a in sys.argv[1:] if a != "--quick"] or ["digits"]:
        if section == "digits":
            table("64-100-100-10, digits (embedded mlp)", embedded("mlp"), *digits("test"))
        elif section == "depth":
            depth()
        else:
            images({"mnist": "mnist", "fashion": "fashion_mnist"}[section])
