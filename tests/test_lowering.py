"""Recurrent layers unrolled: the graph is the module, whatever the layout, and what mixes examples is refused."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

from brittle import lowering
from brittle._checker.walk import Model, Moving, rows_below
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.errors import NotCertified
from brittle.graph import Graph, Ref, graph_of
from brittle.ops import call, evaluate, is_nonlinear
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import matrix

STEPS, FEATURES, UNITS = 4, 3, 2


class Reader(nn.Module):
    """A recurrent module and a linear head; ``rule`` says how they are joined."""

    def __init__(self, inner: nn.Module, width: int, rule) -> None:
        super().__init__()
        self.rnn, self.head, self.rule = inner, nn.Linear(width, 2), rule
        self.start = nn.Parameter(torch.randn(1, 1, UNITS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rule(self, x))


def reader(kind: type, rule, width: int = UNITS, **options) -> Reader:
    torch.manual_seed(3)
    module = Reader(kind(FEATURES, UNITS, **options), width, rule).double().eval()
    for parameter in module.parameters():
        parameter.data.mul_(1.5)
    return module


def problem_of(module: nn.Module, count: int = 3, radius: float = 0.1, steps: int = STEPS) -> Problem:
    x = torch.randn(count, steps, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return Problem(module, x, torch.zeros(count, dtype=torch.long), Ball(inf, radius))


def run(graph: Graph, x: Tensor) -> Tensor:
    """A third party's interpreter."""
    values = {**graph.constants, graph.inputs["x"]: x}
    for node in graph.nodes:
        if node.op in ("input", "constant"):
            continue
        if node.op == "product":
            both = values[node.sources[0]]
            values[node.name] = both[:, 0] * both[:, 1]
        elif is_nonlinear(node):
            named = {k: values[v.name] if isinstance(v, Ref) else v for k, v in node.arguments.items()}
            values[node.name] = call(node, named)
        else:
            values[node.name] = evaluate(node, values, len(x))
        assert tuple(values[node.name].shape) == ((len(x), *node.shape) if node.varies else node.shape)
    return values[graph.output]


def check(module: nn.Module) -> Graph:
    problem = problem_of(module)
    graph = graph_of(problem)
    assert graph.batch is None
    assert not {"gru", "lstm", "rnn_tanh", "rnn_relu"} & {node.op for node in graph.nodes}
    for count in (1, 3):
        x = problem.x[:count]
        assert torch.allclose(run(graph, x), module(x), rtol=0, atol=1e-12)
    return graph


last = lambda s, x: s.rnn(x)[0][:, -1]
last_of_steps_first = lambda s, x: s.rnn(x.transpose(0, 1))[0][-1]
given = lambda s, x: s.rnn(x, s.start.expand(1, len(x), UNITS))[1][0]
given_both = lambda s, x: s.rnn(x, (s.start.expand(1, len(x), UNITS), x[None, :, 0, :UNITS]))[1][1][0]
both_ends = lambda s, x: torch.cat([s.rnn(x)[1][-2], s.rnn(x)[1][-1]], 1)
LAYERS = {
    "rnn": (nn.RNN, last, {}),
    "rnn of relus, no bias": (nn.RNN, last, {"nonlinearity": "relu", "bias": False}),
    "rnn, steps first": (nn.RNN, last_of_steps_first, {"batch_first": False}),
    "rnn, two layers, both directions": (nn.RNN, both_ends, {"num_layers": 2, "bidirectional": True, "width": 2 * UNITS}),
    "rnn, given state": (nn.RNN, given, {}),
    "gru": (nn.GRU, last, {}),
    "gru, no bias": (nn.GRU, last, {"bias": False}),
    "gru, given state": (nn.GRU, given, {}),
    "gru, two layers, both directions": (nn.GRU, last, {"num_layers": 2, "bidirectional": True, "width": 2 * UNITS}),
    "lstm, steps first": (nn.LSTM, last_of_steps_first, {"batch_first": False}),
    "lstm, given states": (nn.LSTM, given_both, {}),
    "lstm, projected, two layers": (nn.LSTM, last, {"num_layers": 2, "proj_size": 1, "width": 1, "bias": False}),
}  # fmt: skip


