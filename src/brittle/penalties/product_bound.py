"""The margin term of arXiv 2102.11935: the cross-entropy of margins less a bound of their drop from norms of the layers."""

from dataclasses import replace
from math import inf

import torch
from torch import Tensor

from brittle import backward, intervals, ops
from brittle.about import About
from brittle.errors import InputError, NotCertified
from brittle.folding import fold
from brittle.graph import Node
from brittle.intervals import State
from brittle.penalties import _bounds
from brittle.penalties._live import at_rest
from brittle.problem import Problem
from brittle.relaxation import inner, pull_back, read_by_pull_back

ABOUT = About(
    promise="an upper bound of the worst cross-entropy over the joint region, looser than intervals: drops that add up layer by layer",
    reference="the shape of Tsai, Hsu, Yu and Chen, ICASSP 2021, arXiv 2102.11935; recursion, product and proofs are our derivation, since theirs could not be read",
    norms=(1, 2, inf),
    cost="about 3 forward and backward passes",
)
Values = dict[str, Tensor]
STEEPEST = {"sigmoid": 0.25}  # Lipschitz constants that are not 1


def product_bound(problem: Problem, *, seed: int = 0, form: str = "recursion") -> Tensor:
    """``mean_i log(1 + sum_j exp(-(m_ij - drop_ij)))`` with the clean margins m and a bound of what they lose over the joint region.

    form="recursion"  one radius per unit: ``r_k = |W_k| r_(k-1) + E_k (|z_(k-1)| + r_(k-1))`` or less, z the clean values, E_k what the weights may change;
                      ``drop_j = |W_y - W_j| r + (E_y + E_j) (|z| + r)`` at the last layer
    form="product"    the closed form of arXiv 2102.11935's kind, one radius per layer: ``drop_j = |W_y - W_j|_1 [eps_x prod R_k + sum_m max (E_m u_(m-1)) prod_(k>m) R_k]
                      + (E_y + E_j) u``, R_k the largest row sum and u the largest absolute values that interval propagation allows below. (Adding the change to every weight and
                      running the network forward, as one could read the paper's starred activations, bounds nothing from two hidden layers on.)

    Both are sound, up to rounding, and loose: they certify next to nothing on networks that were not trained on them. For activations with slopes of at most 1, and max
    pooling. Trained with a weight of 0.1 to 1 and ramps as for ``joint_ibp``, which does better at the same price wherever we measured.

    Errors: InputError without a region, and for another form; NotCertified where the bounds do not know an operation.

    >>> from math import e, log
    >>> from brittle import Ball
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> region = {"x": Ball(p=inf, radius=1 / 7), "weight": Ball(p=inf, radius=0.1)}
    >>> value = product_bound(Problem(linear, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), region))  # 3 - 7 / 7 - 0.2 (1 + 2 / 7)
    >>> abs(float(value.detach()) - log(1 + e ** (-2 + 0.2 * 9 / 7))) < 1e-6
    True
    """
    if form not in ("recursion", "product"):
        raise InputError("product_bound", 'form "recursion" or "product"', repr(form), "choose one of these")
    with at_rest(problem):
        state = _bounds.live_state(problem, "product_bound")
        value = {name: _wide(problem.inputs[leaf].detach()) for leaf, name in state.graph.inputs.items()}
        radius = {
            n: torch.maximum(state.high[n] - z, z - state.low[n]) if z.is_floating_point() else torch.zeros_like(z)
            for n, z in value.items()
        }
        (_recursion if form == "recursion" else _product)(state, value, radius)
        return _bounds.mean_cross_entropy(problem, _lower(problem, state, value, radius), 3)


def _recursion(state: State, value: Values, radius: Values) -> None:
    """``value`` and ``radius`` of every node; the intervals of the state are ``z - r`` and ``z + r``, cut by nothing."""

    def step(state: State, node: Node) -> None:
        value[node.name] = _clean(state, node, value)
        if ops.is_nonlinear(node):
            source = backward.source_of(node)
            wide = (
                _bounds.pooled(state, node, radius) if node.op in ops.POOLS else _steepest(state, node) * radius[source]
            )
        else:
            wide = _widened(state, node, radius)
        radius[node.name] = wide
        state.low[node.name], state.high[node.name] = value[node.name] - wide, value[node.name] + wide

    _bounds.walk(state, step)


