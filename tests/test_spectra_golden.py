"""Golden values of the spectral quantities, closed forms, and slow twins."""

from math import cos, inf, pi, sqrt

import numpy as np
import pytest

from brittle import spectra
from brittle.spectra._defective import first_touches, malyshev
from reference import spectra as twin

JORDAN = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)


def random(n: int, seed: int = 0, rho: float | None = None, imaginary: bool = False) -> np.ndarray:
    source = np.random.default_rng(seed)
    a = source.standard_normal((n, n)) + (1j * source.standard_normal((n, n)) if imaginary else 0)
    return a if rho is None else a * (rho / np.abs(np.linalg.eigvals(a)).max())


def normal(n: int, rho: float, seed: int = 0) -> np.ndarray:
    """A real normal matrix that is not symmetric."""
    return spectra.same_spectrum_normal(random(n, seed, rho))


def grcar(n: int) -> np.ndarray:
    return sum((np.eye(n, k=k) for k in range(4)), -np.eye(n, k=-1))


def test_the_jordan_block():
    assert spectra.spectral_radius(JORDAN) == 0.5
    assert spectra.spectral_norm(JORDAN) == pytest.approx(1.3773637625, abs=5e-11)
    assert spectra.henrici(JORDAN) == pytest.approx(0.9 * sqrt(7), abs=1e-13)
    assert spectra.pseudospectral_radius(JORDAN, 0.1) == pytest.approx(1.3, abs=1e-13)
    assert spectra.distance_to_instability(JORDAN) == pytest.approx(0.00564875066, abs=5e-12)
    assert spectra.numerical_radius(JORDAN) == pytest.approx(0.5 + 0.9 * cos(pi / 9), abs=1e-10)


def test_the_kreiss_constant_of_the_jordan_block():
    found = spectra.kreiss(JORDAN, tolerance=1e-3)
    assert float(found.lower) == pytest.approx(5.116245190, abs=5e-10)
    assert found.diagnostics["point"][0].tolist() == pytest.approx([1.08987946, 0], abs=5e-9)
    assert float(found.lower) <= 5.116245190 + 5e-10 <= float(found.upper) <= 5.116245190 * 1.001
    assert (found.kinds.lower, found.kinds.upper, found.status) == (("witnessed",), ("proved",), ("ok",))


def test_the_transient_of_the_jordan_block():
    found = spectra.transient(JORDAN, 100)
    assert (found.peak, found.step, found.settled) == (pytest.approx(17.380146730, abs=5e-10), 12, True)
    assert found.norms[5] == pytest.approx(4.7266809783, abs=5e-11)
    assert np.allclose(found.norms, twin.powers(JORDAN, 100), rtol=1e-12)


def test_grcar():
    a = grcar(32)
    assert spectra.spectral_radius(a) == pytest.approx(2.2494477765, abs=5e-10)
    values = spectra.pseudospectrum(a, [0, 1 + 2j, 1, 2.5], tolerance=1e-12)
    golden = [0.9511049931, 8.454463932889e-4, 0.1298919803, 0.0705040678]
    assert np.abs(values - golden).tolist() == pytest.approx([0, 0, 0, 0], abs=5e-11)
    assert values[1] == pytest.approx(golden[1], rel=1e-11)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3, 0.1, 2.0])
def test_pseudospectra_of_a_jordan_block_of_two_are_disks(epsilon):
    block = [[0.5, 1.0], [0.0, 0.5]]
    assert spectra.pseudospectral_radius(block, epsilon) == pytest.approx(0.5 + sqrt(epsilon**2 + epsilon), rel=1e-12)
    assert spectra.pseudospectral_abscissa(block, epsilon) == pytest.approx(0.5 + sqrt(epsilon**2 + epsilon), rel=1e-12)


@pytest.mark.parametrize("rho", [0.3, 0.95])
def test_normal_matrices(rho):
    a = normal(7, rho)
    found = spectra.kreiss(a)
    assert (float(found.lower), float(found.upper)) == (1, 1)
    assert spectra.transient(a, 20).peak == 1
    assert spectra.distance_to_instability(a) == pytest.approx(1 - rho, abs=1e-13)
    assert spectra.henrici(a) == pytest.approx(0, abs=1e-14)
    assert spectra.commutator(a) == pytest.approx(0, abs=1e-14)
    assert spectra.eigenvector_condition(a) == 1
    assert spectra.eigenvalue_conditions(a)[1].tolist() == [1] * 7
    assert spectra.pseudospectral_radius(a, 0.1) == pytest.approx(rho + 0.1, abs=1e-13)
    assert spectra.numerical_radius(a) == pytest.approx(rho, abs=1e-13)


