"""Data subspaces: exact spans, principal components, tangent spaces; projections are what they should be to rounding."""

import pytest
import torch

from brittle.errors import InputError
from brittle.subspace import Subspace


def planted(count=40, r=3, d=12, offset=0.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(d, r, generator=draw, dtype=torch.float64)).Q.T
    data = torch.randn(count, r, generator=draw, dtype=torch.float64) @ basis
    return data + offset * torch.randn(d, generator=draw, dtype=torch.float64), basis


def same(subspace, basis):
    """Equal projectors."""
    return torch.allclose(subspace.basis.T @ subspace.basis, basis.T @ basis, atol=1e-10)


def test_span_and_pca_find_a_planted_subspace():
    data, basis = planted()
    assert Subspace.span(data).dimension == 3 and same(Subspace.span(data), basis)
    affine, basis = planted(offset=5.0)
    assert Subspace.span(affine).dimension == 4, "a linear span holds the offset too"
    found = Subspace.pca(affine, energy=1.0)
    assert found.dimension == 3 and same(found, basis)
    assert torch.allclose(found.mean, affine.mean(0))


def test_batches_give_what_the_whole_gives():
    data, basis = planted(count=50, offset=100.0)
    streamed, whole = Subspace.pca(iter(data.split(7)), energy=0.999), Subspace.pca(data, energy=0.999)
    assert streamed.dimension == whole.dimension and torch.allclose(streamed.mean, whole.mean, atol=1e-12)
    assert same(streamed, whole.basis) and torch.allclose(streamed.spectrum[:3], whole.spectrum[:3], rtol=1e-9)
    assert same(Subspace.span(planted()[0].split(9)), basis := planted()[1]) and len(basis) == 3


def test_the_energy_rule_takes_the_fewest_components():
    data = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    data = torch.cat([data, -data])  # centred; energies 9 : 4 : 1
    shares = {r: Subspace.pca(data, energy=share).dimension for r, share in ((1, 9 / 14), (2, 9.1 / 14), (3, 1.0))}
    assert shares == {1: 1, 2: 2, 3: 3}


def test_projections_split_a_change_orthogonally():
    found = Subspace.pca(planted()[0], dimension=2)
    change = torch.randn(5, 12)
    on, off = found.on(change), found.off(change)
    assert torch.allclose(on + off, change.double(), atol=1e-12) and torch.allclose(
        (on * off).sum(1), torch.zeros(5).double(), atol=1e-12
    )
    assert torch.allclose(found.on(on), on, atol=1e-12) and float(found.on(off).abs().max()) < 1e-12
    complement = found.complement()
    assert complement.dimension == 10 and torch.allclose(complement.on(change), off, atol=1e-12)
    assert found.chance == pytest.approx(10 / 12) and [s.dimension for s in found.nearby()] == [1, 2, 3]


def test_shapes_are_kept():
    images = torch.rand(30, 2, 3, 4)
    found = Subspace.pca(images, energy=0.9)
    assert found.shape == (2, 3, 4) and found.features == 24 and found.off(images).shape == images.shape


def test_tangent_spaces_of_a_circle_are_its_tangents():
    angle = torch.linspace(0, 6.2, 400, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
    found = Subspace.local(circle, neighbours=8, dimension=1)
    tangent = torch.stack([-angle.sin(), angle.cos(), torch.zeros_like(angle)], 1)
    kept = found.on(tangent, circle).norm(dim=1)
    assert float(kept[10:-10].min()) > 0.9999
    assert float(found.on(circle, circle).norm(dim=1)[10:-10].max()) < 0.03, "the radius is orthogonal to the circle"


def test_a_given_basis_is_orthonormalised_or_refused():
    skewed = torch.tensor([[1.0, 0, 0], [1.0, 1.0, 0]])
    found = Subspace.given(skewed)
    assert (
        torch.allclose(found.basis @ found.basis.T, torch.eye(2).double(), atol=1e-12)
        and "orthonormalised" in found.rule
    )
    assert same(found, torch.eye(3, dtype=torch.float64)[:2])
    with pytest.raises(InputError, match="independent"):
        Subspace.given(torch.tensor([[1.0, 0, 0], [2.0, 0, 0]]))


def test_degenerate_data_are_handled_or_refused_in_words():
    few = Subspace.pca(torch.rand(3, 10), energy=1.0)  # more dimensions than examples
    assert few.dimension == 2
    constant = Subspace.pca(torch.ones(5, 4))
    assert constant.dimension == 0 and constant.chance == 1
    whole = Subspace.span(torch.eye(4))
    assert whole.codimension == 0 and whole.chance == 0 and float(whole.off(torch.rand(2, 4)).abs().max()) < 1e-12
    for wrong, words in (
        (lambda: Subspace.pca(torch.full((2, 2), torch.nan)), "finite"),
        (lambda: Subspace.pca(torch.zeros(0, 3)), "at least one example"),
        (lambda: Subspace.pca(iter(())), "at least one batch"),
        (lambda: Subspace.pca(torch.rand(5, 3), energy=0), "share in"),
        (lambda: Subspace.pca(torch.rand(5, 3), dimension=9), "0 to 3"),
        (lambda: Subspace.local(torch.rand(5, 3), neighbours=9), "neighbours <= 5"),
        (lambda: whole.on(torch.rand(2, 5)), "changes of 4 features"),
    ):
        with pytest.raises(InputError, match=words):
            wrong()