def _product(state: State, value: Values, radius: Values) -> None:
    """The same with one radius for all units of a node, the changes of the weights meeting the largest values of interval propagation."""
    for name, wide in radius.items():
        radius[name] = _largest(wide)

    def step(state: State, node: Node) -> None:
        value[node.name] = _clean(state, node, value)
        _bounds.forward_intervals(state, node)
        if ops.is_nonlinear(node):
            slope = 1.0 if node.op in ops.POOLS else _steepest(state, node)
            one = radius[backward.source_of(node)].flatten(1)[:, :1] * slope
            wide = one.reshape(-1, *[1] * len(node.shape)).expand(-1, *node.shape)
        else:
            wide = _largest(_widened(state, node, radius))
        radius[node.name] = wide

    _bounds.walk(state, step)


def _clean(state: State, node: Node, value: Values) -> Tensor:
    """The value of a node at the clean point."""
    if not ops.is_nonlinear(node):
        moving = {m: value[m] for m in state.moving(node)}
        return ops.evaluate(node, {**state.constants, **moving}, state.count)
    if node.op in ops.POOLS:
        return _bounds.pooled(state, node, value)
    if node.op == ops.PRODUCT or node.op in ops.SMOOTH and backward.activation(state, node).steep == inf:
        raise NotCertified(f"operation {node.op} has no steepest slope: use joint_ibp")
    return backward.activation(state, node).value(value[backward.source_of(node)])


def _widened(state: State, node: Node, radius: Values) -> Tensor:
    """``|W| r`` and what moving weights add."""
    moving = {m: radius[m] for m in state.moving(node)}
    if not moving:
        return state.constants.get(node.name, torch.zeros((), dtype=torch.float64)).new_zeros(state.count, *node.shape)
    if state.terms(node) == 0:
        return ops.evaluate(node, {**state.constants, **moving}, state.count)
    wide, moved = _bounds.spread(state, node, moving), intervals.moved(state, node)
    return wide if moved is None else wide + torch.maximum(*moved)


def _largest(wide: Tensor) -> Tensor:
    """The largest entry of every example, in every entry."""
    return wide.flatten(1).amax(1).reshape(-1, *[1] * (wide.dim() - 1)).expand(wide.shape)


def _steepest(state: State, node: Node) -> Tensor | float:
    """The Lipschitz constant of an activation."""
    if node.op == "leaky_relu":
        return max(1.0, abs(float(node.arguments["negative_slope"])))  # type: ignore[arg-type]
    if node.op == "prelu":
        return state.constants[node.sources[1]].abs().amax().clamp_min(1.0)
    if node.op in ops.SMOOTH and node.op not in STEEPEST:
        return backward.activation(state, node).steep
    return STEEPEST.get(node.op, 1.0)


def _lower(problem: Problem, state: State, value: Values, radius: Values) -> Tensor:
    """Clean rows less their drop, (R, N): ``|L| r`` where the rows meet the last nonlinear values, ``|row| reach`` at every layer behind them."""
    rows, offsets, _ = backward.specification(problem, state)
    output, stops = state.graph.output, _bounds.last_nonlinear(state)
    held = replace(state, wobble={})
    lower = inner(rows, value[output]) + offsets
    for name, form in pull_back(held, output, rows, {}, stops).coefficients.items():
        lower = lower - inner(form.abs(), radius[name])
    behind = read_by_pull_back(state.graph, output, stops) - stops
    for node in state.graph.nodes:
        if node.name in behind and node.varies and any(name in state.wobble for name in node.sources):
            there = pull_back(held, output, rows, {}, stops | {node.name}).coefficients[node.name]
            lower = lower - _cost(state, node, there)
    return lower


def _cost(state: State, node: Node, rows: Tensor) -> Tensor:
    """``|row| E max|h|``: the most that moving weights of a node can take from rows, (R, N)."""
    folded = fold(state, node, rows, 0)
    most = folded.constant
    for name, form in folded.forms.items():
        form = form.expand(len(rows), state.count, *state.known[name].shape)
        positive = form.clamp_min(0)
        most = most + inner(positive, state.high[name]) + inner(form - positive, state.low[name])
    return most


def _wide(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
