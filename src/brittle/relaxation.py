"""Linear forms pulled back through a graph, with the rounding of every step on their account."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from brittle import ops
from brittle.folding import fold
from brittle.graph import Graph, Node
from brittle.intervals import TINY, UNIT, State, gamma, magnitude, uncertainty
from brittle.planes import Planes, windows
from brittle.transposes import inner, transpose

PIECE = 2**19  # entries of a block of pulled-back rows: a few MB, so that a block stays in the cache (measured)


@dataclass(frozen=True, eq=False)
class Pulled:
    """``row . value(node) >= sum over frontier of <coefficients, value> + constant - slack`` for every row and example.

    coefficients  by node of the frontier: (R, N, *shape), each entry with up to ``roundings`` relative roundings
    constant, slack : (R, N)
    sharing       by node: (R, N) where a moving kernel was taken to be one for all positions (1) or free at each (0)
    """

    coefficients: Mapping[str, Tensor]
    roundings: Mapping[str, int]
    constant: Tensor
    slack: Tensor
    sharing: Mapping[str, Tensor] = field(default_factory=dict)


def pull_back(
    state: State,
    node: str,
    rows: Tensor,
    relaxed: Mapping[str, Planes],
    frontier: frozenset[str] = frozenset(),
    sharing: bool = False,
    beside: Mapping[str, Tensor] | None = None,
) -> Pulled:
    """Pull rows (R, N or 1, *shape of the node) back to the inputs, or to the nodes of ``frontier`` where they come first.

    At an affine node with interval-known inputs the slack grows by ``gamma <|row|, magnitude>``, which covers the rounding of the
    new rows, of the offset, and of the relative roundings that the rows arrived with; at a nonlinear node the rows take the lower plane
    where positive, the upper where negative. What moving parameters can take is subtracted as one more linear form (``folding``).
    Nodes must have been visited by the interval pass.

    sharing  where a moving kernel acts at many positions, try also one change for all of them: tighter or not, and as much work as
             three more convolutions. Worth it for the rows of a specification
    beside   rows on other nodes, before ``node``, that are added to the form: multipliers of what is known of them
    """
    active: dict[str, Tensor] = {**(beside or {}), node: rows}
    roundings = dict.fromkeys(active, 0)
    constant = rows.new_zeros(rows.shape[0], state.count)
    slack = torch.zeros_like(constant)
    coefficients: dict[str, Tensor] = {}
    shared: dict[str, Tensor] | None = {} if sharing else None
    for current in reversed(state.graph.nodes):
        arriving = active.pop(current.name, None)
        if arriving is None:
            continue
        if current.op == "input" or current.name in frontier:
            coefficients[current.name] = arriving
            continue
        arrived = roundings[current.name]
        if not ops.is_nonlinear(current):
            pulled, offset, loss = _through_affine(state, current, arriving, arrived, shared)
            left = arrived if pulled and state.terms(current) == 0 and not _sums(current) else 0
        else:
            pulled, offset, loss = _through_planes(state, current, arriving, arrived, relaxed[current.name])
            left = arrived + 2
        constant, slack = constant + offset, slack + loss
        for name, new in pulled.items():
            if name not in active:
                active[name], roundings[name] = new, left
                continue
            both = active[name].abs() + new.abs()
            slack = slack + UNIT * (2 * max(left, roundings[name]) + 2) * inner(both, state.largest(name))
            active[name], roundings[name] = active[name] + new, 0
    # the two running sums: every partial sum is covered by the terms it was made of
    depth = len(state.graph.nodes) + 2
    return Pulled(coefficients, roundings, constant, slack * (1 + gamma(depth)) + TINY, shared or {})


def read_by_pull_back(graph: Graph, node: str, frontier: frozenset[str]) -> frozenset[str]:
    """The names of the nodes whose intervals :func:`pull_back` of ``node`` to ``frontier`` looks at."""
    read = {node}
    for current in reversed(graph.nodes):
        if current.name in read and current.name not in frontier:
            read.update(current.sources)
    return frozenset(read)


def _through_affine(
    state: State, node: Node, rows: Tensor, arrived: int, sharing: dict[str, Tensor] | None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    moving = state.moving(node)
    zero = torch.zeros((), dtype=rows.dtype, device=rows.device)
    if not moving:  # the same number in every example: zeros of the size of the batch, an expanded token
        value = state.largest(node.name)
        depth = gamma(prod(node.shape) + arrived + len(state.graph.nodes))
        return {}, inner(rows, state.low[node.name]), depth * inner(rows.abs(), value)
    pulled = transposed(state, node, rows, moving)
    terms = state.terms(node)
    if terms == 0 and not _sums(node):
        return pulled, zero, zero
    origin = {m: torch.zeros_like(state.low[m][:1]) for m in moving}
    bias = ops.evaluate(node, {**state.constants, **origin}, 1)  # the same for every example
    offset = inner(rows, bias) if bool((bias != 0).any()) else zero
    # outputs per input can exceed inputs per output: the transposed sum has at most numel(outputs) terms, as has <row, bias>
    depth = max(terms, prod(node.shape)) + len(state.graph.nodes)
    slack, moved = (gamma(depth) + 2 * UNIT * arrived) * magnitude(state, node), uncertainty(state, node)
    if moved is not None:
        folded = fold(state, node, rows, arrived, sharing is not None)
        pulled = {name: form - folded.forms[name] if name in folded.forms else form for name, form in pulled.items()}
        # the constant is a sum over all that the parameters multiply, or over the entries of a kernel, and at most <|row|, moved>
        longest = max(prod(state.known[name].shape) for name in (moving if folded.sharing is None else node.sources))
        offset = offset - folded.constant
        slack = slack + (gamma(longest) + 4 * gamma(depth) + 8 * UNIT * arrived) * moved
        if sharing is not None and folded.sharing is not None:
            sharing[node.name] = folded.sharing
    return pulled, offset, inner(rows.abs(), slack)


def _sums(node: Node) -> bool:
    """Copies whose transpose adds up: one entry that was written to several places."""
    return node.op in ("expand", "index_select") or len(set(node.sources)) < len(node.sources)


def transposed(state: State, node: Node, rows: Tensor, moving: list[str]) -> dict[str, Tensor]:
    """Rows through the transpose of the linear part of a node, its parameters at their stored values."""
    return transpose(state.known, state.constants, node, rows, moving)


def _through_planes(
    state: State, node: Node, rows: Tensor, arrived: int, plane: Planes
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    source = node.arguments["input"].name  # type: ignore[union-attr]
    positive = rows.clamp_min(0)
    negative = rows - positive
    offset = inner(positive, plane.lower) + inner(negative, plane.upper)
    depth = gamma(prod(node.shape) + len(state.graph.nodes) + arrived)
    loss = depth * inner(positive, plane.lower.abs()) - depth * inner(negative, plane.upper.abs())
    if node.op == ops.PRODUCT:  # both factors lie along the first axis of the input
        positive, negative = positive.unsqueeze(2), negative.unsqueeze(2)
    if node.op not in ops.POOLS:
        return {source: torch.addcmul(positive * plane.lower_slope, negative, plane.upper_slope)}, offset, loss
    pool = ops.max_pool(node, state.known[source].shape)
    spread = lambda part, slope: part[..., None] * slope
    seen = spread(positive, plane.lower_slope) + spread(negative, plane.upper_slope)
    shape = state.known[source].shape
    seen = seen.reshape(*rows.shape[:1], seen.shape[1], shape[0], -1)
    index = pool.index.reshape(-1).to(rows.device)
    pixels = seen.new_zeros(*seen.shape[:3], prod(shape[1:]) + 1)
    pixels = pixels.index_add(-1, torch.where(index < 0, prod(shape[1:]), index), seen)[..., :-1]
    largest = windows(pool, state.largest(source), 0.0).reshape(state.count, shape[0], -1)
    loss = loss + gamma(len(index) + 8 + arrived) * inner(seen.abs(), largest)
    return {source: pixels.reshape(*pixels.shape[:2], *shape)}, offset, loss
