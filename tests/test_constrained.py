"""Constrained recurrences: the constraint holds before, during and after training, and means what it says."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from brittle.cures import constrain, residual_rnn
from brittle.errors import InputError
from brittle.spectra.cells import cells
from brittle.training import train


class Reader(nn.Module):
    def __init__(self, layer, size):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(size, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


def data():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    return torch.randn(48, 6, 3, generator=g) + 2 * nn.functional.one_hot(labels, 3)[:, None], labels


def worst(module):
    """(largest deviation from orthogonality, largest spectral norm) of all blocks."""
    blocks = torch.stack([b for c in cells(module) for b in c.blocks.values()])
    eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
    return float((blocks @ blocks.mT - eye).abs().max()), float(torch.linalg.matrix_norm(blocks, 2).max())


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("how", ["orthogonal", "spectral_norm"])
def test_the_constraint_survives_training(kind, how):
    torch.manual_seed(0)
    module = Reader(kind(3, 8, batch_first=True, num_layers=2), 8)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    cured = constrain(module, how, cap=0.8)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    x, labels = data()
    done = train(cured, x, labels, epochs=6, batch=16, rate=0.02)
    for found in (cured, done.module):
        off, norm = worst(found)
        assert off < 2e-5 if how == "orthogonal" else norm < 0.8 + 1e-5
    moved = (cells(cured)[0].weights["hh"] - cells(done.module)[0].weights["hh"]).abs().max()
    assert float(moved) > 1e-3  # it trains
    for name, layer in ((n, m) for n, m in done.module.named_modules() if isinstance(m, nn.RNNBase)):
        assert name == "layer" and parametrize.is_parametrized(layer, "weight_hh_l0")


def test_orthogonal_starts_from_the_nearest_rotation():
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    turn[:, 0] *= torch.linalg.det(turn)
    cell = nn.RNNCell(2, 5).double()
    with torch.no_grad():
        cell.weight_hh.copy_(turn)
    torch.testing.assert_close(constrain(cell, "orthogonal").weight_hh.detach(), turn, rtol=0, atol=1e-10)
    with torch.no_grad():
        cell.weight_hh[:, 0] *= -1  # determinant -1: no rotation, and still an orthogonal start
    assert worst(constrain(cell, "orthogonal"))[0] < 1e-10


def test_a_capped_tanh_network_forgets_at_the_stated_rate():
    torch.manual_seed(0)
    rnn = constrain(nn.RNN(3, 16, batch_first=True).double(), cap=0.7)
    with torch.no_grad():
        rnn.parametrizations.weight_hh_l0.original.mul_(10)
        x = torch.randn(4, 12, 3, dtype=torch.float64)
        one, two = (rnn(x, torch.randn(1, 4, 16, dtype=torch.float64))[0] for _ in "ab")
        gap = torch.linalg.vector_norm(one - two, dim=-1)
    assert bool((gap[:, 1:] <= 0.7 * gap[:, :-1] + 1e-12).all()) and float(gap.max()) > 0.1


def test_antisymmetric_and_lipschitz_matrices_have_their_form():
    torch.manual_seed(0)
    cell = residual_rnn(3, 6, damping=0.2).double().cell
    values = torch.linalg.eigvals(cell.weight.detach())
    torch.testing.assert_close(values.real, torch.full((6,), -0.2, dtype=torch.float64), rtol=0, atol=1e-12)
    mixed = residual_rnn(3, 6, "lipschitz", mix=1.0, damping=0.3).double().cell
    for matrix in (mixed.weight, mixed.linear):
        torch.testing.assert_close(matrix + matrix.T, -0.6 * torch.eye(6).double(), rtol=0, atol=1e-12)
    x, h = torch.randn(2, 3).double(), torch.randn(2, 6).double()
    ahead = h + 0.1 * (h @ mixed.linear.T + torch.tanh(h @ mixed.weight.T + mixed.read(x)))
    torch.testing.assert_close(mixed(x, h), ahead, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["antisymmetric", "lipschitz"])
def test_residual_layers_train_and_stay_what_they_are(kind):
    torch.manual_seed(0)
    x, labels = data()
    done = train(Reader(residual_rnn(3, 8, kind), 8), x, labels, epochs=25, batch=16, rate=0.02)
    with torch.no_grad():
        assert float((done.module(x).argmax(1) == labels).double().mean()) > 0.8
    if kind == "antisymmetric":
        weight = done.module.layer.cell.weight.detach()
        torch.testing.assert_close(weight + weight.T, -0.02 * torch.eye(8), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: constrain(nn.RNN(2, 2), "unitary"), "how"),
        (lambda: constrain(nn.RNN(2, 2), cap=0), "> 0"),
        (lambda: constrain(nn.Linear(2, 2)), "a module that holds RNN"),
        (lambda: constrain(nn.LSTM(2, 4, proj_size=2)), "a projection"),
        (lambda: constrain(constrain(nn.RNN(2, 2))), "parametrised already"),
        (lambda: residual_rnn(2, 2, "symmetric"), "kind"),
        (lambda: residual_rnn(2, 2, mix=2.0), "mix in"),
    ],
)
def test_bad_requests(call, words):
    with pytest.raises(InputError, match=words):
        call()
