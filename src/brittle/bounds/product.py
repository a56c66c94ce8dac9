"""Joint bounds in closed form: products and sums of norms of the layers. Explanations and penalties, not the best certificates."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from brittle import backward, intervals, meter, ops
from brittle.about import About
from brittle.bounds import _concrete
from brittle.bounds.ibp import ibp
from brittle.errors import InputError, NotCertified
from brittle.graph import Graph, Node, Ref, graph_of
from brittle.intervals import TINY, State, gamma
from brittle.problem import Problem
from brittle.results import Certificate

ABOUT = About(
    promise="lower bounds on every row of the specification in closed form, proved in float64 with outward rounding; for chains of linear layers",
    reference="the shape of Tsai, Hsu, Yu and Chen, ICASSP 2021, arXiv 2102.11935 (its theorem was not readable); derived here",
    norms=(1, 2, inf),
    answers="margin",
    leaves=("input", "parameter"),
    cost="5 forward passes",
)
LIPSCHITZ = {"relu", "relu6", "hardtanh", "abs", "tanh", "sigmoid"}  # slopes within [-1, 1]


@dataclass(frozen=True, eq=False)
class _Layer:
    """One linear layer: its coefficients, what its parameters may change, and the absolute values that enter it.

    stored, weight  (O, I): coefficients and their absolute values; pattern, scale: of the room of the weight
    bias     (N, O) or (N, 1): what the bias may change
    nominal  (N, I): values that enter at the clean point; largest: anywhere in the region
    """

    stored: Tensor
    weight: Tensor
    pattern: Tensor
    scale: Tensor
    bias: Tensor
    nominal: Tensor
    largest: Tensor

    def room(self, values: Tensor) -> Tensor:
        """``E v``."""
        if self.pattern.numel() == 1:
            return (self.scale * self.pattern.reshape(()))[:, None] * values.sum(1, keepdim=True).expand(
                -1, len(self.weight)
            )
        product = (
            values @ self.pattern[0].T if len(self.pattern) == 1 else torch.einsum("noi,ni->no", self.pattern, values)
        )
        return self.scale[:, None] * product


def product(problem: Problem, *, form: str = "product") -> Certificate:
    """Lower bounds (N, R) on the rows: the clean rows less a bound on what the joint region can take from them.

    Layers ``p^k = W^k z^(k-1) + b^k``, ``z^k = f(p^k)`` with slopes of f within [-1, 1]; ``|dW^k| <= E^k``, ``|db^k| <= e^k``, ``|dx| <= r^0``.
    With ``R_k`` the largest row sum of ``|W^k|`` and c a row of the specification pulled back to the last layer, ``c = W^L_y - W^L_j``:

    form="vector"   ``r^k = |W^k| r^(k-1) + E^k (|z^(k-1)| + r^(k-1)) + e^k``,
                    ``drop = |c| r^(L-1) + (E_y + E_j) (|z^(L-1)| + r^(L-1)) + e_y + e_j``
    form="scalar"   the same with one number for all units of a layer, their largest: ``a_k = (R_k + |E^k|_rows) a_(k-1) + max(E^k |z^(k-1)| + e^k)``
    form="product"  ``drop = |c|_1 (max r^0 prod R_k + sum_m max(E^m u^(m-1) + e^m) prod_(k > m) R_k) + (E_y + E_j) u^(L-1) + e_y + e_j``,
                    u the largest absolute values by interval propagation: weights as stored above a layer, values perturbed below it

    For one eps per layer ``E v`` is ``eps |v|_1``. Proof: ``p' - p = W (z' - z) + dW z'``, ``|z'| <= |z| + r``, and f does not expand;
    for the product the sum telescopes. The u must bound the perturbed values: the forward pass with eps added to every weight does not
    (from two hidden layers on a smaller first layer can make the second larger).

    Guarantee: sound for the real-arithmetic function of the stored weights. Loose: on a normally trained 64-32-32-10 network nothing is
    certified as soon as the input moves (see ``crown``). ``bt.margin(problem, bounds=["product"])`` runs it; ``functools.partial`` binds a form.
    Balls of every p are enclosed in boxes.

    Errors: InputError for another form; :class:`NotCertified` for a network that is not such a chain.

    >>> from brittle.region import Ball
    >>> module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> region = {"x": Ball(p=inf, radius=0.1), "0.weight": Ball(p=inf, radius=0.01)}
    >>> problem = Problem(module, torch.ones(1, 2), torch.tensor([0]), region)
    >>> bool((product(problem).rows <= ibp(problem).rows).all())
    True
    """
    if form not in ("product", "scalar", "vector"):
        raise InputError("form", '"product", "scalar" or "vector"', repr(form), "choose one of these")
    graph = graph_of(problem)
    ops.check(graph)
    _chain(graph)
    return _concrete.in_turns(problem, backward.entries(graph), lambda part: _bound(part, form))


def _bound(problem: Problem, form: str) -> Certificate:
    graph = graph_of(problem)
    chain = _chain(graph)
    state, clean = intervals.start(problem, graph), intervals.start(problem.scaled(0.0), graph)
    for one in (state, clean):
        intervals.propagate(one, {node.name for node in graph.nodes})
    meter.count(forward=2 * len(problem))
    layers = [_layer(state, clean, node) for node in chain]
    low, high, centre = (side[chain[0].sources[0]].flatten(1) for side in (state.low, state.high, clean.low))
    radius = torch.maximum(high - centre, centre - low) * (1 + gamma(4))
    rows, _, _ = backward.specification(problem, state)
    arrive = {"vector": _vector, "scalar": _scalar, "product": _product}[form]
    drop = _last(layers[-1], rows, *arrive(layers[:-1], radius, layers[-1]))
    lower = ibp(problem.scaled(0.0)).rows.T - drop
    return _concrete.certificate(
        lower - gamma(4) * (lower.abs() + drop) - TINY, f"product({form!r})" if form != "product" else "product"
    )


# ---- what arrives at the last layer: (change of its inputs, the values that its own change multiplies) --------------------------


def _vector(hidden: list[_Layer], radius: Tensor, last: _Layer) -> tuple[Tensor, Tensor]:
    for layer in hidden:
        radius = _up(layer, radius @ layer.weight.T + layer.room(layer.nominal + radius) + layer.bias)
    return radius, last.nominal + radius


def _scalar(hidden: list[_Layer], radius: Tensor, last: _Layer) -> tuple[Tensor, Tensor]:
    size = radius.amax(1, keepdim=True)
    for layer in hidden:
        rows = layer.weight.sum(1).amax() + layer.room(torch.ones_like(layer.nominal)).amax(1, keepdim=True)
        size = _up(layer, rows * size + (layer.room(layer.nominal) + layer.bias).amax(1, keepdim=True))
    radius = size.expand_as(last.nominal)
    return radius, last.nominal + radius


def _product(hidden: list[_Layer], radius: Tensor, last: _Layer) -> tuple[Tensor, Tensor]:
    """Horner's rule for the sum of products."""
    size = radius.amax(1, keepdim=True)
    for layer in hidden:
        size = _up(
            layer, layer.weight.sum(1).amax() * size + (layer.room(layer.largest) + layer.bias).amax(1, keepdim=True)
        )
    return size.expand_as(last.nominal), last.largest


