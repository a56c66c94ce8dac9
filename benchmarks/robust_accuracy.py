"""make bench-robust-accuracy: the share that no attack of a fixed size breaks, by brittle and by torchattacks' AutoAttack, in one run.

Networks and examples of worst_case.py (mlp at l-inf .1 and l2 1, cnn_adv at l-inf .2 and l2 2). A peer comes from PEERS_PATH and is left
out, and named, where it cannot be imported. Its points are judged by a plain forward pass, those of brittle by their witnesses.

    python benchmarks/robust_accuracy.py [--networks mlp] [--count 100] [--efforts quick standard] [--no-peers]
"""

import argparse
import os
import sys
import time
from math import inf

import torch
from torch import Tensor, nn
from worst_case import examples

import brittle as bt
from brittle import meter
from brittle.problem import Problem

# AutoAttack from Git, standard: robust share, passes, seconds; an earlier run on 200 examples, so no ratio of the same run
EARLIER = {
    ("mlp", inf): (0.065, 842.0, 8.18),
    ("mlp", 2): (0.365, 3706.0, 27.1),
    ("cnn_adv", inf): (0.90, 8820.0, 81.6),
    ("cnn_adv", 2): (0.52, 5676.0, 63.4),
}
ASKED = {"mlp": ((inf, 0.1), (2, 1.0)), "cnn_adv": ((inf, 0.2), (2, 2.0))}


class Counted(nn.Module):
    """A model that counts examples forward and, through the gradient of its input, backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        out = self.model(x)
        if out.requires_grad:
            out.register_hook(self._count)
        return out

    def _count(self, gradient: Tensor) -> Tensor:
        self.backwards += len(gradient)
        return gradient


def ours(problem: Problem, effort: str) -> tuple[float, float, float]:
    """Robust share, passes an example, seconds of processor."""
    started = time.process_time()
    with meter.measure() as passes:
        upper = float(bt.accuracy(problem, ends="upper", effort=effort).upper)
    return upper, (passes.forward + passes.backward) / len(problem), time.process_time() - started


def torchattacks(problem: Problem, p: float, radius: float) -> tuple[float, float, float] | None:
    """The same of torchattacks' AutoAttack "standard" (APGD with 10 steps in place of 100), or None where it is not importable."""
    sys.path[:0] = [f for f in os.environ.get("PEERS_PATH", "").split(os.pathsep) if f]
    try:
        from torchattacks import AutoAttack  # pyright: ignore[reportMissingImports]
    except ImportError as reason:
        print(f"torchattacks left out: {reason}")
        return None
    module = Counted(problem.network.quiet)  # pyright: ignore[reportArgumentType]
    attack = AutoAttack(module, norm="Linf" if p == inf else "L2", eps=radius, n_classes=10, seed=0)
    started = time.process_time()
    found = attack(problem.x, problem.labels)
    took = time.process_time() - started
    with torch.no_grad():
        right = problem.network.quiet(found).argmax(1) == problem.labels
    return float(right.double().mean()), (module.forwards + module.backwards) / len(problem), took


def main() -> None:
    parser = argparse.ArgumentParser(description="Robust accuracy of brittle and of AutoAttack in one run.")
    parser.add_argument("--networks", nargs="+", default=list(ASKED))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--efforts", nargs="+", default=["quick", "standard"])
    parser.add_argument("--no-peers", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    chosen = examples(asked.networks, asked.count)
    print("| network | ball | attack | robust | passes | s of processor |\n|---|---|---|---|---|---|")
    for network, (module, x, labels) in chosen.items():
        for p, radius in ASKED[network]:
            problem = Problem(module, x, labels, bt.Ball(p, radius, low=0, high=1))
            rows = {f"brittle {effort}": ours(problem, effort) for effort in asked.efforts}
            peer = None if asked.no_peers else torchattacks(problem, p, radius)
            rows |= {} if peer is None else {"torchattacks AutoAttack": peer}
            rows["AutoAttack, Git (earlier run, 200 examples)"] = EARLIER[network, p]
            for name, (robust, passes, seconds) in rows.items():
                line = f"| {network} | l{p:g} {radius} | {name} | {robust:.1%} | {passes:.0f} | {seconds:.2f} |"
                print(line, flush=True)


if __name__ == "__main__":
    main()
