"""Moving weights that act at many positions with one and the same change: convolutions, linear layers on sequences.

The gradient of a row by the weight, ``G = sum over positions of L h'``, is linear in h, and lies in an interval when h does. Its dual
norm, which is what the worst change costs, is bounded on that interval by a form in G, hence in h. Letting the kernel differ at every
position (``folding``) forgets that contributions of opposite sign cancel in G; enclosing G forgets that h is one point of its box.
Neither bound is always the better one.
"""

from math import inf, prod

import torch
from torch import Tensor
from torch.nn import functional

from brittle import ops
from brittle.absolute import SQUARES, chord_around, tangent
from brittle.graph import Node
from brittle.intervals import UNIT, State, gamma
from brittle.rooms import Room


def positions(state: State, node: Node) -> int:
    """At how many positions a layer applies one weight; 1 where this file has nothing to say."""
    if node.op == "linear":
        return prod(node.shape[:-1])
    return prod(node.shape[1:]) if node.op in ("conv1d", "conv2d") else 1


def entries_of_kernel(state: State, node: Node) -> int:
    """Numbers per row and example that :func:`shared` holds at once."""
    weight, source = state.known[node.arguments["weight"].name].shape, state.moving(node)[0]  # type: ignore[union-attr]
    return max(prod(weight), prod(weight[1:]) * positions(state, node) * _groups(node), prod(state.known[source].shape))


def shared(
    state: State, node: Node, name: str, source: str, here: Room, rows: Tensor, arrived: int, lift: float
) -> tuple[Tensor | None, Tensor]:
    """(form (R, N, *shape of h) or None, constant (R, N)): a weight can take at most ``<form, h> + constant`` from rows (R, N or 1, ...).

    p = inf   each ``|G_k|`` below its chord: exact where the sign of G_k is known, the form then being a row of the worst kernel
    p = 2     ``|w G| <= (sum w^2 G^2 + s^2) / (2 s)`` and ``G^2 <= (l + u) G - l u``
    p = 1     the largest ``|w G_k|``, a constant
    """
    rows = rows.expand(-1, state.count, *node.shape)
    low, high = state.low[source], state.high[source]
    middle = (low + high) / 2
    # what rounding of the sums, and roundings that the rows arrived with, can move G: paid as if h were a little wider
    doubt = 2 * gamma(positions(state, node)) + 4 * UNIT * (arrived + 1)
    reach = torch.maximum(high - middle, middle - low) + doubt * state.largest(source)
    split = _split(node, rows)  # (R, N, groups, outputs, positions)
    centre = _gradient(split, _patches(state, node, middle))
    radius = _gradient(split.abs(), _patches(state, node, reach))
    pattern = here.pattern.expand(-1, *state.constants[name].shape).reshape(len(here.pattern), *centre.shape[2:])
    scale = lift * here.scale
    if here.p == 1:
        return None, scale * ((centre.abs() + radius) * pattern).flatten(2).amax(2)
    if here.p == inf:
        kernel, most = chord_around(centre, radius)
        if here.uniform:
            scale, constant = scale * here.pattern.reshape(()), most.flatten(2).sum(2)
        else:
            kernel, constant = kernel * pattern, (most * pattern).flatten(2).sum(2)
        constant = scale * constant
    else:
        flat, low, high = lambda v: (v * pattern).flatten(2), centre - radius, centre + radius
        slope, most = tangent(flat(torch.ones_like(low)).square(), low.flatten(2), high.flatten(2))
        hidden = SQUARES * (1 + pattern.amax()) * torch.maximum(low.abs(), high.abs()).flatten(2).sum(2)
        kernel, constant = slope.reshape(low.shape), scale * (most + hidden)
    form = kernel.transpose(-1, -2) @ (split * scale.reshape(-1, 1, 1, 1))
    return _unsplit(state, node, source, form), constant


def _gradient(split: Tensor, patches: Tensor) -> Tensor:
    """``sum over positions of L h'``, (R, N, groups, outputs, entries of a kernel): one product of matrices per example for all rows."""
    rows, count, groups, outputs, places = split.shape
    flat = split.permute(1, 2, 0, 3, 4).reshape(count, groups, rows * outputs, places)
    together = flat @ patches.transpose(-1, -2)
    return together.reshape(count, groups, rows, outputs, -1).permute(2, 0, 1, 3, 4)


def _groups(node: Node) -> int:
    return int(node.arguments.get("groups", 1))  # type: ignore[call-overload]


def _split(node: Node, rows: Tensor) -> Tensor:
    """Rows (R, N, *shape of the node) as (R, N, groups, outputs of a group, positions)."""
    if node.op == "linear":
        return rows.reshape(*rows.shape[:2], 1, -1, node.shape[-1]).transpose(-1, -2)
    return rows.reshape(*rows.shape[:2], _groups(node), node.shape[0] // _groups(node), -1)


def _patches(state: State, node: Node, value: Tensor) -> Tensor:
    """What each position reads of a value (N, *shape): (N, groups, entries of a kernel, positions)."""
    if node.op == "linear":
        return value.reshape(len(value), 1, -1, value.shape[-1]).transpose(-1, -2)
    image = value.unsqueeze(-2) if node.op == "conv1d" else value
    seen = functional.unfold(image, **_window(state, node))
    return seen.reshape(len(value), _groups(node), -1, seen.shape[-1])


def _unsplit(state: State, node: Node, source: str, form: Tensor) -> Tensor:
    """The transpose of :func:`_patches`, for (R, N, groups, entries of a kernel, positions)."""
    shape = state.known[source].shape
    if node.op == "linear":
        return form.transpose(-1, -2).reshape(*form.shape[:2], *shape)
    space = (1, *shape[1:]) if node.op == "conv1d" else shape[1:]
    flat = form.reshape(form.shape[0] * form.shape[1], -1, form.shape[-1])
    return functional.fold(flat, space, **_window(state, node)).reshape(*form.shape[:2], *shape)


def _window(state: State, node: Node) -> dict[str, tuple[int, ...]]:
    """The options of ``unfold``; one more axis, of size 1, where a convolution has one."""
    kernel = state.known[node.arguments["weight"].name].shape[2:]  # type: ignore[union-attr]
    line = len(kernel) == 1

    def option(name: str, still: int) -> tuple[int, ...]:
        entries = ops.as_tuple(node.arguments[name], len(kernel))
        return (still, *entries) if line else tuple(entries)

    options = {"stride": option("stride", 1), "padding": option("padding", 0), "dilation": option("dilation", 1)}
    return {"kernel_size": (1, *kernel) if line else tuple(kernel), **options}
