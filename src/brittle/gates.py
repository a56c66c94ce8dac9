"""Slopes of a network as products: what every nonlinear node does to a change is a gate, known up to an interval.

On a set where the input of every nonlinear unit stays in its interval, the gradient of a row is

    w_out G_K W_K ... G_1 W_1,    gates G_k between slopes that the interval allows,

so with G_k = M_k + D_k, |D_k| <= R_k, it is the row of the middle gates M plus terms with deviations D. :func:`walk` pulls rows back
through middle gates only, and keeps what arrives at every gate on the way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor

from brittle import ops
from brittle.errors import NotCertified
from brittle.graph import Node
from brittle.intervals import TINY, UNIT, State, gamma
from brittle.planes import windows
from brittle.relaxation import transposed


@dataclass(frozen=True, eq=False)
class Gates:
    """The gates of one nonlinear node: output ``out`` follows input ``into`` with a slope in ``middle -+ radius``.

    out, into       (G,) flat positions in the output and in the input of an example; every gate of max pooling is a pixel of a window
    middle, radius  (N, G), rounded so that every slope is covered
    """

    out: Tensor
    into: Tensor
    middle: Tensor
    radius: Tensor

    @property
    def free(self) -> Tensor:
        """(N, G) bool: gates whose slope is not known."""
        return self.radius > 0


@dataclass(frozen=True, eq=False)
class Walk:
    """Rows (R, N, ...) pulled back through middle gates.

    arrived  nonlinear node -> (R, N, G) what multiplies the slope of each gate
    leaf     (R, N, D) what arrives at the leaf
    error    name -> (R, N) bound of the l2 length of all rounding in ``arrived[name]``, and ``""`` -> in ``leaf``
    """

    arrived: dict[str, Tensor]
    leaf: Tensor
    error: dict[str, Tensor]


def gates(state: State, node: Node) -> Gates:
    """The gates of a nonlinear node over the intervals of its input in ``state``; ends may be infinite.

    >>> from brittle.graph import graph_of
    >>> from brittle import intervals
    >>> from brittle.problem import Problem
    >>> problem = Problem(torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU()), torch.zeros(1, 3), torch.tensor([0]))
    >>> state = intervals.start(problem, graph_of(problem))
    >>> state.low["x"], state.high["x"] = torch.tensor([[1.0, -2.0, -2.0]]), torch.tensor([[2.0, 2.0, -1.0]])
    >>> found = gates(state, state.known["relu"])
    >>> found.middle.tolist(), found.radius.tolist()
    ([[1.0, 0.5, 0.0]], [[0.0, 0.5, 0.0]])
    """
    source = node.sources[0]
    low, high = state.low[source], state.high[source]
    if node.op in ops.POOLS:
        return _pool_gates(ops.max_pool(node, state.known[source].shape), low, high)
    if node.op == ops.PRODUCT:
        raise NotCertified("operation mul of two moving values in a bound of slopes")
    function = ops.activation(node, {**state.constants, source: low}, state.count)
    least, most = (end.flatten(1) for end in slopes(function, low, high))
    every = torch.arange(least.shape[1], device=least.device)
    middle = (least + most) / 2
    return Gates(every, every, middle, torch.maximum(most - middle, middle - least) * (1 + 2 * UNIT))


def slopes(function: ops.Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest slope of a scalar function on ``[low, high]``, rounded outwards.

    Piecewise linear: of all pieces that share more than a point with the interval. Curved: the slope is monotone on every piece, so
    that its extremes are at ends of pieces within the interval.
    """
    if function.bend is not None:
        return _curved(function, low, high)
    least, most = torch.full_like(low, inf), torch.full_like(low, -inf)
    kinks = sorted(function.kinks)
    for left, right in zip((-inf, *kinks), (*kinks, inf)):
        slope = slope_between(function, left, right, low)
        met = (low < right) & (high > left) | (low == high) & (low >= left) & (high <= right)
        least = torch.where(met, torch.minimum(least, slope - 2.0**-50 * slope.abs() * (slope != slope.round())), least)
        most = torch.where(met, torch.maximum(most, slope + 2.0**-50 * slope.abs() * (slope != slope.round())), most)
    return least, most


