"""Rows in windows against rows through the whole network: the same bounds to rounding, for every convolution and ball."""

import importlib
from math import inf, prod

import pytest
import torch
from torch import Tensor, nn

from brittle import backward, intervals, receptive
from brittle.bounds.crown import crown
from brittle.graph import Node, graph_of
from brittle.intervals import State
from brittle.planes import planes
from brittle.problem import Problem
from brittle.region import Ball

crown_file = importlib.import_module("brittle.bounds.crown")


class Residual(nn.Module):
    """Two readers of one node, which see windows of different sizes; the shortcut of the second is strided."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm, self.short = nn.BatchNorm2d(channels), nn.Conv2d(channels, channels, 1)
        self.norm.running_mean.uniform_(-0.2, 0.2)
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.norm(self.first(x)))) - self.short(x) + x)


def body(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    two = lambda *a, **o: (nn.Conv2d(2, 4, 3, **o), nn.ReLU(), nn.Conv2d(4, 4, *a, **o), nn.Tanh())
    layers, shape = {
        "strided, padded": (two((3, 2), stride=2, padding=1), (2, 9, 13)),
        "strides and paddings by axis": (
            (nn.Conv2d(2, 3, (3, 2), (2, 1), (0, 1)), nn.LeakyReLU(0.1), nn.Conv2d(3, 4, (1, 3), (1, 2), (0, 2)), nn.Sigmoid()),
            (2, 12, 14),
        ),
        "dilated": (two(2, dilation=2, padding=1), (2, 11, 12)),
        "grouped": (two(3, groups=2), (2, 11, 10)),
        "one axis": (
            (nn.Conv1d(2, 4, 4, 2, 1), nn.ReLU(), nn.Conv1d(4, 6, 3, padding=2, dilation=2, groups=2), nn.ReLU()),
            (2, 24),
        ),
        "residual": ((nn.Conv2d(1, 3, 2, 2), nn.ReLU(), Residual(3)), (1, 20, 20)),
    }[name]  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5), nn.ReLU(), nn.Linear(5, 3)), shape


BODIES = ["strided, padded", "strides and paddings by axis", "dilated", "grouped", "one axis", "residual"]


def problem(name: str, region: object, count: int = 3) -> Problem:
    torch.manual_seed(0)
    module, shape = body(name)
    x = torch.rand(count, *shape)
    module(x)
    return Problem(module.eval(), x, module(x).argmax(1), region)


def fields(given: Problem) -> list[receptive.Field | None]:
    state = intervals.start(given, graph_of(given))
    return [receptive.field_of(state, n.name) for n in state.graph.nodes if n.op.startswith("conv") or n.op == "add"]


def compare(given: Problem) -> int:
    """Every bent unit that has a window, in its window and through the whole network, with the same planes; how many there were."""
    compared = []

    def local(state: State, node: Node, bends: Tensor, relaxed: backward.Relaxed) -> tuple[Tensor, Tensor] | None:
        here = crown_file._local(given, state, node, bends, relaxed)
        if here is None:
            return None
        example, unit = bends.flatten(1).nonzero(as_tuple=True)
        shape = state.known[backward.source_of(node)].shape
        one = torch.eye(prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
        whole = crown_file._enclose(given, state, node, torch.arange(prod(shape)), one, relaxed)
        for side, other in zip(here, whole, strict=True):
            torch.testing.assert_close(side[example, unit], other.T[example, unit], rtol=0, atol=1e-10)
            assert int(side.isfinite().sum()) == len(unit)
        compared.append(len(unit))
        return here

    state = intervals.start(given, graph_of(given))
    enclose = lambda *unit: crown_file._enclose(given, *unit)
    backward.relax(state, enclose, lambda state, node, _: planes(state, node), local)
    return sum(compared)


@pytest.mark.parametrize("name", BODIES)
def test_every_layer_of_convolutions_has_windows(name: str) -> None:
    assert all(field is not None for field in fields(problem(name, Ball(inf, 0.1))))


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("ball", [Ball(inf, 0.05, low=0, high=1), Ball(2, 0.3)], ids=["box", "sphere"])
def test_windows_prove_what_the_whole_network_proves(name: str, ball: Ball) -> None:
    assert compare(problem(name, ball)) > 20


@pytest.mark.parametrize("p", [0, 1])
def test_sparse_balls(p: int) -> None:
    groups = {"groups": "channels"} if p == 0 else {}
    assert compare(problem("strided, padded", Ball(p, 1.0, low=0, high=1, **groups))) > 20


MOVING = [("strided, padded", 2), ("grouped", inf), ("residual", inf)]
slow = lambda *case: pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "p"), [*MOVING[:2], slow(*MOVING[2]), *(slow(name, inf if p == 2 else 2) for name, p in MOVING)]
)
def test_moving_kernels(name: str, p: float) -> None:
    still = problem(name, None)
    leaves = {n: Ball(p, 0.01) for n, _ in still.network.quiet.named_parameters() if not n.endswith("bias") or p == inf}
    given = still.within({"x": Ball(inf, 0.02, low=0, high=1)} | leaves)
    assert compare(given.scaled(torch.tensor([0.5, 1.0, 2.0]))) > 20
    relative = {n: Ball(inf, 0.02, relative="element") for n in leaves}
    assert compare(still.within({"x": Ball(inf, 0.02)} | relative)) > 20


def test_padding_of_an_affine_source_is_left_to_the_whole_network() -> None:
    """Zeros beyond the image are no values of the convolution before; only an activation passes nothing on there."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(2, 1, 12, 12)
    module(x)
    given = Problem(module.eval(), x, module(x).argmax(1), Ball(inf, 0.1))
    assert fields(given)[1] is None


def test_a_window_as_wide_as_the_image_is_no_window() -> None:
    layers = (nn.Conv2d(1, 2, 5, padding=2), nn.ReLU(), nn.Conv2d(2, 2, 5, padding=2), nn.ReLU())
    given = Problem(
        nn.Sequential(*layers, nn.Flatten(), nn.Linear(50, 2)),
        torch.rand(1, 1, 5, 5),
        torch.tensor([0]),
        Ball(inf, 0.1),
    )
    assert fields(given)[1] is None


def test_examples_with_radii_of_their_own_do_not_mix() -> None:
    given = problem("strided, padded", {"x": Ball(inf, 0.05, low=0, high=1), "0.weight": Ball(inf, 0.01)})
    scaled = given.scaled(torch.tensor([0.5, 1.0, 2.0]))
    alone = torch.cat([crown(scaled.take(torch.tensor([i]))).rows for i in range(3)])
    torch.testing.assert_close(crown(scaled).rows, alone, rtol=0, atol=1e-9)
