"""Inputs and weights moving together, in figures: ``python benchmarks/joint.py [table] [cost] [kernels] [--steps 30]``. Prints Markdown.

table    digits, 64-32-32-10 (Adam 3e-3, 80 epochs): attacked and certified accuracy per radius, every example with weights of its own
cost     processor time of the certificate with moving weights over that with still ones, interleaved in one run
kernels  convolutions: how much of the drop remains when a kernel is one for all positions
"""

import argparse
import importlib
import time
from collections.abc import Callable
from functools import partial
from math import inf

import torch
from torch import Tensor, nn

import brittle as bt
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.bounds.product import product
from brittle.problem import Problem

RADII = ((0.01, 0.0), (0.0, 0.002), (0.01, 0.002), (0.02, 0.005), (0.05, 0.01), (0.10, 0.02))
BOUNDS = {
    "product": product, "scalar": partial(product, form="scalar"), "vector": partial(product, form="vector"), "ibp": ibp, "crown": crown,
}  # fmt: skip
COUNT = 100


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits, 1347 to train and 450 to test, stratified: the split of the reference figures."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    values, target = load_digits(return_X_y=True)
    parts = train_test_split(values / 16, target, test_size=450, stratify=target, random_state=0)
    x, held, y, labels = (torch.tensor(part) for part in parts)
    return x.float(), y, held.float(), labels


def trained(x: Tensor, labels: Tensor, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    for _ in range(80):
        for at in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[at]), labels[at]).backward()
            optimizer.step()
    return module.eval()


def joint(module: nn.Module, x: Tensor, labels: Tensor, eps_x: float, eps: float) -> Problem:
    region = {"x": bt.Ball(inf, eps_x, 0, 1)} if eps_x else {}
    region |= {n: bt.Ball(inf, eps) for n, p in module.named_parameters() if p.dim() > 1 and eps}
    return Problem(module, x, labels, region)


def attack(problem: Problem, steps: int, restarts: int = 2) -> Tensor:
    """The least rows (N, R) that targeted sign steps on inputs and weights find, in float64."""
    double, least = problem.double(), problem.double().rows().detach()
    generator = torch.Generator().manual_seed(0)
    draw = lambda v: 2 * torch.rand(v.shape, generator=generator, dtype=torch.float64) - 1
    for row in range(least.shape[1]):
        for _ in range(restarts):
            point = double.project({k: v + problem.region[k].radius * draw(v) for k, v in double.centre.items()})
            for step in range(steps):
                point = {k: v.detach().requires_grad_() for k, v in point.items()}
                rows = double.rows(point)
                least = torch.minimum(least, rows.detach())
                slopes = torch.autograd.grad(rows[:, row].sum(), list(point.values()))
                pace = 1 - step / steps
                ahead = {k: problem.region[k].radius * pace * g.sign() for k, g in zip(point, slopes, strict=True)}
                point = double.project({k: (v - ahead[k]).detach() for k, v in point.items()})
            least = torch.minimum(least, double.rows(point).detach())
    return least


def table(steps: int) -> None:
    x, y, held, labels = split()
    module, held, labels = trained(x, y), held, labels
    clean = float((module(held).argmax(1) == labels).double().mean())
    held, labels = held[:COUNT], labels[:COUNT]
    print(f"\nclean {clean:.3f} on 450; {COUNT} examples, attacked by {steps} steps x 2 restarts x 9 targets\n")
    print("accuracy (median of certified drop / attacked drop over all margins)\n")
    print("| input, weights | attacked |", " | ".join(BOUNDS), "| best per example | mean margin crown |")
    print("|---" * (len(BOUNDS) + 4), "|", sep="")
    for radii in RADII:
        problem = joint(module, held, labels, *radii)
        start, worst = problem.double().rows().detach(), attack(problem, steps)
        certified = {name: bound(problem).rows for name, bound in BOUNDS.items()}
        if any(bool((rows > worst).any()) for rows in certified.values()):
            raise AssertionError(f"a certificate above an attack at {radii}")
        share = lambda rows: float((rows.amin(1) > 0).double().mean())
        gap = lambda rows, w=worst, s=start: float(((s - rows) / (s - w)).median())
        best = share(torch.stack(list(certified.values())).amax(0))
        cells = [f"{share(worst):.2f}", *(f"{share(r):.2f} ({gap(r):.2f})" for r in certified.values()), f"{best:.2f}"]
        print(
            "|",
            f"{radii[0]:g}, {radii[1]:g}",
            "|",
            " | ".join(cells),
            "|",
            f"{float(certified['crown'].mean()):.3f} |",
            flush=True,
        )


