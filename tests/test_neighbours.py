"""The three diagnostics of feature compression's neighbours: rank profile, random baseline, bias and variance."""

import pytest
import torch
from torch import nn

from brittle import Ball, InputError, Problem, diagnose
from brittle.activations import layer_names, recorded, replaced
from brittle.diagnostics.bias_variance import bias_variance, decompose
from brittle.diagnostics.random_baseline import random_baseline
from brittle.diagnostics.rank_profile import rank_profile
from brittle.reinitialised import reinitialised
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded


def asked(network, x, region=None):
    return Problem(network, x, network(x).argmax(1), region)


def low_rank(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 9), nn.Linear(9, 3, bias=False), nn.Linear(3, 7), nn.Linear(7, 5)).double()


def test_ranks_of_a_linear_chain_are_exact():
    network = low_rank()
    found = rank_profile(asked(network, torch.rand(20, 12, dtype=torch.float64)))
    assert found.columns["layer"] == ["0", "1", "2", "3"]
    assert found.columns["rank"].tolist() == [9, 3, 3, 3] == found.columns["noise_rank"].tolist()
    assert found.columns["width"].tolist() == [9, 3, 7, 5]


def test_the_effective_rank_is_the_exponential_of_the_entropy():
    layer = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
    found = rank_profile(asked(nn.Sequential(layer), torch.rand(4, 3, dtype=torch.float64)))
    p = torch.tensor([4, 1, 1], dtype=torch.float64) / 6
    assert float(found.columns["effective_rank"][0]) == pytest.approx(float((-(p * p.log()).sum()).exp()), rel=1e-12)


def test_probes_limit_the_rank_and_never_raise_it():
    problem = asked(low_rank(), torch.rand(6, 12, dtype=torch.float64))
    assert rank_profile(problem, probes=5).columns["rank"].tolist() == [5, 3, 3, 3]


def test_the_decision_of_planted_features_needs_the_planted_components():
    torch.manual_seed(1)
    x = torch.rand(200, 6, dtype=torch.float64) * torch.tensor([1, 2, 9, 9, 9, 9])  # the loud directions do not matter
    head = nn.Linear(6, 2).double()
    with torch.no_grad():
        head.weight.zero_(), head.bias.copy_(torch.tensor([0, 0.5]))
        head.weight[0, 0] = 1
    needed = rank_profile(asked(nn.Sequential(nn.Identity(), head), x)).columns["class_dimension"]
    assert needed[0] == 6 and needed[1] == 1  # the one that decides comes last; of two logits one is constant


def test_the_rank_falls_through_a_trained_network_and_the_deficit_is_named():
    x, y = digits("test")
    found = diagnose(Problem(embedded("mlp"), x[:64], y[:64]), "rank_profile", examples=2)
    effective = found.columns["effective_rank"]
    assert float(effective[0]) > float(effective[-1]) > 1
    assert "from three others: R²" in found.value and "most is lost" in found.note


def test_a_layer_without_forward_derivatives_is_refused_in_words_and_layers_can_be_chosen():
    x, y = digits("test")
    network = embedded("gru")
    with pytest.raises(InputError, match="pattern that matches one of"):
        rank_profile(Problem(network, x[:4], y[:4]), layers="nothing*")
    found = rank_profile(Problem(embedded("cnn"), x[:16], y[:16]), layers="[78]", examples=1, probes=16)
    assert found.columns["layer"] == ["7", "8"]


def test_hooks_record_replace_and_are_gone_afterwards():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = torch.rand(3, 2)
    with recorded(network, layer_names(network)) as outputs:
        y = network(x)
    assert torch.equal(outputs["1"], y) and list(outputs) == ["0", "1"]
    with replaced(network, {"0": torch.zeros_like}):
        assert not network(x).any()
    assert torch.equal(network(x), y)


def test_reinitialised_copies_differ_are_repeatable_and_leave_everything_alone():
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before, state = network[0].weight.clone(), torch.random.get_rng_state()
    a, b, c = reinitialised(network, 0), reinitialised(network, 0), reinitialised(network, 0, 1)
    assert torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[0].weight, c[0].weight)
    assert torch.equal(network[0].weight, before) and torch.equal(torch.random.get_rng_state(), state)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    with pytest.raises(InputError, match="reset_parameters"):
        reinitialised(Own(), 0)


def test_random_relu_networks_have_the_derived_normalised_distance():
    """|f| / |gradient| = |N(0, 1)| |x| / sqrt(n): mean .798 for He-initialised ReLU networks without biases, one logit."""
    torch.manual_seed(0)
    n, values = 64, []
    x = torch.randn(1, n)
    for _ in range(150):
        network = nn.Sequential(nn.Linear(n, 128, bias=False), nn.ReLU(), nn.Linear(128, 1, bias=False))
        for layer in (network[0], network[2]):
            nn.init.kaiming_normal_(layer.weight)
        label = (network(x)[:, 0] > 0).long()
        found = random_baseline(Problem(network, x, label), initial=[network])
        assert float(found.columns["ratio_l2"]) == pytest.approx(1)
        values.append(float(found.columns["trained_l2"]))
    assert 0.6 < sum(values) / len(values) < 0.95


def test_the_baseline_of_a_linear_network_is_its_distance():
    network = nn.Linear(2, 2).double()
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, -4.0], [0, 0]])), network.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    problem = Problem(network, x, torch.tensor([0, 0, 0]))
    found = random_baseline(problem, copies=1)
    root = 2**0.5
    assert [float(found.columns[f"trained_{p}"][0]) for p in ("l1", "l2", "linf")] == pytest.approx(
        [3 / 4 * root, 3 / 5 * root, 3 / 7 * root]
    )
    assert found.columns["status"][0] == "ok" and found.columns["status"][1] == "misclassified"
    assert bool(found.columns["trained_l2"][1:].isnan().all())


def test_decompositions_are_identities():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7, 4, dtype=torch.float64), torch.randint(4, (7,))
    parts = decompose(logits, labels)
    p = logits.softmax(2)
    y = torch.nn.functional.one_hot(labels, 4)
    assert torch.allclose(parts["bias"] + parts["variance"], (p - y).square().sum(2).mean(0), rtol=1e-12)
    loss = -logits.log_softmax(2).gather(2, labels.expand(5, 7)[..., None])[..., 0].mean(0)
    assert torch.allclose(parts["bias_cross_entropy"] + parts["variance_cross_entropy"], loss, rtol=1e-12)


def test_equal_networks_have_no_variance_and_different_ones_do():
    torch.manual_seed(0)
    network, x = nn.Linear(4, 3), torch.rand(6, 4)
    problem = asked(network, x, Ball(p=2, radius=0.2))
    same = diagnose(problem, "bias_variance", models=[network, network]).columns
    assert float(same["own_variance"].max()) < 1e-12 and float(same["own_bias"][-1]) > float(same["own_bias"][0])
    others = diagnose(problem, "bias_variance", models=[nn.Linear(4, 3), nn.Linear(4, 3)])
    assert float(others.columns["own_variance"].min()) > 0.001
    assert float(others.columns["transferred_error"][0]) == float(others.columns["own_error"][0])


def test_bias_variance_says_what_it_needs():
    network, x = nn.Linear(4, 3), torch.rand(2, 4)
    with pytest.raises(InputError, match="at least two"):
        diagnose(asked(network, x, Ball(p=2, radius=1.0)), "bias_variance")
    with pytest.raises(InputError, match="region that moves"):
        bias_variance(asked(network, x), models=[network, network], attack=lambda problem: None)
