"""Moving parameters folded into linear forms: the worst change of a weight, exactly minimised, as one more linear form.

A row L on the outputs of ``(W + dW) h + b + db`` meets the change through ``G = sum over positions of L h'``, the gradient of the row by
the weight, and the change costs at most ``scale * |pattern G|_q``, q dual to the p of the ball. Three ways to say that linearly in h:

one position (a layer on vectors)   ``|G_ab| = |L_a| |h_b|``, and ``|h_b|`` is h_b itself, -h_b, or below its chord on [l, u]
free per position                   ``|G|`` at most ``sum over positions of |L| |h|``: a convolution whose kernel may differ at every position
kernel shared                       ``|G_ab|`` below its chord on the interval of G_ab over the box of h

The chord of the concave ``-|z|`` lies below it: sound, exact where the sign is known. The second-order term ``dW dh`` is part of G.
"""

from dataclasses import dataclass, replace
from math import inf, prod

import torch
from torch import Tensor

from brittle import ops
from brittle.absolute import SQUARES, chord, tangent
from brittle.graph import Node
from brittle.intervals import UNIT, State, adds, gamma, parameter_part, standardised
from brittle.rooms import Room
from brittle.sharing import positions, shared
from brittle.transposes import inner, transpose

Cost = tuple[Tensor | None, Tensor]


@dataclass(frozen=True, eq=False)
class Folded:
    """What parameters of an affine node take from rows is at most ``<forms, h> + constant`` for all h in their intervals.

    forms     by source: (R, N or 1, ...), or a shape that broadcasts against it
    constant  (R, N or 1), or one number
    sharing   (R, N) where the rows met a shared kernel, with the share of its form: 1 or 0
    """

    forms: dict[str, Tensor]
    constant: Tensor
    sharing: Tensor | None = None


def fold(state: State, node: Node, rows: Tensor, arrived: int, sharing: bool = False) -> Folded:
    """The cost of the worst change of every parameter of an affine node, for rows (R, N or 1, *shape of the node).

    arrived  relative roundings that the rows carry
    sharing  try the shared kernel too where there is one, and take for every row and example the lesser at the middle of h
    Not paid here: rounding of ``<form, h>`` and of the constant, at most ``gamma(longest sum) * 4 <|row|, uncertainty>``.
    """
    forms: dict[str, Tensor] = {}
    constant, chosen = rows.new_zeros(()), None
    # sums of products of relative error gamma, lifted above their true values
    lift = 1 + 2 * gamma(prod(node.shape)) + 4 * UNIT * (arrived + 4)
    for name in dict.fromkeys(node.sources):
        if name not in state.wobble:
            continue
        here = state.wobble[name]
        if adds(node, name):
            constant = constant + lift * _added(state, node, name, here, rows)
            continue
        source = state.moving(node)[0]
        form, more = _multiplied(state, node, name, source, here, rows, lift)
        if sharing and positions(state, node) > 1:
            other = shared(state, node, name, source, here, rows, arrived, lift)
            form, more, chosen = _lesser(state, source, (form, more), other)
        constant = constant + more
        if form is not None:
            forms[source] = form
    return Folded(forms, constant, chosen)


def _lesser(state: State, source: str, free: Cost, other: Cost) -> tuple[Tensor | None, Tensor, Tensor]:
    """Of two costs the one that is less at the middle of the box, by row and example."""
    middle = (state.low[source] + state.high[source]) / 2

    def value(cost: Cost) -> Tensor:
        form, constant = cost
        return constant if form is None else constant + inner(form.expand(*form.shape[:2], *middle.shape[1:]), middle)

    better = value(other) < value(free)
    column = better.reshape(*better.shape, *[1] * (middle.dim() - 1))
    zero = middle.new_zeros(())
    forms = [zero if form is None else form for form in (other[0], free[0])]
    form = None if other[0] is None and free[0] is None else torch.where(column, *forms)
    return form, torch.where(better, other[1], free[1]), better.to(middle)


def _added(state: State, node: Node, name: str, here: Room, rows: Tensor) -> Tensor:
    """A parameter that is added: the dual norm of the row's gradient by it, the same for every h. (R, N or 1)."""
    zero = {m: rows.new_zeros(1, *state.known[m].shape) for m in state.moving(node)}
    apply = lambda value: ops.evaluate(node, {**state.constants, **zero, name: value}, 1)
    pull = torch.func.vjp(apply, state.constants[name])[1]
    gradient = torch.vmap(lambda row: pull(row)[0])(rows.flatten(0, 1)[:, None])
    weighted = (gradient.reshape(*rows.shape[:2], *state.constants[name].shape) * here.pattern).flatten(2)
    if here.p == 2:
        return here.scale * (torch.linalg.vector_norm(weighted, 2, dim=-1) + weighted.shape[-1] * 2.0**-510)
    return here.scale * (weighted.abs().amax(-1) if here.p == 1 else weighted.abs().sum(-1))


