"""Networks on which bounds in plain float32 prove a wrong property: the margin is -36, and they find +64. Ours do not."""

from collections.abc import Callable
from math import inf

import pytest
import torch
from torch import Tensor, nn

from brittle import Ball, Problem, radius
from brittle.bounds.alpha_crown import alpha_crown
from brittle.bounds.crown import crown
from brittle.bounds.crown_ibp import crown_ibp
from brittle.bounds.ibp import ibp
from brittle.bounds.local_lipschitz import local_lipschitz

HUGE = 2.0**33  # in float32 its neighbours are 512 below and 1024 above
REACH = 2.0**-40  # float32 does not see it beside 1
Layers = list[tuple[list[list[float]], list[float]]]

# Values are rounded on the way forward: HUGE x - 100 x is stored as HUGE, and HUGE x is taken from it.
FORWARD: Layers = [
    ([[1.0], [1.0]], [0.0, 0.0]),
    ([[HUGE, -100.0], [HUGE, 0.0]], [0.0, 0.0]),
    ([[1.0, -1.0]], [64.0]),
]
# Coefficients are rounded on the way back: HUGE - 100 is stored as HUGE, and HUGE x is taken from it. Forward the difference is exactly 0.
BACKWARD: Layers = [
    ([[1.0], [1.0]], [0.0, 0.0]),
    ([[1.0, -1.0], [-1.0, 1.0], [1.0, 0.0]], [0.0, 0.0, 0.0]),
    ([[HUGE, -HUGE, -100.0]], [64.0]),
]


def network(layers: Layers) -> nn.Sequential:
    parts = []
    for weight, bias in layers:
        linear = nn.Linear(len(weight[0]), len(weight))
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weight))
            linear.bias.copy_(torch.tensor(bias))
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def naive_intervals(layers: Layers) -> list[tuple[Tensor, Tensor]]:
    """Textbook interval propagation in float32: (low, high) of what every layer gives before its activation."""
    low, high, found = torch.tensor([1.0]) - REACH, torch.tensor([1.0]) + REACH, []
    for weight, bias in ((torch.tensor(w), torch.tensor(b)) for w, b in layers):
        up, down = weight.clamp_min(0), weight.clamp_max(0)
        low, high = (up @ low + down @ high) + bias, (up @ high + down @ low) + bias
        found.append((low, high))
        low, high = low.relu(), high.relu()
    return found


def naive_crown(layers: Layers) -> float:
    """Textbook backward planes in float32, intervals of the units from :func:`naive_intervals`."""
    ends = naive_intervals(layers)
    row, constant = torch.tensor(layers[-1][0])[0], torch.tensor(layers[-1][1])[0]
    for (weight, bias), (low, high) in zip(layers[-2::-1], ends[-2::-1], strict=True):
        slope = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, high / (high - low)))
        below = torch.where((low < 0) & (high > 0), (high > -low).float(), slope)
        constant = constant + (row.clamp_max(0) * torch.where(slope == below, 0.0, -slope * low)).sum()
        row = row.clamp_min(0) * below + row.clamp_max(0) * slope
        constant, row = constant + row @ torch.tensor(bias), row @ torch.tensor(weight)
    return float(constant + torch.minimum(row * (1 - REACH), row * (1 + REACH)).sum())


@pytest.mark.parametrize(
    ("layers", "naive"),
    [(FORWARD, lambda layers: float(naive_intervals(layers)[-1][0])), (BACKWARD, naive_crown)],
    ids=["intervals", "planes"],
)
def test_float32_proves_what_is_false_and_ours_do_not(layers: Layers, naive: Callable[[Layers], float]) -> None:
    assert naive(layers) == 64.0  # a "certificate" of class 1
    module, x = network(layers), torch.ones(1, 1)
    problem = Problem(module, x, torch.tensor([1]), Ball(inf, REACH))
    assert float(problem.double().margin()) == -36.0  # 64 - 100 x, no rounding here
    for bound in (ibp, crown, crown_ibp, alpha_crown, local_lipschitz):
        lower = float(bound(problem).rows)
        assert lower <= -36.0, bound.__name__
        assert lower > -37.0, bound.__name__  # and they say it sharply


def test_no_radius_is_proved_for_a_point_that_float32_misjudges() -> None:
    """The module as given says +64; its real-arithmetic function is wrong at the clean point already."""
    module, x = network(FORWARD), torch.ones(1, 1)
    assert module(x).tolist() == [[64.0]]
    answer = radius(Problem(module, x, torch.tensor([1]), Ball(inf, 1.0)), effort="quick")
    assert float(answer.lower) == 0.0
