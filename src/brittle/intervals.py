"""Intervals of every value of a graph over the region, in float64 rounded outwards, and how far rounding can carry a sum.

Rounding model (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1): a sum of n products, computed in any order,
is off by at most ``gamma(n) = n u / (1 - n u)`` times the sum of the absolute products, u = 2^-53. The sum of absolute
products over the region is the *magnitude* of a node, ``|W| max|h| + |b|``.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor

from brittle import norms, ops, products
from brittle.errors import NotCertified
from brittle.graph import Graph, Node, Ref
from brittle.problem import Problem
from brittle.rooms import Room, enclosing, room

UNIT = 2.0**-53  # one rounding of float64, relative
TINY = 2.0**-960  # absolute: far above what underflow can lose in any sum here


def gamma(terms: int) -> float:
    """A bound on the relative error of a sum of ``terms`` products whose factors carry up to eight roundings each."""
    return 2 * (terms + 16) * UNIT


@dataclass(eq=False)
class State:
    """Intervals under construction, node after node.

    low, high   (N, *shape) for every node that varies
    constants   values of the nodes that do not
    wobble      moving parameters: node name -> how far they may lie from their stored values
    """

    graph: Graph
    count: int
    constants: dict[str, Tensor]
    wobble: dict[str, Room] = field(default_factory=dict)
    low: dict[str, Tensor] = field(default_factory=dict)
    high: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, Node] = field(default_factory=dict)
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    reaches: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def largest(self, name: str) -> Tensor:
        """The largest absolute value over the region, (N, *shape)."""
        return torch.maximum(self.low[name].abs(), self.high[name].abs())

    def terms(self, node: Node) -> int:
        """How many products are summed into one entry of an affine node; 0: it only copies."""
        return ops.AFFINE[node.op].terms(node, lambda ref: self.known[ref.name].shape)

    def moving(self, node: Node) -> list[str]:
        """The sources of a node that vary with the input, each once."""
        return [name for name in dict.fromkeys(node.sources) if self.known[name].varies]


def start(problem: Problem, graph: Graph) -> State:
    """Intervals of the inputs, values of the constants, room of the moving parameters."""
    ops.check(graph)
    device = problem.device
    constants = {name: value.to(device) for name, value in graph.constants.items()}
    state = State(graph, len(problem), constants, known=graph.by_name)
    for leaf, name in graph.inputs.items():
        state.low[name], state.high[name] = box(problem, leaf)
    for node in graph.nodes:
        if not node.varies and node.op != "constant":
            constants[node.name] = ops.evaluate(node, constants, 1)
    for leaf in problem.leaves:
        parameter = problem.parameter_name(leaf)
        if parameter is not None and parameter in graph.parameters:
            name = graph.parameters[parameter]
            ball = problem.region[leaf]
            radius = norms.proof_radius(ball.p, problem.radius(leaf)).to(device)
            if bool((radius > 0).any()):
                state.wobble[name] = room(ball, constants[name], radius)
    _check_parameters(state)
    return state


def box(problem: Problem, leaf: str) -> tuple[Tensor, Tensor]:
    """(low, high) (N, ...), float64: the smallest box known to hold the region of one leaf; a point where it does not move."""
    if leaf not in problem.region:
        value = problem.inputs[leaf]
        wide = value.detach().double() if value.is_floating_point() else value
        return wide, wide
    ball, centre = problem.region[leaf], problem.centre[leaf].detach().double()
    return enclosing(ball, centre, norms.proof_radius(ball.p, problem.radius(leaf)).to(centre.device))


def propagate(state: State, kept: Collection[str]) -> None:
    """The intervals of all nodes, in order. Only those in ``kept`` are still there at the end.

    The others go with their last reader, so that memory follows the widest stretch of a graph and not its depth.
    """
    last = {name: node.name for node in state.graph.nodes for name in node.sources}
    for node in state.graph.nodes:
        if not node.varies or node.op == "input":
            continue
        forward(state, node)
        if node.name not in kept:
            state.magnitudes.pop(node.name, None)
            state.reaches.pop(node.name, None)
        for name in (*node.sources, node.name):
            if name not in kept and last.get(name, node.name) == node.name:
                state.low.pop(name, None)
                state.high.pop(name, None)


def forward(state: State, node: Node) -> None:
    """The interval of one node from the intervals of its sources."""
    if not state.moving(node):
        low = high = ops.evaluate(node, state.constants, state.count)
    elif node.op in ops.AFFINE:
        low, high = _affine(state, node)
    elif node.op in ops.POOLS:
        source = node.arguments["input"].name  # type: ignore[union-attr]
        low, high = (
            ops.call(node, {**ops.arguments_of(node, {source: side[source]}, state.count)})
            for side in (state.low, state.high)
        )
    elif node.op == ops.PRODUCT:
        low, high = products.image(state.low[node.sources[0]], state.high[node.sources[0]])
    else:
        low, high = image(state, node)
    state.low[node.name], state.high[node.name] = low, high


def image(state: State, node: Node) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of an activation: at an end or at a kink, the turning points of a curved one among them."""
    source = node.arguments["input"].name  # type: ignore[union-attr]
    low, high = state.low[source], state.high[source]
    function = ops.activation(node, {**state.constants, source: low}, state.count)
    first, second = function.value(low), function.value(high)
    least, most = torch.minimum(first, second), torch.maximum(first, second)
    for kink in function.kinks:
        value = function.value(torch.minimum(low.clamp_min(kink), high))
        least, most = torch.minimum(least, value), torch.maximum(most, value)
    slack = 0.0 if node.op in ("relu", "relu6", "hardtanh", "abs") else function.ulps * UNIT
    if slack:
        far = function.input_ulps * UNIT * torch.maximum(low.abs(), high.abs()) if function.input_ulps else 0.0
        least, most = least - slack * least.abs() - far - TINY, most + slack * most.abs() + far + TINY
    if function.dip is not None:
        least = torch.where(
            high >= function.dip[0], least - function.dip[1] * (1 + UNIT) - 4 * UNIT * least.abs(), least
        )
    return least, most