def _curved(function: ops.Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Of the pieces that share more than a point with the interval; a break point stored off by w moves the extreme slope by w^2 only."""
    if function.dip is not None:
        raise NotCertified("operation softplus in a bound of slopes: it jumps by 2e-9 at its threshold")
    if function.steep == inf:
        raise NotCertified("a bound of slopes of an exponential, a root or a power: they have no steepest slope")
    least, most = torch.full_like(low, inf), torch.full_like(low, -inf)
    for piece in function.bend or ():
        met = (low < piece.right) & (high > piece.left) | (low == high) & (low >= piece.left) & (low <= piece.right)
        first, last = (piece.slope(end.clamp(piece.left, piece.right)) for end in (low, high))
        least = torch.where(met, torch.minimum(least, torch.minimum(first, last)), least)
        most = torch.where(met, torch.maximum(most, torch.maximum(first, last)), most)
    loose = 2.0**-45
    if not function.input_ulps:  # tanh and sigmoid: slopes to relative accuracy, never negative
        return (least * (1 - loose) - TINY).clamp_min(0), most * (1 + loose) + TINY
    return least - loose * function.steep, most + loose * function.steep


def slope_between(function: ops.Activation, left: float, right: float, like: Tensor) -> Tensor:
    """The slope of a linear piece, from two of its points; whole numbers come out exactly."""
    if left == -inf:
        left = right - 1.0 if right < inf else 0.0
    right = left + 1.0 if right == inf else right
    at = lambda end: function.value(torch.full_like(like, end))
    return (at(right) - at(left)) / (right - left)


def _pool_gates(pool: ops.MaxPool, low: Tensor, high: Tensor) -> Gates:
    """A pixel of a window can be the largest where its upper end reaches the largest lower end: slope 0 or 1, in the middle an equal share."""
    lows, highs = windows(pool, low, -inf), windows(pool, high, -inf)
    candidate = (highs >= lows.amax(-1, keepdim=True)) & (pool.index >= 0).to(low.device)
    share = 1 / candidate.sum(-1, keepdim=True).clamp_min(1)
    middle = torch.where(candidate, share, 0.0)
    radius = torch.where(candidate & (share < 1), (1 - share) * (1 + 2 * UNIT) + 2 * UNIT, 0.0)
    channels, pixels = low.shape[1], prod(low.shape[2:])
    index = pool.index.to(low.device)
    outputs = len(index)
    out = torch.arange(channels * outputs, device=low.device)[:, None].expand(-1, index.shape[1]).reshape(-1)
    into = (torch.arange(channels, device=low.device)[:, None, None] * pixels + index.clamp_min(0)).reshape(-1)
    return Gates(out, into, middle.flatten(1), radius.flatten(1))


def walk(
    state: State, node: str, rows: Tensor, gated: Mapping[str, Gates], sizes: Mapping[str, float], leaf: str
) -> Walk:
    """Pull rows (R, N or 1, *shape of ``node``) back to the input ``leaf`` through the middle of every gate of ``gated``.

    Rounding, as one length per row: what leaves an affine node of size s with n terms is off by ``s (error + gamma(n) |row|)``,
    since ``|row| |W|`` is at most ``s |row|`` long.
    """
    nothing = rows.new_zeros(rows.shape[0], state.count)
    active, errors = {node: rows}, {node: nothing}
    arrived: dict[str, Tensor] = {}
    error: dict[str, Tensor] = {"": nothing}
    at_leaf = rows.new_zeros(rows.shape[0], state.count, prod(state.known[leaf].shape))
    for current in reversed(state.graph.nodes):
        if current.name not in active:
            continue
        arriving, lost = active.pop(current.name), errors.pop(current.name)
        if current.op == "input":
            if current.name == leaf:
                at_leaf, error[""] = arriving.flatten(2).expand(-1, state.count, -1), lost
            continue
        if ops.is_nonlinear(current):
            gate = gated[current.name]
            coefficients = arriving.flatten(2)[..., gate.out].expand(-1, state.count, -1)
            arrived[current.name], error[current.name] = coefficients, lost
            through = coefficients * gate.middle
            source = current.sources[0]
            back = through.new_zeros(*through.shape[:2], prod(state.known[source].shape))
            pulled = {
                source: back.index_add(2, gate.into, through).reshape(*through.shape[:2], *state.known[source].shape)
            }
            lost = (lost + gamma(len(gate.into)) * _length(coefficients)) * _steepness(gate)
        else:
            moving = state.moving(current)
            if not moving:
                continue
            pulled = transposed(state, current, arriving, moving)
            depth = gamma(state.terms(current) + prod(current.shape) + 8)
            lost = sizes[current.name] * (lost + depth * _length(arriving)) + TINY
        for name, new in pulled.items():
            if name in active:
                lost = lost + errors[name] + UNIT * (_length(active[name]) + _length(new))
                new = active[name] + new
            active[name], errors[name] = new, lost
    return Walk(arrived, at_leaf, error)


def sizes_of(state: State) -> dict[str, float]:
    """For every affine node a bound of ``||W||_2`` with absolute entries: the root of its largest row sum times its largest column sum."""
    found = {}
    for node in state.graph.nodes:
        moving = state.moving(node) if node.varies and node.op != "input" else []
        if not moving or ops.is_nonlinear(node):
            continue
        apply = lambda *v, n=node, m=tuple(moving): ops.evaluate_absolute(
            n, {**state.constants, **dict(zip(m, v, strict=True))}, 1, m, offset=False
        )
        ones = [state.low[m].new_ones(1, *state.known[m].shape) for m in moving]
        rows, transpose = apply(*ones), torch.func.vjp(apply, *ones)[1]
        columns = transpose(torch.ones_like(rows))
        largest = float(rows.abs().max()) * max(float(c.abs().max()) for c in columns)
        found[node.name] = largest**0.5 * (1 + gamma(state.terms(node) + rows.numel()))
    return found


def _length(rows: Tensor) -> Tensor:
    """(R, N) l2 lengths, rounded upwards."""
    flat = rows.flatten(2)
    return torch.linalg.vector_norm(flat, dim=2) * (1 + gamma(flat.shape[2])) + TINY


def _steepness(gate: Gates) -> Tensor:
    """(N,) a bound of the norm of the middle gates, at least 1."""
    size = gate.middle.abs()
    columns = size.new_zeros(len(size), int(gate.into.max()) + 1).index_add(1, gate.into, size)
    rows = size.new_zeros(len(size), int(gate.out.max()) + 1).index_add(1, gate.out, size)
    return (columns.amax(1) * rows.amax(1)).sqrt().clamp_min(1) * (1 + gamma(len(gate.into)))
