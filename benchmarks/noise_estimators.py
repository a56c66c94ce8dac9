"""Estimators of rare failures on the embedded multilayer perceptron: passes, errors, wall time; prints Markdown.

    python benchmarks/noise_estimators.py [half_spaces] [network] [against_draws] [batch]

Passes are forward-pass equivalents: a forward pass counts 1, a gradient (one forward and one backward) 3.
"""

import sys
import time
from collections.abc import Callable

import torch
from scipy.special import ndtri
from torch import Tensor, nn

import brittle as bt
from brittle.noise.importance_sampling import importance_sampling
from brittle.noise.line_sampling import line_sampling
from brittle.noise.monte_carlo import monte_carlo
from brittle.noise.splitting import splitting
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded

REPEATS = 30


def equivalents(bracket: bt.Bracket) -> float:
    return bracket.cost.forward + 2 * bracket.cost.backward


def question(count: int) -> bt.Problem:
    data, module = digits("test"), embedded("mlp")
    with torch.no_grad():
        right = (module(data.x).argmax(1) == data.labels).nonzero()[:count, 0]
    return bt.Problem(module, data.x[right], data.labels[right])


def level(problem: bt.Problem, target: float) -> bt.Gaussian:
    """The Gaussian noise at which the estimate for a single example is ``target``: bisection on the logarithm of sigma."""
    low, high = 0.01, 1.0
    for _ in range(18):
        middle = (low * high) ** 0.5
        value = float(line_sampling(problem, {"x": bt.Gaussian(middle)}, lines=50).estimate.nan_to_num(nan=0.5))
        low, high = (middle, high) if value < target else (low, middle)
    return bt.Gaussian((low * high) ** 0.5)


def repeated(
    method: Callable, problem: bt.Problem, law: bt.Gaussian, times: int, **options
) -> tuple[Tensor, float, int]:
    """Estimates under ``times`` seeds (refusals left out), the passes of one, and how many were refused."""
    answers = [method(problem, {"x": law}, seed=seed, **options) for seed in range(times)]
    values = torch.cat([a.estimate for a in answers])
    return values[~values.isnan()], equivalents(answers[0]), int(values.isnan().sum())


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
    """The embedded 64-100-100-10: spread of the estimates over seeds, search and checks included; medians over five inputs."""
    print("\n| p | method | passes | spread | bias | refused | passes to 10 % |\n|---|---|---|---|---|---|---|")
    inputs = [question(5).take(torch.tensor([i])) for i in range(5)]
    for target in (1e-3, 1e-6, 1e-9, 1e-12):
        laws = [level(one, target) for one in inputs]
        truth = [
            float(line_sampling(one, {"x": law}, seed=99, lines=4000).estimate)
            for one, law in zip(inputs, laws, strict=True)
        ]
        for method, times, options in (
            (importance_sampling, REPEATS, {}),
            (line_sampling, REPEATS, {}),
            (splitting, 3, {}) if target > 1e-7 else (line_sampling, REPEATS, {"lines": 50}),
        ):
            found = [repeated(method, one, law, times, **options) for one, law in zip(inputs, laws, strict=True)]
            spread = torch.tensor(
                [float((v / t).log().std()) for (v, _, _), t in zip(found, truth, strict=True)]
            ).median()
            bias = torch.tensor([float((v / t).mean() - 1) for (v, _, _), t in zip(found, truth, strict=True)]).median()
            passes = torch.tensor([f[1] for f in found]).median()
            name = method.__name__ + "".join(f" {k}={v}" for k, v in options.items())
            refused = sum(f[2] for f in found) / (5 * times)
            print(
                f"| {target:.0e} | {name} | {passes:.0f} | {spread:.1%} | {bias:+.1%} | {refused:.1%} | {passes * (spread / 0.1) ** 2:.0f} |"
            )


def against_draws() -> None:
    """Importance sampling against 200,000 plain draws at p about 1e-3: differences in joint standard errors."""
    print("\n| input | sigma | importance sampling | plain draws | difference |\n|---|---|---|---|---|")
    for i in range(4):
        one = question(4).take(torch.tensor([i]))
        law = level(one, 1e-3)
        rare, plain = importance_sampling(one, {"x": law}), monte_carlo(one, {"x": law}, draws=200_000)
        p, q = float(rare.estimate), float(plain.estimate)
        error = ((float(rare.diagnostics["relative_error"]) * p) ** 2 + q / 200_000) ** 0.5
        print(f"| {i} | {law.sigma:.4f} | {p:.3e} | {q:.3e} | {(p - q) / error:+.2f} |")


def batch() -> None:
    """100 inputs at once against one by one, importance sampling with its search and its check."""
    print("\n| inputs | at once, s | one by one, s | ratio | refused |\n|---|---|---|---|---|")
    problem, laws = question(100), {"x": bt.Gaussian(0.08)}
    importance_sampling(problem.take(torch.arange(2)), laws)
    started = time.perf_counter()
    answer = importance_sampling(problem, laws)
    together = time.perf_counter() - started
    started = time.perf_counter()
    for i in range(100):
        importance_sampling(problem.take(torch.tensor([i])), laws)
    apart = time.perf_counter() - started
    refused = sum(s.startswith("not estimated") for s in answer.status)
    print(f"| 100 | {together:.2f} | {apart:.2f} | {apart / together:.1f} | {refused} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for section in sys.argv[1:] or ["half_spaces", "network", "against_draws", "batch"]:
        print(f"\n## {section}\n\n{globals()[section].__doc__}")
        globals()[section]()