def _last(layer: _Layer, rows: Tensor, radius: Tensor, values: Tensor) -> Tensor:
    """``|c| r + |rows| (E v + e)`` of the rows (R, N, classes) of a specification: merged with the last layer, (R, N)."""
    size = rows.abs()
    merged = (rows @ layer.stored).abs() + gamma(rows.shape[-1]) * (size @ layer.weight)
    change = layer.room(values) + layer.bias
    return _up(
        layer,
        torch.einsum("rni,ni->rn", merged, radius) + torch.einsum("rno,no->rn", size, change.expand(len(values), -1)),
    )


def _up(layer: _Layer, value: Tensor) -> Tensor:
    """Sums of non-negative products, lifted above their true value."""
    return value * (1 + gamma(sum(layer.weight.shape) + 8)) + TINY


# ---- reading the chain -----------------------------------------------------------------------------------------------------


def _chain(graph: Graph) -> list[Node]:
    """The linear layers of a graph that is nothing but them, activations and flattenings, one after the other."""
    if len(graph.inputs) != 1:
        raise NotCertified("a network of several inputs is no chain: use crown or ibp")
    current, linear = next(iter(graph.inputs.values())), []
    for node in graph.nodes:
        if node.op == "input" or not node.varies:
            continue
        moving = [name for name in node.sources if graph.by_name[name].varies]
        steep = node.op == "leaky_relu" and abs(float(node.arguments["negative_slope"])) <= 1  # type: ignore[arg-type]
        if moving != [current] or not (node.op in LIPSCHITZ or steep or node.op == "reshape" or _is_layer(node)):
            raise NotCertified(f"operation {node.op} is not part of a chain of linear layers: use crown or ibp")
        linear += [node] if node.op == "linear" else []
        current = node.name
    if not linear or linear[-1].name != graph.output:
        raise NotCertified("the chain does not end in a linear layer: use crown or ibp")
    return linear


def _is_layer(node: Node) -> bool:
    return node.op == "linear" and len(node.shape) == 1


def _layer(state: State, clean: State, node: Node) -> _Layer:
    source = node.sources[0]
    name = lambda key: value.name if isinstance(value := node.arguments[key], Ref) else ""
    weight = state.constants[name("weight")]
    zero = weight.new_zeros(state.count)
    room, bias = (state.wobble.get(name(key)) for key in ("weight", "bias"))
    alike = lambda scale: scale.expand(state.count)
    return _Layer(
        weight, weight.abs(),
        weight.new_zeros(1, 1, 1) if room is None else room.pattern, zero if room is None else alike(room.scale),
        zero[:, None] if bias is None else (alike(bias.scale)[:, None] * bias.pattern).expand(state.count, -1),
        clean.largest(source).flatten(1), state.largest(source).flatten(1),
    )  # fmt: skip