def magnitude(state: State, node: Node) -> Tensor:
    """``|W| max|h| + |b|`` of an affine node, (N, *shape)."""
    if node.name not in state.magnitudes:
        values = {**state.constants, **{name: state.largest(name) for name in state.moving(node)}}
        value = ops.evaluate_absolute(node, values, state.count, state.moving(node), offset=True)
        state.magnitudes[node.name] = value + TINY
    return state.magnitudes[node.name]


def uncertainty(state: State, node: Node) -> Tensor | None:
    """At least ``|dW| max|h| + |db|``, how far moving parameters can carry an affine node; at most twice that."""
    drift = moved(state, node)
    return None if drift is None else drift[0] + drift[1]


def moved(state: State, node: Node) -> tuple[Tensor, Tensor] | None:
    """(down, up): how far moving parameters can carry an affine node beyond its interval at their stored values."""
    if node.name not in state.reaches:
        parts = [parameter_part(state, node, name) for name in dict.fromkeys(node.sources) if name in state.wobble]
        if not parts:
            return None
        lift = 1 + gamma(state.terms(node))
        down, up = (torch.stack(side).sum(0) * lift + TINY for side in zip(*parts, strict=True))
        state.reaches[node.name] = down, up
    return state.reaches[node.name]


def _affine(state: State, node: Node) -> tuple[Tensor, Tensor]:
    """Centre and radius: ``W c + b -+ (|W| r + rounding)``; attained at a corner up to rounding."""
    moving = state.moving(node)
    with_ = lambda side: ops.evaluate(node, {**state.constants, **{m: side[m] for m in moving}}, state.count)
    terms = state.terms(node)
    if terms == 0:
        return with_(state.low), with_(state.high)
    centre = {m: (state.low[m] + state.high[m]) / 2 for m in moving}
    radius = {m: torch.maximum(state.high[m] - centre[m], centre[m] - state.low[m]) for m in moving}
    middle = with_(centre)
    reach = ops.evaluate_absolute(node, {**state.constants, **radius}, state.count, moving, offset=False)
    reach = reach + 4 * gamma(terms) * magnitude(state, node)
    down, up = moved(state, node) or (0.0, 0.0)
    return _down(middle - (reach + down)), _up(middle + (reach + up))


def parameter_part(state: State, node: Node, name: str) -> tuple[Tensor, Tensor]:
    """(down, up): what one moving parameter can change in an affine node, the second-order term included.

    p = 1, 2: the dual norm of the largest values that the parameter multiplies.
    """
    here = state.wobble[name]
    sources, pattern = state.moving(node), here.pattern.expand(-1, *state.constants[name].shape)
    scale = scale_of(here.scale, node)
    part = lambda pattern, sizes: scale * _changed(state, node, name, sizes, pattern)
    if node.op == "batch_norm":
        return _normalisation_part(
            state, node, name, scale * pattern.reshape(len(pattern), -1, *[1] * (len(node.shape) - 1))
        )
    if adds(node, name):
        alike = part(pattern, {m: torch.zeros_like(state.low[m]) for m in sources})
        return alike, alike
    most = {m: state.largest(m) for m in sources}
    if here.p == inf:
        return _entrywise(state, node, name, sources, pattern)
    box = part(pattern, most)
    if here.p == 2:
        square = _changed(state, node, name, {m: v.square() for m, v in most.items()}, pattern.square())
        hidden = 1 + pattern.amax() + torch.stack([v.amax() for v in most.values()]).amax()
        box = torch.minimum(box, scale * (square.sqrt() + state.terms(node) * 2.0**-500 * hidden))
    else:
        flat = [v.flatten(1).amax(1) for v in most.values()]
        box = torch.minimum(box, scale * norms.spread(flat[0] * pattern.amax(), box))
    return box, box


