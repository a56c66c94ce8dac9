"""Normalised recurrences: the scaled quantity is at its target; the paper's power method says where it fails."""

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle.spectra import distance_to_instability, pseudospectral_radius, spectral_norm, spectral_radius
from brittle.spectra.cells import cells
from brittle.spectra.power_method import power_method

QUANTITY = {
    "radius": spectral_radius,
    "power": spectral_radius,
    "norm": spectral_norm,
    "robust": lambda a: pseudospectral_radius(a, 0.05),
}


def random(n, seed):
    return np.random.default_rng(seed).standard_normal((n, n)) / np.sqrt(n)


@pytest.mark.parametrize("how", QUANTITY)
@pytest.mark.parametrize("target", [1.0, 0.7])
def test_the_quantity_of_a_matrix_is_at_the_target(how, target):
    for seed in range(3):
        scaled = bt.normalise(random(9, seed) * 3, how, target=target)
        assert QUANTITY[how](scaled) == pytest.approx(target, rel=1e-6)


def test_robust_normalisation_makes_the_distance_to_instability_epsilon():
    jordan = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)
    for epsilon in (0.3, 0.05, 0.005):
        assert distance_to_instability(bt.normalise(jordan, "robust", epsilon=epsilon)) == pytest.approx(
            epsilon, rel=1e-5
        )
    normal = np.diag([2.0, -0.5])  # rho_eps = rho + eps
    np.testing.assert_allclose(bt.normalise(normal, "robust", epsilon=0.25), np.diag([0.75, -0.1875]), rtol=1e-9)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_every_block_of_every_layer_and_direction(kind):
    torch.manual_seed(0)
    module = nn.Sequential(kind(3, 6, num_layers=2, bidirectional=True).double())
    before = {k: v.clone() for k, v in module.state_dict().items()}
    cured = bt.normalise(module, "norm", target=0.9)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())  # the given module is left alone
    blocks = [b for cell in cells(cured) for b in cell.blocks.values()]
    assert len(blocks) == 4 * {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}[kind]
    assert all(spectral_norm(b.numpy()) == pytest.approx(0.9, rel=1e-9) for b in blocks)
    rest = {k: v for k, v in cured.state_dict().items() if "weight_hh" not in k}
    assert all(torch.equal(v, before[k]) for k, v in rest.items())


def test_cells_and_projections():
    torch.manual_seed(0)
    cell = bt.normalise(nn.LSTMCell(3, 5), "radius")
    assert all(spectral_radius(b.numpy()) == pytest.approx(1, rel=1e-5) for b in cells(cell)[0].blocks.values())
    projected = bt.normalise(nn.LSTM(3, 6, proj_size=2).double(), "radius")
    assert all(spectral_radius(b.numpy()) == pytest.approx(1, rel=1e-9) for b in cells(projected)[0].blocks.values())


def test_only_down_leaves_small_blocks():
    small, large = 0.1 * np.eye(3), 4.0 * np.eye(3)
    for how in QUANTITY:
        np.testing.assert_array_equal(bt.normalise(small, how, only_down=True), small)
        assert QUANTITY[how](bt.normalise(large, how, only_down=True)) == pytest.approx(1, rel=1e-6)
    np.testing.assert_array_equal(bt.normalise(np.zeros((2, 2)), "radius", only_down=True), np.zeros((2, 2)))


def test_the_power_method_says_where_the_rayleigh_quotient_fails():
    symmetric = random(8, 0) + random(8, 0).T + 3 * np.eye(8)
    found = power_method(symmetric, steps=2000)
    assert found.converged and found.radius == pytest.approx(spectral_radius(symmetric), rel=1e-9)
    turn = 2.28 * np.array([[np.cos(1.0), -np.sin(1.0), 0.3], [np.sin(1.0), np.cos(1.0), 0.0], [0.0, 0.0, 0.4]])
    turn[2, 2] = 0.4
    pair = power_method(turn)
    assert pair.rule == "pair" and pair.radius == pytest.approx(2.28, rel=1e-9)
    shear = np.array([[1.0, 2.0], [-0.5, 1.0]])  # eigenvalues 1 +- i: the quotient keeps oscillating
    assert not power_method(shear).converged and np.ptp(power_method(shear).quotients[-20:]) > 0.5
    assert power_method(shear).radius == pytest.approx(np.sqrt(2), rel=1e-9)
    four = np.kron(np.array([[0.0, 1.0], [-1.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])) + np.diag([0, 0, 0, 0.2])
    assert power_method(four).radius == pytest.approx(spectral_radius(four), rel=1e-6)
    assert power_method(np.eye(3, k=1)).radius == 0  # nilpotent: the iteration ends at zero


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bt.normalise(np.eye(2), "unit"), "how"),
        (lambda: bt.normalise(np.eye(2), "robust", epsilon=2.0), "lower epsilon"),
        (lambda: bt.normalise(np.zeros((2, 2)), "norm"), "a norm above 0"),
        (lambda: bt.normalise(np.zeros((2, 2)), "robust"), "not zero"),
        (lambda: bt.normalise(nn.Linear(2, 2)), "a module that holds RNN"),
        (
            lambda: bt.normalise(nn.utils.parametrizations.spectral_norm(nn.RNNCell(2, 2), "weight_hh")),
            "parametrisation",
        ),
        (lambda: power_method(np.array([[1j]])), "a real matrix"),
        (lambda: power_method(np.eye(2), steps=1), "whole number"),
    ],
)
def test_bad_requests(call, words):
    with pytest.raises(bt.InputError, match=words):
        call()
