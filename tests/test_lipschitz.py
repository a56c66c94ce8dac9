"""Certified Lipschitz constants: exact on linear networks, never below the longest gradient, and near it."""

import importlib
from math import inf, sqrt

import pytest
import torch
from torch import nn

import brittle as bt
from brittle import intervals
from brittle.errors import NotCertified
from brittle.gates import gates, slopes
from brittle.graph import graph_of
from brittle.lipschitz import cube, everywhere, largest, lipschitz, spectral
from brittle.ops import ACTIVATIONS
from brittle.spec import matrix
from reference.slopes import longest_gradient
from zoo import CASES

TORCH = torch.float64
file = importlib.import_module("brittle.lipschitz")


def rows_of(problem):
    return matrix(problem.spec, problem.labels, problem.logits(problem.inputs).shape[1])[0]


def located(problem, radius):
    """A state with intervals over the l-inf ball of the given radius."""
    around = problem.within({"x": bt.Ball(inf, radius)})
    state = intervals.start(around, graph_of(around))
    for node in state.graph.nodes:
        if node.varies and node.op != "input":
            intervals.forward(state, node)
    return state


def network(widths, seed):
    torch.manual_seed(seed)
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double()


# ---- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [1.0, 1e-6, 1e6])
def test_a_linear_network_is_exact(gain):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 4)).double()
    with torch.no_grad():
        module[0].weight.mul_(gain)
    problem = bt.Problem(module, torch.rand(3, 7, dtype=TORCH), torch.tensor([0, 1, 2]))
    rows = rows_of(problem)
    exact = torch.linalg.vector_norm(rows @ module[1].weight @ module[0].weight, dim=-1)
    found = lipschitz(everywhere(problem, graph_of(problem)), rows, "x")
    assert bool((found >= exact).all()) and torch.allclose(found, exact, rtol=1e-9)
    stretched = lipschitz(everywhere(problem, graph_of(problem)), rows, "x", gather=lambda w: 3 * w, stretch=3.0)
    assert torch.allclose(stretched, 3 * exact, rtol=1e-9)


def test_one_unknown_unit_is_exact():
    """w1 relu(a x) + w2 y: between |w2| and |(a w1, w2)|."""
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        module[0].bias.copy_(torch.tensor([0.0, 5.0]))
        module[2].weight.copy_(torch.tensor([[1.0, 4.0]]))
    problem = bt.Problem(module, torch.zeros(1, 2, dtype=TORCH), torch.tensor([1]))
    found = lipschitz(located(problem, 1.0), rows_of(problem), "x")
    assert found.item() == pytest.approx(5.0, rel=2e-3) and found.item() >= 5.0


def test_two_unknown_units_in_a_row_are_exact():
    """relu(relu(x)) near 0: a quarter through the middle, a quarter for each slope alone and for both together."""
    module = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU()).double()
    with torch.no_grad():
        for tensor, value in zip(module.parameters(), (1.0, 0.0, 1.0, -0.5), strict=True):
            tensor.fill_(value)
    problem = bt.Problem(module, torch.zeros(1, 1, dtype=TORCH), torch.tensor([1]))
    found = float(lipschitz(located(problem, 1.0), rows_of(problem), "x"))
    assert 1.0 <= found <= 1.003


# ---- against the twin --------------------------------------------------------------------------------------------------


def compared(widths, seed, radius):
    """(bound, longest gradient) for every row."""
    module = network(widths, seed)
    x = torch.rand(2, widths[0], dtype=TORCH)
    problem = bt.Problem(module, x, module(x).argmax(1))
    state, rows = located(problem, radius), rows_of(problem)
    found = lipschitz(state, rows, "x")
    sources = [node.sources[0] for node in state.graph.nodes if node.op == "relu"]
    weights = [layer.weight.detach() for layer in module if isinstance(layer, nn.Linear)]
    pick = lambda side, i: [side[s][i] for s in sources]
    exact = [[longest_gradient(weights, pick(state.low, i), pick(state.high, i), rows[r, i]) for i in range(2)] for r in range(len(rows))]  # fmt: skip
    return found, torch.tensor(exact, dtype=TORCH)


