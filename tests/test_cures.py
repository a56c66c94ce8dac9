"""Cures without training: outputs on the subspace are unchanged, and nothing off it is read."""

import pytest
import torch
from torch import nn

from brittle import Ball, InputError, Problem, Subspace, surgery
from brittle.cures.projection import projection
from brittle.sources.embedded import embedded


def network(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9, bias=bias), nn.ReLU(), nn.Linear(9, 4)).double()


def plane(offset):
    torch.manual_seed(1)
    data = torch.randn(40, 3).double() @ torch.randn(3, 12).double() + offset * torch.randn(12).double()
    return data.reshape(40, 3, 4), Subspace.pca(data.reshape(40, 3, 4), energy=1.0)


@pytest.mark.parametrize("cure", [surgery, projection])
@pytest.mark.parametrize(("offset", "bias"), [(0.0, True), (5.0, True), (5.0, False)])
def test_outputs_on_the_data_stay_and_the_gradient_off_it_is_zero(cure, offset, bias):
    (data, subspace), before = plane(offset), network(bias)
    state = {k: v.clone() for k, v in before.state_dict().items()}
    after = cure(before, subspace)
    assert subspace.dimension == 3
    assert torch.allclose(after(data), before(data), atol=1e-10)
    off = subspace.off(torch.randn(40, 3, 4).double())
    assert torch.allclose(after(data + off), after(data), atol=1e-10) and not torch.allclose(
        before(data + off), before(data)
    )
    x = data.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(after(x)[:, 0].sum(), x)
    assert float(subspace.off(gradient).abs().max()) < 1e-10 < float(subspace.on(gradient).abs().max())
    assert all(torch.equal(v, state[k]) for k, v in before.state_dict().items()), "the given module is untouched"


def test_both_cures_are_the_same_function_everywhere():
    (_, subspace), before = plane(2.0), network()
    x = torch.randn(20, 3, 4).double()
    assert torch.allclose(surgery(before, subspace)(x), projection(before, subspace)(x), atol=1e-10)


def test_a_projected_network_can_still_be_certified():
    import brittle as bt

    (data, subspace), before = plane(0.0), network()
    problem = Problem(projection(before, subspace), data[:3], before(data[:3]).argmax(1), Ball(p=2, radius=0.01))
    margin = bt.margin(problem, effort="quick")
    assert margin.guarantee.lower == "proved" and bool((margin.lower <= margin.upper).all())


def test_what_surgery_cannot_cut_it_refuses_and_names_the_other_way():
    _, subspace = plane(0.0)
    scaled = nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 2))
    flat = Subspace.given(subspace.basis)
    scaled[0].running_mean.fill_(0.5)
    with pytest.raises(InputError, match="projection"):
        surgery(scaled, flat)
    with pytest.raises(InputError, match="one of 0, 1"):
        surgery(scaled, flat, layer="9")
    assert torch.isfinite(surgery(scaled, flat, layer="1").eval()(torch.rand(2, 12))).all(), "a named layer is trusted"
    with pytest.raises(InputError, match="projection"):
        surgery(embedded("cnn"), Subspace.span(torch.eye(64)[:5]))
    with pytest.raises(InputError, match="tangent"):
        surgery(network(), Subspace.local(torch.rand(30, 12), neighbours=9, dimension=2))


def test_modes_are_kept():
    _, subspace = plane(0.0)
    assert surgery(network().train(), subspace).training and not projection(network().eval(), subspace).training