def median_seconds(functions: list[Callable[[], object]], repeats: int = 9) -> list[float]:
    """Processor seconds of each, interleaved so that a busy machine slows all alike."""
    took = [[] for _ in functions]
    for _ in range(repeats + 1):
        for at, function in enumerate(functions):
            started = time.process_time()
            function()
            took[at].append(time.process_time() - started)
    return [sorted(t[1:])[repeats // 2] for t in took]


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    mlp = lambda *sizes: nn.Sequential(
        *[m for a, b in zip(sizes, sizes[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    )
    cnn = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    return {
        "64-32-32-10": (mlp(64, 32, 32, 10), torch.rand(COUNT, 64)),
        "784-128-64-32-10": (mlp(784, 128, 64, 32, 10), torch.rand(COUNT, 784)),
        "784-256-256-10": (mlp(784, 256, 256, 10), torch.rand(COUNT, 784)),
        "convolutions 8, 16 on 8 x 8": (cnn, torch.rand(COUNT, 1, 8, 8)),
    }


def cost(_: int) -> None:
    print(f"\nprocessor ms for {COUNT} examples, all nine margins\n")
    print(
        "| network | ibp | joint ibp | crown | joint crown | ratio | ratio, element-wise relative |\n|---|---|---|---|---|---|---|"
    )
    for name, (module, x) in networks().items():
        labels = module(x).argmax(1)
        still, moving = joint(module, x, labels, 0.01, 0.0), joint(module, x, labels, 0.01, 0.002)
        each = {
            leaf: ball if leaf == "x" else bt.Ball(inf, 0.02, relative="element")
            for leaf, ball in moving.region.items()
        }
        relative = moving.within(each)
        runs = [
            partial(f, p) for f, p in ((ibp, still), (ibp, moving), (crown, still), (crown, moving), (crown, relative))
        ]
        low, joint_low, one, two, three = median_seconds(runs, 1 if x.shape[1] > 100 else 5)  # type: ignore[arg-type]
        cells = [f"{1e3 * t:.1f}" for t in (low, joint_low, one, two)] + [f"{two / one:.2f}", f"{three / one:.2f}"]
        print("|", name, "|", " | ".join(cells), "|", flush=True)


def kernels(_: int) -> None:
    print(
        "\nmedian drop of margins, weights of the convolutions alone, l-inf 0.002: kernel shared / free at every position\n"
    )
    print("| network | attacked | shared | free | shared / free | ms shared | ms free |\n|---|---|---|---|---|---|---|")
    module_of = importlib.import_module("brittle.bounds.crown")
    pull_back = module_of.pull_back
    for name, options in {
        "stride 1": {"padding": 1},
        "stride 2": {"stride": 2, "padding": 1},
        "dilation 2": {"dilation": 2, "padding": 2},
    }.items():
        torch.manual_seed(1)
        module = nn.Sequential(
            nn.Conv2d(1, 6, 3, **options),  # type: ignore[arg-type]
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, **options),  # type: ignore[arg-type]
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(10),
        )
        x = torch.rand(20, 1, 8, 8)
        module(x)
        problem = Problem(
            module.eval(), x, module(x).argmax(1), {n: bt.Ball(inf, 0.002) for n in ("0.weight", "2.weight")}
        )
        clean, worst = problem.double().rows().detach(), attack(problem, 10, 1)
        (with_,), shared = median_seconds([lambda p=problem: crown(p)], 3), crown(problem).rows
        setattr(module_of, "pull_back", lambda *a, sharing=False: pull_back(*a))  # noqa: B010
        (without,), free = median_seconds([lambda p=problem: crown(p)], 3), crown(problem).rows
        setattr(module_of, "pull_back", pull_back)  # noqa: B010
        drop = lambda rows, c=clean: float((c - rows).median())
        ratio = float(((clean - shared) / (clean - free)).median())
        cells = [
            *(f"{drop(r):.4f}" for r in (worst, shared, free)),
            f"{ratio:.2f}",
            f"{1e3 * with_:.0f}",
            f"{1e3 * without:.0f}",
        ]
        print("|", name, "|", " | ".join(cells), "|", flush=True)


def main() -> None:
    parts = {"table": table, "cost": cost, "kernels": kernels}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="which parts; default all")
    parser.add_argument("--steps", type=int, default=30, help="of the joint attack")
    given = parser.parse_args()
    for name in given.parts or parts:
        parts[name](given.steps)


if __name__ == "__main__":
    main()
