"""CROWN where no unit can change sides: the net is affine there, and the bound is exact."""

import torch
from torch import nn

import brittle as bt
from brittle.bounds.crown import crown


def test_a_region_in_which_no_unit_bends_is_bounded_exactly() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    with torch.no_grad():
        module[0].bias.fill_(10.0)
        x = torch.rand(2, 2)
        labels = module(x).argmax(1)
        total = (module[2].weight @ module[0].weight).double()
    problem = bt.Problem(module, x, labels, bt.Ball(p=2, radius=0.1))
    slope = (total[labels] - total[1 - labels]).norm(dim=1)
    exact = problem.double().margin() - 0.1 * slope
    assert torch.allclose(crown(problem).rows[:, 0], exact, rtol=1e-6)
