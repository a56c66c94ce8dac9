"""A graph under construction: nodes made of rows that certificates know, with shapes told by the caller."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from brittle import ops
from brittle.errors import NotCertified
from brittle.graph import Batch, Node, Ref

Shape = tuple[int, ...]


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
        """One more constant."""
        self.constants[name] = value
        self.keep(Node(name, "constant", {}, tuple(value.shape), False))
        return Ref(name)

    def known(self, value: Ref) -> Tensor:
        """The value of something that does not vary: a mask, computed or stored."""
        if value.name not in self.constants:
            node = self.nodes[value.name]
            values = {name: self.known(Ref(name)) for name in node.sources}
            return ops.evaluate(node, values, 1)
        return self.constants[value.name]

    def shaped(self, name: str, value: Ref, shape: Shape) -> Ref:
        """The same entries in another shape; of a constant too."""
        if self.shape(value) != tuple(shape):
            self.keep(Node(name, "reshape", {"input": value}, tuple(shape), self.varies(value)))
            return Ref(name)
        return value

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


def axis_of(node: Node, dim: Any, rank: int) -> int:
    """An axis of a value with its examples, without them."""
    if not isinstance(dim, int) or dim % (rank + 1) == 0:
        raise NotCertified(f"operation {node.op} mixes examples")
    return dim % (rank + 1) - 1
