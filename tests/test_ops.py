"""Every row of ops.py: the interval holds the function and is attained at a corner, pulled-back rows agree with corners too."""

from collections.abc import Callable
from functools import cache
from math import inf

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brittle import intervals, ops, transposes
from brittle.errors import NotCertified
from brittle.graph import graph_of
from brittle.planes import planes
from brittle.problem import Problem
from brittle.region import Ball
from brittle.relaxation import pull_back
from reference import boxes


class Apply(nn.Module):
    """One function of (N, 8), its result flattened; weights by name."""

    def __init__(self, function: Callable, **weights: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in weights.items():
            self.register_buffer(name, value.double())

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.function(self, x), 1)


torch.manual_seed(11)
IMAGE = lambda x: x.reshape(-1, 2, 2, 2)
LINE = lambda x: x.reshape(-1, 2, 4)
W = dict(w=torch.randn(3, 8), b=torch.randn(3))
NORM = dict(m=torch.randn(2), v=torch.rand(2) + 0.5, w=torch.randn(2), b=torch.randn(2))
batch_norm = lambda s, x: F.batch_norm(x, s.m, s.v, s.w, s.b, eps=1e-3)

AFFINE = {
    "linear": (lambda s, x: F.linear(x, s.w, s.b), W),
    "linear without bias": (lambda s, x: F.linear(x, s.w), W),
    "matmul": (lambda s, x: x @ s.w, dict(w=torch.randn(8, 3))),
    "conv1d": (lambda s, x: F.conv1d(LINE(x), s.w, s.b, padding=2, dilation=2), dict(w=torch.randn(3, 2, 3), b=torch.randn(3))),
    "conv2d": (lambda s, x: F.conv2d(IMAGE(x), s.w, s.b, stride=2, padding=1), dict(w=torch.randn(3, 2, 3, 3), b=torch.randn(3))),
    "conv2d groups": (lambda s, x: F.conv2d(IMAGE(x), s.w, None, groups=2, padding=(1, 0)), dict(w=torch.randn(4, 1, 2, 2))),
    "batch_norm": (lambda s, x: batch_norm(s, IMAGE(x)), NORM),
    "batch_norm flat": (lambda s, x: batch_norm(s, x[:, :2]), NORM),
    "batch_norm plain": (lambda s, x: F.batch_norm(x[:, :2], s.m, s.v), NORM),
    "add": (lambda s, x: x + 0.3, {}),
    "add alpha": (lambda s, x: torch.add(x, s.b, alpha=-2.5), dict(b=torch.randn(8))),
    "add both": (lambda s, x: x[:, :4] + 2 * x[:, 4:], {}),
    "add alpha both": (lambda s, x: torch.add(x[:, :4], x[:, 4:], alpha=-2.5), {}),
    "sub": (lambda s, x: x[:, :4] - x[:, 4:], {}),
    "sub constant": (lambda s, x: x - s.b, dict(b=torch.randn(8))),
    "rsub": (lambda s, x: 1 - x, {}),
    "mul": (lambda s, x: x * s.b, dict(b=torch.randn(8))),
    "mul number": (lambda s, x: x * -3, {}),
    "div": (lambda s, x: x / s.b, dict(b=torch.randn(8))),
    "div number": (lambda s, x: x / -0.25, {}),
    "neg": (lambda s, x: -x, {}),
    "mean": (lambda s, x: IMAGE(x).mean((2, 3)), {}),
    "mean keepdim": (lambda s, x: IMAGE(x).mean(-1, keepdim=True), {}),
    "sum": (lambda s, x: IMAGE(x).sum(1), {}),
    "avg_pool1d": (lambda s, x: F.avg_pool1d(LINE(x), 2), {}),
    "avg_pool2d": (lambda s, x: F.avg_pool2d(IMAGE(x), 2, 1, padding=1), {}),
    "adaptive_avg_pool2d": (lambda s, x: F.adaptive_avg_pool2d(IMAGE(x), 1), {}),
    "adaptive_avg_pool1d": (lambda s, x: F.adaptive_avg_pool1d(LINE(x), 3), {}),
    "permute": (lambda s, x: IMAGE(x).permute(0, 3, 1, 2), {}),
    "transpose": (lambda s, x: LINE(x).transpose(1, -1), {}),
    "slice": (lambda s, x: x[:, 1:7:2], {}),
    "select": (lambda s, x: LINE(x)[:, 1], {}),
    "split": (lambda s, x: torch.cat([*reversed(x.chunk(2, 1))], -1), {}),
    "unbind": (lambda s, x: torch.stack(LINE(x).unbind(1), 2), {}),
    "cat": (lambda s, x: torch.cat([x, 2 * x, x], 1), {}),
    "flip": (lambda s, x: x.flip(1), {}),
    "squeeze": (lambda s, x: x.unsqueeze(1).squeeze(1).view(x.size(0), -1), {}),
    "pad reflected": (lambda s, x: F.pad(LINE(x), (1, 2), mode="reflect"), {}),
    "expand": (lambda s, x: x[:, None].expand(-1, 3, -1), {}),
    "index_select": (lambda s, x: x.index_select(1, torch.tensor([3, 1, 1])), {}),
    "pad": (lambda s, x: F.pad(x, (1, 2), value=0.7), {}),
    "zeros for every example": (lambda s, x: torch.cat([x, torch.zeros(x.shape[0], 2, dtype=x.dtype)], 1), {}),
    "copies": (lambda s, x: F.dropout(x.clone().contiguous().double(), 0.5, False).detach(), {}),
}  # fmt: skip
MONOTONE = {
    "relu": lambda s, x: torch.relu(x),
    "relu in place": lambda s, x: F.relu(x + 0, inplace=True),
    "leaky_relu": lambda s, x: F.leaky_relu(x, 0.2),
    "prelu": lambda s, x: F.prelu(x, torch.tensor([0.3], dtype=torch.float64)),
    "relu6": lambda s, x: F.relu6(6 * x),
    "hardtanh": lambda s, x: F.hardtanh(x, -0.2, 0.3),
    "clamp": lambda s, x: x.clamp(-0.1, 0.4),
    "clamp_min": lambda s, x: x.clamp_min(0.1),
    "clamp_max": lambda s, x: x.clamp_max(0.1),
    "tanh": lambda s, x: torch.tanh(2 * x),
    "sigmoid": lambda s, x: torch.sigmoid(3 * x),
    "hardsigmoid": lambda s, x: F.hardsigmoid(5 * x),
    "softplus": lambda s, x: F.softplus(3 * x, 2.0),
    "elu": lambda s, x: F.elu(3 * x, 0.7),
    "selu": lambda s, x: F.selu(3 * x),
    "celu": lambda s, x: F.celu(3 * x, 1.3),
    "log_sigmoid": lambda s, x: F.logsigmoid(3 * x),
    "exp": lambda s, x: torch.exp(3 * x),
    "log": lambda s, x: torch.log(x + 1),
    "reciprocal": lambda s, x: 1 / (x + 1),
    "sqrt": lambda s, x: torch.sqrt(x + 1),
    "rsqrt": lambda s, x: torch.rsqrt(x + 1),
    "softmax": lambda s, x: torch.softmax(IMAGE(4 * x), 1),
    "log_softmax": lambda s, x: F.log_softmax(LINE(4 * x), -1),
    "product": lambda s, x: x[:, :4] * x[:, 4:],
    "product broadcast": lambda s, x: LINE(x)[:, :1] * x[:, 5:7, None],
    "quotient": lambda s, x: x[:, :4] / (x[:, 4:] + 1),
    "max_pool1d": lambda s, x: F.max_pool1d(LINE(x), 2),
    "max_pool2d": lambda s, x: F.max_pool2d(IMAGE(x), 2, 1, padding=1),
    "max_pool2d ceil": lambda s, x: F.max_pool2d(x.reshape(-1, 1, 2, 4), (2, 3), 2, ceil_mode=True),
    "global max": lambda s, x: F.max_pool2d(IMAGE(x), 2),
    "max_pool2d with places": lambda s, x: F.max_pool2d(IMAGE(x), 2, 1, return_indices=True)[0],
    "adaptive_max_pool1d": lambda s, x: F.adaptive_max_pool1d(LINE(x), 3),
    "adaptive_max_pool2d": lambda s, x: F.adaptive_max_pool2d(x.reshape(-1, 1, 2, 4), (1, 3)),
    "amax": lambda s, x: IMAGE(x).amax((1, 3)),
    "max": lambda s, x: LINE(x).max(-1, keepdim=True).values,
}  # fmt: skip
OTHER = {
    "abs": lambda s, x: x.abs(),
    "prelu falling": lambda s, x: F.prelu(x, torch.tensor([-0.5], dtype=torch.float64)),
    "hardswish": lambda s, x: F.hardswish(6 * x),
    "silu": lambda s, x: F.silu(6 * x),
    "gelu": lambda s, x: F.gelu(6 * x),
    "gelu tanh": lambda s, x: F.gelu(6 * x, approximate="tanh"),
    "mish": lambda s, x: F.mish(6 * x),
    "square": lambda s, x: torch.cat([x**2, (x - 0.1) * (x - 0.2), x * x], 1),
    "product of one value": lambda s, x: torch.sigmoid(3 * x) * x,
    "maximum": lambda s, x: torch.maximum(x[:, :4], x[:, 4:]) - torch.minimum(x[:, :4], 0 * x[:, 4:]),
    "glu": lambda s, x: F.glu(LINE(x), 1),
    "layer_norm": lambda s, x: F.layer_norm(
        LINE(x), (2, 4), torch.arange(8.0).double().reshape(2, 4), torch.ones(2, 4).double(), 0.1
    ),
    "layer_norm plain": lambda s, x: F.layer_norm(x, (8,)),
    "group_norm": lambda s, x: F.group_norm(
        IMAGE(x), 1, torch.tensor([2.0, -1.0]).double(), torch.tensor([0.0, 0.5]).double()
    ),
    "instance_norm": lambda s, x: F.instance_norm(LINE(x)),
    "matmul of two": lambda s, x: LINE(x) @ LINE(x * x).transpose(1, 2),
    "bmm": lambda s, x: torch.bmm(LINE(x)[..., :2], LINE(x)[..., 2:]),
    "matmul on the left": lambda s, x: (
        torch.tensor([[1.0, 2.0], [-3.0, 4.0], [0.0, 5.0]], dtype=torch.float64) @ LINE(x)
    ),
    "attention": lambda s, x: F.scaled_dot_product_attention(LINE(3 * x), LINE(x + 1), LINE(x)),
    "attention causal": lambda s, x: F.scaled_dot_product_attention(
        *[x.reshape(-1, 2, 4, 1)] * 3, is_causal=True, scale=5.0
    ),
    "attention masked": lambda s, x: F.scaled_dot_product_attention(
        *[LINE(x)] * 3, attn_mask=torch.tensor([[True, False], [True, True]])
    ),
}
CLOSED = frozenset(transposes.CLOSED)
ALL = {**{k: v for k, v in AFFINE.items()}, **{k: (f, {}) for k, f in {**MONOTONE, **OTHER}.items()}}