def test_two_by_two_closed_forms():
    """[[0, b], [0, d]]: conditions ``sqrt(1 + b^2 / d^2)``, distance to defective ``(sqrt(b^2 + d^2) - b) / 2``, W an ellipse with minor axis b."""
    b, d = 3.0, 1.0
    a = np.array([[0, b], [0, d]])
    assert spectra.eigenvalue_conditions(a)[1].tolist() == pytest.approx([sqrt(1 + b * b / d / d)] * 2, rel=1e-14)
    k = sqrt(1 + b * b / d / d)
    assert spectra.eigenvector_condition(a) == pytest.approx(k + sqrt(k * k - 1), rel=1e-13)
    assert spectra.distance_to_defective(a) == pytest.approx((sqrt(b * b + d * d) - b) / 2, rel=1e-13)
    assert spectra.numerical_range(a, count=4).support.tolist() == pytest.approx(
        [0.5 + sqrt(10) / 2, 1.5, -0.5 + sqrt(10) / 2, 1.5], rel=1e-13
    )
    assert spectra.henrici(a, relative=True) == pytest.approx(b / sqrt(b * b + d * d), rel=1e-14)
    assert spectra.commutator(a) == pytest.approx(sqrt(2 * b**4 + 2 * b * b * d * d), rel=1e-14)


def test_distance_to_defective_by_the_twin_of_malyshev():
    a = random(5, 5)
    assert spectra.distance_to_defective(a) == pytest.approx(
        0.1803264, abs=5e-8
    )  # theory: saddle 0.1803264, grid 0.1803261
    change, point = spectra.nearest_defective(a)
    assert twin.multiple_eigenvalue_distance(a, point) == pytest.approx(np.linalg.norm(change, 2), rel=1e-4)
    split = np.sort(np.abs(np.linalg.eigvals(a + change) - point))
    assert split[1] < 1e-6
    k = spectra.eigenvalue_conditions(a)[1].max()
    assert np.linalg.norm(change, 2) <= np.linalg.norm(a, 2) / sqrt(k * k - 1)


def test_multiple_eigenvalues_of_complex_matrices():
    a = random(4, 8, imaginary=True)
    change, point = spectra.nearest_defective(a)
    assert np.sort(np.abs(np.linalg.eigvals(a + change) - point))[1] < 1e-6
    for z in (0.3 - 0.2j, 1.1j):
        assert malyshev(a, z) == pytest.approx(twin.multiple_eigenvalue_distance(a, z), rel=1e-3)
    assert first_touches(np.array([0.0, 3.0]), np.array([1.0, 2.0])) == [1.0]  # disks of radius 1 and 2


def test_the_search_leaves_the_outermost_eigenvalue():
    """A normal eigenvalue 0.9 (or -0.9) beside a Jordan block at 0.5, which reaches further: ``0.5 + sqrt(eps^2 + b eps)``."""
    a = np.array([[0.9, 0, 0], [0, 0.5, 5], [0, 0, 0.5]])
    for far in (a, np.diag([-1, 1, 1]) @ a):
        assert spectra.pseudospectral_radius(far, 0.1) == pytest.approx(0.5 + sqrt(0.01 + 0.5), rel=1e-12)
    assert spectra.pseudospectral_abscissa(a, 0.1) == pytest.approx(0.5 + sqrt(0.01 + 0.5), rel=1e-12)
    assert spectra.distance_to_instability(a) == pytest.approx(twin.circle_minimum(a, 1.0), rel=1e-9)


def test_no_point_of_a_grid_is_nearer_to_a_multiple_eigenvalue():
    a = random(3, 3)
    least = min(
        twin.multiple_eigenvalue_distance(a, complex(x, y))
        for x in np.linspace(-2.5, 2.5, 13)
        for y in np.linspace(0, 2, 6)
    )
    assert spectra.distance_to_defective(a) <= least * (1 + 1e-9)


def test_the_closest_eigenvalues_of_a_normal_matrix_meet_half_way():
    assert spectra.distance_to_defective(np.diag([0.0, 1.0, 3.0])) == pytest.approx(0.5, abs=1e-12)
    assert spectra.distance_to_defective(np.diag([1.0, 1.0, 3.0])) == 0
    assert spectra.distance_to_defective(JORDAN) == 0


