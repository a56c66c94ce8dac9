"""Estimators of failure probabilities: passes, errors, coverage, soundness, processor time; prints Markdown.

    python benchmarks/noise_estimators.py [--quick] [half_spaces] [network] [black_box] [batch] [brackets] [soundness] [coverage]

Passes are forward-pass equivalents: a forward pass counts 1, a gradient (one forward and one backward) 3. The network is 784-128-128-10,
trained here on MNIST in half a minute (scripts/fetch_assets.py), or without MNIST the embedded 64-100-100-10. ``--quick`` asks fewer
inputs and seeds of the same questions.
"""

import sys
import time
from collections.abc import Callable
from functools import cache

import torch
from noise import trained
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

import brittle as bt
from brittle.noise.importance_sampling import importance_sampling
from brittle.noise.line_sampling import line_sampling
from brittle.noise.monte_carlo import monte_carlo
from brittle.noise.probabilistic_crown import probabilistic_crown
from brittle.noise.proven import proven
from brittle.noise.sequential import sequential
from brittle.noise.splitting import splitting
from brittle.sources import assets
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded

QUICK = "--quick" in sys.argv
TARGETS = (1e-3, 1e-6, 1e-9, 1e-12)


def equivalents(bracket: bt.Bracket) -> float:
    return bracket.cost.forward + 2 * bracket.cost.backward


