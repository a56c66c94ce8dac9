"""Small networks with known answers, shared by all conformance suites. Every entry: module, inputs, labels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], tuple[nn.Module, Tensor, Tensor]]
    low: float | None = None
    high: float | None = None


def _labelled(module: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    module.eval()
    with torch.no_grad():
        return module, x, module(x).argmax(1)


def affine() -> tuple[nn.Module, Tensor, Tensor]:
    """Two classes, one hyperplane: margin = 3 x0 - 4 x1 + 1, gradient norm 5 (l2), 7 (l1), 4 (l-inf)."""
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
        module.bias.copy_(torch.tensor([1.0, 0.0]))
    return module, torch.tensor([[1.0, 0.5], [0.25, 1.0], [0.0, 0.0]]), torch.tensor([0, 1, 0])


def one_unit() -> tuple[nn.Module, Tensor, Tensor]:
    """logits = (relu(x), 1): at x = 3 the margin is 2 and the distance to the boundary exactly 2."""
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        for tensor, value in zip(module.parameters(), ([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 1.0]), strict=True):
            tensor.copy_(torch.tensor(value))
    return module, torch.tensor([[3.0], [0.5]]), torch.tensor([0, 1])


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
    return _labelled(module, torch.rand(6, 6))


def smooth() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3))
    return _labelled(module, torch.rand(4, 5))


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.LeakyReLU(0.1),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    with torch.no_grad():
        module[1].running_mean.uniform_(-0.2, 0.2)
        module[1].running_var.uniform_(0.5, 1.5)
    return _labelled(module, torch.rand(4, 1, 8, 8))


class Residual(nn.Module):
    """x + f(x), a concatenation and a constant shift and scale: the joins of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.5) / 0.25
        h = x + self.inner(x)
        return self.head(torch.cat([torch.relu(h), h - x], dim=1))


def residual() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(4)
    return _labelled(Residual(), torch.rand(4, 6))


CASES = [
    Case("affine", affine),
    Case("one_unit", one_unit),
    Case("mlp", mlp, 0.0, 1.0),
    Case("smooth", smooth, 0.0, 1.0),
    Case("cnn", cnn, 0.0, 1.0),
    Case("residual", residual, 0.0, 1.0),
]


# ---- broken on purpose ---------------------------------------------------------------------------------------------


class _Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([0.5 + 0 * x[:, 0], x[:, 0].round()], 1)


def rounded() -> nn.Module:
    """Class 1 from x0 = 0.5 on, without any gradient."""
    return _Rounded().eval()


def saturated() -> tuple[nn.Module, Tensor, Tensor]:
    """Every hidden unit is beyond the end of its hard tanh, so that all gradients are exactly zero; 40 inputs agree on the way out."""
    module = nn.Sequential(nn.Linear(40, 2, bias=False), nn.Hardtanh(), nn.Linear(2, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.stack([torch.ones(40), -torch.ones(40)]) / 8)
        module[2].weight.copy_(torch.eye(2))
        module[2].bias.zero_()
    x = torch.full((4, 40), 0.3)
    return module.eval(), x, torch.zeros(4, dtype=torch.long)