@cache
def walk(name: str, radius: float = 0.25) -> tuple[intervals.State, nn.Module, Problem]:
    function, weights = ALL[name]
    torch.manual_seed(7)
    module = Apply(function, **weights)
    x = torch.rand(2, 8, dtype=torch.float64) - 0.5
    problem = Problem(module, x, torch.tensor([0, 1]), Ball(inf, radius))
    state = intervals.start(problem, graph_of(problem))
    for node in state.graph.nodes:
        if node.varies and node.op != "input":
            intervals.forward(state, node)
    return state, module, problem


@pytest.mark.parametrize("name", ALL)
def test_interval_holds_the_function_and_is_attained_at_a_corner(name: str) -> None:
    state, module, problem = walk(name)
    low, high = state.low[state.graph.output], state.high[state.graph.output]
    for i in range(2):
        corners = module(boxes.vertices(problem.x[i] - 0.25, problem.x[i] + 0.25))
        inside = module(problem.x[i] + 0.5 * (torch.rand(500, 8, dtype=torch.float64) - 0.5))
        assert (torch.cat([corners, inside]) >= low[i]).all() and (torch.cat([corners, inside]) <= high[i]).all()
        if name not in OTHER and "both" not in name:
            assert torch.allclose(corners.amin(0), low[i], atol=1e-9) and torch.allclose(
                corners.amax(0), high[i], atol=1e-9
            )


