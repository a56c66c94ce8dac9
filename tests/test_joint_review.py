"""What an independent reading of the joint certificates and witnesses found, each with the smallest example that shows it."""

from math import inf

import torch
from torch import Tensor, nn

from brittle.bounds.crown import crown
from brittle.penalties._weights import logits_with
from brittle.problem import Problem
from brittle.region import Ball


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
