"""The units of a network that a tree may split, as one long axis: inputs of every ``relu`` and ``leaky_relu``, in graph order."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from brittle import ops
from brittle.backward import source_of
from brittle.errors import NotCertified
from brittle.graph import Graph, Node
from brittle.intervals import State

SPLIT = ("relu", "leaky_relu")


@dataclass(frozen=True)
class Units:
    """Nodes ``max(z, steep z)`` with ``steep <= 1``, and where the units of each begin on the common axis."""

    nodes: tuple[Node, ...]
    starts: tuple[int, ...]
    total: int

    def part(self, values: Tensor, node: Node) -> Tensor:
        """The units of one node, (M, total) -> (M, *shape)."""
        start = self.starts[self.nodes.index(node)]
        return values[:, start : start + prod(node.shape)].reshape(len(values), *node.shape)

    def inputs(self, state: State) -> tuple[Tensor, Tensor]:
        """The intervals of all units, (N, total) each."""
        side = lambda values: torch.cat([values[source_of(node)].flatten(1) for node in self.nodes], 1)
        return side(state.low), side(state.high)

    def steep(self) -> Tensor:
        """The slope left of the kink, (total,)."""
        return torch.cat([torch.full((prod(node.shape),), steepness(node), dtype=torch.float64) for node in self.nodes])


def units_of(graph: Graph) -> Units:
    """Every unit that a split makes linear on either side.

    Raises :class:`NotCertified` where there is none, or where another nonlinear operation stands beside them.
    """
    nodes = tuple(node for node in graph.nodes if ops.is_nonlinear(node))
    for node in nodes:
        if node.op not in SPLIT or steepness(node) > 1:
            raise NotCertified(f"operation {node.op} is not split by branch and bound: use crown")
    if not nodes:
        raise NotCertified("nothing to split: crown is exact on affine networks")
    sizes = [prod(node.shape) for node in nodes]
    return Units(nodes, tuple(sum(sizes[:i]) for i in range(len(sizes))), sum(sizes))


def steepness(node: Node) -> float:
    return 0.0 if node.op == "relu" else float(node.arguments["negative_slope"])  # type: ignore[arg-type]
