"""Radii and kernels of the neighbouring papers' models against their closed forms (acceptance items 11 to 13 of the theory)."""

from itertools import combinations
from math import cos, inf, sin

import pytest
import torch

import brittle as bt
from reference.neighbour_models import Spiking, SpikingLayer, Truncated, hadamard_kernels


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
def test_firing_times_solve_the_threshold_equation(seed):
    g = seeded(seed)
    layer, times = SpikingLayer(7, 5, g), torch.randn(20, 7, generator=g, dtype=torch.float64)
    fired = layer(times)
    assert float((layer.charge(times, fired) - 1).abs().max()) <= 1e-9
    torch.testing.assert_close(layer(times + 0.7), fired + 0.7, rtol=0, atol=1e-12)


def test_spiking_layers_do_not_expand_the_largest_norm_at_any_depth():
    worst = 0.0
    for seed in range(60):
        g = seeded(seed)
        network = Spiking((6, 8, 8, 8, 8), 3, g)
        a = torch.randn(8, 8, generator=g, dtype=torch.float64)
        b = a + torch.randn(8, 8, generator=g, dtype=torch.float64) * 10.0 ** -(seed % 4)
        ratio = (network.layers(a) - network.layers(b)).abs().amax(1) / (a - b).abs().amax(1)
        worst = max(worst, float(ratio.max()))
    assert 0.3 < worst <= 1


def test_attacks_on_spiking_networks_stay_above_the_certificate_and_meet_it_where_it_is_exact():
    g = seeded(3)
    network, x = Spiking((4, 6, 6), 3, g).eval(), torch.rand(6, 4, generator=g, dtype=torch.float64)
    labels = network(x).argmax(1)
    found = bt.radius(bt.Problem(network, x, labels, bt.Ball(inf, 1.0)), ends="upper", effort="quick")
    assert bool(found.witness.found.all()) and bool((found.upper >= network.certified(x, labels)).all())
    # one neuron with one input each, monotone alone: times shift with the input, so the Lipschitz constant 1 is attained
    exact = Spiking((1, 1, 1), 2, g).eval()
    x = torch.rand(5, 1, generator=g, dtype=torch.float64)
    labels = exact(x).argmax(1)
    found = bt.radius(bt.Problem(exact, x, labels, bt.Ball(inf, 1.0)), ends="upper", effort="standard")
    torch.testing.assert_close(found.upper, exact.certified(x, labels), rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(10))
def test_the_interval_of_a_truncated_rule_is_what_exhaustive_edits_reach(seed):
    g = seeded(seed)
    rule = Truncated(torch.randn(9, generator=g, dtype=torch.float64), 2)
    x = torch.randn(1, 9, generator=g, dtype=torch.float64)
    far = 1e6 * rule.weight.sign()
    sums = []
    for at in combinations(range(9), 2):
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            edited = x.clone()
            edited[0, list(at)] = torch.tensor(signs, dtype=torch.float64) * far[list(at)]
            sums.append(float(rule(edited)))
    low, high = rule.interval(x, 2)
    assert float(low) == pytest.approx(min(sums), abs=1e-12) and float(high) == pytest.approx(max(sums), abs=1e-12)


def test_attacks_on_a_truncated_rule_never_beat_its_interval():
    g = seeded(1)
    rule = Truncated(torch.randn(9, generator=g, dtype=torch.float64), 2).eval()
    x = torch.rand(12, 9, generator=g, dtype=torch.float64)
    labels = (rule(x)[:, 0] > 0).long()
    sign = labels * 2 - 1
    found = bt.radius(bt.Problem(rule, x, labels, bt.Ball(0, 1, low=-100, high=100)), ends="upper", effort="quick")
    for edits in (0, 1, 2):
        low, high = rule.interval(x, edits)
        safe = torch.where(sign > 0, low, -high) > 0
        assert bool((found.upper[safe] > edits).all())
    assert bool(((found.upper >= 1) & (found.upper < inf)).any())


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_the_tangent_kernel_of_hadamard_products_has_its_limit(factors):
    g = seeded(factors)
    x, other = (
        torch.tensor([1.0, 0.0]).double(),
        torch.tensor([cos(1.0), sin(1.0)]).double(),
    )  # far from where the kernel vanishes
    told, limit = hadamard_kernels(x, other, factors, 60_000, g)
    assert told == pytest.approx(limit, rel=0.1)
