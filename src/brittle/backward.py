"""The walk of every bound that pulls rows back: planes for all nonlinear nodes in graph order, with intervals by a policy.

A worst-case bound and a bound under random noise differ in one thing: what they say about a row that has arrived at the
inputs. That is the policy; the walk, the choice of units and the specification are the same.
"""

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor

from brittle import intervals, ops
from brittle.errors import NotCertified
from brittle.graph import Graph, Node
from brittle.intervals import TINY, UNIT, State, gamma
from brittle.planes import Planes, chord, planes
from brittle.problem import Problem
from brittle.relaxation import PIECE, Pulled, inner
from brittle.sharing import entries_of_kernel, positions
from brittle.spec import matrix

Relaxed = Mapping[str, Planes]
Enclose = Callable[[State, Node, Tensor, Tensor, Relaxed], tuple[Tensor, Tensor]]
Choose = Callable[[State, Node, Relaxed], Planes]
Local = Callable[[State, Node, Tensor, Relaxed], tuple[Tensor, Tensor] | None]


def relax(state: State, enclose: Enclose, choose: Choose, local: Local | None = None) -> dict[str, Planes]:
    """Visit every node of the graph once; returns the planes of the nonlinear ones.

    enclose  (state, nonlinear node, units (K,), one-hot rows (K, 1, *shape of its input), planes so far) -> (low, high),
             each (K, N): bounds of those units of the node's input. It is asked only about units that are bent on the
             interval known so far, and what it says is intersected with that interval.
    choose   (state, nonlinear node, planes so far) -> its planes over the final interval
    local    (state, nonlinear node, which units are bent (N, *shape), planes so far) -> (low, high) (N, prod(shape)) of those units, nan
             elsewhere; or None to have ``enclose`` asked. For units that read a part of the network only
    """
    relaxed: dict[str, Planes] = {}
    for node in state.graph.nodes:
        if ops.is_nonlinear(node):
            source = source_of(node)
            bends = bent(state, node)
            doubtful, shape = bends.flatten(1), state.known[source].shape
            units = doubtful.any(0).nonzero()[:, 0]
            known = local(state, node, bends, relaxed) if local is not None and len(units) else None
            if known is not None:
                intersect(state, source, torch.arange(prod(shape), device=units.device), *known)
                units = units[:0]
            for at in units.split(rows_at_once(state)) if len(units) else ():
                one = torch.zeros(len(at), 1, prod(shape), dtype=torch.float64, device=units.device)
                one[torch.arange(len(at)), 0, at] = 1
                low, high = enclose(state, node, at, one.reshape(len(at), 1, *shape), relaxed)
                if (
                    state.wobble
                ):  # what is known of a straight unit would depend on who else is in the batch, and matter
                    low, high = (torch.where(doubtful[:, at].T, side, torch.nan) for side in (low, high))
                intersect(state, source, at, low.T, high.T)
            relaxed[node.name] = choose(state, node, relaxed)
        if node.varies and node.op != "input":
            intervals.forward(state, node)
    return relaxed


def source_of(node: Node) -> str:
    """The name of the input of a nonlinear node."""
    return node.arguments["input"].name  # type: ignore[union-attr]


def intersect(state: State, name: str, at: Tensor, low: Tensor, high: Tensor) -> None:
    """fmax and fmin: a bound that is not a number leaves the other one."""
    below, above = state.low[name].flatten(1).clone(), state.high[name].flatten(1).clone()
    below[:, at], above[:, at] = torch.fmax(below[:, at], low), torch.fmin(above[:, at], high)
    state.low[name], state.high[name] = below.reshape(state.low[name].shape), above.reshape(state.high[name].shape)


