"""Awkward matrices: nearly defective ones, Jordan blocks whose resolvent is large on long arcs, values that lie close together."""

import numpy as np
import pytest
import torch

from brittle import spectra
from brittle.cures.constrain import constrain
from brittle.cures.normalise import normalise
from brittle.errors import InputError
from brittle.spectra._plane import Plane


def jordan(n: int, value: float, beside: float) -> np.ndarray:
    return value * np.eye(n) + beside * np.eye(n, k=1)


def random_between() -> np.ndarray:
    """A random matrix of 32 rows, one of whose values far out is too high by 7e-4: singular values lie within two per cent there."""
    source = np.random.default_rng(0)
    for n in (2, 8, 16, 32):
        a = source.standard_normal((n, n))
        source.uniform(0, 3, 400)
    return a * (0.99 / np.abs(np.linalg.eigvals(a)).max())


def test_what_the_points_of_a_circle_show_is_kept_where_they_do_not_settle_it():
    """1.5 N, n = 16: s is about 1e-3 on whole circles; the enclosure used to end at twice the constant."""
    found = spectra.kreiss(1.5 * np.eye(16, k=1))
    truth = max(
        (r - 1) / np.linalg.svd(r * np.eye(16) - 1.5 * np.eye(16, k=1))[1][-1] for r in np.linspace(1.01, 1.4, 400)
    )
    assert float(found.lower) >= truth * (1 - 1e-12)
    assert truth <= float(found.upper) <= truth * 1.02
    assert found.kinds.upper == ("proved",)


def test_a_value_that_is_a_little_too_high_does_not_cost_the_proof():
    found = spectra.kreiss(random_between())
    assert (found.kinds.upper, found.status) == (("proved",), ("ok",))


@pytest.mark.slow
def test_enclosures_end_after_bounded_work_and_stay_honest():
    for a in (jordan(3, 0.99, 0.9), 1.3 * np.eye(32, k=1)):
        found = spectra.kreiss(a)
        assert float(found.diagnostics["evaluations"]) < 250_000
        assert found.kinds.upper == ("proved",)
        assert float(found.lower) <= float(found.upper) <= 2.1 * float(found.lower)


@pytest.mark.parametrize("corner", [0.9j, 0.9 * np.exp(0.3j), 1 + 1j])
def test_the_numerical_radius_at_a_corner_of_the_range(corner):
    """Every supporting line of some sector touches the eigenvalue, which is at none of the angles tried."""
    for a in ([[corner]], np.diag([corner, 0.2, -0.3j])):
        lower, upper = spectra.numerical_radius_bounds(a)
        assert lower == pytest.approx(abs(corner), rel=1e-13)
        assert upper == pytest.approx(abs(corner), rel=1e-12)


def test_pairs_below_the_real_axis_count_for_complex_matrices():
    """An isolated pair above, a closer one below: (sqrt(b^2 + d^2) - b) / 2 of the block [[l, b], [0, l + d]]."""
    a = np.zeros((4, 4), complex)
    a[:2, :2], a[2:, 2:] = [[3j, 0], [0, 4j]], [[-3j, 0.5], [0, -3j + 0.2]]
    closest = (np.sqrt(0.25 + 0.04) - 0.5) / 2
    assert spectra.distance_to_defective(a) == pytest.approx(closest, rel=1e-9)
    assert spectra.distance_to_defective(a.conj()) == pytest.approx(closest, rel=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6])
def test_next_to_nothing_is_made_unstable_by_a_real_change_of_norm_one(scale):
    a = scale * np.random.default_rng(0).standard_normal((3, 3))
    change, point = spectra.nearest_unstable(a, real=True)
    assert np.linalg.norm(change, 2) == pytest.approx(spectra.distance_to_instability(a, real=True), rel=1e-7)
    assert np.linalg.norm(change, 2) == pytest.approx(1, abs=3 * scale)
    assert np.abs(np.linalg.eigvals(a + change) - point).min() < 1e-9


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_nilpotent_blocks_can_be_normalised_robustly(epsilon):
    """[[0, c], [0, 0]]: a disk of radius sqrt(eps^2 + c eps), on whose edge no point stands out; the search used to give up."""
    scaled = normalise(np.eye(2, k=1), "robust", epsilon=epsilon)
    assert scaled[0, 1] == pytest.approx((1 - epsilon**2) / epsilon, rel=1e-6)


def test_the_slope_of_a_defective_spectral_radius_is_refused_and_not_told_as_nan():
    with pytest.raises(InputError, match="defective.*train pseudospectral_radius"):
        spectra.value_and_gradient(np.eye(3, k=1), "spectral_radius")
    assert np.isfinite(spectra.value_and_gradient(np.eye(3, k=1), "pseudospectral_radius", epsilon=0.1)[1]).all()


def test_orthogonal_training_starts_at_an_orthogonal_matrix_with_half_turns():
    """Symmetric weights have polar factors with eigenvalues -1, whose logarithm is real for pairs only; the start used to be the identity."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    for block in (
        -np.eye(2),
        np.diag([-1.0, 1, -1, -1, -1]),
        turn @ np.diag([-1.0, -1, 1, 1, 1]) @ turn.T,
        turn * np.linalg.det(turn),
    ):
        rnn = torch.nn.RNN(2, len(block), dtype=torch.float64)
        with torch.no_grad():
            rnn.weight_hh_l0.copy_(torch.as_tensor(0.5 * block))
        assert np.allclose(constrain(rnn, "orthogonal").weight_hh_l0.detach().numpy(), block, atol=1e-12)


def test_training_goes_on_where_no_search_settles_a_circle():
    """A Jordan block of six next to the circle; the search used to raise in the middle of training."""
    a = jordan(6, 0.95, 1.0)
    value, gradient = spectra.value_and_gradient(a, "kreiss")
    assert value == pytest.approx(float(spectra.kreiss(a).lower), rel=1e-6)
    step = 1e-9 * gradient / np.linalg.norm(gradient)
    ends = [spectra.value_and_gradient(a + s * step, "kreiss")[0] for s in (1, -1)]
    assert (ends[0] - ends[1]) / 2e-9 == pytest.approx(np.linalg.norm(gradient), rel=1e-2)


def test_the_distance_of_a_large_nilpotent_block_takes_bounded_work(monkeypatch):
    """1.02 N, n = 150: s is the same on all of the circle, so that no number of points settles it; each of them is the answer."""
    asked = []
    values = Plane.values
    monkeypatch.setattr(Plane, "values", lambda self, z, *rest: asked.append(len(z)) or values(self, z, *rest))
    monkeypatch.setattr("brittle.spectra._instability.WORK", 150**2 * 1e3)
    a = 1.02 * np.eye(150, k=1)
    truth = np.linalg.svd(np.eye(150) - a)[1][-1]
    assert spectra.distance_to_instability(a) == pytest.approx(truth, rel=1e-6)
    assert sum(asked) < 5 * 20_000
