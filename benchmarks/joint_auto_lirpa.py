"""Generic linear relaxation with perturbed weights, auto_LiRPA's, on networks of the sizes of ``benchmarks/joint.py``: processor ms, to be set beside ours.

    python3.10 -m venv E && E/bin/pip install torch==1.12.1 "numpy<1.24" auto_LiRPA==0.3
    E/bin/python benchmarks/joint_auto_lirpa.py 20 3        # examples, repeats; then: python benchmarks/joint.py cost

The last version on the package index asks for torch below 1.13, hence an environment of its own; this file imports nothing of brittle.
"""

import sys
import time

import torch
from auto_LiRPA import BoundedModule, BoundedParameter, BoundedTensor, PerturbationLpNorm  # type: ignore[import-not-found]
from torch import nn

SIZES = ((64, 32, 32, 10), (784, 128, 64, 32, 10), (784, 256, 256, 10))
INPUT, WEIGHT = 0.01, 0.002


class Dense(nn.Module):
    def __init__(self, sizes, radius: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        for layer in self.layers if radius else ():
            layer.weight = BoundedParameter(layer.weight.data, PerturbationLpNorm(norm=float("inf"), eps=radius))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def milliseconds(sizes, radius: float, count: int, repeats: int) -> float:
    torch.manual_seed(0)
    network, x = Dense(sizes, radius), torch.rand(count, sizes[0])
    bounded, labels = BoundedModule(network, torch.zeros_like(x)), network(x).argmax(1)
    rows = torch.stack([torch.eye(10)[y] - torch.eye(10)[torch.arange(10) != y] for y in labels])
    ball = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=INPUT))
    spent = []
    for _ in range(repeats):
        started = time.process_time()
        bounded.compute_bounds(x=(ball,), C=rows, method="backward", bound_upper=False)
        spent.append(time.process_time() - started)
    return 1e3 * sorted(spent)[len(spent) // 2]


def main() -> None:
    count, repeats = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    for sizes in SIZES:
        still, moving = (milliseconds(sizes, radius, count, repeats) for radius in (0.0, WEIGHT))
        print("-".join(map(str, sizes)), f"{count} examples: still {still:.1f} ms, moving {moving:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
