"""Feature compression in figures: ``python benchmarks/compression.py [prediction] [optimum] [--quick]``. Prints Markdown.

prediction   attack-free radius against the best attack, over the passes spent: classes x midpoints, on networks trained here
optimum      the exact optimum of a finite set: time and memory by the number of examples
"""

import argparse
import time
from collections.abc import Callable, Iterator
from math import inf

import torch
from torch import Tensor, nn

import brittle as bt
from brittle import meter
from brittle.partners import find_partners
from brittle.paths import walk
from brittle.sources.digits import digits

COUNT = 100
GRID = ((2, 1), (2, 4), (3, 4), (4, 5), (4, 8), (5, 8), (5, 16), (10, 8), (10, 32))
SIZES = {"digits": (64, 256, 256, 10), "mnist": (784, 200, 200, 10)}


def prediction(quick: bool) -> None:
    """Median, 5-95 % range and rank correlation of prediction / best attack, by network, norm, classes and midpoints."""
    for name, module, x, labels, partners in networks(quick):
        for p in (2, inf):
            problem = bt.Problem(module, x, labels, bt.Ball(p, 1.0, low=0, high=1))
            best = bt.radius(problem, ends="upper", effort="standard" if quick else "thorough").upper
            right = float((best > 0).double().mean())
            print(
                f"\n{name}, {'l2' if p == 2 else 'l-inf'}: {right:.0%} right, best attack in the median {float(best[best > 0].median()):.3g}\n"
            )
            print(
                "| classes x midpoints | forward | backward | s / example | median | 5-95 % | Spearman |\n|---|---|---|---|---|---|---|"
            )
            others = find_partners(problem, partners)
            for classes, midpoints in GRID:
                started = time.process_time()
                with meter.measure() as cost:
                    found = walk(problem, others, classes=classes, midpoints=midpoints)
                took = time.process_time() - started
                good = torch.tensor([s == "ok" for s in found.status]) & best.isfinite()
                ratio = (found.radius / best)[good]
                low, middle, high = torch.quantile(ratio, torch.tensor([0.05, 0.5, 0.95], dtype=ratio.dtype)).tolist()
                row = [f"{classes} x {midpoints}", f"{cost.forward / len(x):.1f}", f"{cost.backward / len(x):.1f}"]
                row += [f"{took / len(x):.1e}", f"{middle:.3f}", f"{low:.2f}-{high:.2f}"]
                print("|", " | ".join([*row, f"{spearman(found.radius[good], best[good]):.3f}"]), "|", flush=True)


def optimum(quick: bool) -> None:
    """bt.optimum on MNIST test examples: seconds of one core, peak memory of the process, the optimum over the half distance."""
    import resource

    from brittle.sources.assets import mnist

    x, labels = mnist("test")
    print("\n| examples | p | s, distances | s, mean and radii | peak GB | half distance | optimum | ratio | gap |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count, p in [(500, 2), (2000, 1), (2000, 2), (2000, inf), *[(10_000, 2)] * (not quick)]:
        started = time.process_time()
        best = bt.optimum(x[:count], labels[:count], p=p)
        measured = time.process_time()
        mean, half = best.mean, float(best.half_distance.mean())
        took = [f"{measured - started:.2f}", f"{time.process_time() - measured:.2f}"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row = [
            f"{count:,}",
            f"{p:g}",
            *took,
            f"{peak:.2f}",
            f"{half:.4g}",
            f"{mean:.4g}",
            f"{mean / half:.3f}",
            f"{best._solved.gap:.1e}",
        ]
        print("|", " | ".join(row), "|", flush=True)


def networks(quick: bool) -> Iterator[tuple[str, nn.Module, Tensor, Tensor, tuple[Tensor, Tensor]]]:
    """(name, module, test inputs, labels, partners): trained with cross-entropy, squared error, and on l2 PGD examples."""
    for data in ("digits",) if quick else ("digits", "mnist"):
        (x, y), (test, labels), radius = load(data)
        for kind in ("cross-entropy", "squared error", "adversarial"):
            module = train(SIZES[data], x, y, kind, radius, 12 if data == "digits" else 4)
            yield f"{data}, {kind}", module, test[:COUNT], labels[:COUNT], (x, y)


def load(data: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], float]:
    """Training examples, test examples, and the l2 radius of adversarial training. MNIST: the first 20,000 to train on."""
    if data == "digits":
        return tuple(digits("train")), tuple(digits("test")), 0.6  # type: ignore[return-value]
    from brittle.sources.assets import mnist

    (x, y), (test, labels) = mnist("train", 20_000), mnist("test", 1_000)
    assert isinstance(x, Tensor) and isinstance(test, Tensor)
    return (x.flatten(1), y), (test.flatten(1), labels), 1.5


def train(sizes: tuple[int, ...], x: Tensor, y: Tensor, kind: str, radius: float, epochs: int) -> nn.Module:
    """A ReLU network, Adam in batches of 64 (128 for more than 10,000 examples)."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(module.parameters(), 2e-3)
    loss: Callable = nn.functional.cross_entropy
    if kind == "squared error":
        loss = lambda z, t: (z - nn.functional.one_hot(t, sizes[-1])).square().sum(1).mean()
    for _ in range(epochs):
        for at in torch.randperm(len(x)).split(64 if len(x) < 10_000 else 128):
            batch = worst(module, x[at], y[at], radius) if kind == "adversarial" else x[at]
            optimiser.zero_grad()
            loss(module(batch), y[at]).backward()
            optimiser.step()
    return module.eval()


def worst(module: nn.Module, x: Tensor, y: Tensor, radius: float, steps: int = 5) -> Tensor:
    """l2 PGD on cross-entropy."""
    change = torch.zeros_like(x)
    for _ in range(steps):
        change.requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(module(x + change), y, reduction="sum"), change)
        change = change.detach() + 0.4 * radius * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
        change = change * (radius / change.norm(dim=1, keepdim=True).clamp_min(radius))
    return (x + change).clamp(0, 1)


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


SECTIONS = {"prediction": prediction, "optimum": optimum}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small data, lower effort")
    given = parser.parse_args()
    for section in given.section or SECTIONS:
        SECTIONS[section](given.quick)