@pytest.mark.parametrize(("n", "seed", "imaginary"), [(4, 1, False), (6, 2, True), (9, 3, False)])
def test_twins_agree(n, seed, imaginary):
    a = random(n, seed, 0.8, imaginary)
    assert spectra.distance_to_instability(a) == pytest.approx(twin.circle_minimum(a, 1.0), rel=1e-9)
    assert spectra.pseudospectral_radius(a, 0.05) == pytest.approx(twin.radius_by_pencils(a, 0.05), rel=1e-9)
    assert spectra.pseudospectral_radius(a, 0.05, method="rank-one") == pytest.approx(
        twin.radius_by_pencils(a, 0.05), rel=1e-9
    )
    assert spectra.distance_to_instability(a, method="rank-one") == pytest.approx(twin.circle_minimum(a, 1.0), rel=1e-7)
    assert spectra.numerical_radius(a) == pytest.approx(twin.numerical_radius_by_angles(a), rel=1e-6)
    assert spectra.numerical_radius(a) >= twin.numerical_radius_by_angles(a) * (1 - 1e-12)
    x = spectra.pseudospectral_abscissa(a, 0.05)
    assert twin.line_minimum(a, x) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("n", "seed"), [(3, 0), (5, 1), (8, 4)])
def test_the_grid_of_the_kreiss_quotient_is_inside(n, seed):
    a = random(n, seed, 0.95)
    found = spectra.kreiss(a)
    grid = twin.kreiss_by_grid(a, 30, 60)
    assert float(found.lower) == pytest.approx(grid, rel=1e-6)
    assert grid <= float(found.upper) * (1 + 1e-12)
    assert float(found.upper) <= float(found.lower) * 1.01 * (1 + 1e-9)


@pytest.mark.parametrize("b", [1.5, 5.0, 30.0])
def test_the_kreiss_constant_of_a_nilpotent_block(b):
    """[[0, b], [0, 0]]: ``s = (sqrt(4 r^2 + b^2) - b) / 2`` on all of a circle, so every angle is a maximiser and no slack is left between."""
    value = lambda r: 2 * (r - 1) / (sqrt(4 * r * r + b * b) - b)
    truth = max(1.0, max(value(r) for r in np.geomspace(1 + 1e-6, 1e3, 200_000)))
    found = spectra.kreiss([[0.0, b], [0.0, 0.0]], tolerance=5e-3)
    assert float(found.lower) == pytest.approx(truth, rel=1e-9)
    assert truth <= float(found.upper) <= truth * 1.005
    assert found.kinds.upper == ("proved",)


def test_continuous_time():
    a = random(5, 2) - 4 * np.eye(5)
    assert spectra.distance_to_instability(a, time="continuous") == pytest.approx(twin.line_minimum(a, 0.0), rel=1e-8)
    change, point = spectra.nearest_unstable(a, time="continuous")
    assert point.real == 0
    assert np.abs(np.linalg.eigvals(a + change) - point).min() < 1e-9


def test_infinite_and_undecided_kreiss_constants():
    unstable = spectra.kreiss(2 * np.eye(3))
    assert (float(unstable.lower), unstable.kinds.upper) == (inf, ("proved",))
    for on_the_circle in ([[1.0, 1.0], [0.0, 1.0]], np.linalg.qr(random(6))[0]):
        found = spectra.kreiss(on_the_circle)
        assert (float(found.upper), found.kinds.upper) == (inf, ("none",))
        assert "boundary" in found.status[0]
    assert float(spectra.kreiss([[1.0, 1.0], [0.0, 1.0]]).lower) > 1e6  # powers grow without bound
    assert float(spectra.kreiss(np.eye(5)[[1, 2, 3, 4, 0]]).upper) == 1  # a permutation is a contraction, exactly


def test_null_models():
    trained = random(16, 1, 0.9)
    found = {n.ensemble: n for n in spectra.null_models(trained, lambda a: spectra.henrici(a, relative=True), draws=39)}
    assert found["normal"].draws.tolist() == pytest.approx([0], abs=1e-7)
    assert 0.02 < found["random"].percentile < 0.98
    low, high = found["random"].interval
    assert low < found["random"].percentile < high
    assert np.linalg.norm(spectra.same_spectrum_normal(trained)) == pytest.approx(
        np.sqrt((np.abs(np.linalg.eigvals(trained)) ** 2).sum())
    )
    for how, size in (("radius", spectra.spectral_radius), ("norm", spectra.spectral_norm)):
        (null,) = spectra.null_models(trained, size, ensembles=("initialisation",), match=how, draws=3)
        assert null.draws.tolist() == pytest.approx([null.value] * 3)
    (fresh,) = spectra.null_models(trained, lambda a: np.abs(a).max(), ensembles=("initialisation",), hidden=4, draws=5)
    assert (fresh.draws > 0.45).all() and (fresh.draws <= 0.5).all()
    (tied,) = spectra.null_models(trained, lambda a: 1.0, ensembles=("random",), draws=5)
    assert (tied.percentile, tied.interval) == (0.5, (0.0, 1.0))
    (wide,) = spectra.null_models(np.ones((4, 9)), spectra.spectral_norm, ensembles=("initialisation",), draws=5)
    assert (wide.draws < spectra.spectral_norm(np.ones((4, 9))) / 3).all() and wide.percentile == 1
