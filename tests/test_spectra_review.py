"""Awkward matrices: nearly defective ones, Jordan blocks whose resolvent is large on long arcs, values that lie close together."""

import numpy as np
import pytest

from brittle import spectra


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
