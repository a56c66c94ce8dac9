"""Gradients of the spectral quantities against central differences, in NumPy and through torch; ties."""

import numpy as np
import pytest
import torch

from brittle import spectra
from brittle.errors import InputError

OPTIONS = {
    "smallest": {"point": 0.9 + 0.2j},
    "pseudospectral_radius": {"epsilon": 0.1},
    "kreiss": {},
    "distance_to_instability": {},
    "transient": {},
    "commutator": {},
    "spectral_norm": {},
    "spectral_radius": {},
}


def matrix(n: int, imaginary: bool) -> np.ndarray:
    source = np.random.default_rng(n)
    a = source.standard_normal((n, n)) * np.linspace(0.3, 2, n)[:, None]
    a = a + 1j * source.standard_normal((n, n)) if imaginary else a
    return a * (0.95 / spectra.spectral_radius(a))


@pytest.mark.parametrize("quantity", OPTIONS)
@pytest.mark.parametrize(("n", "imaginary"), [(5, False), (6, True), (8, False)])
def test_central_differences_agree(quantity, n, imaginary):
    a, source = matrix(n, imaginary), np.random.default_rng(1)
    value, gradient = spectra.value_and_gradient(a, quantity, **OPTIONS[quantity])
    assert np.iscomplexobj(gradient) == imaginary and gradient.shape == a.shape
    for _ in range(2):
        change = source.standard_normal((n, n)) + (1j * source.standard_normal((n, n)) if imaginary else 0)
        change, h = change / np.linalg.norm(change), 1e-6
        up, down = (spectra.value_and_gradient(a + t * change, quantity, **OPTIONS[quantity])[0] for t in (h, -h))
        exact = float(np.sum(gradient.conj() * change).real)
        assert (up - down) / (2 * h) == pytest.approx(exact, rel=1e-7, abs=1e-7 * np.linalg.norm(gradient))
    assert quantity == "spectral_radius" or value > 0


def test_values_are_those_of_the_functions():
    a = matrix(6, False)
    value = lambda name, **options: spectra.value_and_gradient(a, name, **options)[0]
    assert value("pseudospectral_radius", epsilon=0.1) == pytest.approx(
        spectra.pseudospectral_radius(a, 0.1), rel=1e-12
    )
    assert value("kreiss") == pytest.approx(float(spectra.kreiss(a).lower), rel=1e-12)
    assert value("distance_to_instability") == pytest.approx(spectra.distance_to_instability(a), rel=1e-12)
    assert value("transient") == pytest.approx(spectra.transient(a).peak, rel=1e-12)
    assert value("commutator") == pytest.approx(spectra.commutator(a), rel=1e-14)
    assert value("smallest", point=1.0) == pytest.approx(
        float(spectra.pseudospectrum(a, 1.0, tolerance=1e-12)), rel=1e-10
    )


def test_descent_along_the_gradient_reaches_stability():
    a = torch.tensor(matrix(6, False) * 1.1, dtype=torch.float32, requires_grad=True)
    for _ in range(60):
        radius = spectra.differentiable(a, "pseudospectral_radius", epsilon=0.05)
        if radius < 1:
            break
        (gradient,) = torch.autograd.grad(radius, a)
        with torch.no_grad():
            a -= 0.05 * gradient / gradient.norm()
    assert spectra.distance_to_instability(a) > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_torch_sees_the_same_gradient_and_no_second_one(dtype):
    a = torch.tensor(matrix(5, dtype.is_complex)).to(dtype).requires_grad_()
    value = spectra.differentiable(a, "kreiss")
    (3 * value).backward()
    wanted = 3 * spectra.value_and_gradient(a, "kreiss")[1]
    assert a.grad is not None and a.grad.dtype == dtype and not value.dtype.is_complex
    assert torch.allclose(a.grad, torch.as_tensor(wanted).to(dtype), rtol=1e-5)
    (first,) = torch.autograd.grad(spectra.differentiable(a, "commutator") ** 2, a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.abs().sum().backward()


def test_ties_are_averaged():
    """``diag(0.9, -0.9)``: both ends of the circle tie; one gradient moves one eigenvalue, the mean moves both."""
    a = np.diag([0.9, -0.9])
    for quantity, options in (("distance_to_instability", {}), ("pseudospectral_radius", {"epsilon": 0.05})):
        sign = -1 if quantity == "distance_to_instability" else 1
        one = spectra.value_and_gradient(a, quantity, **options)[1]
        both = spectra.value_and_gradient(a, quantity, tied=1e-6, **options)[1]
        assert sorted(np.abs(np.diag(one)).round(9).tolist()) == [0, 1]
        assert np.allclose(both, sign * np.diag([0.5, -0.5]))
    twins = np.kron(np.diag([1.0, -1.0]), [[0.8, 1.0], [0.0, 0.8]])
    single, mean = (spectra.value_and_gradient(twins, "kreiss", tied=t)[1] for t in (0.0, 1e-6))
    halves = lambda g: (np.linalg.norm(g[:2, :2]), np.linalg.norm(g[2:, 2:]))
    assert min(halves(single)) < 1e-6 * max(halves(single))
    assert halves(mean)[0] == pytest.approx(halves(mean)[1], rel=1e-6)


def test_what_has_no_gradient_says_so():
    normal, unstable = np.diag([0.5, -0.3]), 2 * np.eye(2)
    value, gradient = spectra.value_and_gradient(normal, "kreiss")
    assert value == 1 and not gradient.any()
    assert not spectra.value_and_gradient(normal, "transient")[1].any()
    assert not spectra.value_and_gradient(normal, "commutator")[1].any()
    for quantity in ("kreiss", "distance_to_instability"):
        with pytest.raises(InputError, match="spectral radius below 1, got 2"):
            spectra.value_and_gradient(unstable, quantity)
