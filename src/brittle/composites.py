"""Operations that are made of others, written in the rows that certificates know.

``expressed`` rewrites a graph once, when it is taken. Every rewriting is an identity of real functions, so what is certified does not change; what
changes is that each part has a row with planes of its own, bounds on its input, and a place in the proof. The last node of a
rewriting keeps the name of the operation, the others are called ``NAME.part``.

- ``x y`` of two varying values: both stacked along a new first axis, and the row ``product``; ``x x`` is a square.
- ``x / y``: ``x`` times the reciprocal of y, on y > 0.
- layer, group and instance normalisation: ``(x - mean) rsqrt(mean of squares + eps)``, one product per entry. eps > 0 keeps the root away from 0.
- softmax, products of matrices, attention: ``brittle.attention``.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod, sqrt
from typing import Any

from brittle import attention
from brittle.errors import NotCertified
from brittle.graph import Graph, Node, Ref
from brittle.writing import Shape, Writer, axis_of


def expressed(graph: Graph) -> Graph:
    """The same function, without the operations that are made of others.

    >>> import torch
    >>> from brittle.problem import Problem
    >>> from brittle.graph import graph_of
    >>> graph = graph_of(Problem(torch.nn.Softmax(1), torch.zeros(1, 3), torch.tensor([0])))
    >>> [node.op for node in graph.nodes if node.varies]
    ['input', 'index_select', 'index_select', 'sub', 'reshape', 'exp', 'sum', 'add', 'reciprocal']
    """
    write = Writer(dict(graph.constants))
    for node in graph.nodes:
        rule = RULES.get(node.op) if node.varies else None
        if rule is None or not rule(write, node):
            write.keep(node)
    nodes = _living(write.nodes, graph.output)
    constants = {name: value for name, value in write.constants.items() if name in nodes}
    return replace(graph, nodes=tuple(nodes.values()), constants=constants)


def _living(nodes: dict[str, Node], output: str) -> dict[str, Node]:
    """Without constants that nothing needs any more: masks that were read, indices of a maximum."""
    needed = {output}
    for node in reversed(nodes.values()):
        if node.name in needed or node.op == "input":
            needed.update({node.name, *node.sources})
    return {name: node for name, node in nodes.items() if name in needed}


# ---- arithmetic ----------------------------------------------------------------------------------------------------------


def _mul(write: Writer, node: Node) -> bool:
    first, second = node.arguments["input"], node.arguments["other"]
    if not (write.varies(first) and write.varies(second)):
        return False
    write.product(node.name, first, second, node.shape)  # type: ignore[arg-type]
    return True


def _div(write: Writer, node: Node) -> bool:
    above, below = node.arguments["input"], node.arguments["other"]
    if not write.varies(below) or node.arguments.get("rounding_mode") is not None:
        return False
    inverse = write(f"{node.name}.reciprocal", "reciprocal.default", write.shape(below), input=below)
    if write.varies(above):
        write.product(node.name, above, inverse, node.shape)  # type: ignore[arg-type]
    else:
        write(
            node.name, f"mul.{'Tensor' if isinstance(above, Ref) else 'Scalar'}", node.shape, input=inverse, other=above
        )
    return True


def _pow(write: Writer, node: Node) -> bool:
    """A varying value to the power of a number: those that have a row."""
    base, exponent = node.arguments["input"], node.arguments["exponent"]
    if not write.varies(base) or not isinstance(exponent, (int, float)):
        return False
    op = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(exponent)
    if op is None:
        raise NotCertified(f"operation pow with exponent {exponent:g}")
    write(node.name, f"{op}.default", node.shape, input=base)
    return True


def _maximum(write: Writer, node: Node) -> bool:
    """``max(x, y) = y + relu(x - y)``, ``min(x, y) = x - relu(x - y)``."""
    first, second, name = node.arguments["input"], node.arguments["other"], node.name
    apart = write(f"{name}.difference", "sub.Tensor", node.shape, input=first, other=second, alpha=1)
    above = write(f"{name}.relu", "relu.default", node.shape, input=apart)
    if node.op != "minimum":
        write(name, "add.Tensor", node.shape, input=second, other=above, alpha=1)
    else:
        write(name, "sub.Tensor", node.shape, input=first, other=above, alpha=1)
    return True


def _glu(write: Writer, node: Node) -> bool:
    """The first half times the sigmoid of the second."""
    source: Any = node.arguments["input"]
    axis, name = axis_of(node, node.arguments["dim"], len(node.shape)), node.name
    count = node.shape[axis]
    half = lambda part, start: write(
        f"{name}.{part}", "slice.Tensor", node.shape, input=source, dim=axis + 1, start=start, end=start + count, step=1
    )
    gate = write(f"{name}.gate", "sigmoid.default", node.shape, input=half("gated", count))
    write.product(name, half("value", 0), gate, node.shape)
    return True


def _amax(write: Writer, node: Node) -> bool:
    """A largest value along axes is a max pooling with one window: the axes last, and flat."""
    a: Any = node.arguments
    if "other" in a:
        return _maximum(write, node)
    if "dim" not in a:
        raise NotCertified(f"operation {node.op} mixes examples")
    source = write.shape(a["input"])
    given = a["dim"] if isinstance(a["dim"], tuple) else (a["dim"],)
    if not given:
        raise NotCertified(f"operation {node.op} mixes examples")
    along = sorted(axis_of(node, d, len(source)) for d in given)
    kept = [axis for axis in range(len(source)) if axis not in along]
    order, length = (*kept, *along), prod(source[axis] for axis in along)
    dims = (0, *(axis + 1 for axis in order))
    moved = write(f"{node.name}.last", "permute.default", tuple(source[i] for i in order), input=a["input"], dims=dims)
    flat = write.shaped(f"{node.name}.flat", moved, (prod(source) // length, length))
    pooled = write(
        f"{node.name}.pooled", "max_pool1d.default", (prod(source) // length, 1), input=flat, kernel_size=(length,),
        stride=(length,), padding=(0,), dilation=(1,), ceil_mode=False,
    )  # fmt: skip
    write(node.name, "reshape", node.shape, input=pooled)
    return True


def _max_pool(write: Writer, node: Node) -> bool:
    """Pooling that returns places too, of which nothing reads them."""
    write(node.name, "max_pool2d.default", node.shape, **node.arguments)  # type: ignore[arg-type]
    return True


# ---- normalisation -------------------------------------------------------------------------------------------------------


def _layer_norm(write: Writer, node: Node) -> bool:
    a: Any = node.arguments
    kept = node.shape[: len(node.shape) - len(a["normalized_shape"])]
    flat = (*kept, prod(node.shape[len(kept) :]))
    plain = standardised(write, node.name, a["input"], flat, float(a["eps"]))
    scaled(write, node.name, write.shaped(f"{node.name}.whole", plain, node.shape), a["weight"], a["bias"], node.shape)
    return True


def _group_norm(write: Writer, node: Node) -> bool:
    a: Any = node.arguments
    groups = {"group_norm": a.get("num_groups"), "native_group_norm": a.get("group")}.get(node.op, node.shape[0])
    if node.op == "instance_norm" and not a["use_input_stats"]:
        raise NotCertified("operation instance_norm with running statistics")
    plain = standardised(write, node.name, a["input"], (groups, prod(node.shape) // groups), float(a["eps"]))
    column = lambda key: _column(write, f"{node.name}.{key}", a[key], (node.shape[0], *[1] * (len(node.shape) - 1)))
    whole = write.shaped(f"{node.name}.whole", plain, node.shape)
    scaled(write, node.name, whole, column("weight"), column("bias"), node.shape)
    return True


def _column(write: Writer, name: str, value: Ref | None, shape: Shape) -> Ref | None:
    return None if value is None else write.shaped(name, value, shape)


def standardised(write: Writer, name: str, value: Ref, shape: Shape, eps: float) -> Ref:
    """``(x - mean) / sqrt(variance + eps)`` along the last axis of ``shape``, into which the value is regrouped.

    Of n numbers none is further than ``sqrt(n - 1)`` deviations from their mean (Samuelson 1968), so a limit there, rounded outwards,
    changes no value: it keeps intervals from growing where those of mean and variance forget one another.
    """
    if eps <= 0:
        raise NotCertified(f"normalisation with eps={eps:g}: it has no bound where all entries are equal")
    flat, one = write.shaped(f"{name}.flat", value, shape), (*shape[:-1], 1)
    limit = sqrt(max(shape[-1] - 1, 0)) * (1 + 2.0**-40)
    along: dict[str, object] = dict(dim=(len(shape),), keepdim=True, dtype=None)
    mean = write(f"{name}.mean", "mean.dim", one, input=flat, **along)
    centred = write(f"{name}.centred", "sub.Tensor", shape, input=flat, other=mean, alpha=1)
    squares = write(f"{name}.squares", "square.default", shape, input=centred)
    variance = write(f"{name}.variance", "mean.dim", one, input=squares, **along)
    above = write(f"{name}.above", "add.Scalar", one, input=variance, other=eps, alpha=1)
    inverse = write(f"{name}.inverse", "rsqrt.default", one, input=above)
    plain = write.product(f"{name}.standardised", centred, inverse, shape)
    return write(f"{name}.limited", "hardtanh.default", shape, input=plain, min_val=-limit, max_val=limit)


def scaled(write: Writer, name: str, value: Ref, weight: Ref | None, bias: Ref | None, shape: Shape) -> None:
    """``weight x + bias`` as the node of this name."""
    if weight is not None:
        value = write(f"{name}.scaled" if bias is not None else name, "mul.Tensor", shape, input=value, other=weight)
    if bias is not None:
        write(name, "add.Tensor", shape, input=value, other=bias, alpha=1)
    elif weight is None:
        write(name, "reshape", shape, input=value)


RULES: dict[str, Callable[[Writer, Node], bool]] = {
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "maximum": _maximum,
    "minimum": _maximum,
    "glu": _glu,
    "amax": _amax,
    "max": _amax,
    "max_pool2d_with_indices": _max_pool,
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "group_norm": _group_norm,
    "instance_norm": _group_norm,
    **attention.RULES,
}
