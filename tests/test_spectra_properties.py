"""Laws of the spectral quantities, each on matrices of every kind: invariance, scaling, Lipschitz continuity, enclosures, duality."""

from math import e, inf

import numpy as np
import pytest

from brittle import spectra
from brittle.spectra._circles import Circle, circle, cover, quotient_between
from brittle.spectra._frontier import Curve, circles, least_on
from brittle.spectra._plane import plane
from brittle.spectra._real_distance import real_distance
from brittle.spectra._verified import norm_above, positive_definite, verifier
from reference import spectra as twin


@pytest.fixture
def draws() -> np.random.Generator:
    return np.random.default_rng(7)


def matrix(kind: str, n: int = 6, rho: float = 0.85) -> np.ndarray:
    source = np.random.default_rng(n)
    a = source.standard_normal((n, n))
    if kind == "complex":
        a = a + 1j * source.standard_normal((n, n))
    if kind == "triangular":
        a = np.triu(a, 1) + np.diag(np.linspace(-0.6, 0.85, n))
    if kind == "nearly normal":
        a = spectra.same_spectrum_normal(a) + 1e-9 * a
    return a * (rho / np.abs(np.linalg.eigvals(a)).max())


KINDS = ("real", "complex", "triangular", "nearly normal")
SCALARS = {
    "pseudospectral_radius": lambda a: spectra.pseudospectral_radius(a, 0.03),
    "distance_to_instability": spectra.distance_to_instability,
    "numerical_radius": spectra.numerical_radius,
    "henrici": spectra.henrici,
    "commutator": spectra.commutator,
    "kreiss": lambda a: float(spectra.kreiss(a).lower),
    "transient": lambda a: spectra.transient(a, 30).peak,
    "distance_to_defective": spectra.distance_to_defective,
    "eigenvector_condition": spectra.eigenvector_condition,
}


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("name", SCALARS)
def test_unitary_invariance(name, kind, draws):
    a = matrix(kind)
    q = np.linalg.qr(draws.standard_normal((6, 6)) + (1j * draws.standard_normal((6, 6)) if kind == "complex" else 0))[
        0
    ]
    assert SCALARS[name](q.conj().T @ a @ q) == pytest.approx(SCALARS[name](a), rel=2e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_smallest_singular_values_are_lipschitz(kind, draws):
    a = matrix(kind)
    z = draws.standard_normal(40) + 1j * draws.standard_normal(40)
    s = spectra.pseudospectrum(a, z, tolerance=1e-10)
    assert (np.abs(s[:, None] - s) <= np.abs(z[:, None] - z) * (1 + 1e-9) + 1e-12).all()
    change = 0.1 * draws.standard_normal((6, 6))
    moved = spectra.pseudospectrum(a + change, z, tolerance=1e-10)
    assert (np.abs(moved - s) <= np.linalg.norm(change, 2) * (1 + 1e-9)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weyl_and_bauer_fike_enclose(kind, draws):
    a = matrix(kind)
    z = 1.3 * (draws.standard_normal(60) + 1j * draws.standard_normal(60))
    s = spectra.pseudospectrum(a, z, tolerance=1e-10)
    away = np.abs(z[:, None] - np.linalg.eigvals(a)).min(1)
    assert (s <= away * (1 + 1e-9)).all() and (s >= away - spectra.henrici(a) - 1e-12).all()
    assert (away <= s * spectra.eigenvector_condition(a) * (1 + 1e-9)).all()
    rho, epsilon = spectra.spectral_radius(a), 0.02
    assert rho + epsilon <= spectra.pseudospectral_radius(a, epsilon) * (1 + 1e-12)
    assert spectra.pseudospectral_radius(a, epsilon) <= rho + epsilon * spectra.eigenvector_condition(a) * (1 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_scaling(kind):
    """``L_eps(cA) = c L_{eps / c}(A)`` and ``L_eps(aI + A) = a + L_eps(A)``."""
    a, c = matrix(kind), 2.5
    assert spectra.pseudospectral_radius(c * a, c * 0.04) == pytest.approx(
        c * spectra.pseudospectral_radius(a, 0.04), rel=1e-11
    )
    shifted = spectra.pseudospectral_abscissa(a + 3 * np.eye(6), 0.04)
    assert shifted == pytest.approx(3 + spectra.pseudospectral_abscissa(a, 0.04), rel=1e-11)
    assert spectra.distance_to_defective(c * a) == pytest.approx(c * spectra.distance_to_defective(a), rel=1e-6)
    assert spectra.henrici(c * a, relative=True) == pytest.approx(spectra.henrici(a, relative=True), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_pseudospectral_radius_is_one_at_the_distance_to_instability(kind):
    a = matrix(kind)
    assert spectra.pseudospectral_radius(a, spectra.distance_to_instability(a)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_kreiss_constant_both_ways_and_its_theorem(seed):
    """``K = (rho_eps - 1) / eps`` at the eps of the maximiser; ``K <= sup ||A^k|| <= e n K``."""
    a = np.random.default_rng(seed).standard_normal((7, 7)) * np.linspace(0.2, 2, 7)[:, None]
    a *= 0.97 / spectra.spectral_radius(a)
    found = spectra.kreiss(a)
    z = complex(*found.diagnostics["point"][0].tolist())
    epsilon = twin.smallest(a, z)
    assert (spectra.pseudospectral_radius(a, epsilon) - 1) / epsilon == pytest.approx(float(found.lower), rel=1e-9)
    for other in epsilon * np.array([0.3, 0.9, 1.1, 4.0]):
        assert (spectra.pseudospectral_radius(a, other) - 1) / other <= float(found.upper)
    peak = spectra.transient(a, 300).peak
    assert float(found.lower) <= peak * (1 + 1e-12) and peak <= e * 7 * float(found.upper)


@pytest.mark.parametrize("kind", KINDS)
def test_transients_lie_between_their_envelopes(kind):
    a = matrix(kind, rho=1.02 if kind == "real" else 0.93)
    found = spectra.transient(a, 80)
    running = np.maximum.accumulate(found.norms[1:])
    assert (found.lower[1:] <= running * (1 + 1e-12)).all()
    assert (found.norms <= found.upper * (1 + 1e-12)).all()
    assert (found.norms <= 2 * spectra.numerical_radius(a) ** np.arange(81) * (1 + 1e-9) + (np.arange(81) == 0)).all()


def test_envelopes_say_something():
    jordan = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)
    found = spectra.transient(jordan, 80)
    assert found.lower[-1] > 4  # nearly the Kreiss constant, where rho^k says 0.5
    assert (found.upper < 3 * found.norms)[:46].all()  # over nine orders of magnitude


@pytest.mark.parametrize("n", [2, 5, 12])
def test_commutator_bounds_enclose_henrici(n):
    for seed in range(20):
        a = np.random.default_rng([n, seed]).standard_normal((n, n)) ** 3
        lower, upper = spectra.henrici_bounds(a)
        assert lower <= spectra.henrici(a) * (1 + 1e-12) and spectra.henrici(a) <= upper * (1 + 1e-12)
    assert spectra.henrici_bounds(np.array([[0.3, 0.9], [0, 0.3]]))[1] == pytest.approx(0.9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_numerical_range_lies_between_its_polygons(kind, draws):
    a = matrix(kind)
    found = spectra.numerical_range(a, count=24)
    x = draws.standard_normal((200, 6)) + 1j * draws.standard_normal((200, 6))
    field = np.einsum("ki,ij,kj->k", x.conj(), a, x) / (np.abs(x) ** 2).sum(1)
    inside = (np.exp(-1j * found.angles) * np.append(field, found.points)[:, None]).real
    assert (inside <= found.support + 1e-12).all()
    assert np.allclose((np.exp(-1j * found.angles) * found.points).real, found.support)
    touching = np.exp(-1j * found.angles) * found.corners
    assert np.allclose(touching.real, found.support)
    lower, upper = spectra.numerical_radius_bounds(a)
    assert (
        np.abs(found.points).max()
        <= lower * (1 + 1e-12)
        <= upper * (1 + 1e-12)
        <= np.abs(found.corners).max() * (1 + 1e-9)
    )
    assert spectra.spectral_norm(a) / 2 <= upper and lower <= spectra.spectral_norm(a) * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_real_changes_are_larger_and_do_what_they_say(seed):
    a = np.random.default_rng(seed).standard_normal((4, 4))
    a *= 0.9 / spectra.spectral_radius(a)
    distance = spectra.distance_to_instability(a, real=True)
    assert distance >= spectra.distance_to_instability(a) * (1 - 1e-12)
    change, point = spectra.nearest_unstable(a, real=True)
    assert np.isrealobj(change) and abs(abs(point) - 1) < 1e-12
    assert np.linalg.norm(change, 2) == pytest.approx(distance, rel=1e-6)
    assert np.abs(np.linalg.eigvals(a + change) - point).min() < 1e-7
    free, where = spectra.nearest_unstable(a)
    assert np.linalg.norm(free, 2) == pytest.approx(spectra.distance_to_instability(a), rel=1e-12)
    assert np.abs(np.linalg.eigvals(a + free) - where).min() < 1e-9


def test_the_real_distance_to_a_complex_eigenvalue_by_direct_minimisation():
    a, z = matrix("triangular", 3), 0.3 + 0.3j
    found = real_distance(plane(a), z)
    assert found.value > twin.smallest(a, z) * 1.01
    assert found.value == pytest.approx(twin.real_distance_to(a, z), rel=1e-3)
    assert found.value <= twin.real_distance_to(a, z) * (1 + 1e-6)


def test_a_rotation_is_made_unstable_by_a_real_change_of_rank_two():
    turn = 0.8 * np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    assert spectra.distance_to_instability(turn) == pytest.approx(0.2)
    assert spectra.distance_to_instability(turn, real=True) == pytest.approx(0.2, rel=1e-6)
    change, _ = spectra.nearest_unstable(turn, real=True)
    assert np.linalg.matrix_rank(change, tol=1e-3) == 2


def test_a_search_of_a_circle_proves_what_a_dense_grid_sees():
    at = plane(matrix("real", 9, 0.97))
    dense = twin.circle_minimum(at.matrix, 1.0)
    for share in (0.5, 0.99):
        curve = least_on(at, circles(at), 1.0, lambda least, share=share: least * share)
        assert dense * share * 0.99 <= curve.proved <= dense


def test_verified_bounds_hold_and_are_tight():
    for a in (matrix("complex"), 0.5 * np.eye(12) + 0.9 * np.eye(12, k=1), matrix("real", 20)):
        check = verifier(a)
        for z in (1.0 + 0.1j, 0.9j, -1.2):
            s = twin.smallest(a, z)
            assert check.holds(z, s * (1 - 1e-3)) and not check.holds(z, s * (1 + 1e-6))
        assert np.linalg.norm(a, 2) <= norm_above(a) <= np.linalg.norm(a, 2) * (1 + 1e-9)
    deep = 0.2 * np.eye(12) + 2 * np.eye(12, k=1)  # s = 1e-4 and 1e-6: squares are lost, the inverse is not
    for z in (1.0, 0.8):
        s = twin.smallest(deep, z)
        assert s < 1e-3 and verifier(deep).holds(z, s * (1 - 1e-3)) and not verifier(deep).holds(z, s * (1 + 1e-4))
    assert positive_definite(np.eye(2, dtype=complex)) and not positive_definite(
        np.diag([1.0, -1e-300]).astype(complex)
    )


def test_between_circles_the_resolvent_is_bounded_by_both():
    at = plane(matrix("real", 8, 0.97))
    rings = [circle(at, r, 1.0, 1e-3) for r in (1.0, 1.1, 1.4, 3.0)]
    for inner, outer in zip(rings, rings[1:]):
        bound = quotient_between(inner, outer)[0]
        assert bound >= max(inner.bound, outer.bound) * (1 - 1e-9)
        for r in np.linspace(inner.radius, outer.radius, 7):
            assert (r - 1) / twin.circle_minimum(at.matrix, r, 90) <= bound * (1 + 1e-9)


def test_the_bound_between_circles_by_hand():
    """Gains 2 and 2: ``2 (1 - 1 / r)`` at the outer radius. Gains 4 and 1 at 1 and 4: ``4 / r (1 - 1 / r)``, 1 at r = 2."""
    ring = lambda r, gain: Circle(r, Curve(np.zeros(1), np.ones(1), r / gain), 1e-3)
    assert quotient_between(ring(1.5, 2), ring(3.0, 2))[0] == pytest.approx(4 / 3, rel=1e-10)
    assert quotient_between(ring(1.0, 4), ring(4.0, 1)) == pytest.approx((1, 2), rel=1e-10)


def test_the_three_circles_theorem_is_sharp_for_a_nilpotent_block():
    """A = b [[0, 1], [0, 0]]: ``N(r)`` is r / s with ``s = (sqrt(4 r^2 + b^2) - b) / 2``; log N is convex in log r and the chord lies above it."""
    b = 30.0
    n = lambda r: r * 2 / (np.sqrt(4 * r * r + b * b) - b)
    x = np.linspace(0, 3, 50)
    assert (np.diff(np.log(n(np.exp(x))), 2) > 0).all()


def test_covers():
    centres = np.array([0.0, 1.0, 2.0, 3.0])
    assert cover(centres, np.full(4, 0.6), (0, 3)) == [0, 1, 2, 3]
    assert cover(centres, np.array([0.1, 2.1, 0.1, 0.1]), (0, 3)) == [1]
    assert cover(centres, np.full(4, 0.4), (0, 3)) is None
    assert cover(centres, np.array([inf, 0, 0, 0]), (0, 3)) == [0]
