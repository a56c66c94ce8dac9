"""What the spectral functions refuse, in plain words, and what they read."""

import inspect

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import aslinearoperator

from brittle import spectra
from brittle.discovery import methods
from brittle.errors import InputError

CALLS = {
    "spectral_radius": {},
    "spectral_norm": {},
    "henrici": {},
    "henrici_bounds": {},
    "commutator": {},
    "eigenvalue_conditions": {},
    "eigenvector_condition": {},
    "numerical_range": {},
    "numerical_radius": {},
    "pseudospectral_radius": {"epsilon": 0.1},
    "pseudospectral_abscissa": {"epsilon": 0.1},
    "distance_to_instability": {},
    "nearest_unstable": {},
    "distance_to_defective": {},
    "nearest_defective": {},
    "kreiss": {},
    "transient": {"steps": 5},
    "value_and_gradient": {"quantity": "commutator"},
}
GOOD = [[0.5, 0.9, 0.0], [0.0, 0.4, 0.3], [0.1, 0.0, -0.2]]


def call(name: str, matrix: object, **more: object):
    return getattr(spectra, name)(matrix, **{**CALLS[name], **more})


@pytest.mark.parametrize("name", CALLS)
def test_bad_matrices_are_refused(name):
    for bad, words in (
        ([[0.1, np.nan], [0.0, 0.1]], "finite entries, got 1"),
        ([[0.1, np.inf], [0.0, np.inf]], "finite entries, got 2"),
        (np.zeros((0, 0)), "at least one row"),
        (np.zeros(3), "two axes"),
        ([["a", "b"], ["c", "d"]], "array of numbers"),
        ([[1e200, 0], [0, 1]], "rescale"),
    ):
        with pytest.raises(InputError, match=words):
            call(name, bad)
    if name != "spectral_norm":
        with pytest.raises(InputError, match="weight_hr"):
            call(name, np.ones((4, 2)))
    else:
        assert call(name, np.ones((4, 2))) == pytest.approx(8**0.5)


@pytest.mark.parametrize("name", CALLS)
def test_every_kind_of_array_is_read(name):
    wanted = call(name, GOOD)
    for same in (
        np.array(GOOD),
        torch.tensor(GOOD, dtype=torch.float64),
        csr_matrix(GOOD),
        np.array(GOOD, dtype=complex),
    ):
        found = call(name, same)
        if isinstance(wanted, float):
            assert found == pytest.approx(wanted, rel=1e-9)
    low = torch.tensor(GOOD).bfloat16().requires_grad_()
    call(name, low)
    assert low.grad is None


def test_the_caller_keeps_his_matrix():
    mine = np.array(GOOD)
    for name in CALLS:
        call(name, mine)
    assert (mine == GOOD).all()


@pytest.mark.parametrize("name", ["pseudospectral_radius", "pseudospectral_abscissa"])
def test_epsilon(name):
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match="epsilon: expected a positive"):
            call(name, GOOD, epsilon=bad)
    with pytest.raises(InputError, match="rounding of this matrix"):
        call(name, GOOD, epsilon=1e-17)


def test_options():
    for name, option, words in (
        ("pseudospectral_radius", {"method": "magic"}, "global | rank-one"),
        ("distance_to_instability", {"method": "rank-one", "real": True}, "complex distance only"),
        ("distance_to_instability", {"time": "past"}, "discrete | continuous"),
        ("kreiss", {"tolerance": 0}, "tolerance"),
        ("transient", {"steps": 0}, "steps"),
        ("numerical_range", {"count": 2}, "three supporting lines"),
        ("numerical_radius", {"tolerance": 0}, "tolerance"),
        ("value_and_gradient", {"quantity": "beauty"}, "quantity"),
        ("value_and_gradient", {"quantity": "smallest"}, "point"),
        ("value_and_gradient", {"quantity": "pseudospectral_radius"}, "epsilon"),
        ("value_and_gradient", {"tied": 1}, "tied"),
    ):
        with pytest.raises(InputError, match=words.replace("|", r"\|")):
            call(name, GOOD, **option)
    with pytest.raises(InputError, match="complex entries"):
        spectra.distance_to_instability(np.array(GOOD) * (1 + 0.1j), real=True)
    for name in ("distance_to_defective", "nearest_defective"):
        with pytest.raises(InputError, match="two rows"):
            call(name, [[0.5]])
    with pytest.raises(InputError, match="two or is an eigenvalue"):
        spectra.nearest_defective(np.diag([0.0, 1.0]))
    with pytest.raises(InputError, match="needs no change"):
        spectra.nearest_unstable(2 * np.eye(2))
    with pytest.raises(InputError, match="overflow"):
        spectra.value_and_gradient(1e10 * np.eye(2), "transient")
    for option in ({"ensembles": ("magic",)}, {"match": "magic"}, {"draws": 0}):
        with pytest.raises(InputError):
            spectra.null_models(GOOD, spectra.spectral_norm, **option)
    with pytest.raises(InputError, match="no eigenvalues"):
        spectra.null_models(np.ones((2, 3)), spectra.spectral_norm)


def test_degenerate_matrices():
    zero, one = np.zeros((3, 3)), [[0.5]]
    assert spectra.henrici(zero, relative=True) == spectra.commutator(zero) == spectra.numerical_radius(zero) == 0
    assert spectra.henrici_bounds(zero) == (0, 0)
    assert spectra.pseudospectral_radius(zero, 0.1) == pytest.approx(0.1)
    assert spectra.distance_to_instability(zero) == pytest.approx(1)
    assert float(spectra.kreiss(zero).upper) == 1
    assert spectra.transient(zero, 3).norms.tolist() == [1, 0, 0, 0]
    assert spectra.distance_to_instability(one) == pytest.approx(0.5)
    assert spectra.distance_to_instability([[1.5]]) == 0
    assert spectra.pseudospectral_radius(one, 0.2) == pytest.approx(0.7)
    assert spectra.transient([[3.0]], 700).norms[-1] == np.inf  # beyond the range of doubles, and said so
    assert not spectra.transient([[3.0]], 700).settled


def test_sparse_matrices_and_operators_have_the_same_pseudospectral_radius():
    small = np.random.default_rng(3).standard_normal((20, 20)) / 9
    large = np.zeros((240, 240))  # Arnoldi: one strong pair among weak states
    large[:2, :2] = [[0.6, 0.7], [-0.5, 0.6]]
    large[2:, 2:] = np.diag(np.linspace(-0.3, 0.3, 238)) + 0.2 * np.eye(238, k=1)
    for a in (small, large):
        wanted = spectra.pseudospectral_radius(a, 0.02)
        for form in (csr_matrix(a), aslinearoperator(a)):
            assert spectra.pseudospectral_radius(form, 0.02, method="rank-one") == pytest.approx(wanted, rel=1e-8)


def test_every_file_of_the_family_is_a_public_function():
    assert {*CALLS, "null_models", "differentiable"} <= {m.name for m in methods("spectra")}
    for method in methods("spectra"):
        if method.name not in {*CALLS, "null_models", "differentiable"}:
            continue
        function = method.function
        assert getattr(spectra, method.name) is function and inspect.isfunction(function)
        assert ">>>" in (function.__doc__ or "") and "Guarantee" in (function.__doc__ or "")
        assert method.about.promise and method.about.reference and method.about.cost