@pytest.mark.parametrize("name", ALL)
def test_rows_agree_with_torch_at_radius_zero_and_bound_every_corner(name: str) -> None:
    """Pulled back to the input and evaluated there: equal to the function at a point, below it on the box, equal at a corner if affine."""
    for radius in (0.0, 0.25):
        _rows_are_below(name, radius)


def _rows_are_below(name: str, radius: float) -> None:
    state, module, problem = walk(name, radius)
    relaxed = {node.name: planes(state, node) for node in state.graph.nodes if ops.is_nonlinear(node)}
    value = module(problem.x)
    torch.manual_seed(3)
    rows = torch.randn(4, 1, *value.shape[1:], dtype=torch.float64)
    pulled = pull_back(state, state.graph.output, rows, relaxed)
    coefficients = pulled.coefficients.get("x", torch.zeros(4, 2, 8, dtype=torch.float64)).expand(4, 2, 8)
    bound = lambda x: torch.einsum("rnd,knd->rnk", coefficients, x) + (pulled.constant - pulled.slack)[..., None]
    truth = lambda x: torch.einsum("rno,kno->rnk", rows.expand(4, 2, -1), torch.stack([module(v) for v in x]))
    points = problem.x + 2 * radius * (torch.rand(60, 2, 8, dtype=torch.float64) - 0.5)
    corners = problem.x + radius * torch.stack([boxes.vertices(-torch.ones(8), torch.ones(8))] * 2, 1)[::5]
    for x in (points, corners):
        assert (bound(x) <= truth(x) + 1e-13).all()
        if radius == 0 or name in AFFINE:
            assert torch.allclose(bound(x), truth(x), atol=1e-9)


