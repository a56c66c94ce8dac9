"""Operations that are made of others, written in the rows that certificates know: products, powers, softmax.

``expressed`` rewrites a graph once, when it is taken. Every rewriting is an identity of real functions, so what is certified does not change; what
changes is that each part has a row with planes of its own, bounds on its input, and a place in the proof. The last node of a
rewriting keeps the name of the operation, the others are called ``NAME.part``.

- ``x y`` of two varying values: both stacked along a new first axis, and the row ``product``; ``x x`` is a square.
- ``x / y``: ``x`` times the reciprocal of y, on y > 0.
- ``softmax_i = 1 / (1 + sum_{j != i} e^(x_j - x_i))``: what cancels is gone before any interval is taken, so interval
  propagation is exact over a box (each entry is monotone in every difference), and the value lies in (0, 1] by itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from brittle.errors import NotCertified
from brittle.graph import Batch, Graph, Node, Ref

Shape = tuple[int, ...]


def expressed(graph: Graph) -> Graph:
    """The same function, without the operations that are made of others.

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
    return replace(graph, nodes=tuple(write.nodes.values()), constants=write.constants)


@dataclass
class Writer:
    """A graph under construction."""

    constants: dict[str, Tensor]
    nodes: dict[str, Node] = field(default_factory=dict)

    def keep(self, node: Node) -> None:
        self.nodes[node.name] = node

    def __call__(self, name: str, target: str, shape: Shape, **arguments: object) -> Ref:
        """One more node; ``target`` is ``op.overload``."""
        op = target.split(".")[0]
        overload = f"aten.{target}" if "." in target else ""
        self.keep(Node(name, op, arguments, tuple(shape), True, overload))
        return Ref(name)

    def constant(self, name: str, value: Tensor) -> Ref:
        self.constants[name] = value
        self.keep(Node(name, "constant", {}, tuple(value.shape), False))
        return Ref(name)

    def shape(self, value: object) -> Shape:
        return self.nodes[value.name].shape if isinstance(value, Ref) else ()

    def varies(self, value: object) -> bool:
        return isinstance(value, Ref) and self.nodes[value.name].varies

    def widened(self, name: str, value: Ref, shape: Shape) -> Ref:
        """A varying value broadcast to a shape of the same rank."""
        if self.shape(value) == shape:
            return value
        if len(self.shape(value)) != len(shape):
            raise NotCertified(f"operation {name.split('.')[0]} mixes examples")
        return self(name, "expand.default", shape, input=value, size=(Batch(1), *shape), implicit=False)

    def product(self, name: str, first: Ref, second: Ref, shape: Shape) -> Ref:
        """The product of two varying values, entry by entry."""
        if first == second:
            return self(name, "square.default", shape, input=first)
        one, other = (self.widened(f"{name}.{k}", v, shape) for k, v in (("first", first), ("second", second)))
        both = self(f"{name}.both", "stack.default", (2, *shape), tensors=(one, other), dim=1)
        return self(name, "product", shape, input=both)


def _axis(node: Node, dim: Any, rank: int) -> int:
    """An axis of a value with its examples, without them."""
    if not isinstance(dim, int) or dim % (rank + 1) == 0:
        raise NotCertified(f"operation {node.op} mixes examples")
    return dim % (rank + 1) - 1


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


# ---- softmax -------------------------------------------------------------------------------------------------------------


def _softmax(write: Writer, node: Node) -> bool:
    _check_dtype(node)
    axis = _axis(node, node.arguments["dim"], len(node.shape))
    total = exponentials(write, node.name, node.arguments["input"], node.shape, axis)  # type: ignore[arg-type]
    write(node.name, "reciprocal.default", node.shape, input=total)
    return True


def _log_softmax(write: Writer, node: Node) -> bool:
    """``-log(1 + sum_{j != i} e^(x_j - x_i))``."""
    _check_dtype(node)
    axis = _axis(node, node.arguments["dim"], len(node.shape))
    total = exponentials(write, node.name, node.arguments["input"], node.shape, axis)  # type: ignore[arg-type]
    logarithm = write(f"{node.name}.log", "log.default", node.shape, input=total)
    write(node.name, "neg.default", node.shape, input=logarithm)
    return True


def _check_dtype(node: Node) -> None:
    if node.arguments.get("dtype") not in (None, torch.float64) or node.arguments.get("half_to_float"):
        raise NotCertified(f"operation {node.op} in another dtype")


def exponentials(write: Writer, name: str, value: Ref, shape: Shape, axis: int) -> Ref:
    """``1 + sum_{j != i} e^(x_j - x_i)`` along an axis, of the shape of x."""
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
    others = write(f"{name}.sum", "sum.dim_IntList", shape, input=powers, dim=(axis + 2,), keepdim=False, dtype=None)
    return write(f"{name}.total", "add.Scalar", shape, input=others, other=1.0, alpha=1)


RULES: dict[str, Callable[[Writer, Node], bool]] = {
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "softmax": _softmax,
    "_softmax": _softmax,
    "log_softmax": _log_softmax,
    "_log_softmax": _log_softmax,
}