@pytest.mark.parametrize("radius", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("widths", [(5, 9, 3), (5, 5, 5, 3), (4, 4, 4, 3, 3)], ids=str)
def test_the_bound_is_above_the_longest_gradient_and_near_it(widths, radius):
    for seed in range(2):
        found, exact = compared(widths, seed, radius)
        assert bool((found >= exact * (1 - 1e-12)).all())
        near = {3: 1.1, 4: 1.6, 5: 2.5}[len(widths)]
        assert float((found / exact.clamp_min(1e-9)).median()) <= near


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_gradient_is_longer_on_the_zoo(case):
    module, x, labels = case.make()
    problem = bt.Problem(module, x, labels).double()
    for radius in (0.05, 0.5):
        state, rows = located(problem, radius), rows_of(problem)
        found = lipschitz(state, rows, "x")
        global_ = lipschitz(everywhere(problem, graph_of(problem)), rows, "x")
        product = lipschitz(state, rows, "x", max_units=0)
        torch.manual_seed(0)
        for _ in range(8):
            point = {"x": problem.x + radius * (2 * torch.rand_like(problem.x) - 1)}
            _, gradient = problem.row_gradients(point, torch.arange(len(rows)).expand(len(problem), -1))
            length = torch.linalg.vector_norm(gradient["x"].flatten(2), dim=-1).T
            for bound in (found, global_, product):
                assert bool((bound >= length * (1 - 1e-12)).all())


def test_a_convolution_is_bounded_by_its_kernel():
    for stride, groups, kernel in ((1, 1, 3), (2, 1, 3), (1, 2, 2), (3, 1, 2)):
        torch.manual_seed(0)
        layer = nn.Conv2d(2, 4, kernel, stride=stride, groups=groups, padding=1, bias=False).double()
        module = nn.Sequential(layer, nn.Flatten())
        x = torch.rand(1, 2, 7, 7, dtype=TORCH)
        problem = bt.Problem(module, x, torch.tensor([0]))
        jacobian = torch.autograd.functional.jacobian(lambda v, m=module: m(v)[0], x).reshape(-1, x.numel())
        row = torch.zeros(1, 1, len(jacobian), dtype=TORCH)
        row[..., 0] = 1
        bound = lipschitz(everywhere(problem, graph_of(problem)), row, "x", max_units=-1)
        exact = float(torch.linalg.matrix_norm(jacobian, 2))
        assert exact <= float(bound) <= 2 * exact


# ---- parts -------------------------------------------------------------------------------------------------------------


def test_largest_eigenvalues_are_bounded_and_near():
    torch.manual_seed(0)
    for n, rank in ((1, 1), (5, 5), (40, 3), (120, 120)):
        factor = torch.randn(6, n, rank, dtype=TORCH) * torch.logspace(-3, 3, 6, dtype=TORCH)[:, None, None]
        gram = factor @ factor.mT
        exact = torch.linalg.eigvalsh(gram)[:, -1]
        found = largest(gram)
        assert bool((found >= exact * (1 - 1e-12)).all()) and bool((found <= 1.05 * exact).all())
        assert bool((spectral(factor) >= torch.linalg.matrix_norm(factor, 2) * (1 - 1e-12)).all())
    assert largest(torch.zeros(2, 3, 3, dtype=TORCH)).tolist() == [0.0, 0.0]
    twice = torch.diag(torch.tensor([1.0, 1.0 - 1e-9, 1.0])).double()  # no gap: the power method cannot tell them apart
    assert 1.0 <= float(largest(twice)) <= 1.01


def test_the_largest_signed_sum_is_bounded_and_near():
    torch.manual_seed(0)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=TORCH)] * 9)
    for width in (2, 20):
        vectors = torch.randn(9, width, dtype=TORCH)
        exact = float((signs @ vectors).norm(dim=1).max())
        assert exact <= float(cube(vectors @ vectors.T, width)) <= 1.2 * exact


def test_slopes_of_every_activation_hold_all_difference_quotients():
    low = torch.tensor([-3.0, -2.0, -0.5, 0.0, 0.25, -1.0, 5.0], dtype=TORCH)
    high = torch.tensor([-1.0, 2.0, 0.5, 1.0, 0.5, 7.0, 9.0], dtype=TORCH)
    arguments = {"negative_slope": 0.1, "min_val": -1.0, "max_val": 1.0, "min": -1.0, "max": 1.0, "input": low[None], "weight": torch.tensor([0.2], dtype=TORCH)}  # fmt: skip
    arguments |= {"approximate": "none", "alpha": 0.7, "scale": 1, "input_scale": 1}
    for name, make in ACTIVATIONS.items():
        if name == "softplus":  # jumps in torch: refused, see test_smooth_activations
            continue
        function = make(arguments)
        if function.steep == inf:
            with pytest.raises(NotCertified, match="no steepest slope"):
                slopes(function, low, high)
            continue
        least, most = slopes(function, low, high)
        point = torch.linspace(0, 1, 401, dtype=TORCH)[:, None] * (high - low) + low
        quotient = function.value(point).diff(dim=0) / point.diff(dim=0)
        assert bool((quotient >= least - 1e-9).all()) and bool((quotient <= most + 1e-9).all()), name
        assert bool((quotient.amin(0) <= least + 0.02).all()) and bool((quotient.amax(0) >= most - 0.02).all()), name


def test_a_window_with_one_candidate_is_open_and_others_are_shared():
    module = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2), nn.Flatten()).double()
    problem = bt.Problem(module, torch.tensor([[3.0, 1.0, 1.0, 1.5]], dtype=TORCH), torch.tensor([0]))
    state = located(problem, 0.5)
    found = gates(state, next(n for n in state.graph.nodes if n.op == "max_pool1d"))
    assert found.middle.tolist() == [[1.0, 0.0, 0.5, 0.5]]
    assert found.radius[0, :2].tolist() == [0.0, 0.0] and found.radius[0, 2:].tolist() == pytest.approx([0.5, 0.5])
    exact = sqrt(2.0)
    assert exact <= float(lipschitz(state, rows_of(problem), "x")[0, 0]) <= 2.0


# ---- deliberate mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, factor, law",
    [
        ("_linear", 0.9, lambda: test_a_linear_network_is_exact(1.0)),
        ("_curved", 0.9, test_two_unknown_units_in_a_row_are_exact),
    ],
    ids=("linear", "curved"),
)
def test_a_constant_ten_percent_too_small_is_caught(name, factor, law, monkeypatch):
    clean = getattr(file, name)
    monkeypatch.setattr(file, name, lambda *a: factor * clean(*a))
    with pytest.raises(AssertionError):
        law()
