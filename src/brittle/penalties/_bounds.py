"""Certified margins as functions of the live weights: what bounds prove about a trained copy, with a gradient to its parameters.

The graph, the rows of the specification and the walk backwards are those of ``bounds``; only the intervals are evaluated without their
outward rounding, which has no derivative. So the values agree with the certificates up to that rounding, and certify nothing by themselves.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from brittle import backward, boundary, intervals, meter, norms, ops, products
from brittle.errors import InputError, NotCertified
from brittle.graph import Graph, Node, graph_of
from brittle.intervals import State
from brittle.network import Network
from brittle.penalties._live import at_rest
from brittle.penalties._weights import present
from brittle.problem import Problem
from brittle.relaxation import Pulled, inner, pull_back

SIDE = "network at rest"
Forward = Callable[[State, Node], None]


def live_state(problem: Problem, penalty: str) -> State:
    """Inputs, constants and room of the moving parameters, float64, the parameters those of the live module.

    Relative balls grow with the weights, and their radius has a gradient too. Errors: InputError for nothing that moves; NotCertified as for bounds.
    """
    if not any(problem.region[leaf].radius > 0 for leaf in problem.leaves):
        raise InputError(
            penalty,
            "a region: balls on the input, on parameters, or on both",
            dict(problem.region) or "none",
            "give region=",
        )
    problem = present(problem)
    state = intervals.start(problem, _graph(problem))
    module = problem.network.quiet
    assert isinstance(module, nn.Module)
    weights = {state.graph.parameters[n]: p for n, p in module.named_parameters() if n in state.graph.parameters}
    state.constants.update({name: p.to(torch.float64) for name, p in weights.items()})
    buffers = {n: b for n, b in module.named_buffers() if n in state.graph.constants and n not in weights}
    state.constants.update(
        {n: b.detach().to(torch.float64) if b.is_floating_point() else b for n, b in buffers.items()}
    )
    for node in state.graph.nodes:
        if not node.varies and node.op not in ("constant", "input"):
            state.constants[node.name] = ops.evaluate(node, state.constants, 1)
    for leaf in problem.leaves:
        name = state.graph.parameters.get(leaf.removeprefix("param:"))
        ball = problem.region[leaf]
        if name in state.wobble and ball.relative and ball.low is None and ball.high is None:
            weight = state.constants[name]
            size = (
                weight.abs()
                if ball.relative == "element"
                else weight.square().mean().sqrt().reshape([1] * weight.dim())
            )
            state.wobble[name] = replace(state.wobble[name], pattern=size[None])
    return state


def _graph(problem: Problem) -> Graph:
    """The graph of the live module, taken once from a copy at rest."""
    cache = problem.network.cache
    if SIDE not in cache:
        with at_rest(problem):
            cache[SIDE] = Network(Network(problem.network.quiet).quiet)
    return graph_of(replace(problem, network=cache[SIDE]))


def last_nonlinear(state: State) -> frozenset[str]:
    """Where merged rows meet intervals: the nonlinear nodes."""
    return frozenset(node.name for node in state.graph.nodes if ops.is_nonlinear(node))


def walk(state: State, step: Forward) -> None:
    """Visit the nodes that vary, inputs excepted."""
    for node in state.graph.nodes:
        if node.varies and node.op != "input":
            step(state, node)


def forward_intervals(state: State, node: Node) -> None:
    """Centre and radius through an affine operation, both ends through a monotone one: ``intervals.forward`` without its rounding."""
    if not state.moving(node):
        low = high = ops.evaluate(node, state.constants, state.count)
    elif node.op in ops.AFFINE:
        low, high = _affine(state, node)
    elif node.op in ops.POOLS:
        low, high = (pooled(state, node, side) for side in (state.low, state.high))
    elif node.op == ops.PRODUCT:
        low, high = products.image(state.low[node.sources[0]], state.high[node.sources[0]])
    else:
        low, high = intervals.image(state, node)
    state.low[node.name], state.high[node.name] = low, high


def _affine(state: State, node: Node) -> tuple[Tensor, Tensor]:
    moving = state.moving(node)
    value = lambda side: ops.evaluate(node, {**state.constants, **{m: side[m] for m in moving}}, state.count)
    if state.terms(node) == 0:
        return value(state.low), value(state.high)
    middle = value({m: (state.low[m] + state.high[m]) / 2 for m in moving})
    reach = spread(state, node, {m: (state.high[m] - state.low[m]) / 2 for m in moving})
    down, up = intervals.moved(state, node) or (0.0, 0.0)
    return middle - (reach + down), middle + (reach + up)


def spread(state: State, node: Node, radius: dict[str, Tensor]) -> Tensor:
    """``|W| r`` of an affine node."""
    return ops.evaluate_absolute(node, {**state.constants, **radius}, state.count, list(radius), offset=False)


def pooled(state: State, node: Node, side: dict[str, Tensor]) -> Tensor:
    """A max pooling of one side of the intervals."""
    source = backward.source_of(node)
    return ops.call(node, ops.arguments_of(node, {source: side[source]}, state.count))


def merged_rows(problem: Problem, state: State) -> tuple[Pulled, Tensor]:
    """The rows of the specification pulled back to the last nonlinear values (or the inputs), moving weights folded in; and their offsets."""
    rows, offsets, _ = backward.specification(problem, state)
    return pull_back(state, state.graph.output, rows, {}, last_nonlinear(state)), offsets


def over_boxes(state: State, pulled: Pulled) -> Tensor:
    """The least value over the intervals where the rows have arrived, (R, N)."""
    total = pulled.constant
    for name, rows in pulled.coefficients.items():
        positive = rows.clamp_min(0)
        total = total + inner(positive, state.low[name]) + inner(rows - positive, state.high[name])
    return total


def over_balls(problem: Problem, state: State, pulled: Pulled) -> Tensor:
    """The least value over the region of the inputs, (R, N). The worst change is found first and held: the minimum has the gradient at it."""
    total = pulled.constant
    leaves = {name: leaf for leaf, name in state.graph.inputs.items()}
    for name, rows in pulled.coefficients.items():
        leaf = leaves[name]
        total = total + inner(rows, problem.inputs[leaf].detach().double())
        if leaf in problem.region:
            total = total + _moved(problem, leaf, rows)
    return total


def _moved(problem: Problem, leaf: str, rows: Tensor) -> Tensor:
    ball, centre = problem.region[leaf], problem.inputs[leaf].detach().double()
    if ball.p == 0:
        raise NotCertified("a ball of p = 0 in training: use bounds after training")
    flat, radius = rows.flatten(2), problem.radius(leaf).to(centre)
    low, high = ball.exact_range(centre)
    room = None
    if ball.low is not None or ball.high is not None:
        room = boundary.Room(*(norms.flat(side.expand(centre.shape)) for side in (centre - low, high - centre)))
    worst = []
    for row in flat.detach().expand(-1, len(problem), -1):
        change, _ = boundary.best_change(-row, ball.p, radius, None if room is None else room.towards(-row))
        worst.append(change)
    return (flat * torch.stack(worst)).sum(2)


def mean_cross_entropy(problem: Problem, lower: Tensor, passes: int) -> Tensor:
    """``mean log(1 + sum exp(-row))`` of lower rows (R, N): an upper bound of the worst cross-entropy. Counts the passes that it was made of."""
    meter.count(forward=passes * len(problem), backward=passes * len(problem))
    return softplus(torch.logsumexp(-lower, 0)).mean()
