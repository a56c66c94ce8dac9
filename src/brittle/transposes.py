"""Affine operations the other way round: linear forms of what an operation returns as linear forms of what it reads."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from brittle import ops
from brittle.graph import Node, Ref

Shapes = Mapping[str, Node]
Place = tuple[str, int]  # an argument, and which entry of it where it is a list


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

    Every row of every example is one more example. ``constants`` holds the values of the other sources. In closed form where there is
    one (a cell over 8 steps is bounded in half the time that differentiation takes), else by differentiation.
    """
    count, per = rows.shape[0] * rows.shape[1], rows.shape[:2]
    row = ops.AFFINE[node.op]
    batch = rows.reshape(count, *node.shape)
    origin = {m: batch.new_zeros(1).expand(count, *known[m].shape) for m in moving}
    arguments = ops.arguments_of(node, {**constants, **origin}, count)
    if row.pullback is not None and len(moving) == 1:
        back = row.pullback(node, arguments, batch)
        return {moving[0]: back.reshape(*per, *known[moving[0]].shape)}
    if node.op in CLOSED and len(set(node.sources)) == len(node.sources):
        at = {name: place for name, place in _places(node).items() if name in origin}
        closed = {name: CLOSED[node.op](arguments, batch, place) for name, place in at.items()}
        return {name: closed[name].reshape(*per, *known[name].shape) for name in moving}
    names = tuple(origin)
    apply = lambda *values: ops.evaluate(node, {**constants, **dict(zip(names, values, strict=True))}, count)
    pull = torch.func.vjp(apply, *(origin[name].clone() for name in names))[1]
    return {name: value.reshape(*per, *known[name].shape) for name, value in zip(names, pull(batch), strict=True)}


# ---- transposes in closed form -------------------------------------------------------------------------------------------
# Copies, sums and multiples: differentiating them costs more than they do on small networks (measured).


def _places(node: Node) -> dict[str, Place]:
    """Where each source of a node stands among its arguments."""
    listed = {key: value if isinstance(value, tuple) else (value,) for key, value in node.arguments.items()}
    return {
        ref.name: (key, at) for key, values in listed.items() for at, ref in enumerate(values) if isinstance(ref, Ref)
    }


def _seen(a: Mapping, place: Place) -> Tensor:
    value = a[place[0]]
    return value if isinstance(value, Tensor) else value[place[1]]


def _summed(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    """Copies along broadcast axes, added up."""
    shape = _seen(a, place).shape
    return rows if rows.shape == shape else rows.sum_to_size(shape)


def _multiple(input_by: Callable[[Mapping], Any], other_by: Callable[[Mapping], Any]) -> Callable:
    """Of ``input_by * input + other_by * other``; what multiplies one may be the other."""

    def pulled(a: Mapping, rows: Tensor, place: Place) -> Tensor:
        factor = (input_by if place[0] == "input" else other_by)(a)
        return _summed(a, rows if isinstance(factor, int) and factor == 1 else rows * factor, place)

    return pulled


def _divided(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    return _summed(a, rows / a["other"], place)


def _spread(a: Mapping, rows: Tensor) -> Tensor:
    """The transpose of a sum: one number for every entry that was summed."""
    shape = a["input"].shape
    axes = a["dim"] if isinstance(a["dim"], list) else [a["dim"]]
    axes = {axis % len(shape) for axis in axes}
    return rows.reshape([1 if axis in axes else size for axis, size in enumerate(shape)]).expand(shape)


def _averaged(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    return _spread(a, rows / (prod(a["input"].shape[1:]) // max(1, prod(rows.shape[1:]))))


def _cut(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    """The transpose of ``cat``: the stretch of one of its sources."""
    axis, at = a["dim"], place[1]
    before = sum(value.shape[axis] for value in a["tensors"][:at])
    return rows.narrow(axis, before, a["tensors"][at].shape[axis])


def _sliced(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    start, end = (0 if a["start"] is None else a["start"]), (2**63 - 1 if a["end"] is None else a["end"])
    return torch.ops.aten.slice_backward(rows, a["input"].shape, a["dim"], start, end, a["step"])


def _selected(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    return torch.ops.aten.select_backward(rows, a["input"].shape, a["dim"], a["index"])


def _gathered(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    return rows.new_zeros(a["input"].shape).index_add(a["dim"], a["index"], rows)


def _permuted(a: Mapping, rows: Tensor, place: Place) -> Tensor:
    dims = [axis % rows.dim() for axis in a["dims"]]
    return rows.permute([dims.index(axis) for axis in range(rows.dim())])


_one, _alpha = lambda a: 1, lambda a: a.get("alpha", 1)

CLOSED: dict[str, Callable[[Mapping, Tensor, Place], Tensor]] = {
    "add": _multiple(_one, _alpha),
    "sub": _multiple(_one, lambda a: -_alpha(a)),
    "rsub": _multiple(lambda a: -_alpha(a), _one),
    "mul": _multiple(lambda a: a["other"], lambda a: a["input"]),
    "div": _divided,
    "neg": lambda a, rows, place: -rows,
    "sum": lambda a, rows, place: _spread(a, rows),
    "mean": _averaged,
    "expand": _summed,
    "reshape": lambda a, rows, place: rows,
    "permute": _permuted,
    "transpose": lambda a, rows, place: rows.transpose(a["dim0"], a["dim1"]),
    "flip": lambda a, rows, place: rows.flip(a["dims"]),
    "slice": _sliced,
    "select": _selected,
    "index_select": _gathered,
    "cat": _cut,
    "stack": lambda a, rows, place: rows.select(a["dim"], place[1]),
}
