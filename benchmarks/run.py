"""make bench: strength and cost of every discovered method on the embedded networks, as ratios to bare passes.

Prints Markdown; benchmarks/RESULTS.md keeps what was measured, with the machine and the date.
"""

import sys
from collections.abc import Iterator
from math import inf

import torch
from floor import passes, seconds

import brittle as bt
from brittle import meter
from brittle.problem import Problem
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded

COUNT = 100
NETWORKS = ("mlp", "hardened", "cnn")
BALLS = {"l0": (0, 1.0), "l1": (1, 1.0), "l2": (2, 1.0), "linf": (inf, 1.0)}


def problems() -> Iterator[tuple[str, Problem]]:
    data = digits("test")
    for network in NETWORKS:
        module = embedded(network)
        with torch.no_grad():
            right = (module(data.x).argmax(1) == data.labels).nonzero()[:COUNT, 0]
        for name, (p, radius) in BALLS.items():
            yield f"{network} {name}", Problem(module, data.x[right], data.labels[right], bt.Ball(p, radius, 0, 1))


def attacks() -> None:
    """Minimum-norm attacks: excess over the best of all of them per example, passes, processor time over bare passes."""
    print(
        "\n| network, norm | attack | found | median | excess | fwd | bwd | s | x floor |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, problem in problems():
        p = problem.region["x"].p
        rows = []
        for method in bt.methods("attacks"):
            if method.about.answers != "radius" or p not in method.about.norms:
                continue
            with meter.measure() as cost:
                witness = method(problem, seed=0)
            took = seconds(lambda m=method, q=problem: m(q, seed=0), repeat=1)
            forward, backward = cost.forward / len(problem), cost.backward / len(problem)
            rows.append(
                (
                    method.name,
                    witness,
                    forward,
                    backward,
                    took,
                    passes(problem.network.quiet, problem.x, forward, backward),
                )
            )
        best = torch.stack([w.size for _, w, *_ in rows]).amin(0)
        for method_name, witness, forward, backward, took, floor in rows:
            excess = (witness.size / best - 1).clamp_max(1).mean()
            print(
                f"| {name} | {method_name} | {witness.found.float().mean():.0%} | {witness.size.median():.4g} | {excess:.1%} "
                f"| {forward:.0f} | {backward:.0f} | {took:.3f} | {took / floor:.2f} |"
            )


def brackets() -> None:
    """bt.radius at its three efforts: how far apart the ends are, and what that costs."""
    print(
        "\n| network, norm | effort | median lower | median upper | median ratio | closed to 5 % | fwd | bwd | s |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, problem in problems():
        for effort in ("quick", "standard", "thorough"):
            answer = bt.radius(problem, effort=effort)
            ratio = answer.upper / answer.lower
            print(
                f"| {name} | {effort} | {answer.lower.median():.4g} | {answer.upper.median():.4g} | {ratio.median():.3f} "
                f"| {(ratio < 1.05).float().mean():.0%} | {answer.cost.forward:.0f} | {answer.cost.backward:.0f} | {answer.cost.seconds:.2f} |"
            )


def bounds() -> None:
    """One evaluation of every bound at half the attacked radius, over one forward pass."""
    print("\n| network, norm | bound | certified | s | x forward |\n|---|---|---|---|---|")
    for name, problem in problems():
        upper = bt.radius(problem, ends="upper", effort="quick").upper
        half = problem.scaled(upper / 2)
        for method in bt.methods("bounds"):
            if problem.region["x"].p not in method.about.norms:
                continue
            rows = method(half).rows
            took = seconds(lambda m=method, q=half: m(q), repeat=2)
            print(
                f"| {name} | {method.name} | {(rows.amin(1) > 0).float().mean():.0%} | {took:.3f} "
                f"| {took / passes(problem.network.quiet, problem.x, 1, 0):.0f} |"
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for section in sys.argv[1:] or ["attacks", "bounds", "brackets"]:
        print(f"\n## {section}\n\n{globals()[section].__doc__}")
        globals()[section]()
