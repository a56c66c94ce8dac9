"""Many small matrices at once: both paths, on whatever device there is, against an SVD per point."""

import sys

import numpy as np
import pytest
import torch
from tests.reference.singular_values import smallest_by_svd

from brittle.errors import InputError
from brittle.spectra import batched as many
from brittle.spectra.batched import _on_device

MODULE = sys.modules["brittle.spectra.batched"]  # the name below brittle.spectra is the function


def family(n):
    rng = np.random.default_rng(n)
    a = rng.standard_normal((n, n)) / n**0.5
    q = np.linalg.qr(a)[0]
    return torch.tensor(np.stack([a, q, a + a.T, np.triu(a), 0.5 * np.eye(n) + 0.9 * np.eye(n, k=1), np.zeros((n, n))]))


POINTS = torch.tensor([0.0, 0.5, 1.2 - 0.3j, -0.7 + 1j, 0.5 + 1e-7j], dtype=torch.complex128)


@pytest.mark.parametrize("n", [1, 2, 9, 40])
@pytest.mark.parametrize("path", [many, lambda a, z: _on_device(a.to(torch.complex128), z.expand(len(a), -1), 1e-5)])
def test_both_paths_are_those_of_an_svd(n, path):
    matrices = family(n)
    check(matrices, POINTS, path(matrices, POINTS))


def check(matrices, points, found):
    exact = np.stack([smallest_by_svd(a, points.cpu().numpy()) for a in matrices.cpu().numpy()])
    norm = np.linalg.norm(matrices.cpu().numpy(), 2, axis=(1, 2))[:, None] * np.ones(exact.shape)
    told = exact > 1e-10 * norm
    np.testing.assert_allclose(found.cpu().numpy()[told], exact[told], rtol=1e-5)
    assert (found.cpu().numpy()[~told] <= 2e-10 * norm[~told]).all()


def test_each_matrix_may_have_its_own_points():
    matrices = family(6)
    own = POINTS + torch.arange(6)[:, None]
    found = many(matrices, own)
    for k in range(6):
        np.testing.assert_array_equal(found[k], many(matrices[k : k + 1], own[k])[0])


def test_small_blocks_and_stubborn_pairs_give_the_same(monkeypatch):
    matrices = family(9)
    call = lambda: _on_device(matrices.to(torch.complex128), POINTS.expand(6, -1), 1e-5)
    whole = call()
    monkeypatch.setattr(MODULE, "BYTES", 16 * 9 * 15 * 4)  # four pairs at once
    torch.testing.assert_close(call(), whole, rtol=1e-6, atol=1e-14)
    monkeypatch.setattr(MODULE, "STEPS", 1)
    monkeypatch.setattr(MODULE, "LEAST", 0)
    check(matrices, POINTS, call())


@pytest.mark.parametrize(
    ("matrices", "points", "words"),
    [
        (torch.eye(2), POINTS, "batch"),
        (torch.ones(1, 2, 3), POINTS, "batch"),
        (torch.full((1, 2, 2), torch.nan), POINTS, "matrices.*finite"),
        (torch.ones(1, 2, 2), torch.tensor([torch.inf]), "points.*finite"),
        (torch.ones(1, 2, 2), torch.ones(2, 3), "points"),
    ],
)
def test_bad_batches_are_refused(matrices, points, words):
    with pytest.raises(InputError, match=words):
        many(matrices, points)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("n", [9, 40])
def test_the_accelerator_agrees(n):
    matrices = family(n).cuda()
    found = many(matrices, POINTS)
    assert found.is_cuda
    check(matrices, POINTS, found)
