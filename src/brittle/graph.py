"""The module as a flat list of operations, taken once with ``torch.export``: what certificates and checkers walk.

A :class:`Graph` is plain data. Anyone can evaluate it with a loop over ``nodes`` and one function per ``op``; nothing in it
refers to the module, to torch.export or to the examples it was traced with.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from brittle.errors import NotCertified
from brittle.problem import Problem


@dataclass(frozen=True)
class Ref:
    """In ``Node.arguments``: the value of the node of this name."""

    name: str


@dataclass(frozen=True)
class Batch:
    """In ``Node.arguments``: the integer ``factor * number of examples``."""

    factor: int = 1


@dataclass(frozen=True)
class Node:
    """One operation.

    name       unique in the graph, stable for one module: the op, numbered from its second occurrence (``relu``, ``relu_1``)
    op         ``"input"``, ``"constant"``, or the ATen name without namespace and overload: ``linear``, ``conv2d``, ``relu``, ``add`` ...
               Three groups are made uniform: everything that only regroups the features of an example is ``reshape`` (row-major, to
               ``shape``); pieces of ``split`` and ``chunk`` are ``slice``; pieces of ``unbind`` are ``select``. Copies, casts
               to float64, dropout in evaluation mode and nodes that nothing uses are gone. Operations made of others are written in
               these (``brittle.composites``); ``product`` multiplies the two entries of the first axis of its input, (2, *shape).
    arguments  by the names of the ATen schema (its ``self`` is ``"input"``), defaults filled in: a :class:`Ref`, a :class:`Batch`, a
               number, a bool, None, a string, a dtype, or a tuple of these
    shape      varies: of one example, without the batch axis; constant: of the whole value
    varies     the value carries the examples on axis 0: it depends on an input, or is made for every example (``zeros(batch, 8)``)
    target     the ATen overload, ``"aten.add.Tensor"``, for those who want to call it
    """

    name: str
    op: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    varies: bool = True
    target: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the nodes whose values this one reads, in the order of its arguments."""
        return tuple(references(self.arguments.values()))


@dataclass(frozen=True, eq=False)
class Graph:
    """A module as operations, in an order in which every node comes after its sources.

    nodes       every node, inputs and constants first
    inputs      leaf of the problem (``"x"``, ``"x.NAME"``) -> name of its node (op ``"input"``)
    parameters  parameter of the module, by its own name -> name of its node (op ``"constant"``); tied parameters share one node
    constants   name of a node of op ``"constant"`` (parameters, buffers, literal tensors) -> its value; floating ones in float64
    output      name of the node that holds the logits, (N, classes)
    batch       the only number of examples for which this graph is valid, or None: any
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, str]
    parameters: Mapping[str, str]
    constants: Mapping[str, Tensor]
    output: str
    batch: int | None = None

    @property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}


def graph_of(problem: Problem) -> Graph:
    """The graph of the exact float64 copy of the problem's module; taken once per module.

    Export is tried with a free batch axis, non-strict and then strict, and at last for the present number of examples alone.
    It runs on copies: a forward that counts its calls or stores tensors in hooks does not disturb the module.

    Raises :class:`NotCertified` (``cannot export: ...``) where every way fails.

    >>> import torch
    >>> problem = Problem(torch.nn.Linear(2, 3), torch.zeros(1, 2), torch.tensor([0]))
    >>> [(node.name, node.op) for node in graph_of(problem).nodes]
    [('weight', 'constant'), ('bias', 'constant'), ('x', 'input'), ('linear', 'linear')]
    """
    from brittle.exporting import export

    network = problem.network
    for key in (("graph", None), ("graph", len(problem))):
        known = network.cache.get(key)
        if isinstance(known, Graph):
            return known
    if isinstance(known, NotCertified):
        raise known
    values = {leaf: v.double() if v.is_floating_point() else v for leaf, v in problem.inputs.items()}
    keywords = None if isinstance(problem.x, Tensor) else tuple(problem.x)
    try:
        graph = export(network, values, keywords)
    except NotCertified as reason:
        network.cache["graph", len(problem)] = reason
        raise
    network.cache["graph", graph.batch] = graph
    return graph


def references(values: Iterable[object]) -> Iterator[str]:
    """The names of the nodes that some arguments refer to, in order, with repetitions."""
    for value in values:
        if isinstance(value, Ref):
            yield value.name
        elif isinstance(value, tuple):
            yield from references(value)