def bent(state: State, node: Node) -> Tensor:
    """Units that are not linear on their interval: a kink inside, or any width for smooth functions and pooling."""
    source = source_of(node)
    low, high = state.low[source], state.high[source]
    if node.op in ops.POOLS:
        return low < high
    if node.op == ops.PRODUCT:  # linear where a factor stands still
        return (low < high).all(1, keepdim=True).expand_as(low)
    function = activation(state, node)
    if function.bend is not None:
        return low < high
    found = torch.zeros_like(low, dtype=torch.bool)
    for kink in function.kinks:
        found |= (low < kink) & (kink < high)
    return found


def activation(state: State, node: Node) -> ops.Activation:
    """The scalar function of a nonlinear node that is neither pooling nor product."""
    source = source_of(node)
    return ops.activation(node, {**state.constants, source: state.low[source]}, state.count)


def chord_planes(state: State, node: Node) -> Planes:
    """Planes whose lower one is parallel to the chord where the function is piecewise linear; else those of least area."""
    if node.op in ops.TAPPED:
        return planes(state, node)
    function, source = activation(state, node), source_of(node)
    if function.bend is not None:
        return planes(state, node)
    return planes(state, node, lower_slope=chord(function, state.low[source], state.high[source]))


def rows_at_once(state: State, sharing: bool = False) -> int:
    """Rows that a block may hold; ``sharing``: with the gradients of moving kernels beside them."""
    wide = widest(state.graph)
    if sharing:
        moved = [
            node
            for node in state.graph.nodes
            if node.varies and any(name in state.wobble for name in node.sources) and positions(state, node) > 1
        ]
        wide = max([wide, *(entries_of_kernel(state, node) for node in moved)])
    return max(1, PIECE // (state.count * wide))


def widest(graph: Graph) -> int:
    """Numbers per example in the widest node."""
    return max(prod(node.shape) for node in graph.nodes if node.varies)


def specification(problem: Problem, state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (R, N, C), offsets (R, N) and what reading them off in floating point may have lost (R, N)."""
    output = state.graph.output
    rows, offsets = matrix(problem.spec, problem.labels, state.known[output].shape[0])
    fuzzy = bool((offsets != 0).any()) or not bool((rows == rows.round()).all())
    doubt = 8 * UNIT * (rows.abs() + offsets.abs()[..., None]) * fuzzy
    return rows, offsets, inner(doubt, state.largest(output)) + 8 * UNIT * offsets.abs()


def evaluation_loss(state: State, pulled: Pulled, name: str) -> Tensor:
    """What evaluating the rows that arrived at one node may lose, wherever in its interval the value lies: (R, N)."""
    rows = pulled.coefficients[name]
    depth = rows[0, 0].numel() + len(state.graph.nodes) + 2 * pulled.roundings[name]
    return gamma(depth) * inner(rows.abs(), state.largest(name)) + TINY


def settled(total: Tensor, pulled: Pulled) -> Tensor:
    """The last few additions, whose terms are covered by the losses, the terms themselves by this."""
    return total - 8 * UNIT * (total.abs() + pulled.constant.abs() + pulled.slack)


def check(graph: Graph, parameters: list[str], max_units: int, instead: str) -> None:
    """Refuse what rows cannot be pulled back through: unknown operations, moving parameters, too many nonlinear units; and say what to do ``instead``."""
    ops.check(graph)
    if parameters:
        raise NotCertified(f"parameter leaf {parameters[0]} moves: {instead}")
    units = nonlinear_units(graph)
    if units > max_units:
        raise NotCertified(f"{units} nonlinear units are more than max_units={max_units}: {instead}")


def nonlinear_units(graph: Graph) -> int:
    """How many scalar nonlinearities an example passes through; for max pooling, windows."""
    return sum(prod(node.shape) for node in graph.nodes if ops.is_nonlinear(node))


def entries(graph: Graph) -> int:
    """Numbers per example that a bound holds at once: the specification's matrix, and the ends of every interval twice."""
    outputs = graph.by_name[graph.output].shape[0]
    return outputs * outputs + 4 * sum(prod(node.shape) for node in graph.nodes if node.varies)