@cache
def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Module, test inputs and labels by name, the one to report on last."""
    small = digits("test")
    found = {"64-100-100-10, digits": (embedded("mlp"), small.x, small.labels)}
    try:
        train, test = assets.mnist("train"), assets.mnist("test")
    except (FileNotFoundError, bt.InputError):
        return found
    flat = lambda data: data.x.flatten(1).float()
    module = trained((784, 128, 128, 10), flat(train), train.labels, 5)
    return found | {"784-128-128-10, MNIST": (module, flat(test), test.labels)}


def question(count: int, name: str | None = None) -> bt.Problem:
    """The first correctly classified test inputs of a network, by default of the largest one."""
    module, x, labels = networks()[name or list(networks())[-1]]
    with torch.no_grad():
        right = (module(x[: 3 * count + 20]).argmax(1) == labels[: 3 * count + 20]).nonzero()[:count, 0]
    return bt.Problem(module, x[right], labels[right])


def level(one: bt.Problem, target: float) -> bt.Gaussian:
    """The Gaussian noise at which the estimate for one example crosses ``target``: bisection on the logarithm of sigma."""
    low, high = 0.01, 1.0
    for _ in range(14):
        law = bt.Gaussian((low * high) ** 0.5)
        value = float(importance_sampling(one, {"x": law}, samples=2000, lines=0).estimate)
        if value != value:  # refused: so frequent that plain draws know better, or far too rare
            value = float(monte_carlo(one, {"x": law}, draws=500).estimate)
        low, high = (law.sigma, high) if value < target else (low, law.sigma)
    return bt.Gaussian((low * high) ** 0.5)


def half_spaces() -> None:
    """Root-mean-square relative error on half-spaces, where p is known; 500 draws, no check by lines."""
    print("\n| p | n | passes | error | claimed | Monte Carlo / this |\n|---|---|---|---|---|---|")
    for n in (64, 784):
        for p in (1e-3, 1e-6, 1e-9, 1e-12):
            module = nn.Linear(n, 1).double()
            with torch.no_grad():
                module.weight.copy_(torch.eye(n)[:1]), module.bias.fill_(-float(ndtri(p)))
            problem = bt.Problem(module, torch.zeros(50, n).double(), torch.ones(50).long())
            answer = importance_sampling(problem, {"x": bt.Gaussian(1.0)}, samples=500, lines=0)
            error = float((answer.estimate / p - 1).square().mean().sqrt())
            claimed = float(answer.diagnostics["relative_error"].median())
            ratio = (1 - p) / (p * error**2) / equivalents(answer)
            print(f"| {p:.0e} | {n} | {equivalents(answer):.0f} | {error:.1%} | {claimed:.1%} | {ratio:.1e} |")


def network() -> None:
    """Estimates on the network over inputs and seeds, search and checks included. Error: root mean square of log(estimate / truth), truth from
    100,000 draws; median over inputs. FORM: log(Phi(-beta) / truth), the worst input. Last column: Monte Carlo's passes over this method's, at equal error."""
    inputs, seeds = (3, 8) if QUICK else (10, 20)
    print(f"\n{list(networks())[-1]}, {inputs} inputs, {seeds} seeds\n")
    print(
        "| p | method | passes | error | bias | refused | passes to 10 % | FORM | Monte Carlo / this |\n"
        + "|---" * 9
        + "|"
    )
    each = [question(inputs).take(torch.tensor([i])) for i in range(inputs)]
    for target in TARGETS[1:] if QUICK else TARGETS:
        laws = [{"x": level(one, target)} for one in each]
        truth = [
            importance_sampling(one, law, seed=99, samples=100_000, lines=0)
            for one, law in zip(each, laws, strict=True)
        ]
        form = [float(torch.special.log_ndtr(-t.diagnostics["design_distance"]) - t.estimate.log()) for t in truth]
        for method in (importance_sampling, line_sampling):
            found = [[method(one, law, seed=s) for s in range(seeds)] for one, law in zip(each, laws, strict=True)]
            off = [
                torch.cat([a.estimate for a in answers]).log() - float(t.estimate.log())
                for answers, t in zip(found, truth, strict=True)
            ]
            error = float(torch.stack([o.square().nanmean().sqrt() for o in off]).nanmedian())
            bias = float(torch.stack([o.exp().nanmean() - 1 for o in off]).nanmedian())
            passes = float(torch.tensor([equivalents(a[0]) for a in found]).median())
            refused = float(torch.stack([o.isnan().double().mean() for o in off]).mean())
            print(
                f"| {target:.0e} | {method.__name__} | {passes:.0f} | {error:.1%} | {bias:+.1%} | {refused:.0%} | {passes * (error / 0.1) ** 2:.0f} "
                f"| {max(form, key=abs):+.2f} | {(1 - target) / (target * error**2 * passes):.1e} |",
                flush=True,
            )


def black_box() -> None:
    """Splitting at p = 1e-6, without gradients: its passes scaled to an error of 10 %, over those of importance sampling."""
    print(
        "\n| input | passes | claimed error | estimate / truth | passes to 10 % | over importance sampling |\n"
        + "|---" * 6
        + "|"
    )
    for i in range(1 if QUICK else 3):
        one = question(4).take(torch.tensor([i]))
        law = {"x": level(one, 1e-6)}
        truth = importance_sampling(one, law, seed=99, samples=30_000, lines=0)
        leaning, blind = importance_sampling(one, law), splitting(one, law)
        error = float(blind.diagnostics["relative_error"])
        needed = equivalents(blind) * (error / 0.1) ** 2
        own = equivalents(leaning) * (float(leaning.diagnostics["relative_error"]) / 0.1) ** 2
        print(
            f"| {i} | {equivalents(blind):.0f} | {error:.0%} | {float(blind.estimate / truth.estimate):.2f} | {needed:.0f} | {needed / own:.0f} |",
            flush=True,
        )


def batch() -> None:
    """Importance sampling with search and check, processor milliseconds per input: 100 inputs at once, one by one, and the floor: as many bare
    forward passes of the module in batches of 1,000, and as many normal numbers."""
    print("\n| network | at once | one by one | ratio | floor | refused |\n|---|---|---|---|---|---|")
    for name, sigma in zip(networks(), (0.08, 0.12), strict=False):
        problem, laws, single = question(100, name), {"x": bt.Gaussian(sigma)}, 20 if QUICK else 100
        importance_sampling(problem.take(torch.arange(2)), laws)
        answer, together = _timed(lambda p=problem, laws=laws: importance_sampling(p, laws), 100)
        ask = lambda p=problem, laws=laws, n=single: [
            importance_sampling(p.take(torch.tensor([i])), laws) for i in range(n)
        ]
        apart = _timed(ask, single)[1]
        module, size = networks()[name][0], problem.x.shape[1]

        def bare(module: nn.Module = module, size: int = size) -> None:
            with torch.no_grad():
                for _ in range(20):
                    module(torch.randn(1000, size))

        floor = _timed(bare, 20)[1] * answer.cost.forward / 1000
        refused = sum(s.startswith("not estimated") for s in answer.status)
        print(
            f"| {name} | {together:.1f} | {apart:.1f} | {apart / together:.1f} | {floor:.1f} | {refused} of 100 |",
            flush=True,
        )


def brackets() -> None:
    """bt.probability at effort "standard": all bounds, plain draws, importance sampling. Processor seconds per input on one core, and from
    them the minutes for 1,000 inputs on two."""
    print("\n| network | inputs | seconds per input | 1,000 inputs on two cores |\n|---|---|---|---|")
    for name in networks():
        for count in (1, 4 if QUICK else 20):
            problem = question(count, name)
            _, spent = _timed(lambda p=problem: bt.probability(p, bt.Gaussian(0.08)), count)
            print(f"| {name} | {count} | {spent / 1000:.2f} | {spent / 2 / 60:.1f} min |", flush=True)


def soundness() -> None:
    """Proved upper ends against importance sampling on digits, p from 1e-1 to 1e-12: cases where the end lies below the estimate's interval at
    99.99 %, of all in which both speak."""
    print("\n| law | cases | violations | smallest p |\n|---|---|---|---|")
    count = 20 if QUICK else 100
    problem = question(count, "64-100-100-10, digits")
    shapes = {
        "Gaussian": lambda s: bt.Gaussian(s),
        "cube": lambda s: bt.UniformBall(1.8 * s, float("inf")),
        "sphere": lambda s: bt.UniformSphere(8 * s),
    }
    for shape, law in shapes.items():
        cases, wrong, least = 0, 0, 1.0
        for sigma in (0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.17):
            laws = {"x": law(sigma)}
            rare = importance_sampling(problem, laws, lines=0, level=0.9999)
            for bound in (probabilistic_crown, proven):
                proof = bound(problem, laws)
                both = (proof.upper < 1) & (rare.estimate >= 1e-12) & (rare.estimate <= 0.5)
                cases += int(both.sum())
                wrong += int((both & (proof.upper < rare.interval[:, 0])).sum())
                least = min([least, *rare.estimate[both].tolist()])
        print(f"| {shape} | {cases} | {wrong} | {least:.0e} |", flush=True)


class Slab(nn.Module):
    """Fails beyond 4.8 on one side and beyond 5 on the other: p = 1.08e-6 under unit noise."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0] - 4.8, -x[:, 0] - 5.0], 1)


