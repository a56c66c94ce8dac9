"""What an independent reading of the joint certificates and witnesses found, each with the smallest example that shows it."""

from fractions import Fraction
from math import inf

import pytest
import torch
from torch import Tensor, nn

from brittle import accuracy, diagnose
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.errors import BracketError
from brittle.penalties._weights import logits_with
from brittle.problem import Problem
from brittle.region import Ball
from brittle.results import Certificate


class TwoNames(nn.Module):
    """One layer under two names, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.again, self.other.weight = self.first, self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.again(torch.tanh(self.other(torch.tanh(self.first(x)))))))


def test_a_layer_of_two_names_is_as_it_was_after_its_weight_has_moved() -> None:
    torch.manual_seed(0)
    module, x = TwoNames(), torch.randn(4, 3)
    problem = Problem(module, x, module(x).argmax(1), {"again.weight": Ball(inf, 0.1)})
    clean, bound = problem.rows(), crown(problem).rows
    common = {"first.weight": (module.first.weight.detach() + 0.1)[None].expand(4, 3, 3)}
    own = {"first.weight": common["first.weight"] * torch.ones(4, 1, 1)}
    moved = TwoNames()
    moved.load_state_dict(module.state_dict())
    with torch.no_grad():
        moved.first.weight += 0.1  # the same parameter under all its names
    expected = problem.spec.rows(moved(x), problem.labels).detach()
    for wide in (problem, problem.double()):
        for point in (common, own):
            value = {k: v.to(next(iter(wide.inputs.values())).dtype) for k, v in point.items()}
            assert torch.allclose(wide.rows(value).float(), expected, atol=1e-6)
            assert torch.allclose(wide.rows().float(), clean, atol=1e-6)
    assert torch.equal(crown(problem).rows, bound)
    live = {name: weight + 0.1 for name, weight in problem.network.parameters().items() if name == "first.weight"}
    assert torch.allclose(problem.spec.rows(logits_with(problem, live), problem.labels), expected, atol=1e-6)
    assert torch.equal(problem.rows(), clean)


class Tokens(nn.Module):
    """The sum over 800 tokens of one layer of weight zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(800, 1, bias=False), nn.Linear(800, 2, bias=False)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.head.weight.copy_(torch.tensor([[1.0], [0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).flatten(1))


@pytest.mark.parametrize("bound", [crown, ibp])
def test_what_a_moving_weight_costs_is_a_sum_over_all_positions_that_may_lose_its_small_terms(bound) -> None:
    """``-sum a`` is attained, at x = -a and a change of 1 everywhere; a running sum of 1 loses every other a."""
    tiny = 2.0**-53 * 0.99
    a = torch.full((800, 800), tiny, dtype=torch.float64)
    a[0, :16] = 1.0  # one in every lane of a blocked sum
    region = {"x": Ball(inf, 1.0, -a, a), "layer.weight": Ball(inf, 1.0)}
    problem = Problem(Tokens().double(), torch.zeros(1, 800, 800, dtype=torch.float64), torch.tensor([0]), region)
    exact = -(16 + (800 * 800 - 16) * Fraction(tiny))
    found = Fraction(float(bound(problem).rows[0, 0]))
    assert found <= exact and float(exact - found) < 1e-7


def test_a_false_certificate_of_one_example_is_noticed_where_the_shares_agree() -> None:
    """The best common shift breaks one of two examples and a false bound certifies just that one: a half below, a half above."""
    linear = nn.Linear(1, 1)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.zero_()
    x, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1])
    problem = Problem(linear, x, labels, {"bias": Ball(2, 1.5, shared=True)})
    assert float(accuracy(problem).lower) == float(accuracy(problem).upper) == 0.5

    def false(problem: Problem) -> Certificate:
        return Certificate(torch.tensor([[0.5], [-1.0]], dtype=torch.float64), "false", {})

    with pytest.raises(BracketError, match="example 0"):
        accuracy(problem, bounds=[false])


def test_nothing_is_certified_against_a_rounding_that_leaves_its_ball() -> None:
    """1000 is beyond fp8_e4m3: no half spacing holds what becomes of it."""
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1000.0, 0.0], [0.0, 1.0]]))
    problem = Problem(linear, torch.eye(2), torch.tensor([0, 1]))
    found = diagnose(problem, "faults", formats=("int8",), flips=0, random=(), draws=1, ball="fp8_e4m3")
    asked = [s for r, s in zip(found.columns["reading"], found.columns["status"], strict=True) if "change" in r]
    assert asked == ["not asked: outside the range of the format"] * 2
    assert "Certified" not in found.note
