"""The slopes that crown tilts for the row that decides: never worse, optimal where one layer leaves nothing else to choose."""

from math import inf

import pytest
import torch

import zoo
from brittle.bounds import crown as module_of_crown
from brittle.bounds.crown import crown
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import margin


@pytest.mark.parametrize("p", [1, 2, inf])
def test_tilted_slopes_are_never_worse_and_often_better(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, labels = zoo.mlp()
    problem = Problem(module, x, labels, Ball(p, {1: 0.6, 2: 0.3, inf: 0.12}[p], 0, 1))
    tilted = crown(problem)
    monkeypatch.setattr(module_of_crown, "tilted", lambda *_: None)
    plain = crown(problem)
    gain = margin(tilted.rows, 1) - margin(plain.rows, 1)
    assert bool((gain >= 0).all()) and bool((gain > 1e-4).sum() >= 2), gain
    kept = gain == 0
    for name, value in plain.proof.items():
        assert torch.equal(value[kept], tilted.proof[name][kept])


def test_one_unit_takes_the_end_that_its_least_point_asks_for() -> None:
    """``relu(x) + 0.2 relu(-x) + 0.6`` on [-1, 1.2]. Least area: ``x + 0.6``, least -0.4 at x = -1; there x asks for slope 0 and -x for 1."""
    first, last = torch.nn.Linear(1, 2).double(), torch.nn.Linear(2, 1).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]])), first.bias.zero_()
        last.weight.copy_(torch.tensor([[1.0, 0.2]], dtype=torch.float64)), last.bias.fill_(0.6)
    net = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    problem = Problem(net, torch.tensor([[0.1]], dtype=torch.float64), torch.tensor([1]), Ball(inf, 1.1))
    # 0 x - 0.2 x + 0.6 is least at x = 1.2
    torch.testing.assert_close(
        crown(problem).rows, torch.tensor([[0.6 - 0.2 * 1.2]], dtype=torch.float64), atol=1e-9, rtol=0
    )
