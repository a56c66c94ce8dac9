"""EfficientNet-Lite0 on real images: radii of all four norms from above, and a certificate of the smoothed model, with their costs.

    python benchmarks/efficientnet.py [--norms l2 linf] [--count 20] [--effort quick] [--sigma 0.1] [--draws 200]

Needs the assets (``make assets``). Radii are attacks on the network itself; the certificate is of the network *with noise on top*, another model.
"""

import argparse
import sys
import time
from math import inf
from pathlib import Path

import torch

import brittle as bt

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
import assets  # noqa: E402

NORMS = {"l0": 0, "l1": 1, "l2": 2, "linf": inf}


def told(name: str, started: float, bracket: bt.Bracket) -> None:
    cost, took = bracket.cost, time.process_time() - started
    ends = " ".join(
        f"[{lo:.4g}, {hi:.4g}]" for lo, hi in zip(bracket.lower.tolist(), bracket.upper.tolist(), strict=True)
    )
    print(
        f"{name}: {took:.0f} s of processor, {cost.forward:.0f} + {cost.backward:.0f} passes an image: {ends}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Radii and a smoothing certificate of EfficientNet-Lite0.")
    parser.add_argument("--norms", nargs="*", choices=NORMS, default=list(NORMS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--effort", default="quick")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    network, (x, labels) = assets.efficientnet(0), assets.imagenet(224)
    x, labels = x[: asked.count], labels[: asked.count]
    problem = lambda p: bt.Problem(network, x, labels, bt.Ball(p, 1.0, 0, 1))
    for norm in asked.norms:
        started = time.process_time()
        told(
            f"radius {norm}, {asked.effort}",
            started,
            bt.radius(problem(NORMS[norm]), ends="upper", effort=asked.effort),
        )
    if asked.draws:
        started = time.process_time()
        answer = bt.smoothed_radius(problem(2), bt.Gaussian(asked.sigma), draws=asked.draws, ends="lower")
        told(f"{answer.quantity}, l2, sigma {asked.sigma}, level {answer.level}", started, answer)
        print(", ".join(answer.status))


if __name__ == "__main__":
    main()
