"""Affine operations as matrices, each built from the operation's own definition."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, identity, kron

from brittle._checker import stencils
from brittle._checker.arithmetic import Array
from brittle.graph import Node, Ref


class Unknown(Exception):
    """An operation that the checker cannot judge; its text completes "not checked: ..."."""


@dataclass(frozen=True)
class Affine:
    """``value = sum over sources of matrix @ source + bias``; ``size`` bounds the absolute values added up in the bias."""

    parts: tuple[tuple[str, csr_matrix], ...]
    bias: Array
    size: Array

    @property
    def terms(self) -> int:
        """The largest number of products summed into one output, or one input summed from outputs."""
        counts = [
            max(np.diff(m.indptr).max(initial=0), np.diff(m.tocsc().indptr).max(initial=0)) for _, m in self.parts
        ]
        return int(sum(counts)) + len(self.bias)


@dataclass(frozen=True)
class Reader:
    """What an operation sees of a node: shapes of its sources, values of its constants."""

    node: Node
    known: Mapping[str, Node]
    constants: Mapping[str, NDArray]

    def __getitem__(self, name: str) -> Any:
        return self.node.arguments[name]

    def source(self, name: str = "input") -> Node:
        """The varying node behind an argument."""
        value = self[name]
        if not isinstance(value, Ref) or not self.known[value.name].varies:
            raise Unknown(f"{self.node.op} of a constant {name}")
        return self.known[value.name]

    def varies(self, name: str) -> bool:
        value = self[name]
        return isinstance(value, Ref) and self.known[value.name].varies

    def constant(self, value: object) -> Any:
        """A number, a constant tensor, or None."""
        if isinstance(value, Ref):
            if value.name not in self.constants:
                raise Unknown(f"{self.node.op} with {value.name}, which moves or is computed")
            return self.constants[value.name]
        return None if value is None else np.asarray(value, dtype=np.float64)

    def pair(self, name: str, dimensions: int) -> tuple[int, ...]:
        """A size per space dimension."""
        value = self[name]
        entries = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        if not all(isinstance(e, int) for e in entries):
            raise Unknown(f"{self.node.op} with {name}={value!r}")
        sizes = tuple(int(e) for e in entries)
        return sizes * dimensions if len(sizes) == 1 else sizes


def affine(node: Node, known: Mapping[str, Node], constants: Mapping[str, NDArray]) -> Affine:
    """The matrices of an operation; raises :class:`Unknown` for one that the checker has no definition of."""
    read = Reader(node, known, constants)
    if node.op in LAYERS:
        return _layer(read)
    if node.op in INDEXED:
        return _indexed(read)
    if node.op not in OTHERS:
        raise Unknown(node.op)
    return OTHERS[node.op](read)


def stencil(read: Reader) -> stencils.Stencil:
    """The products of a linear or convolutional layer."""
    node, source = read.node, read.source()
    weight = read.known[read["weight"].name].shape
    if node.op == "linear":
        return stencils.linear(source.shape, weight[0])
    dimensions = len(weight) - 2
    stride, padding, dilation = (read.pair(name, dimensions) for name in ("stride", "padding", "dilation"))
    return stencils.convolution(source.shape, weight, stride, padding, dilation, int(read["groups"]))


def gains(read: Reader) -> tuple[stencils.Stencil, Array, Array]:
    """Batch normalisation as one product per entry: gain of the channel times (input - mean) times the inverse deviation."""
    shape = read.source().shape
    each, channel = np.arange(prod(shape)), np.repeat(np.arange(shape[0]), prod(shape[1:]))
    mean, variance = (read.constant(read[name])[channel] for name in ("running_mean", "running_var"))
    return stencils.Stencil(each, each, channel, channel, len(each)), mean, 1 / np.sqrt(variance + float(read["eps"]))


def window_index(read: Reader) -> NDArray:
    """(outputs, K): the inputs that each window of a pooling sees, -1 outside the image."""
    dimensions, source = int(read.node.op[-2]), read.source()
    if read.node.op.startswith("adaptive"):
        return _cells(source.shape, read.node.shape)
    if len(source.shape) != dimensions + 1 or read["ceil_mode"]:
        raise Unknown(f"{read.node.op} without channels or with ceil_mode")
    size = read.pair("kernel_size", dimensions)
    stride = read.pair("stride", dimensions) if read["stride"] else size
    dilation = read.pair("dilation", dimensions) if "dilation" in read.node.arguments else (1,) * dimensions
    taps = stencils.windows(source.shape[1:], size, stride, read.pair("padding", dimensions), dilation)
    index = np.full((taps.outputs, prod(size)), -1)
    index[taps.out, taps.weight] = taps.inp
    step = prod(source.shape[1:])
    return np.concatenate([np.where(index >= 0, index + c * step, -1) for c in range(source.shape[0])])


def _cells(shape: tuple[int, ...], cells: tuple[int, ...]) -> NDArray:
    """The places of an image (channels, *space) that each cell of an adaptive pooling sees: one box for all cells, -1 beyond their ends."""
    if len(shape) != len(cells) or shape[0] != cells[0]:
        raise Unknown("adaptive pooling without channels")
    places = np.arange(prod(shape)).reshape(shape)
    boxes = [[(y * n // m, -(-(y + 1) * n // m)) for y, n, m in zip(cell, shape, cells)] for cell in np.ndindex(*cells)]
    widest = [max(last - first for first, last in axis) for axis in zip(*boxes)]
    index = np.full((len(boxes), *widest), -1)
    for row, box in zip(index, boxes):
        row[tuple(slice(last - first) for first, last in box)] = places[tuple(slice(*ends) for ends in box)]
    return index.reshape(len(boxes), -1)


def _one(source: Node, matrix: Any, bias: Array | None = None, size: Array | None = None) -> Affine:
    bias = np.zeros(matrix.shape[0]) if bias is None else bias
    return Affine(((source.name, matrix.tocsr()),), bias, np.abs(bias) if size is None else size)


def _layer(read: Reader) -> Affine:
    weight, bias, taps = read.constant(read["weight"]), read.constant(read["bias"]), stencil(read)
    return _one(read.source(), taps.matrix(weight), None if bias is None else bias[taps.bias])


def _batch_norm(read: Reader) -> Affine:
    if read["training"]:
        raise Unknown("batch_norm in training mode")
    source = read.source()
    mean, variance = read.constant(read["running_mean"]), read.constant(read["running_var"])
    scale = 1 / np.sqrt(variance + float(read["eps"]))
    scale = scale if read["weight"] is None else scale * read.constant(read["weight"])
    shift = np.zeros_like(scale) if read["bias"] is None else read.constant(read["bias"])
    each = lambda v: np.repeat(v, prod(source.shape[1:]))
    return _one(source, diags(each(scale)), each(shift - mean * scale), each(np.abs(shift) + np.abs(mean * scale)))


def _average(read: Reader) -> Affine:
    if read["divisor_override"] is not None:
        raise Unknown("avg_pool with divisor_override")
    index = window_index(read)
    inside = index >= 0
    padded = any(read.pair("padding", 1))
    share = inside.sum(1) if padded and not read["count_include_pad"] else np.full(len(index), index.shape[1])
    rows, taps = np.nonzero(inside)
    shape = (len(index), prod(read.source().shape))
    return _one(read.source(), csr_matrix((1 / share[rows], (rows, index[rows, taps])), shape=shape))


def _adaptive_average(read: Reader) -> Affine:
    """Cell y averages from ``floor(y n / m)`` to ``ceil((y + 1) n / m)`` in each space dimension."""
    source, matrix = read.source(), identity(1)
    dimensions = len(read.pair("output_size", int(read.node.op[-2])))
    for n, m in zip(source.shape[-dimensions:], read.node.shape[-dimensions:]):
        cells = np.zeros((m, n))
        for y in range(m):
            first, last = y * n // m, -(-(y + 1) * n // m)
            cells[y, first:last] = 1 / (last - first)
        matrix = kron(matrix, csr_matrix(cells))
    return _one(source, kron(identity(prod(source.shape[:-dimensions])), matrix))


def _reduce(read: Reader) -> Affine:
    """Mean or sum over axes: every input goes to the output that its other coordinates name."""
    source = read.source()
    axes = read["dim"] if isinstance(read["dim"], tuple) else (read["dim"],)
    if None in axes or any(int(a) % (len(source.shape) + 1) == 0 for a in axes):
        raise Unknown(f"{read.node.op} over examples")
    axes = tuple(int(a) % (len(source.shape) + 1) - 1 for a in axes)
    kept = [1 if axis in axes else n for axis, n in enumerate(source.shape)]
    out = np.broadcast_to(np.arange(prod(kept)).reshape(kept), source.shape).reshape(-1)
    weight = 1 / (len(out) // prod(kept)) if read.node.op == "mean" else 1.0
    return _one(
        source, csr_matrix((np.full(len(out), weight), (out, np.arange(len(out)))), shape=(prod(kept), len(out)))
    )


def _sum(read: Reader) -> Affine:
    """``input + alpha other`` in its three spellings; either side may be constant."""
    op, alpha = read.node.op, _number(read.node.arguments.get("alpha"))
    weights = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[op]
    bias = size = np.zeros(prod(read.node.shape))
    parts = []
    for name, weight in zip(("input", "other"), weights):
        if read.varies(name):
            parts.append(
                (read.source(name).name, weight * _gather(_broadcast(read, name), prod(read.source(name).shape)))
            )
        else:
            constant = weight * _spread(read, read.constant(read[name]))
            bias, size = bias + constant, size + np.abs(constant)
    return Affine(tuple(parts), bias, size)


def _number(alpha: Any) -> float:
    return 1.0 if alpha is None else float(alpha)


def _product(read: Reader) -> Affine:
    if read.varies("input") and read.varies("other"):
        raise Unknown(f"{read.node.op} of two moving values")
    if read.node.op == "div" and (read.varies("other") or read.node.arguments.get("rounding_mode")):
        raise Unknown("div by a moving value, or rounded")
    varying, fixed = ("input", "other") if read.varies("input") else ("other", "input")
    factor = _spread(read, read.constant(read[fixed]))
    factor = 1 / factor if read.node.op == "div" else factor
    source = read.source(varying)
    return _one(source, diags(factor) @ _gather(_broadcast(read, varying), prod(source.shape)))


def _indexed(read: Reader) -> Affine:
    """Operations that only move entries: done to the numbers of the entries instead of their values."""
    if read.node.op == "expand" and not read.varies("input"):  # the same numbers for every example
        bias = np.broadcast_to(read.constant(read["input"]), (1, *read.node.shape)).reshape(-1).astype(np.float64)
        return Affine((), bias, np.abs(bias))
    names = [ref.name for ref in read["tensors"]] if read.node.op in ("cat", "stack") else [read.source().name]
    if not all(read.known[name].varies for name in names):
        raise Unknown(f"{read.node.op} with a constant")
    offset, numbers, starts = 0, [], []
    for name in names:
        shape = read.known[name].shape
        numbers.append(offset + np.arange(prod(shape)).reshape(1, *shape))
        starts.append((name, offset, offset + prod(shape)))
        offset += prod(shape)
    index = np.asarray(INDEXED[read.node.op](read, *numbers)).reshape(-1)
    if len(index) != prod(read.node.shape):
        raise Unknown(f"{read.node.op} with an unexpected shape")
    whole = _gather(index, offset).tocsc()
    parts: dict[str, csr_matrix] = {}
    for name, first, last in starts:
        parts[name] = parts[name] + whole[:, first:last] if name in parts else whole[:, first:last]
    return Affine(tuple((k, m.tocsr()) for k, m in parts.items()), np.zeros(len(index)), np.zeros(len(index)))


def _gather(index: NDArray, width: int) -> csr_matrix:
    """The matrix that picks entry ``index[o]`` for output o; -1 picks nothing."""
    rows = np.flatnonzero(index >= 0)
    return csr_matrix((np.ones(len(rows)), (rows, index[rows])), shape=(len(index), width))


def _broadcast(read: Reader, name: str) -> NDArray:
    shape = read.source(name).shape
    if len(shape) != len(read.node.shape):
        raise Unknown(f"{read.node.op} across examples")
    return np.broadcast_to(np.arange(prod(shape)).reshape(1, *shape), (1, *read.node.shape)).reshape(-1)


def _spread(read: Reader, constant: NDArray) -> Array:
    if constant.ndim > len(read.node.shape) + 1 or (constant.ndim == len(read.node.shape) + 1 and len(constant) != 1):
        raise Unknown(f"{read.node.op} with a constant for every position in the batch")
    return np.broadcast_to(constant, (1, *read.node.shape)).reshape(-1).astype(np.float64)


def _slice(read: Reader, v: NDArray) -> NDArray:
    axis = int(read["dim"])
    start, end = read["start"] or 0, read["end"]
    cut = [slice(None)] * v.ndim
    cut[axis] = slice(start, end if isinstance(end, int) else None, read["step"])
    return v if axis % v.ndim == 0 else v[tuple(cut)]


def _padded(read: Reader, v: NDArray) -> NDArray:
    if read["value"]:
        raise Unknown("padding with a constant other than 0")
    pad = list(read["pad"])
    if any(p < 0 for p in pad) or len(pad) >= 2 * v.ndim:
        raise Unknown("padding that crops")
    sides = [(0, 0)] * (v.ndim - len(pad) // 2) + [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    return np.pad(v, sides, constant_values=-1)


LAYERS = ("linear", "conv1d", "conv2d", "conv3d")
MOVABLE = (*LAYERS, "batch_norm")  # operations whose weight and bias may move
INDEXED: dict[str, Callable[..., NDArray]] = {
    "reshape": lambda read, v: v,
    "permute": lambda read, v: v.transpose(read["dims"]),
    "transpose": lambda read, v: v.swapaxes(read["dim0"], read["dim1"]),
    "select": lambda read, v: v.take(read["index"], axis=read["dim"]),
    "flip": lambda read, v: np.flip(v, read["dims"]),
    "index_select": lambda read, v: v.take(read.constant(read["index"]).astype(np.int64), axis=read["dim"]),
    "expand": lambda read, v: np.broadcast_to(v, (1, *read.node.shape)),
    "slice": _slice,
    "constant_pad_nd": _padded,
    "cat": lambda read, *v: np.concatenate(v, axis=read["dim"]),
    "stack": lambda read, *v: np.stack(v, axis=read["dim"]),
}
OTHERS: dict[str, Callable[[Reader], Affine]] = {
    "batch_norm": _batch_norm,
    "add": _sum,
    "sub": _sum,
    "rsub": _sum,
    "mul": _product,
    "div": _product,
    "zeros": lambda read: Affine((), np.zeros(prod(read.node.shape)), np.zeros(prod(read.node.shape))),
    "neg": lambda read: _one(read.source(), -identity(prod(read.node.shape))),
    "mean": _reduce,
    "sum": _reduce,
    "avg_pool1d": _average,
    "avg_pool2d": _average,
    "avg_pool3d": _average,
    "adaptive_avg_pool1d": _adaptive_average,
    "adaptive_avg_pool2d": _adaptive_average,
    "adaptive_avg_pool3d": _adaptive_average,
}
