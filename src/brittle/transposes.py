"""Affine operations the other way round: linear forms of what an operation returns as linear forms of what it reads."""

from collections.abc import Mapping

import torch
from torch import Tensor

from brittle import ops
from brittle.graph import Node

Shapes = Mapping[str, Node]


def inner(rows: Tensor, vector: Tensor) -> Tensor:
    """``<row, vector>`` per row and example: (R, N or 1, ...) with (N or 1, ...) -> (R, N).

    One product of matrices where either side is the same for all examples; a batch of products of one row each is slow (measured).
    """
    flat, other = (
        rows.reshape(*rows.shape[:2], -1),
        vector.reshape(len(vector), -1),
    )  # a node may be one number per example
    if flat.shape[1] == 1:
        return flat[:, 0] @ other.T
    if len(other) == 1:
        return flat @ other[0]
    return torch.linalg.vecdot(flat, other)


def transpose(
    known: Shapes, constants: Mapping[str, Tensor], node: Node, rows: Tensor, moving: list[str]
) -> dict[str, Tensor]:
    """Rows (R, N or 1, *shape of the node) through the transpose of its linear part, to every source in ``moving``.

    Every row of every example is one more example. ``constants`` holds the values of the other sources.
    """
    count, per = rows.shape[0] * rows.shape[1], rows.shape[:2]
    row = ops.AFFINE[node.op]
    batch = rows.reshape(count, *node.shape)
    origin = {m: batch.new_zeros(1).expand(count, *known[m].shape) for m in moving}
    arguments = ops.arguments_of(node, {**constants, **origin}, count)
    if row.pullback is not None and len(moving) == 1:
        back = row.pullback(node, arguments, batch)
        return {moving[0]: back.reshape(*per, *known[moving[0]].shape)}
    names = tuple(origin)
    apply = lambda *values: ops.evaluate(node, {**constants, **dict(zip(names, values, strict=True))}, count)
    pull = torch.func.vjp(apply, *(origin[name].clone() for name in names))[1]
    return {name: value.reshape(*per, *known[name].shape) for name, value in zip(names, pull(batch), strict=True)}