def coverage() -> None:
    """Share of 2,000 experiments (200 for splitting) whose interval at 95 % holds the truth: the ends of plain and sequential draws are exact
    and may not fall below 0.95 by more than two standard errors (0.940); the intervals of the others are approximate and reported."""
    print("\n| method | p | covered | kind |\n|---|---|---|---|")
    many, rare = 500 if QUICK else 2000, float(ndtr(-4.8) + ndtr(-5.0))
    line = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        line.weight.fill_(1.0)
    often = bt.Problem(line, torch.full((many, 1), 2.0).double(), torch.ones(many).long())
    seldom = lambda count: bt.Problem(Slab(), torch.zeros(count, 6).double(), torch.zeros(count).long())
    laws = {"x": bt.Gaussian(1.0)}
    for method, problem, truth, kind, options in (
        (monte_carlo, often, float(ndtr(-2.0)), "exact", {"draws": 500}),
        (sequential, often, float(ndtr(-2.0)), "exact", {"threshold": 0.02, "draws": 1000}),
        (importance_sampling, seldom(many), rare, "approximate", {"lines": 0}),
        (line_sampling, seldom(many // 5), rare, "approximate", {}),
        (splitting, seldom(40 if QUICK else 200), rare, "approximate", {"particles": 100}),
    ):
        interval = method(problem, laws, **options).interval
        spoken = ~interval[:, 0].isnan()
        inside = (interval[:, 0] <= truth) & (truth <= interval[:, 1])
        print(
            f"| {method.__name__} | {truth:.1e} | {float(inside[spoken].double().mean()):.3f} of {int(spoken.sum())} | {kind} |",
            flush=True,
        )


def _timed(work: Callable, count: int) -> tuple:
    """The result, and processor milliseconds per input."""
    started = time.process_time()
    result = work()
    return result, 1000 * (time.process_time() - started) / count


if __name__ == "__main__":
    torch.set_num_threads(1)
    every = ["half_spaces", "network", "black_box", "batch", "brackets", "soundness", "coverage"]
    for section in [a for a in sys.argv[1:] if a != "--quick"] or every:
        print(f"\n## {section}\n\n{globals()[section].__doc__}", flush=True)
        globals()[section]()
