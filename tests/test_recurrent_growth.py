"""Growth, Lyapunov exponents and fixed points of recurrent maps against dense products and closed forms."""

import pytest
import torch
from torch import nn

from brittle.spectra.cells import cells
from brittle.spectra.fixed_points import fixed_points
from brittle.spectra.growth import growth, largest
from brittle.spectra.jacobians import jacobians
from brittle.spectra.lyapunov import lyapunov
from brittle.spectra.trajectories import trajectories


def path_of(module: nn.Module, *shape: int, scale: float = 2.0, lengths=None):
    torch.manual_seed(0)
    for weight in module.parameters():
        weight.data.mul_(scale)
    return trajectories(module.double(), torch.randn(*shape).double(), lengths=lengths)[0]


@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, nn.LSTM])
def test_growth_is_the_norm_of_the_product_and_never_reaches_into_padding(make):
    torch.manual_seed(1)
    path = path_of(make(3, 6, batch_first=True), 3, 9, 3, lengths=[9, 4, 6])
    every = jacobians(path.cell, path.states[:, :-1], path.inputs)
    found = growth(path, windows=[1, 3, 9], starts=1000)
    for k, window in enumerate(found.windows):
        norms = {}
        for n in range(3):
            for s in range(int(path.lengths[n]) - window + 1):
                product = torch.linalg.multi_dot(list(every[n, s : s + window].flip(0))) if window > 1 else every[n, s]
                norms[n, s] = float(torch.linalg.matrix_norm(product, 2))
        worst = max(norms, key=norms.__getitem__)
        assert (found.sequence[k], found.start[k], found.starts[k]) == (*worst, len(norms))
        assert found.worst[k] == pytest.approx(norms[worst], rel=1e-5)
        assert found.worst[k] <= norms[worst] * (1 + 1e-12)  # a Ritz value, from below
        assert sorted(norms.values())[(len(norms) - 1) // 2] == pytest.approx(found.median[k], rel=1e-5)


def test_growth_survives_windows_whose_product_underflows():
    module = nn.RNN(1, 2, batch_first=True, bias=False)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.tensor([[1e-3, 0.0], [0.0, 1e-4]]))
    (path,) = trajectories(module, torch.zeros(1, 300, 1))
    (cell,) = cells(module)
    logs = largest([cell.derivative(path.states[:, t], path.inputs[:, t]) for t in range(300)], 2)
    weight = float(module.weight_hh_l0.detach()[0, 0])
    assert float(logs[0]) == pytest.approx(300 * torch.tensor(weight).double().log().item(), rel=1e-12)


@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
def test_all_exponents_sum_to_the_mean_logarithm_of_the_determinant(make):
    path = path_of(make(3, 4, batch_first=True), 2, 12, 3, lengths=[12, 5])
    found = lyapunov(path, exponents=99)
    dense = jacobians(path.cell, path.states[:, :-1], path.inputs)
    logs = torch.where(path.steps, torch.linalg.slogdet(dense).logabsdet, 0.0).sum(1)
    assert torch.allclose(found.values.sum(1), logs / path.lengths, atol=1e-10)
    assert torch.allclose(lyapunov(path, exponents=2).values, found.values[:, :2], atol=1e-12)
    assert found.steps.tolist() == [12, 5]


def test_exponents_of_a_constant_map_are_the_logarithms_of_its_eigenvalues():
    module = nn.RNN(1, 3, batch_first=True, bias=False)
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.tensor([[0.9, 4.0, 0.0], [0.0, 0.5, 1.0], [0.0, 0.0, 0.2]]))
    (path,) = trajectories(module, torch.zeros(1, 120, 1))
    rates = lyapunov(path, skip=60).mean.exp()
    assert torch.allclose(rates, torch.tensor([0.9, 0.5, 0.2]).double(), atol=1e-6)


def test_skipped_sequences_do_not_count():
    path = path_of(nn.GRU(3, 4, batch_first=True), 2, 12, 3, lengths=[12, 5])
    found = lyapunov(path, skip=6)
    assert found.steps.tolist() == [6, 0] and torch.equal(found.mean, found.values[0])


def test_three_fixed_points_of_a_bistable_unit_one_of_them_unstable():
    """h = tanh(2 h): 0 and +-0.957504; the slope 2 (1 - h^2) is 2 at the first and 0.1664 at the others."""
    module = nn.RNN(1, 1, bias=False)
    with torch.no_grad():
        module.weight_hh_l0.fill_(2.0)
    (cell,) = cells(module)
    found = fixed_points(cell, torch.zeros(1).double(), torch.linspace(-1, 1, 7)[:, None].double())
    assert set(found.kind) == {"fixed"} and sum(found.found) == 7
    values = sorted(found.states[:, 0].tolist())
    assert values == pytest.approx([-0.9575040240772687, 0, 0.9575040240772687], abs=1e-12)
    slopes = jacobians(cell, found.states, torch.zeros(3, 1).double()).flatten()
    assert sorted(slopes.tolist()) == pytest.approx([0.166372, 0.166372, 2.0], abs=1e-6)


def test_where_the_map_never_stands_still_the_slowest_point_is_told_as_slow():
    """h' = relu(h + 0.1) is never h for h > -0.1; at rest relu cuts: F(h) - h >= 0.1 there, least speed 0.1."""
    module = nn.RNN(1, 1, nonlinearity="relu")
    with torch.no_grad():
        (
            module.weight_hh_l0.fill_(1.0),
            module.weight_ih_l0.zero_(),
            module.bias_ih_l0.fill_(0.1),
            module.bias_hh_l0.zero_(),
        )
    (cell,) = cells(module)
    found = fixed_points(cell, torch.zeros(1).double(), torch.tensor([[0.5]]).double())
    assert found.kind == ("slow",) and float(found.residual[0]) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("make", [nn.GRU, nn.LSTM])
def test_fixed_points_of_gated_cells_stand_still(make):
    path = path_of(make(3, 6, batch_first=True), 4, 10, 3)
    x = path.inputs.mean((0, 1))
    found = fixed_points(path.cell, x, path.states[:, -1])
    again = path.cell.step(found.states, x.expand(len(found.states), -1))
    assert "fixed" in found.kind
    for k, kind in enumerate(found.kind):
        if kind == "fixed":
            assert float((again[k] - found.states[k]).norm()) <= 1e-9 * (1 + float(found.states[k].norm()))