def _multiplied(state: State, node: Node, name: str, source: str, here: Room, rows: Tensor, lift: float) -> Cost:
    """A parameter that is multiplied with h: (form (R, N, *shape of h) or None, constant (R, N)), free per position."""
    if here.p == inf and node.op == "batch_norm":
        return _normalised(state, node, source, here, rows.abs(), lift)
    if here.p == inf:
        return _entrywise(state, node, name, source, here, rows.abs(), lift)
    if node.op == "linear" and here.p == 2:
        return _euclidean(state, node, name, source, here, rows, lift)
    if node.op == "linear":
        largest = (state.largest(source) * here.pattern[0].amax(0)).amax(-1).reshape(state.count, -1)  # by position
        return None, lift * here.scale * inner(rows.abs().amax(-1).reshape(*rows.shape[:2], -1), largest)
    return None, lift * inner(rows.abs(), parameter_part(state, node, name)[1])


def _entrywise(
    state: State, node: Node, name: str, source: str, here: Room, size: Tensor, lift: float
) -> tuple[Tensor, Tensor]:
    """``scale pattern' |L| |h|``, |h| below its chord; where the room is the same everywhere, without a product of matrices."""
    slope, most = chord(state.low[source], state.high[source])
    taken = _pulled(state, node, name, source, here, size) * (lift * here.scale.reshape(-1, *[1] * (slope.dim() - 1)))
    straight = bool((slope == 1).all())
    constant = size.new_zeros(()) if straight else inner(taken.expand(*taken.shape[:2], *slope.shape[1:]), most)
    return taken if straight else taken * slope, constant


def _normalised(state: State, node: Node, source: str, here: Room, size: Tensor, lift: float) -> tuple[Tensor, Tensor]:
    """The gain of a batch normalisation multiplies ``(h - mean) / deviation``, entry by entry: below its chord."""
    low, high, deviation = standardised(state, node)
    _, mean = ops.standardisation(node, state.constants)
    column = here.pattern.reshape(len(here.pattern), -1, *[1] * (len(node.shape) - 1)) * deviation
    taken = size * (lift * column * here.scale.reshape(-1, *[1] * len(node.shape)))
    slope, most = chord(low, high)
    form = taken * slope
    doubt = (
        8 * gamma(prod(node.shape)) * (state.largest(source) + mean.abs())
    )  # of form times mean, and of what it cancels
    return form, inner(taken, most + doubt) - inner(form, mean.expand_as(low))


def _pulled(state: State, node: Node, name: str, source: str, here: Room, size: Tensor) -> Tensor:
    """``pattern' |L|``, (R, N or 1, ...) that broadcasts against h."""
    shape = state.constants[name].shape
    if not here.uniform:
        constants = [{**state.constants, name: pattern} for pattern in here.pattern]
        if len(constants) == 1:
            return transpose(state.known, constants[0], node, size, [source])[source]
        size = size.expand(-1, len(constants), *size.shape[2:])
        each = [transpose(state.known, c, node, size[:, i : i + 1], [source]) for i, c in enumerate(constants)]
        return torch.cat([form[source] for form in each], 1)
    if node.op == "linear":
        return size.sum(-1, keepdim=True) * here.pattern.reshape(())
    if not node.op.startswith("conv"):
        constants = {**state.constants, name: here.pattern.expand(1, *shape)[0]}
        return transpose(state.known, constants, node, size, [source])[source]
    # a kernel of ones sees the sum over the outputs of its group
    groups = int(node.arguments["groups"])  # type: ignore[call-overload]
    channels, *space = state.known[source].shape
    batch = size.reshape(-1, groups, shape[0] // groups, *node.shape[1:]).sum(2)
    seen = size.new_zeros(1).expand(len(batch), groups, *space)
    ones = here.pattern.reshape(1).expand(groups, 1, *shape[2:])
    arguments = {**ops.arguments_of(node, {**state.constants, source: seen}, len(batch)), "weight": ones}
    form = ops.AFFINE[node.op].pullback(node, arguments, batch)  # type: ignore[misc]
    form = form if groups == 1 else form.repeat_interleave(channels // groups, 1)
    return form.reshape(*size.shape[:2], *form.shape[1:])


def _euclidean(
    state: State, node: Node, name: str, source: str, here: Room, rows: Tensor, lift: float
) -> tuple[Tensor, Tensor]:
    """``scale |w h|_2`` at every position, ``w_b^2 = sum_a (pattern_ab L_a)^2``, below its tangent."""
    low, high = state.low[source], state.high[source]
    square = replace(here, pattern=here.pattern.square())
    weight = _pulled(state, node, name, source, square, rows.square()) * lift
    form, constant = tangent(weight.expand(*weight.shape[:2], *low.shape[1:]), low, high)
    scale = here.scale.reshape(-1, *[1] * (low.dim() - 1))
    constant = constant.flatten(2).sum(2) if constant.dim() > 2 else constant
    hidden = (rows.abs().flatten(2).sum(2) + prod(node.shape)) * state.largest(source).flatten(1).sum(1)
    return form * scale, here.scale * (constant + SQUARES * (1 + here.pattern.amax()) * hidden)
