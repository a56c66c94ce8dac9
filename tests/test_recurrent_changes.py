"""Changes of recurrent weights: of the stated size, in the stated order of strength, without a trace."""

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.cures.constrain import constrain
from brittle.cures.residual_rnn import residual_rnn
from brittle.diagnostics import recurrent_changes as module_under_test
from brittle.diagnostics.recurrent_changes import Recurrence, _blocks, _cut, _polar, _unit, recurrent_changes
from brittle.digest import state_digest
from brittle.errors import InputError
from brittle.training import train


class Reader(nn.Module):
    def __init__(self, kind=nn.RNN, size=8, **options):
        super().__init__()
        self.layer = kind(3, size, batch_first=True, **options)
        self.head = nn.Linear(options.get("proj_size") or size, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


def trained(kind=nn.RNN, constrained=None, **options):
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    x = torch.randn(60, 6, 3, generator=g) + 1.2 * nn.functional.one_hot(labels, 3)[:, None]
    module = Reader(kind, **options)
    module = constrain(module, constrained) if constrained else module
    return bt.Problem(train(module, x, labels, epochs=10, batch=20, rate=0.02).module, x, labels)


def accuracies(found, measured="relative"):
    c = found.columns
    keys = zip(c["change"], c["measured_in"], c["size"], c["accuracy"], strict=True)
    return {(n, s): a for n, m, s, a in keys if m == measured or n in ("kick", "int8")}


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_loss_is_the_strongest_and_larger_changes_hurt_more(kind):
    problem = trained(kind)
    before = state_digest(problem.module)
    found = recurrent_changes(problem, sizes=(), shares=(0.1, 0.6), draws=3, steps=8)
    assert state_digest(problem.module) == before
    told = accuracies(found)
    for size in (0.1, 0.6):
        others = [told[name, size] for name in ("random", "rank-one", "real")]
        assert told["loss", size] <= min(others) + 0.02
    assert told["loss", 0.6] < told["loss", 0.1] <= 1 and told["loss", 0.6] < 0.9
    assert {"int8", "kick"} <= {name for name, _ in told}
    again = recurrent_changes(problem, sizes=(), shares=(0.1, 0.6), draws=3, steps=8)
    assert again.columns == found.columns


def test_every_change_has_the_stated_size_in_both_units(monkeypatch):
    problem = trained(nn.GRU)
    bench, gates = _blocks(problem, None)
    found = Recurrence(bench, gates)
    (leaf,) = gates
    ways = {leaf: [_unit(torch.randn(8, 8)) for _ in range(3)]}
    for size, relative in ((0.3, False), (0.2, True)):
        moved = found.changed(ways, size, relative)[leaf].double().chunk(3)
        for before, after in zip(found.blocks(leaf), moved, strict=True):
            length = torch.linalg.matrix_norm(after - before, 2)
            expected = size * (torch.linalg.matrix_norm(before, 2) if relative else 1)
            torch.testing.assert_close(length, torch.as_tensor(expected).double(), rtol=1e-5, atol=0)
    row = recurrent_changes(problem, sizes=(0.3,), shares=(0.2,), draws=2, steps=1).columns
    norms = [float(torch.linalg.matrix_norm(b, 2)) for b in found.blocks(leaf)]
    assert row["absolute"][0] == 0.3 and row["relative"][0] == pytest.approx(0.3 / min(norms))
    at = row["measured_in"].index("relative")
    assert row["relative"][at] == 0.2 and row["absolute"][at] == pytest.approx(0.2 * max(norms))
    assert module_under_test.ABOUT.effort == "thorough"


def test_the_polar_factor_is_the_steepest_and_cutting_projects():
    torch.manual_seed(0)
    gradient = torch.randn(6, 6, dtype=torch.float64)
    way = _polar(gradient)
    assert float(torch.linalg.matrix_norm(way, 2)) == pytest.approx(1)
    assert float((way * gradient).sum()) == pytest.approx(
        float(torch.linalg.svdvals(gradient).sum())
    )  # the nuclear norm
    assert float(_polar(torch.zeros(3, 3)).abs().max()) == 0
    assert float(torch.linalg.matrix_norm(_cut(5 * gradient), 2)) == pytest.approx(1)
    torch.testing.assert_close(_cut(0.01 * gradient), 0.01 * gradient)


def test_kicks_of_a_contraction_are_forgotten_and_of_a_memory_are_not():
    """h' = a h: a kick of length k moves the last state by a^T k, so it flips exactly the examples whose margin is below that."""

    class Scalar(nn.Module):
        def __init__(self, a):
            super().__init__()
            self.layer = nn.RNN(1, 1, batch_first=True, bias=False, nonlinearity="relu").double()
            with torch.no_grad():
                self.layer.weight_hh_l0.fill_(a), self.layer.weight_ih_l0.fill_(1.0)

        def forward(self, x):
            last = self.layer(x)[0][:, -1, 0]
            return torch.stack([last, 4 + 0 * last], 1)

    x = torch.zeros(3, 5, 1, dtype=torch.float64)
    x[:, -1, 0] = torch.tensor([1.0, 2.0, 3.0])  # last state 1, 2, 3: class 1, margins 3, 2, 1
    for a, left in ((1.0, 1 / 3), (0.5, 1.0)):
        problem = bt.Problem(Scalar(a), x, torch.ones(3, dtype=torch.long))
        found = accuracies(recurrent_changes(problem, sizes=(2.5,), shares=(), draws=2, steps=20), "absolute")
        assert found["kick", 2.5] == pytest.approx(left)


def test_parametrised_weights_are_changed_as_they_act():
    problem = trained(constrained="orthogonal")
    found = recurrent_changes(problem, sizes=(0.5,), shares=(0.5,), draws=2, steps=4)
    at = found.columns["measured_in"].index("relative")
    assert found.columns["absolute"][at] == pytest.approx(0.5, rel=1e-4)  # every block has norm 1


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_what_cannot_be_changed_says_so():
    with pytest.raises(InputError, match="a module that holds RNN"):
        recurrent_changes(bt.Problem(nn.Linear(2, 2), torch.rand(2, 2), torch.tensor([0, 1])))
    with pytest.raises(InputError, match="square parameter"):
        recurrent_changes(trained(), leaves=["head.weight"])
    with pytest.raises(InputError, match="draws >= 2"):
        recurrent_changes(trained(), draws=1)
    projected = recurrent_changes(trained(nn.LSTM, proj_size=4), sizes=(0.2,), shares=(), draws=2, steps=2).columns
    at = projected["change"].index("rank-one")
    assert projected["accuracy"][at] is None and "square" in projected["status"][at]
    assert projected["accuracy"][projected["change"].index("loss")] is not None


@pytest.mark.parametrize("how", ["orthogonal", "lipschitz"])
def test_a_parametrised_network_still_works_afterwards(how):
    torch.manual_seed(0)
    module = Reader(size=4)
    if how == "orthogonal":
        module, leaves = constrain(module, how), None
    else:
        module.layer, leaves = residual_rnn(3, 4, how), ["layer.cell.weight", "layer.cell.linear"]
    x = torch.randn(6, 5, 3)
    with torch.no_grad():
        before = module(x)
    found = recurrent_changes(bt.Problem(module, x, before.argmax(1)), sizes=(0.1,), shares=(), draws=2, steps=2, leaves=leaves)  # fmt: skip
    assert found.columns["accuracy"][0] is not None
    with torch.no_grad():
        assert torch.equal(module(x), before)