def _entrywise(state: State, node: Node, name: str, sources: list[str], pattern: Tensor) -> tuple[Tensor, Tensor]:
    """p = inf: ``(W + dW) h``, ``|dW| <= E``, has its extremes at corners; h in [l, u] is as a rule where it was without dW.

    For W >= 0 the largest value is at u and dW adds ``E |u|``, unless l is so much larger that ``E |l| - W (u - l)`` is more: at most
    ``max(0, E - |W|) max(0, |l| - |u|)`` more. The other three cases are mirror images. Exact where the sign of h is known.
    ``E - |W|`` is taken at the ball's own radius, doubled or halved until it holds the example's: the same whoever stands beside it.
    """
    scale, weight = state.wobble[name].scale, state.constants[name]
    low, high = ({m: side[m].abs() for m in sources} for side in (state.low, state.high))
    beyond = [{m: (a[m] - b[m]).clamp_min(0) for m in sources} for a, b in ((low, high), (high, low))]
    one = state.wobble[name].one
    doublings = (torch.log2(scale / one) - 2.0**-40).ceil().expand(state.count)
    power = one * torch.exp2(doublings) * (1 + 2.0**-39)
    down, up = (scale.new_zeros(state.count, *node.shape) for _ in range(2))
    for level in power.unique():
        at = (power == level).nonzero()[:, 0]
        own = pattern if len(pattern) == 1 else pattern[at]
        rest = (own - weight.abs() / level).clamp_min(0) if level > 0 else own

        def part(pattern: Tensor, sizes: dict[str, Tensor], at: Tensor = at) -> Tensor | float:
            if not any(bool(v.any()) for v in sizes.values()):
                return 0.0
            return _changed(state, node, name, {m: v[at] for m, v in sizes.items()}, pattern)

        for sign, least, greatest, past in ((weight >= 0, low, high, beyond), (weight < 0, high, low, beyond[::-1])):
            down[at] += part(own * sign, least) + part(rest * sign, past[1])
            up[at] += part(own * sign, greatest) + part(rest * sign, past[0])
    return down * scale_of(scale, node), up * scale_of(scale, node)


def _normalisation_part(state: State, node: Node, name: str, room: Tensor) -> tuple[Tensor, Tensor]:
    """Batch normalisation: a shift, or a gain on the standardised input. ``room`` (N or 1, channels, 1, ..., 1)."""
    if adds(node, name):
        shift = room.expand(state.count, *node.shape)
        return shift, shift
    low, high, deviation = standardised(state, node)
    most = room * deviation * torch.maximum(low.abs(), high.abs())
    return most, most


def standardised(state: State, node: Node) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high) of the centred input of a batch normalisation, and the inverse deviations (channels, 1, ..., 1)."""
    deviation, mean = ops.standardisation(node, state.constants)
    source = state.moving(node)[0]
    return _down(state.low[source] - mean), _up(state.high[source] - mean), deviation


def scale_of(scale: Tensor, node: Node) -> Tensor:
    """(N,) or (1,) shaped to multiply the value of a node."""
    return scale.reshape(-1, *[1] * len(node.shape))


def adds(node: Node, name: str) -> bool:
    """Whether a parameter is added in an affine node, and not multiplied with what varies."""
    added = ops.AFFINE[node.op].added
    return all(k in added for k, value in node.arguments.items() if isinstance(value, Ref) and value.name == name)


def _changed(state: State, node: Node, name: str, sizes: dict[str, Tensor], pattern: Tensor) -> Tensor:
    moving = list(sizes)
    if len(pattern) == 1:
        values = {**state.constants, **sizes, name: pattern[0]}
        return ops.evaluate_absolute(node, values, len(sizes[moving[0]]), [*moving, name], offset=False)

    def one(sizes: dict[str, Tensor], change: Tensor) -> Tensor:
        values = {**state.constants, **{m: v[None] for m, v in sizes.items()}, name: change}
        return ops.evaluate_absolute(node, values, 1, [*moving, name], offset=False)[0]

    return torch.vmap(one)(sizes, pattern)


def _check_parameters(state: State) -> None:
    leaf = {node: name for name, node in state.graph.parameters.items()}
    for node in state.graph.nodes:
        for name in node.sources:
            if name not in state.wobble:
                continue
            row = ops.AFFINE.get(node.op)
            keys = [k for k, v in node.arguments.items() if isinstance(v, Ref) and v.name == name]
            fine = row is not None and node.varies and all(k in (*row.added, *row.product) for k in keys)
            if not fine or len(keys) != 1:
                raise NotCertified(f"parameter leaf {leaf[name]} moves inside operation {node.op}")


def _up(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, inf))


def _down(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, -inf))
