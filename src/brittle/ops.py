"""One row per operation: what certificates know about ``torch.nn.functional``.

Two kinds of rows. An :class:`Affine` operation is affine in the values that vary; its meaning is the ATen operation itself,
and a bound needs only to know how many numbers are summed (for rounding), and which constants are added. A :class:`Activation`
is a scalar function applied to every entry, described by its value, its kinks and its curved pieces (``brittle.curves``).
Two nonlinear rows read several entries: max pooling, and the ``product`` of two varying values (``brittle.products``). What is made of rows
is written in rows when a graph is taken (``brittle.composites``). An operation without a row is not certified.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from brittle.curves import ROWS, Activation, s_shaped
from brittle.errors import NotCertified
from brittle.graph import Batch, Graph, Node, Ref, references

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Affine:
    """An operation affine in whatever varies.

    terms     (node, shape of a Ref) -> how many products are summed into one output; 0 where every output is a copy of an input
    added     arguments that are added: where they are constant they belong to the offset, not to the linear part
    product   two arguments that are multiplied: only one of them may vary
    value     evaluation, default the ATen operation
    absolute  evaluation with every coefficient replaced by its absolute value, default ``value``
    pullback  (node, arguments, rows) -> the rows pulled back to ``input``, where that is faster than differentiating
    axes      arguments that name axes; the axis of the examples may not be among them
    """

    terms: Callable[[Node, Callable], int] = lambda node, shape: 0
    added: tuple[str, ...] = ()
    product: tuple[str, ...] = ()
    value: Callable | None = None
    absolute: Callable | None = None
    pullback: Callable | None = None
    axes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaxPool:
    """Windows of a max pooling: ``index`` (outputs, K) into the flat pixels of a channel, -1 where a window leaves the image."""

    index: Tensor


def is_nonlinear(node: Node) -> bool:
    """Nonlinear in a varying input: an activation, a max pooling or a product."""
    return bool(node.sources) and node.varies and (node.op in ACTIVATIONS or node.op in TAPPED)


def check(graph: Graph) -> None:
    """Refuse a graph with an operation that has no row, before anything is computed.

    Raises :class:`NotCertified` (``operation <op>``), naming all of them.
    """
    known = graph.by_name
    missing = []
    for node in graph.nodes:
        if node.op in ("input", "constant"):
            continue
        moves = any(known[name].varies for name in node.sources)
        if moves and node.op not in AFFINE and not is_nonlinear(node):
            missing.append(node.op)
        if not moves and node.op not in EXACT_ON_CONSTANTS:
            missing.append(f"{node.op} of constants")
    if missing:
        names = sorted(set(missing))
        raise NotCertified(f"operation{'s' * (len(names) > 1)} {', '.join(names)}")
    for node in graph.nodes:
        if any(_is_batch(v) for k, v in node.arguments.items() if k not in ("size", "shape", "repeats")):
            raise NotCertified(f"operation {node.op} with the number of examples as a value")
        if node.op in AFFINE and any(known[name].varies for name in node.sources):
            _check_affine(node, known)


def _check_affine(node: Node, known: Mapping[str, Node]) -> None:
    row = AFFINE[node.op]
    rank = len(node.shape) + 1
    moving = [known[name] for name in node.sources if known[name].varies]
    _check_arguments(node, known, rank)
    if len(row.product) == 2 and len([n for n in row.product if _varies(node.arguments.get(n), known)]) > 1:
        raise NotCertified(f"operation {node.op} of two moving values")
    if node.op == "div" and _varies(node.arguments["other"], known):
        raise NotCertified("operation div by a moving value")
    broadcast = node.op in ("add", "sub", "rsub", "mul", "div", "expand")
    if broadcast and any(len(m.shape) + 1 != rank for m in moving):
        raise NotCertified(f"operation {node.op} mixes examples")
    constants = [known[name] for name in node.sources if not known[name].varies]
    if constants and node.op in ("cat", "stack"):
        raise NotCertified(f"operation {node.op} with a constant for every position in the batch")
    if broadcast and any(len(c.shape) >= rank and c.shape[-rank] != 1 for c in constants):
        raise NotCertified(f"operation {node.op} with a constant for every position in the batch")
    rank_in = rank if node.op == "stack" else max(len(m.shape) + 1 for m in moving)
    for name in row.axes:
        axes = node.arguments.get(name)
        axes = axes if isinstance(axes, tuple) else (axes,)
        if node.op == "permute":
            axes = axes[1:] if axes and axes[0] == 0 else (0,)
        if any(not isinstance(a, int) or a % rank_in == 0 for a in axes):
            raise NotCertified(f"operation {node.op} mixes examples")
    if node.op == "matmul" and not (_varies(node.arguments["input"], known) and len(known[node.sources[1]].shape) <= 2):
        raise NotCertified("operation matmul with a constant on the left")


def _check_arguments(node: Node, known: Mapping[str, Node], rank: int) -> None:
    """What the schema of an operation allows and its row here does not mean."""
    arguments = node.arguments
    if arguments.get("rounding_mode") is not None:
        raise NotCertified(f"operation {node.op} with rounding")
    if node.op in ("linear", "mm", "conv1d", "conv2d", "conv3d"):
        least = int(node.op[4]) + 1 if node.op.startswith("conv") else 1
        bias = arguments.get("bias")
        flat_bias = not isinstance(bias, Ref) or (len(known[bias.name].shape) <= 1 and not _varies(bias, known))
        if not _varies(arguments["input"], known) or len(known[node.sources[0]].shape) < least or not flat_bias:
            raise NotCertified(f"operation {node.op} mixes examples")
    if node.op in ("pad", "constant_pad_nd") and len(arguments["pad"]) // 2 >= rank:  # type: ignore[arg-type]
        raise NotCertified(f"operation {node.op} mixes examples")
    if arguments.get("dim") == ():  # of sum and mean: all of them
        raise NotCertified(f"operation {node.op} mixes examples")
    divisor = arguments.get("divisor_override")
    if isinstance(divisor, int) and divisor < 0:
        raise NotCertified(f"operation {node.op} with a negative divisor")


def _is_batch(value: object) -> bool:
    return isinstance(value, Batch) or (isinstance(value, tuple) and any(_is_batch(v) for v in value))


def _varies(value: object, known: Mapping[str, Node]) -> bool:
    return isinstance(value, Ref) and known[value.name].varies


# ---- evaluation ----------------------------------------------------------------------------------------------------------


def resolve(value: object, values: Values, count: int) -> object:
    """An argument with its references and batch sizes filled in."""
    if isinstance(value, Ref):
        return values[value.name]
    if isinstance(value, Batch):
        return value.factor * count
    if isinstance(value, tuple):
        return [resolve(v, values, count) for v in value]
    return value


def arguments_of(node: Node, values: Values, count: int) -> dict[str, object]:
    return {name: resolve(value, values, count) for name, value in node.arguments.items()}


def call(node: Node, arguments: Mapping[str, object]) -> Tensor:
    """The ATen operation itself."""
    packet, overload = node.target.removeprefix("aten.").rsplit(".", 1)
    operation = getattr(getattr(torch.ops.aten, packet), overload)
    schema = operation._schema.arguments
    name = lambda a: "input" if a.name == "self" else a.name
    positional = [arguments[name(a)] for a in schema if not a.kwarg_only]
    keywords = {name(a): arguments[name(a)] for a in schema if a.kwarg_only and arguments[name(a)] is not None}
    value = operation(*positional, **keywords)
    return value[0] if isinstance(value, tuple) else value  # a pooling with its places


def evaluate(node: Node, values: Values, count: int) -> Tensor:
    """The value of an affine or constant node."""
    arguments = arguments_of(node, values, count)
    if node.op == "reshape":
        return _reshape(node, arguments)
    row = AFFINE.get(node.op)
    return row.value(node, arguments) if row is not None and row.value is not None else call(node, arguments)


def evaluate_absolute(node: Node, values: Values, count: int, moving: Collection[str], offset: bool) -> Tensor:
    """The operation with absolute coefficients on absolute values; without its constant offset unless ``offset``.

    ``values`` holds absolute values for the names in ``moving`` and the plain constants for the rest.
    """
    row = AFFINE[node.op]
    arguments = arguments_of(node, values, count)
    for name, value in node.arguments.items():
        moves = any(source in moving for source in references([value]))
        scalar = name in ("other", "alpha", "value") and isinstance(value, (int, float))
        if isinstance(arguments[name], Tensor) and not moves or scalar:
            arguments[name] = abs(arguments[name])  # type: ignore[arg-type]
        if name in row.added and not offset and not moves:
            arguments[name] = _zero(arguments[name])
    if node.op == "reshape":
        return _reshape(node, arguments)
    if node.op == "batch_norm":
        return _batch_norm_absolute(arguments, offset)
    evaluation = row.absolute or row.value or call
    return evaluation(node, arguments)


def _zero(value: object) -> object:
    return torch.zeros_like(value) if isinstance(value, Tensor) else None if value is None else 0


def _reshape(node: Node, arguments: Mapping[str, object]) -> Tensor:
    value = arguments["input"]
    return value.reshape(value.shape[0], *node.shape) if node.varies else value.reshape(node.shape)  # type: ignore[union-attr]


# ---- affine rows ---------------------------------------------------------------------------------------------------------


def _add(node: Node, a: Mapping) -> Tensor:
    return a["input"] + (a["other"] if a.get("alpha", 1) == 1 else a["alpha"] * a["other"])


def _rsub(node: Node, a: Mapping) -> Tensor:
    return a["other"] - a["alpha"] * a["input"]


def _rsub_absolute(node: Node, a: Mapping) -> Tensor:
    return a["other"] + a["alpha"] * a["input"]


def _batch_norm(node: Node, a: Mapping) -> Tensor:
    scale, shift = _batch_norm_scale(a)
    return a["input"] * scale + shift


def _batch_norm_scale(a: Mapping) -> tuple[Tensor, Tensor]:
    if a["training"]:
        raise NotCertified("operation batch_norm in training mode")
    if bool((a["running_var"] < 0).any()):
        raise NotCertified("operation batch_norm with a negative variance")
    scale = 1 / (a["running_var"] + a["eps"]).sqrt()
    scale = scale if a["weight"] is None else scale * a["weight"]
    shift = -a["running_mean"] * scale
    shift = shift if a["bias"] is None else shift + a["bias"]
    column = (-1, *[1] * (a["input"].dim() - 2))
    return scale.reshape(column), shift.reshape(column)


def standardisation(node: Node, constants: Values) -> tuple[Tensor, Tensor]:
    """(inverse deviation, mean) of a batch normalisation, each (channels, 1, ..., 1): what its weight multiplies is their use."""
    a = arguments_of(
        node, {**constants, **{name: torch.zeros(()) for name in node.sources if name not in constants}}, 1
    )
    column = (-1, *[1] * (len(node.shape) - 1))
    return (1 / (a["running_var"] + a["eps"]).sqrt()).reshape(column), a["running_mean"].reshape(column)  # type: ignore[operator,union-attr]


def _batch_norm_absolute(a: Mapping, offset: bool) -> Tensor:
    """Its arguments are already absolute: ``|x| |s| + |m| |s| + |b|``."""
    scale, _ = _batch_norm_scale(a)
    if not offset:
        return a["input"] * scale
    column = scale.shape
    shift = a["running_mean"].reshape(column) * scale
    return a["input"] * scale + (shift if a["bias"] is None else shift + a["bias"].reshape(column))


def _linear_pullback(node: Node, a: Mapping, rows: Tensor) -> Tensor:
    if rows.requires_grad or int(rows[:1].count_nonzero()) > 1 or bool((rows.count_nonzero(-1) > 1).any()):
        return rows @ a["weight"]
    unit = rows.abs().argmax(-1, keepdim=True)  # single units: rows of the weight, as they are
    return rows.gather(-1, unit) * a["weight"][unit[..., 0]]


WRITTEN_OUT = (
    3  # images of so many kernels: there the matrix of a convolution is as fast as its transpose (measured, float64)
)


def _conv_pullback(node: Node, a: Mapping, rows: Tensor) -> Tensor:
    weight = a["weight"]
    dimensions = weight.dim() - 2
    seen, out = a["input"].shape[1:], rows.shape[1:]
    if prod(seen[1:]) <= WRITTEN_OUT * prod(weight.shape[2:]) and len(rows) > 4 * prod(out):
        one = torch.eye(prod(out), dtype=rows.dtype, device=rows.device).reshape(-1, *out)
        written = _conv_pullback(node, {**a, "input": a["input"][:1].expand(len(one), *seen)}, one)
        return (rows.flatten(1) @ written.flatten(1)).reshape(len(rows), *seen)
    gradient, _, _ = torch.ops.aten.convolution_backward(
        rows.contiguous(), rows.new_zeros(1).expand(a["input"].shape), weight, None, as_tuple(a["stride"], dimensions),
        as_tuple(a["padding"], dimensions), as_tuple(a["dilation"], dimensions), False, [0] * dimensions, a["groups"], [True, False, False],
    )  # fmt: skip
    return gradient


def as_tuple(value: Any, length: int) -> list[int]:
    entries = list(value) if isinstance(value, (list, tuple)) else [int(value)]
    return entries * length if len(entries) == 1 else entries


def _mean_terms(node: Node, shape: Callable) -> int:
    return max(1, prod(shape(node.arguments["input"])) // max(1, prod(node.shape))) + 1


_weights = lambda node, shape: prod(shape(node.arguments["weight"])[1:]) + 1
_last = lambda node, shape: shape(node.arguments["input"])[-1] + 1
_one = lambda node, shape: 2
_linear = Affine(_weights, ("bias",), ("input", "weight"), pullback=_linear_pullback)
_conv = Affine(_weights, ("bias",), ("input", "weight"), pullback=_conv_pullback)
_pool = Affine(lambda node, shape: prod(shape(node.arguments["input"])[1:]) + 1)

AFFINE: dict[str, Affine] = {
    "linear": _linear,
    "conv1d": _conv,
    "conv2d": _conv,
    "conv3d": _conv,
    "matmul": Affine(_last, (), ("input", "other")),
    "mm": Affine(_last, (), ("input", "mat2")),
    "batch_norm": Affine(lambda node, shape: 12, ("bias",), ("input", "weight"), _batch_norm),
    "add": Affine(_one, ("input", "other"), (), _add),
    "sub": Affine(_one, ("input", "other"), (), None, _add),
    "rsub": Affine(_one, ("input", "other"), (), _rsub, _rsub_absolute),
    "mul": Affine(_one, (), ("input", "other")),
    "div": Affine(_one),  # neither argument is a product: a parameter that moves in a denominator is refused
    "neg": Affine(_one, (), (), None, lambda node, a: a["input"]),
    "mean": Affine(_mean_terms, axes=("dim",)),
    "sum": Affine(_mean_terms, axes=("dim",)),
    "avg_pool1d": _pool,
    "avg_pool2d": _pool,
    "avg_pool3d": _pool,
    "adaptive_avg_pool1d": _pool,
    "adaptive_avg_pool2d": _pool,
    "adaptive_avg_pool3d": _pool,
    "reshape": Affine(),
    "permute": Affine(axes=("dims",)),
    "transpose": Affine(axes=("dim0", "dim1")),
    "slice": Affine(axes=("dim",)),
    "select": Affine(axes=("dim",)),
    "index_select": Affine(axes=("dim",)),
    "flip": Affine(axes=("dims",)),
    "cat": Affine(axes=("dim",)),
    "stack": Affine(axes=("dim",)),
    "constant_pad_nd": Affine(_one, ("value",)),
    "pad": Affine(_one, ("value",)),
    "expand": Affine(),
}

EXACT_ON_CONSTANTS = {
    "reshape", "permute", "transpose", "t", "slice", "select", "flip", "cat", "stack", "expand", "neg", "abs", "zeros", "ones", "full",
    "zeros_like", "ones_like", "full_like", "arange", "scalar_tensor", "squeeze", "unsqueeze", "index_select", "_to_copy", "to",
    "constant_pad_nd", "new_zeros", "new_ones", "repeat",
}  # fmt: skip


# ---- nonlinear rows ------------------------------------------------------------------------------------------------------


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 / z.cosh().square()


def _tanh_where(slope: Tensor) -> Tensor:
    """``1 / cosh^2 z = s``; for s >= 1 the steepest point 0, for s <= 0 infinity: nothing is as flat as that."""
    inside = (slope > 0) & (slope <= 1)
    touch = torch.where(inside, slope, 1.0).rsqrt().clamp_min(1).acosh()
    return torch.where(slope > 0, touch, inf)


def _clip(low: object, high: object) -> Activation:
    low, high = (-inf if low is None else low), (inf if high is None else high)
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise NotCertified("operation clamp with limits that are tensors")
    return Activation(lambda z: z.clamp(low, high), tuple(float(k) for k in (low, high) if abs(k) < inf))


def _leaky(slope: float | Tensor) -> Activation:
    return Activation(lambda z: torch.where(z > 0, z, slope * z), (0.0,))


def _prelu(a: Mapping) -> Activation:
    weight = a["weight"]
    return _leaky(weight if weight.numel() == 1 else weight.reshape(-1, *[1] * (a["input"].dim() - 2)))


ACTIVATIONS: dict[str, Callable[[Mapping], Activation]] = {
    "relu": lambda a: Activation(torch.relu, (0.0,)),
    "leaky_relu": lambda a: _leaky(a["negative_slope"]),
    "prelu": _prelu,
    "relu6": lambda a: _clip(0.0, 6.0),
    "hardtanh": lambda a: _clip(a["min_val"], a["max_val"]),
    "clamp": lambda a: _clip(a["min"], a["max"]),
    "clip": lambda a: _clip(a["min"], a["max"]),
    "clamp_min": lambda a: _clip(a["min"], None),
    "clamp_max": lambda a: _clip(None, a["max"]),
    "abs": lambda a: Activation(torch.abs, (0.0,)),
    "tanh": lambda a: s_shaped(torch.tanh, _tanh_slope, _tanh_where, 8.0),
    "sigmoid": lambda a: s_shaped(
        torch.sigmoid, lambda z: _tanh_slope(z / 2) / 4, lambda s: 2 * _tanh_where(4 * s), 16.0
    ),
    "hardsigmoid": lambda a: Activation(torch.nn.functional.hardsigmoid, (-3.0, 3.0), ulps=8.0),
    **ROWS,
}
POOLS = {"max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"}
PRODUCT = "product"
SMOOTH = {"tanh", "sigmoid", PRODUCT, *ROWS}  # curved somewhere: no linear pieces that cover the line
TAPPED = {*POOLS, PRODUCT}  # nonlinear in several entries at once


def activation(node: Node, values: Values, count: int) -> Activation:
    """The scalar function of a node, its constants filled in."""
    return ACTIVATIONS[node.op](arguments_of(node, values, count))


def max_pool(node: Node, shape: tuple[int, ...]) -> MaxPool:
    """Which pixels each window of a max pooling sees; ``shape`` is that of one example of its input."""
    dimensions = int(node.op[-2])
    if len(shape) != dimensions + 1:
        raise NotCertified(f"operation {node.op} without a channel axis")
    taken = _adaptive_taken if node.op.startswith("adaptive") else _taken
    index, valid = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    for axis in range(dimensions):
        size, reach = shape[axis + 1], node.shape[axis + 1]
        at, inside = taken(node, axis, dimensions, size, reach)
        index = (index[:, None, :, None] * size + at[None, :, None, :]).reshape(len(index) * reach, -1)
        valid = (valid[:, None, :, None] & inside[None, :, None, :]).reshape(len(valid) * reach, -1)
    return MaxPool(torch.where(valid, index, -1))


def _taken(node: Node, axis: int, dimensions: int, size: int, reach: int) -> tuple[Tensor, Tensor]:
    """(places, inside) of the windows of a pooling along one axis, (outputs, taps)."""
    given = lambda name: as_tuple(node.arguments[name], dimensions)[axis]
    stride = given("stride" if node.arguments["stride"] else "kernel_size")
    at = (
        torch.arange(reach)[:, None] * stride
        - given("padding")
        + torch.arange(given("kernel_size")) * given("dilation")
    )
    return at, (at >= 0) & (at < size)


def _adaptive_taken(node: Node, axis: int, dimensions: int, size: int, reach: int) -> tuple[Tensor, Tensor]:
    """Cell y of m sees the places from ``floor(y n / m)`` to before ``ceil((y + 1) n / m)``."""
    cell = torch.arange(reach)
    first, last = cell * size // reach, -(-(cell + 1) * size // reach)
    at = first[:, None] + torch.arange(int((last - first).max()))
    return at, at < last[:, None]
