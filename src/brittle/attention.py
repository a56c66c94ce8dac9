"""Softmax, products of two varying matrices and attention, written in elementary rows.

``softmax_i = 1 / (1 + sum_{j != i} e^(x_j - x_i))``: what cancels is gone before any interval is taken, so interval propagation is
exact over a box (each entry is monotone in every difference), and the value lies in (0, 1] by itself. It takes n (n - 1)
exponentials for n entries.

``A B`` of two varying matrices: ``n k m`` products of two numbers, each with planes of its own (``brittle.products``), and their sums.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from brittle.errors import NotCertified
from brittle.graph import Node, Ref
from brittle.writing import Shape, Writer, axis_of

# ---- softmax -------------------------------------------------------------------------------------------------------------


def _softmax(write: Writer, node: Node) -> bool:
    _check_dtype(node)
    axis = axis_of(node, node.arguments["dim"], len(node.shape))
    total = exponentials(write, node.name, node.arguments["input"], node.shape, axis)  # type: ignore[arg-type]
    write(node.name, "reciprocal.default", node.shape, input=total)
    return True


def _log_softmax(write: Writer, node: Node) -> bool:
    """``-log(1 + sum_{j != i} e^(x_j - x_i))``."""
    _check_dtype(node)
    axis = axis_of(node, node.arguments["dim"], len(node.shape))
    total = exponentials(write, node.name, node.arguments["input"], node.shape, axis)  # type: ignore[arg-type]
    logarithm = write(f"{node.name}.log", "log.default", node.shape, input=total)
    write(node.name, "neg.default", node.shape, input=logarithm)
    return True


def _check_dtype(node: Node) -> None:
    if node.arguments.get("dtype") not in (None, torch.float64) or node.arguments.get("half_to_float"):
        raise NotCertified(f"operation {node.op} in another dtype")


def exponentials(write: Writer, name: str, value: Ref, shape: Shape, axis: int, allowed: Tensor | None = None) -> Ref:
    """``1 + sum_{j != i, allowed} e^(x_j - x_i)`` along an axis, of the shape of x."""
    count, kind = shape[axis], {"input": value, "dim": axis + 1}
    if count == 1:
        nothing = write(f"{name}.nothing", "mul.Scalar", shape, input=value, other=0.0)
        return write(f"{name}.total", "add.Scalar", shape, input=nothing, other=1.0, alpha=1)
    pairs = [(i, j) for i in range(count) for j in range(count) if j != i]
    each = (*shape[:axis], len(pairs), *shape[axis + 1 :])
    ends = []
    for side, which in (("own", 0), ("rival", 1)):
        index = write.constant(f"{name}.{side}_index", torch.tensor([pair[which] for pair in pairs]))
        ends.append(write(f"{name}.{side}", "index_select.default", each, **kind, index=index))
    apart = write(f"{name}.difference", "sub.Tensor", each, input=ends[1], other=ends[0], alpha=1)
    split = (*shape[: axis + 1], count - 1, *shape[axis + 1 :])
    apart = write(f"{name}.pairs", "reshape", split, input=apart)
    powers = write(f"{name}.exp", "exp.default", split, input=apart)
    if allowed is not None:
        rivals = allowed.expand(shape).index_select(axis, torch.tensor([j for _, j in pairs])).reshape(split)
        powers = write(
            f"{name}.kept", "mul.Tensor", split, input=powers, other=write.constant(f"{name}.rivals", rivals.double())
        )
    others = write(f"{name}.sum", "sum.dim_IntList", shape, input=powers, dim=(axis + 2,), keepdim=False, dtype=None)
    return write(f"{name}.total", "add.Scalar", shape, input=others, other=1.0, alpha=1)


# ---- products of matrices ------------------------------------------------------------------------------------------------


def _matmul(write: Writer, node: Node) -> bool:
    first, second = node.arguments["input"], node.arguments["other" if node.op == "matmul" else "mat2"]
    if not write.varies(second):
        return False
    if write.varies(first):
        matrix_product(write, node.name, first, second, node.shape)  # type: ignore[arg-type]
        return True
    if len(write.shape(first)) != 2 or len(write.shape(second)) < 2:
        return False
    flipped = transposed(write, f"{node.name}.flipped", second)  # type: ignore[arg-type]
    shape = write.shape(flipped)
    back = (*shape[:-1], node.shape[-2])
    product = write(f"{node.name}.product", "linear.default", back, input=flipped, weight=first, bias=None)
    transposed(write, node.name, product)
    return True


def matrix_product(write: Writer, name: str, first: Ref, second: Ref, shape: Shape) -> Ref:
    """``A B`` of varying (..., n, k) and (..., k, m)."""
    a, b = write.shape(first), write.shape(second)
    if len(a) != len(b) or len(a) != len(shape) or len(a) < 2:
        raise NotCertified("operation matmul mixes examples")
    wide = (*shape, a[-1])
    left = write.shaped(f"{name}.left", first, (*a[:-1], 1, a[-1]))
    flipped = transposed(write, f"{name}.flipped", second)
    right = write.shaped(f"{name}.right", flipped, (*b[:-2], 1, b[-1], b[-2]))
    products = write.product(f"{name}.products", left, right, wide)
    return write(name, "sum.dim_IntList", shape, input=products, dim=(len(wide),), keepdim=False, dtype=None)


def transposed(write: Writer, name: str, value: Ref) -> Ref:
    """The last two axes exchanged."""
    shape = write.shape(value)
    rank = len(shape) + 1
    flipped = (*shape[:-2], shape[-1], shape[-2])
    return write(name, "transpose.int", flipped, input=value, dim0=rank - 2, dim1=rank - 1)


# ---- attention -----------------------------------------------------------------------------------------------------------


def _attention(write: Writer, node: Node) -> bool:
    """``softmax(Q K^T scale) V``, with a mask that does not vary."""
    a: Any = node.arguments
    query, key, value = a["query"], a["key"], a["value"]
    if not all(write.varies(v) for v in (query, key, value)):
        raise NotCertified(f"operation {node.op} with a constant query, key or value")
    if a["dropout_p"] or a.get("enable_gqa"):
        raise NotCertified(f"operation {node.op} with dropout or grouped queries")
    name, shape = node.name, write.shape(query)
    scale = 1 / sqrt(shape[-1]) if a["scale"] is None else float(a["scale"])
    scaled = write(f"{name}.scaled", "mul.Scalar", shape, input=query, other=scale)
    square = (*shape[:-1], write.shape(key)[-2])
    scores = matrix_product(write, f"{name}.scores", scaled, transposed(write, f"{name}.keys", key), square)
    allowed = _allowed(write, node, square)
    total = exponentials(write, f"{name}.softmax", scores, square, len(square) - 1, allowed)
    weights = write(f"{name}.weights", "reciprocal.default", square, input=total)
    if allowed is not None:
        own = write.constant(f"{name}.allowed", allowed.expand(square).double())
        weights = write(f"{name}.masked", "mul.Tensor", square, input=weights, other=own)
    matrix_product(write, name, weights, value, node.shape)
    return True


def _allowed(write: Writer, node: Node, square: Shape) -> Tensor | None:
    """Which keys a query may see; None: all."""
    a: Any = node.arguments
    if a["is_causal"]:
        return torch.ones(square[-2:], dtype=torch.bool).tril()
    if a["attn_mask"] is None:
        return None
    if write.varies(a["attn_mask"]):
        raise NotCertified(f"operation {node.op} with a mask that varies")
    mask = write.known(a["attn_mask"])
    if mask.dtype != torch.bool:
        if not bool((mask.isinf() | (mask == 0)).all()) or bool((mask == torch.inf).any()):
            raise NotCertified(f"operation {node.op} with a mask of numbers other than 0 and -inf")
        mask = mask == 0
    if mask.dim() > len(square) + 1:
        raise NotCertified(f"operation {node.op} mixes examples")
    if mask.dim() == len(square) + 1:
        if len(mask) != 1:
            raise NotCertified(f"operation {node.op} mixes examples")
        mask = mask[0]
    if not bool(mask.any(-1).all()):
        raise NotCertified(f"operation {node.op} with a query that sees nothing")
    return mask


RULES: dict[str, Callable[[Writer, Node], bool]] = {
    "softmax": _softmax,
    "_softmax": _softmax,
    "log_softmax": _log_softmax,
    "_log_softmax": _log_softmax,
    "matmul": _matmul,
    "bmm": _matmul,
    "scaled_dot_product_attention": _attention,
}
