"""Train the embedded networks from nothing and write their weights into the package. About a minute on one core.

python scripts/train_embedded.py [NAME ...]

Same versions and machine give the same weights; other versions give networks of the same quality, not the same numbers.
"""

import sys
import time

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from brittle.sources.digits import digits
from brittle.sources.embedded import FOLDER, NETWORKS

EPOCHS = {"mlp": 60, "cnn": 40, "hardened": 120, "gru": 80}
HARDENED_RADIUS, HARDENED_STEPS = 0.1, 7


def perturbed(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """l-inf PGD examples: random start, signed steps of a quarter of the radius, pixels kept in [0, 1]."""
    change = (2 * torch.rand_like(x) - 1) * HARDENED_RADIUS
    for _ in range(HARDENED_STEPS):
        change.requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(module((x + change).clamp(0, 1)), y), change)
        change = (change.detach() + HARDENED_RADIUS / 4 * gradient.sign()).clamp(-HARDENED_RADIUS, HARDENED_RADIUS)
    return (x + change).clamp(0, 1)


def train(name: str) -> nn.Module:
    torch.manual_seed(0)
    x, y = digits("train")
    module = NETWORKS[name][0]()
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS[name])
    for _ in range(EPOCHS[name]):
        for batch in torch.randperm(len(x)).split(64):
            inputs = perturbed(module, x[batch], y[batch]) if name == "hardened" else x[batch]
            optimiser.zero_grad()
            cross_entropy(module(inputs), y[batch]).backward()
            optimiser.step()
        rate.step()
    return module.eval()


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    x, y = digits("test")
    for name in names or list(NETWORKS):
        started = time.perf_counter()
        module = train(name)
        with torch.no_grad():
            accuracy = (module(x).argmax(1) == y).float().mean().item()
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, FOLDER / f"{name}.safetensors")
        print(f"{name}: {accuracy:.1%} of {len(y)} test digits, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
