"""Smallest singular values of zI - A: the compiled kernel and its NumPy twin against one SVD per point, and against closed forms."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from tests.reference.singular_values import smallest_by_svd

from brittle.errors import InputError
from brittle.spectra import _lanczos, _schur
from brittle.spectra import error_floor as floor_of
from brittle.spectra import pseudospectrum as solve

SMALL, LARGE = (1, 2, 3, 5), (64, 128)


def gaussian(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, n)) / n**0.5


def orthogonal(n):
    return np.linalg.qr(gaussian(n))[0]


def grcar(n):
    return np.eye(n) - np.eye(n, k=-1) + sum(np.eye(n, k=j) for j in (1, 2, 3))


def twice(n):
    """Every singular value double."""
    return np.kron(np.eye(2), gaussian(max(n // 2, 1)))


MATRICES = {
    "gaussian": gaussian,
    "complex": lambda n: gaussian(n) + 1j * gaussian(n, 1),
    "orthogonal": orthogonal,
    "nearly orthogonal": lambda n: orthogonal(n) + 1e-3 * gaussian(n, 1),
    "symmetric": lambda n: gaussian(n) + gaussian(n).T,
    "nearly symmetric": lambda n: gaussian(n) + gaussian(n).T + 1e-4 * gaussian(n, 1),
    "grcar": grcar,
    "jordan": lambda n: 0.5 * np.eye(n) + 0.9 * np.eye(n, k=1),
    "triangular": lambda n: np.triu(gaussian(n)),
    "defective": lambda n: np.kron(np.eye(-(-n // 2)), [[0.5, 1.0], [0.0, 0.5]])[:n, :n],
    "twice": twice,
    "zero": lambda n: np.zeros((n, n)),
}


def window(count=9):
    """Off the lattice of round numbers; both half planes."""
    x = np.linspace(-1.61, 2.02, count)
    return x[None] + 1j * (x[:, None] - 0.2)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("n", (*SMALL, *LARGE))
def test_values_are_those_of_an_svd(name, n):
    matrix, z = MATRICES[name](n), window(9 if n < 128 else 5)
    exact, found = smallest_by_svd(matrix, z), solve(matrix, z)
    told = exact > 1e-12 * np.linalg.norm(matrix, 2)
    assert np.abs(found / exact - 1)[told].max(initial=0) < 1e-5
    assert (found >= floor_of(matrix)).all() and (found[~told] <= 2e-12 * np.linalg.norm(matrix, 2)).all()
    rounding = 10 * floor_of(matrix) + 1e-12 * np.abs(z)
    assert (found >= exact * (1 - 1e-12) - rounding).all()  # a Ritz value is never below


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("n", (1, 5, 32))
def test_the_twin_in_numpy_agrees(name, n, monkeypatch):
    matrix, z = MATRICES[name](n), window(6)
    compiled = solve(matrix, z, vectors=True)
    monkeypatch.setattr(_schur, "_iteration", lambda: _lanczos.inverse_lanczos)
    twin = solve(matrix, z, vectors=True)
    told = compiled[0] > 1e-11 * np.linalg.norm(matrix, 2)
    np.testing.assert_allclose(solve(matrix, z)[told], compiled[0][told], rtol=1e-5)
    np.testing.assert_allclose(twin[0][told], compiled[0][told], rtol=1e-5)
    check_vectors(matrix, z, *twin)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("n", (2, 5, 48))
def test_singular_vectors_solve_their_equation(name, n):
    matrix, z = MATRICES[name](n), window(6)
    check_vectors(matrix, z, *solve(matrix, z, vectors=True))


def check_vectors(matrix, z, values, left, right):
    size = np.linalg.norm(matrix, 2) + np.abs(z)
    gap = z[..., None] * right - right @ matrix.T - values[..., None] * left
    back = z[..., None].conj() * left - left @ matrix.conj() - values[..., None] * right  # (zI - A)* u = s v
    np.testing.assert_allclose(np.linalg.norm(right, axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(left, axis=-1), 1, atol=1e-12)
    assert (np.linalg.norm(gap, axis=-1) < 1e-13 * size * len(matrix) ** 0.5).all()
    assert (np.linalg.norm(back, axis=-1) < 1e-5 * values + 1e-13 * size * len(matrix) ** 0.5).all()


def test_the_vectors_make_an_eigenvalue():
    matrix, z = gaussian(20), np.array([1.1 + 0.3j, -0.2 - 1.3j])
    values, left, right = solve(matrix, z, vectors=True)
    for k in range(2):
        moved = matrix + values[k] * np.outer(left[k], right[k].conj())
        assert np.abs(np.linalg.eigvals(moved) - z[k]).min() < 1e-10


def test_gradients_are_those_of_central_differences():
    matrix, z, step = gaussian(7), 0.9 + 0.4j, 1e-6
    _, left, right = solve(matrix, z, vectors=True, tolerance=1e-9)
    exact = -np.real(left.conj()[:, None] * right[None])
    found = np.empty((7, 7))
    for i in range(7):
        for j in range(7):
            change = np.zeros((7, 7))
            change[i, j] = step
            found[i, j] = (smallest_by_svd(matrix + change, z) - smallest_by_svd(matrix - change, z)) / (2 * step)
    np.testing.assert_allclose(found, exact, atol=1e-7)


def test_golden_values():
    z = np.array([0, 1 + 2j, 1, 2.5])
    golden = [0.9511049931, 8.454463932889e-4, 0.1298919803, 0.0705040678]
    np.testing.assert_allclose(solve(grcar(32), z, tolerance=1e-10), golden, rtol=1e-9)
    jordan = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)
    np.testing.assert_allclose(solve(jordan, [1.0], tolerance=1e-11), [0.00564875066], rtol=1e-9)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-4, 0.1, 3.0])
def test_the_disk_of_a_jordan_block(epsilon):
    corner = 0.3 - 0.4j
    z = corner + np.sqrt(epsilon**2 + epsilon) * np.exp(1j * np.arange(8))
    np.testing.assert_allclose(solve([[corner, 1], [0, corner]], z, tolerance=1e-9), epsilon, rtol=1e-8)


def test_a_normal_matrix_has_disks():
    matrix, z = orthogonal(40), window()
    distance = np.abs(z[..., None] - np.linalg.eigvals(matrix)).min(-1)
    np.testing.assert_allclose(solve(matrix, z), distance, rtol=1e-10)


def test_laws_of_the_smallest_singular_value():
    a, e, z = gaussian(24), 0.3 * gaussian(24, 1), window(5)
    s = solve(a, z, tolerance=1e-9)
    assert (np.abs(solve(a, z + 0.1j) - s) <= 0.1 + 1e-4).all()  # 1-Lipschitz in z, and in A
    assert (np.abs(solve(a + e, z) - s) <= np.linalg.norm(e, 2) + 1e-4).all()
    np.testing.assert_allclose(solve(a, z.conj(), tolerance=1e-9), s, rtol=1e-8)
    q = orthogonal(24)
    np.testing.assert_allclose(solve(q @ a @ q.T, z, tolerance=1e-9), s, rtol=1e-8)
    c = 2 - 1j
    np.testing.assert_allclose(solve(0.5 * np.eye(24) + c * a, 0.5 + c * z, tolerance=1e-9), abs(c) * s, rtol=1e-8)


def test_nothing_is_told_below_the_floor():
    """s_min falls to 1e-71 in the middle of a long Jordan block: bounded below, never NaN, with or without vectors."""
    matrix = 0.5 * np.eye(256) + 0.9 * np.eye(256, k=1)
    z = np.array([0.5, 0.5 + 1e-3j, 0.6, 0.9j, 1.45, 1.6])
    found = solve(matrix, z)
    assert (found[:3] == floor_of(matrix)).all() and (found[4:] > floor_of(matrix)).all()
    values, left, right = solve(matrix, z, vectors=True)
    np.testing.assert_allclose(values, found, rtol=1e-5)
    assert np.isfinite(left).all() and np.isfinite(right).all()


def test_what_does_not_converge_goes_to_the_svd(monkeypatch):
    from brittle.spectra import _kernel

    matrix, z = gaussian(12), window(4)
    exact = smallest_by_svd(matrix, z)
    for module in (_kernel, _lanczos):
        monkeypatch.setattr(module, "STEPS", 2)
        monkeypatch.setattr(_schur, "_iteration", lambda m=module: m.inverse_lanczos)
        assert np.isnan(_schur._iteration()(_schur.factorise(matrix), z.reshape(-1), 1e-5, False)[0]).any()
        np.testing.assert_allclose(solve(matrix, z), exact, rtol=1e-5)
        check_vectors(matrix, z, *solve(matrix, z, vectors=True))


def passes(monkeypatch, matrix, z, **options):
    """Values of both passes, and of the one in double alone."""
    from brittle.spectra import _kernel

    both = solve(matrix, z, **options)
    monkeypatch.setattr(_kernel, "SINGLE_SHARE", np.inf)
    return both, solve(matrix, z, **options)


@pytest.mark.parametrize("size", [1.0, 1e30, 1e-30, 1e69, 1e-60])
def test_a_first_pass_in_single_precision_knows_no_units(size, monkeypatch):
    matrix, z = size * (orthogonal(40) + 0.1 * gaussian(40, 1)), size * window(5)
    both, alone = passes(monkeypatch, matrix, z)
    np.testing.assert_allclose(both, smallest_by_svd(matrix, z), rtol=1e-5)
    np.testing.assert_allclose(both, alone, rtol=1e-7)
    assert (both != alone).any()  # the first pass did answer


def test_single_precision_leaves_to_double_what_it_cannot_tell(monkeypatch):
    """Next to eigenvalues and far out, where single precision has no digits left or overflows."""
    matrix = gaussian(24)
    near = np.linalg.eigvals(matrix)[:4, None] + np.array([0, 1e-14, 1e-9, 1e-7, 1e-5, 1e-3])
    for far in (1e3, 1e30, 1e60, 1e120):
        np.testing.assert_allclose(solve(matrix, [far]), smallest_by_svd(matrix, np.array([far])), rtol=1e-5)
    z = near.reshape(-1)
    both, alone = passes(monkeypatch, matrix, z)
    exact = smallest_by_svd(matrix, z)
    told = exact > 1e-9
    np.testing.assert_allclose(both[told], exact[told], rtol=1e-5)
    np.testing.assert_allclose(both[~told], alone[~told], rtol=1e-12)
    assert (both[exact < floor_of(matrix)] == floor_of(matrix)).all()


@pytest.mark.parametrize("name", ["gaussian", "complex", "nearly orthogonal", "triangular"])
def test_where_two_branches_of_singular_values_cross_none_is_missed(name, monkeypatch):
    """Two blocks that know nothing of each other: a vector of the one is blind to the other. Both sides of every crossing on a line."""
    for seed in range(6):
        one, other = MATRICES[name](16), MATRICES[name](17)[1:, 1:] * np.exp(1j * (seed + 1))
        z = (np.linspace(-1.4, 1.4, 2000) + 0.2j) * np.exp(0.5j * seed)
        first, second = (solve(block, z, tolerance=1e-9) for block in (one, other))
        crossed = np.flatnonzero(np.diff(np.sign(first - second)))
        if not len(crossed):
            continue
        far = 2e-3 * np.array([1, 0.1, 0.01])
        points = z[crossed, None] + (z[1] - z[0]) * np.concatenate((-far, [0, 0.5, 1], 1 + far)) / far[0]
        whole = np.zeros((32, 32), np.complex128)
        whole[:16, :16], whole[16:, 16:] = one, other
        both, alone = passes(monkeypatch, whole, points)
        monkeypatch.undo()
        exact = smallest_by_svd(whole, points)
        assert (both / exact - 1).max() < 1e-4  # twice the residual over the gap, where the branches are as close as it
        np.testing.assert_allclose(both, alone, rtol=2e-6)


def test_conjugate_points_are_solved_once():
    x = np.linspace(-1.5, 1.5, 100)  # not symmetric to the last bit
    z = (x[None] + 1j * x[:, None]).reshape(-1)
    real, not_real = _schur.factorise(gaussian(6)), _schur.factorise(gaussian(6) + 0.1j * np.eye(6))
    assert len(_schur._distinct(real, z)[0]) < 0.51 * len(z)
    distinct, inverse = _schur._distinct(not_real, z)
    assert len(distinct) == len(z) and np.abs(distinct[inverse] - z).max() < 1e-12
    folded, inverse = _schur._distinct(real, z)
    assert np.abs(folded[inverse] - (z.real + 1j * np.abs(z.imag))).max() < 1e-12


def test_results_do_not_depend_on_threads_or_on_the_points_beside():
    matrix, z = gaussian(30), window(7)
    all_of_them = solve(matrix, z)
    np.testing.assert_array_equal(solve(matrix, z, threads=3), all_of_them)
    np.testing.assert_array_equal(solve(matrix, z[2, 3]), all_of_them[2, 3])
    alone, together = (solve(matrix, z, vectors=True, threads=k) for k in (1, 2))
    for one, several in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, several)


def test_more_rows_than_columns():
    matrix, z = np.random.default_rng(0).standard_normal((11, 4)), window(4)
    np.testing.assert_allclose(solve(matrix, z), smallest_by_svd(matrix, z), rtol=1e-10)
    values, left, right = solve(matrix, z, vectors=True)
    gap = z[..., None, None] * np.eye(11, 4) - matrix
    assert np.abs((gap @ right[..., None])[..., 0] - values[..., None] * left).max() < 1e-12
    with pytest.raises(InputError, match="rows >= columns"):
        solve(matrix.T, z)


def test_tensors_lists_and_scalars_are_read():
    matrix = gaussian(5)
    expected = solve(matrix, [0.3, 1j])
    tensor = torch.tensor(matrix, requires_grad=True)
    np.testing.assert_array_equal(solve(tensor, torch.tensor([0.3, 1j])), solve(matrix, np.float32([0.3, 0]) + [0, 1j]))
    np.testing.assert_array_equal(solve(matrix.tolist(), [0.3, 1j]), expected)
    assert solve(matrix, 0.3).shape == () and solve(matrix, []).shape == (0,)
    np.testing.assert_allclose(solve(tensor.float(), [0.3, 1j]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("points", "options", "words"),
    [
        ([np.nan], {}, "finite"),
        (["a"], {}, "complex numbers"),
        ([1.0], {"tolerance": 1e-14}, "tolerance"),
        ([1.0], {"threads": 0}, "threads"),
    ],
)
def test_bad_questions_are_refused_in_plain_words(points, options, words):
    with pytest.raises(InputError, match=words):
        solve(np.eye(2), points, **options)


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-7, 0.0])
@pytest.mark.parametrize("k", [1, 2, 6, 40])
def test_the_largest_ritz_value_and_its_vector(k, gap):
    """Also where eigenvalues cluster, where Newton would crawl."""
    rng = np.random.default_rng(k)
    q = np.linalg.qr(rng.standard_normal((k, k)))[0]
    spectrum = np.append(rng.random(max(k - 3, 0)), [1 - gap, 1 - gap / 3, 1.0])[-k:]
    from scipy.linalg import hessenberg

    t = hessenberg(q * spectrum @ q.T)
    a, b = t.diagonal()[:, None], np.abs(t.diagonal(1))[:, None]
    dense = np.diag(a[:, 0]) + np.diag(b[:, 0], 1) + np.diag(b[:, 0], -1)
    previous = np.linalg.eigvalsh(dense[:-1, :-1])[-1:] if k > 1 else np.zeros(1)
    theta, slope = _lanczos.largest_ritz(a, b, previous)
    exact, vectors = np.linalg.eigh(dense)
    np.testing.assert_allclose(theta, exact[-1], rtol=1e-13)
    if gap and abs(vectors[-1, -1]) > 1e-6:
        np.testing.assert_allclose(slope, vectors[-1, -1] ** -2, rtol=1e-2)  # of a residual two digits are enough
        found = _lanczos.ritz_vector(a, b, theta)[:, 0]
        assert abs(abs(found @ vectors[:, -1]) / np.linalg.norm(found) - 1) < 1e-6


def test_without_numba_the_twin_answers_after_one_plain_warning(monkeypatch):
    matrix, z = gaussian(9), window(3)
    expected = solve(matrix, z)
    monkeypatch.setitem(sys.modules, "brittle.spectra._kernel", None)
    _schur._iteration.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="plain NumPy"):
            np.testing.assert_allclose(solve(matrix, z), expected, rtol=1e-5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solve(matrix, z)
    finally:
        _schur._iteration.cache_clear()


def test_a_place_that_cannot_be_written_costs_the_cache_and_nothing_else(monkeypatch):
    from brittle.spectra import _kernel

    def refuse(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: "compiled"

    monkeypatch.setattr(_kernel, "njit", refuse)
    assert _kernel._cached(abs) == "compiled"


NARROW = """
import llvmlite.binding, numpy as np
import numba
from brittle.spectra import pseudospectrum
real, llvmlite.binding.get_host_cpu_features = llvmlite.binding.get_host_cpu_features, lambda: {features}
from brittle.spectra._lanes import W
llvmlite.binding.get_host_cpu_features = real
assert W == {lanes}
matrix = np.random.default_rng(0).standard_normal((21, 21)) / 21**0.5
z = np.linspace(-1, 1, 23) + 0.3j
values, left, right = pseudospectrum(matrix, z, vectors=True)
exact = [np.linalg.svd(w * np.eye(21) - matrix, compute_uv=False)[-1] for w in z]
np.testing.assert_allclose(pseudospectrum(matrix, z), exact, rtol=1e-5)
np.testing.assert_allclose(values, exact, rtol=1e-5)
assert np.abs(z[:, None] * right - right @ matrix.T - values[:, None] * left).max() < 1e-13
"""


@pytest.mark.slow
@pytest.mark.parametrize(("features", "lanes"), [({"avx": True}, 4), ({}, 2)])
def test_narrower_registers_give_the_same(features, lanes, tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", NARROW.format(features=features, lanes=lanes)], env=environment, check=True)


def test_compilation_switched_off_is_no_obstacle():
    """NUMBA_DISABLE_JIT=1, as debuggers and coverage set it."""
    call = "import numpy as np; from brittle.spectra import pseudospectrum; pseudospectrum(np.eye(2) + np.eye(2, k=1), [2j])"
    done = subprocess.run(
        [sys.executable, "-c", call], env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "plain NumPy" in done.stderr and "NUMBA_DISABLE_JIT" in done.stderr