slowly = lambda names, quick: [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", slowly(LAYERS, ("rnn, steps first", "lstm, given states")))
def test_the_unrolled_graph_is_the_module(name: str) -> None:
    kind, rule, options = LAYERS[name]
    check(reader(kind, rule, **{"batch_first": True, **options}))


def loop(s: Reader, x: Tensor) -> Tensor:
    state = None
    for step in x.unbind(1):
        state = s.rnn(step, state)
    return state[0] if isinstance(state, tuple) else state


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_in_a_loop(kind: type) -> None:
    check(reader(kind, loop))


def test_the_first_step_of_a_zero_state_takes_fewer_products() -> None:
    count = lambda kind: [n.op for n in check(reader(kind, loop)).nodes].count("product")
    assert count(nn.GRUCell) == 2 * STEPS
    assert count(nn.LSTMCell) == 3 * STEPS - 1
    assert [n.op for n in check(reader(nn.GRUCell, loop, bias=False)).nodes].count("product") == 2 * STEPS - 1


OTHER_AXES = {
    "mean over steps": lambda s, x: s.rnn(x.permute(1, 0, 2))[0].mean(0),
    "steps flipped and summed": lambda s, x: s.rnn(x.transpose(0, 1).flip(0))[0].sum(0, keepdim=True)[0],
    "tanh, scaled, first steps": lambda s, x: (2 * torch.tanh(s.rnn(x.transpose(0, 1))[0]) - 1)[:2].transpose(0, 1).flatten(1),
    "linear on steps first": lambda s, x: s.head(s.rnn(x.transpose(0, 1))[0]).sum(0),
    "an axis in front": lambda s, x: s.rnn(x.transpose(0, 1))[1].squeeze(0),
    "new zeros": lambda s, x: s.rnn(x.transpose(0, 1), x.new_zeros(1, len(x), UNITS))[0][-1] + torch.zeros_like(x)[:, 0, :UNITS],
    "joined along steps": lambda s, x: torch.cat([s.rnn(x.transpose(0, 1))[0], s.rnn(x.transpose(0, 1))[1]], 0)[1:].sum(0),
    "stacked": lambda s, x: torch.stack(list(s.rnn(x.transpose(0, 1))[0].unbind(0)), 0).select(0, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", slowly(OTHER_AXES, ("tanh, scaled, first steps", "new zeros", "stacked")))
def test_examples_on_another_axis(name: str) -> None:
    check(reader(nn.RNN, OTHER_AXES[name], width=4 if "first steps" in name else UNITS))


MIXED = {
    "batch_first forgotten": (lambda s, x: s.rnn(x)[0][:, -1], {}),
    "layers beside each other without a transpose": (lambda s, x: s.rnn(x)[1].reshape(len(x), -1), {"num_layers": 2, "batch_first": True, "width": 4}),
    "mean over the examples": (lambda s, x: (s.rnn(x.transpose(0, 1))[0] * s.rnn(x.transpose(0, 1))[0].mean(1, keepdim=True))[-1], {}),
    "the first example": (lambda s, x: x[:, 0, :UNITS] + s.rnn(x.transpose(0, 1))[0][-1:, 0], {}),
    "added across axes": (lambda s, x: (s.rnn(x.transpose(0, 1))[0] + x[:, 0, :UNITS])[-1], {}),
    "a constant for every step": (lambda s, x: (s.rnn(x.transpose(0, 1))[0] + s.rnn.weight_ih_l0[:, :1, None].repeat(2, 1, 1))[-1], {}),
    "examples as the last axis": (lambda s, x: nn.functional.linear(s.rnn(x)[0].permute(1, 2, 0), torch.eye(3).double()).permute(2, 0, 1)[:, 0], {"batch_first": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", slowly(MIXED, list(MIXED)[1:6]))
def test_what_mixes_examples_is_refused(name: str) -> None:
    rule, options = MIXED[name]
    problem = problem_of(reader(nn.RNN, rule, **options), count=3, steps=4)
    for bound in (ibp, crown) if name == "the first example" else (crown,):  # one refusal, of the export
        with pytest.raises(NotCertified, match="mixes examples|every position in the batch|cannot export"):
            bound(problem)


def test_packed_sequences_are_refused_in_plain_words() -> None:
    def packed(s: Reader, x: Tensor) -> Tensor:
        return s.rnn(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 2]), batch_first=True))[1][0]

    with pytest.raises(NotCertified, match="packed sequences"):
        graph_of(problem_of(reader(nn.GRU, packed, batch_first=True)))


def checked(problem: Problem, proof: dict[str, Tensor], leaf: str) -> Tensor:
    """The rows again, by the checker that shares no code with the bounds."""
    coefficients, offsets = (v.numpy() for v in matrix(problem.spec, problem.labels, 2))
    model = Model(graph_of(problem), frozenset({leaf} - {"x"}))
    found = []
    for i, centre in enumerate(problem.centre[leaf]):
        leaves = {leaf: Moving(centre.numpy().reshape(-1), inf, problem.region[leaf].radius)}
        fixed = {} if leaf == "x" else {"x": problem.x[i].numpy()}
        arrays = {name: value[i].numpy() for name, value in proof.items()}
        found.append(torch.from_numpy(rows_below(model, leaves, fixed, arrays, coefficients[:, i], offsets[:, i])))
    return torch.stack(found)


@pytest.mark.parametrize(
    "kind", [pytest.param(nn.RNN, marks=pytest.mark.slow), nn.GRU, pytest.param(nn.LSTM, marks=pytest.mark.slow)]
)
def test_rows_are_below_all_points_and_the_checker_agrees(kind: type) -> None:
    problem = problem_of(reader(kind, last, batch_first=True), radius=0.05, count=2, steps=2)
    proved, loose = crown(problem), ibp(problem).rows
    point = crown(problem.scaled(0.0)).rows
    assert torch.allclose(point, problem.double().rows(), rtol=0, atol=1e-9)
    assert (proved.rows < point).all()
    corners = torch.randint(0, 2, (200, *problem.x.shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits = problem.network.double((problem.x + 0.05 * corners.double()).flatten(0, 1)).reshape(200, 2, 2)
    least = (logits[..., 0] - logits[..., 1]).amin(0)
    assert (proved.rows[:, 0] <= least).all() and (loose[:, 0] <= least).all()
    assert (point[:, 0] - proved.rows[:, 0] <= 2 * (point[:, 0] - least)).all(), "no more than twice what corners lose"
    assert torch.allclose(checked(problem, proved.proof, "x"), proved.rows, rtol=0, atol=1e-9)


def test_exact_where_nothing_bends() -> None:
    """Positive weights, biases and inputs: every relu passes, the network is linear on the region."""
    module = reader(nn.RNN, last_of_steps_first, nonlinearity="relu")
    for parameter in module.rnn.parameters():
        parameter.data.abs_()
    problem = problem_of(module)
    problem = Problem(module, problem.x.abs() + 0.2, problem.labels, Ball(inf, 0.1))
    x = problem.x.clone().requires_grad_()
    gradient = torch.autograd.grad((module(x) @ torch.tensor([1.0, -1.0]).double()).sum(), x)[0]
    exact = problem.double().rows()[:, 0] - 0.1 * gradient.abs().sum((1, 2))
    assert torch.allclose(crown(problem).rows[:, 0], exact, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("leaf", ["rnn.weight_hh_l0", "rnn.bias_hh_l0"])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_weights_may_move(kind: type, leaf: str) -> None:
    module = reader(kind, last, batch_first=True)
    problem = problem_of(module, count=2).within({leaf: Ball(inf, 0.02)})
    proved = crown(problem)
    name, stored = leaf, dict(module.named_parameters())[leaf].detach()
    change = torch.randint(0, 2, (100, *stored.shape), generator=torch.Generator().manual_seed(0)) * 0.04 - 0.02
    logits = torch.stack([torch.func.functional_call(module, {name: stored + c}, problem.x) for c in change])
    least = (logits[..., 0] - logits[..., 1]).amin(0)
    point = problem.double().rows()[:, 0]
    assert (proved.rows[:, 0] <= least).all() and (ibp(problem).rows[:, 0] <= least).all()
    assert (0 < point - proved.rows[:, 0]).all() and (point - proved.rows[:, 0] < 0.25).all()
    assert torch.allclose(checked(problem, proved.proof, leaf), proved.rows, rtol=0, atol=1e-9)


def test_a_wrong_unrolling_is_never_handed_out(monkeypatch) -> None:
    """A mutant: gates in another order."""
    right = lowering.Writer.gates
    monkeypatch.setattr(lowering.Writer, "gates", lambda w, x, size, a, b: right(w, x, size, b % 2, b % 2 + b - a))
    with pytest.raises(NotCertified, match="graph disagrees with the module"):
        graph_of(problem_of(reader(nn.LSTM, last, batch_first=True), steps=2))
