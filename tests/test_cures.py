"""Cures without training: outputs on the subspace are unchanged, and nothing off it is read."""

import pytest
import torch
from torch import nn

from brittle import Ball, InputError, Problem, Subspace, surgery
from brittle.cures.initialisation import initialisation
from brittle.cures.projection import projection
from brittle.network import Network
from brittle.penalties.weight_decay import weight_decay
from brittle.sources.embedded import embedded
from brittle.training import train


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


# ---- cures in training ---------------------------------------------------------------------------------------------


def trained(module, data, **options):
    labels = (data.flatten(1)[:, 0] > 0).long() + 2 * (data.flatten(1)[:, 1] > 0).long()
    settings = {"optimiser": "sgd", "rate": 0.05, "schedule": "constant", "batch": None, "epochs": 40}
    return train(module, data, labels, **{**settings, **options}).module


def frozen_part(module, subspace):
    return subspace.off(module[1].weight.detach())


def test_the_off_part_after_gradient_descent_is_the_initialisation_scaled():
    (data, subspace), before = plane(0.0), network(bias=False)
    subspace = Subspace.span(data)
    small = initialisation(before, 0.1)
    assert torch.equal(small[3].weight, before[3].weight) and torch.allclose(small[1].weight, before[1].weight / 10)
    done, done_small = trained(before, data), trained(small, data)
    assert torch.allclose(frozen_part(done_small, subspace), 0.1 * frozen_part(done, subspace), atol=1e-13)
    assert float((done_small[1].weight - small[1].weight).detach().norm()) > 0.05, "the rest was trained"
    assert torch.equal(initialisation(before, 2.0, layer="3")[3].weight, 2 * before[3].weight)
    for wrong, words in ((lambda: initialisation(before, 0.0), "positive"), (lambda: initialisation(before, 1.0, layer="9"), "one of 0, 1"),
                         (lambda: initialisation(before, 1.0, layer="2"), "dense or convolutional"),
                         (lambda: initialisation(nn.ReLU(), 1.0), "dense or convolutional")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            wrong()


def test_a_penalty_of_weight_decay_is_coupled_decay_and_shrinks_the_frozen_part_exactly():
    (data, _), before = plane(0.0), network(bias=False)
    subspace = Subspace.span(data)
    penalised = trained(before, data, penalties={"weight_decay": 0.3})
    coupled = trained(before, data, weight_decay=0.3, decoupled=False)
    assert all(
        torch.allclose(a, b, atol=1e-13) for a, b in zip(penalised.parameters(), coupled.parameters(), strict=True)
    )
    left = frozen_part(penalised, subspace) / frozen_part(before, subspace)
    assert torch.allclose(left, torch.full_like(left, (1 - 0.05 * 0.3) ** 40), rtol=1e-9)


def test_decay_of_the_off_part_alone_leaves_the_data_alone():
    (data, _), before = plane(0.0), network(bias=False)
    subspace = Subspace.span(data)
    targeted = trained(before, data, penalties={"weight_decay": {"weight": 0.3, "subspace": subspace}})
    plain = trained(before, data)
    assert torch.allclose(targeted(data), plain(data), atol=1e-12), "on the data nothing but rounding"
    left = frozen_part(targeted, subspace) / frozen_part(before, subspace)
    assert torch.allclose(left, torch.full_like(left, (1 - 0.05 * 0.3) ** 40), rtol=1e-9)
    live = Problem(before, data, torch.zeros(40, dtype=torch.long), network=Network.live(before))
    for options, words in (({"layer": "9"}, "one of 0, 1"), ({"subspace": Subspace.given(torch.eye(5)[:2])}, "5 inputs"),
                           ({"layer": "2"}, "with parameters")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            weight_decay(live, **options)


def test_what_each_optimiser_does_to_empty_coordinates():
    """Data whose last nine coordinates are always 0: Adam never moves what reads them, coupled decay under Adam erases it at its own pace."""
    torch.manual_seed(2)
    data = torch.cat([torch.randn(40, 3), torch.zeros(40, 9)], 1).double().reshape(40, 3, 4)
    before = network(bias=False)
    start = before[1].weight.detach()[:, 3:]
    after = lambda **options: trained(before, data, optimiser="adam", rate=2e-3, **options)[1].weight.detach()[:, 3:]
    assert torch.equal(after(), start), "no gradient, no step"
    decoupled = after(weight_decay=0.5, decoupled=True)
    assert torch.allclose(decoupled, start * (1 - 2e-3 * 0.5) ** 40, rtol=1e-9)
    gentle, strong = (after(weight_decay=w, decoupled=False) for w in (1e-4, 1e-1))
    moved = (start - gentle)[start.abs() > 0.15].abs() / (40 * 2e-3)  # a rate a step, a little less as the weight falls
    assert 0.85 < float(moved.min()) and float(moved.max()) < 1 + 1e-6 and torch.allclose(gentle, strong, atol=1e-2)