def test_transposes_in_closed_form_are_those_of_differentiation(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [walk(name)[0] for name in ALL]
    pulled = {}
    for closed in (transposes.CLOSED, {}):
        torch.manual_seed(4)
        monkeypatch.setattr(transposes, "CLOSED", closed)
        for at, state in enumerate(states):
            for node in state.graph.nodes:
                if node.op not in CLOSED or not node.varies:
                    continue
                rows = torch.randn(3, 2, *node.shape, dtype=torch.float64)
                form = transposes.transpose(state.known, state.constants, node, rows, state.moving(node))
                pulled.setdefault((at, node.name, node.op), []).append(form)
    assert {op for *_, op in pulled} == set(CLOSED)
    for mine, truth in pulled.values():
        assert mine.keys() == truth.keys()
        assert all(torch.allclose(mine[name], truth[name], rtol=1e-15, atol=1e-15) for name in truth)


def test_there_is_a_row_for_every_promised_operation() -> None:
    seen = {node.op for name in ALL for node in walk(name)[0].graph.nodes}
    assert seen >= set(ops.AFFINE) - {"mm", "conv3d", "avg_pool3d", "adaptive_avg_pool3d", "constant_pad_nd"}
    assert seen >= set(ops.ACTIVATIONS) - {"clip"} and seen >= ops.TAPPED


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda s, x: torch.erf(x), "operation erf"),
        (lambda s, x: x**3, "operation pow with exponent 3"),
        (lambda s, x: x * x.detach().sum(0), "mixes examples"),
        (lambda s, x: torch.softmax(x, 0), "softmax mixes examples"),
        (lambda s, x: x - x.mean(0), "mixes examples"),
        (lambda s, x: x - x.mean(0, keepdim=True), "mixes examples"),
        (lambda s, x: x.flip(0), "mixes examples"),
        (lambda s, x: torch.cat([x, x], 0)[: x.shape[0]], "mixes examples"),
        (lambda s, x: x.reshape(-1, 16).reshape(-1, 8), "mixes examples"),
        (lambda s, x: x.float(), "float32 arithmetic"),
        (lambda s, x: x @ s.w.sin(), "operation sin of constants"),
        (lambda s, x: torch.sort(x, 1).values, "operations? .*sort"),
    ],
)
def test_what_has_no_row_is_named(function, reason) -> None:
    module = Apply(function, w=torch.randn(8, 8))
    problem = Problem(module, torch.rand(4, 8, dtype=torch.float64), torch.zeros(4), Ball(inf, 0.1))
    with pytest.raises(NotCertified, match=reason):
        ops.check(graph_of(problem))
