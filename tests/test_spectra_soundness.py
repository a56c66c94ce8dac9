"""Ends and extrema against brute force on many small matrices of awkward kinds. Slow."""

import numpy as np
import pytest

from brittle import spectra
from brittle.spectra._plane import plane
from brittle.spectra._quotient import climb
from reference import spectra as twin

KINDS = ("gauss", "complex", "triangular", "graded", "sparse", "nearly defective", "nearly normal")


def matrix(kind: str, seed: int) -> np.ndarray:
    source = np.random.default_rng([seed, len(kind)])
    n = 2 + seed % 6
    a = source.standard_normal((n, n))
    if kind == "complex":
        a = a + 1j * source.standard_normal((n, n))
    if kind == "triangular":
        a = 3 * np.triu(a, 1) + np.diag(source.uniform(-1, 1, n))
    if kind == "graded":
        a *= 10.0 ** source.uniform(-1.5, 1.5, n)[:, None]
    if kind == "sparse":
        a *= source.random((n, n)) < 0.5
    if kind == "nearly defective":
        a = np.eye(n) + source.uniform(0.3, 2) * np.eye(n, k=1) + 1e-6 * a
    if kind == "nearly normal":
        a = np.linalg.qr(a)[0] + 1e-3 * a
    rho = np.abs(np.linalg.eigvals(a)).max()
    return a * (source.choice([0.5, 0.9, 0.99, 0.999]) / max(rho, 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_nothing_beats_the_ends(kind, seed):
    a = matrix(kind, seed)
    found, at = spectra.kreiss(a), plane(a)
    starts = [(1 + step, t) for step in np.geomspace(1e-3, 2, 4) for t in np.linspace(0, 2 * np.pi, 7)[:-1]]
    starts += [(1 + step, float(np.angle(e))) for step in (1e-3, 0.1) for e in at.eigenvalues]
    best = max(1.0, climb(at, starts)[0].value)
    assert best <= float(found.upper) and float(found.lower) >= best * 0.99
    settled = found.status == ("ok",) and float(found.upper) <= 1.01 * float(found.lower) * (1 + 1e-9)
    assert settled or "tiny on a long arc" in found.status[0] and kind == "nearly defective"
    distance = spectra.distance_to_instability(a)
    assert twin.circle_minimum(a, 1.0, 400) * (1 - 1e-9) <= distance <= twin.circle_minimum(a, 1.0, 400) * (1 + 2e-3)
    for epsilon in (1e-3, 0.1):
        lead = twin.radius_by_pencils(a, epsilon) - np.abs(np.linalg.eigvals(a)).max()
        ours = spectra.pseudospectral_radius(a, epsilon) - np.abs(np.linalg.eigvals(a)).max()
        assert ours >= lead * (1 - 2e-3) - 1e-9
        assert twin.smallest(a, _outermost(a, epsilon)) <= epsilon * (1 + 1e-9)
    assert spectra.numerical_radius_bounds(a)[1] >= twin.numerical_radius_by_angles(a, 400) * (1 - 1e-12)
    norms = spectra.transient(a, 60)
    assert (norms.upper >= norms.norms * (1 - 1e-9)).all()
    assert (norms.lower[1:] <= np.maximum.accumulate(norms.norms[1:]) * (1 + 1e-9)).all()
    assert spectra.distance_to_instability(a, real=True) >= distance * (1 - 1e-9) if np.isrealobj(a) else True


def _outermost(a: np.ndarray, epsilon: float) -> complex:
    from brittle.spectra._frontier import circles, furthest

    at = plane(a)
    return furthest(at, circles(at), epsilon, 1e-3).point
