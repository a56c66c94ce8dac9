"""A piecewise-linear network around a point: its rows there, their slopes, and every wall at which a slope changes."""

from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import inf, prod

import numpy as np
import torch
from torch import Tensor

from brittle import meter, norms, ops
from brittle.errors import NotCertified
from brittle.graph import Graph, Node, graph_of
from brittle.planes import windows
from brittle.problem import Problem

WALLS = 2**17  # walls of one example that are held at once, with their slopes: 1 MB each in float64


@dataclass(frozen=True, eq=False)
class Regions:
    """A network whose pieces are linear, as a function of one input leaf.

    For every wall (a kink of an activation, a rival pixel of a maximum) there is a quantity ``q`` that is zero on it. The pieces on its
    two sides differ by ``gain * max(0, s)``, with ``s = q`` seen from where q <= 0 and ``s = -q`` from where it is positive.

    walls  how many there are, at most
    first  activations that see nothing bent: the gradients of their walls are the same everywhere and for every example
    known  those gradients (D,), as they were asked for
    """

    graph: Graph
    leaf: str
    walls: int
    first: frozenset[str]
    known: dict[int, Tensor] = field(default_factory=dict)


def regions_of(problem: Problem) -> Regions:
    """The linear pieces of the network. Raises :class:`NotCertified` where there are none, or where a parameter moves.

    >>> from brittle import Ball
    >>> problem = Problem(torch.nn.ReLU(), torch.ones(1, 3), torch.tensor([0]), Ball(2, 1.0))
    >>> sorted(regions_of(problem).first)
    ['relu']
    """
    if len(problem.leaves) != 1 or problem.leaves[0] not in problem.inputs:
        raise NotCertified("linear regions of anything but one input")
    graph = graph_of(problem)
    ops.check(graph)
    known = graph.by_name
    bends = [node for node in graph.nodes if ops.is_nonlinear(node)]
    curved = sorted({node.op for node in bends} & ops.SMOOTH)
    if curved:
        raise NotCertified(f"linear regions of {', '.join(curved)}")
    walls = sum(_walls_of(node, known[node.sources[0]]) for node in bends)
    if walls > WALLS:
        raise NotCertified(f"{walls} walls between linear regions are more than {WALLS}")
    return Regions(graph, problem.leaves[0], walls, _first(graph))


def _first(graph: Graph) -> frozenset[str]:
    """The activations all of whose ancestors are affine."""
    bent: set[str] = set()
    first = set()
    for node in graph.nodes:
        before = any(name in bent for name in node.sources)
        if ops.is_nonlinear(node) and node.op not in ops.POOLS and not before:
            first.add(node.name)
        if before or ops.is_nonlinear(node):
            bent.add(node.name)
    return frozenset(first)


def _walls_of(node: Node, source: Node) -> int:
    if node.op in ops.POOLS:
        return prod(node.shape) * ops.max_pool(node, source.shape).index.shape[1]
    return 2 * prod(node.shape)  # at most


@dataclass(frozen=True, eq=False)
class View:
    """The network seen from one point of every example; ``quantities`` and ``rows`` can be differentiated by ``point``.

    rows        (N, R)
    row         (N,) the row that is followed
    gradient    (N, D) of that row
    quantities  (N, W)
    gains       (N, W): by how much the slope of the row along ``s`` changes at the wall; positive: the row is convex there
    winners     by pooling node: the pixel that is the maximum of every window
    fixed       (W,) walls whose gradients are the same everywhere
    known       those of them that are known
    """

    point: Tensor
    rows: Tensor
    row: Tensor
    gradient: Tensor
    quantities: Tensor
    gains: Tensor
    winners: dict[str, Tensor]
    fixed: np.ndarray
    known: dict[int, Tensor]

    def side(self) -> Tensor:
        """(N, W): 1 where q <= 0, else -1, so that ``s = side * q <= 0``."""
        return 1.0 - 2.0 * (self.quantities.detach() > 0).double()

    def slopes(self, walls: list[list[int]]) -> list[Tensor]:
        """Gradients (K, D) of the quantities ``walls`` of every example: one backward pass each, those that are fixed once for all."""
        new = dict.fromkeys(j for some in walls for j in some if self.fixed[j] and j not in self.known)
        turns = list(new)
        for k in range(0, len(turns), len(walls)):  # every example finds another one
            few = turns[k : k + len(walls)]
            self.known.update(zip(few, self._backward(few + [-1] * (len(walls) - len(few))), strict=False))
        moving = [[j for j in some if not self.fixed[j]] for some in walls]
        most = max(len(some) for some in moving)
        found = [self._backward([some[k] if k < len(some) else -1 for some in moving]) for k in range(most)]
        empty = norms.flat(self.point.detach())[0, None][:0]
        together = []
        for i, some in enumerate(walls):
            mine = iter(g[i] for g in found)
            rows = [self.known[j] if self.fixed[j] else next(mine) for j in some]
            together.append(torch.stack(rows) if rows else empty)
        return together

    def _backward(self, walls: list[int]) -> Tensor:
        """Gradients (N, D) of one quantity of every example, -1 for none."""
        index = torch.tensor(walls, device=self.point.device)
        value = self.quantities.gather(1, index.clamp_min(0)[:, None])[:, 0]
        (g,) = torch.autograd.grad((value * (index >= 0)).sum(), self.point, retain_graph=True)
        meter.count(backward=int((index >= 0).sum()))
        return norms.flat(g)


def look(problem: Problem, regions: Regions, point: Tensor, row: Tensor) -> View:
    """The view from ``point`` (N, ...) in float64, of the row ``row`` (N,): one forward and one backward pass."""
    point = point.detach().clone().requires_grad_()
    with torch.enable_grad():
        winners: dict[str, Tensor] = {}
        rows, bends, quantities = _evaluate(problem, regions, point, winners)
        chosen = rows.gather(1, row[:, None]).sum()
        outputs = [bend.output for bend in bends]
        pulled = torch.autograd.grad(chosen, [point, *outputs], retain_graph=True, allow_unused=True)
    meter.count(forward=len(problem), backward=len(problem))
    pulled = [torch.zeros_like(of) if g is None else g for of, g in zip([point, *outputs], pulled, strict=True)]
    gains = [norms.flat(g[..., None] * bend.jump) for g, bend in zip(pulled[1:], bends, strict=True)]
    gain = torch.cat([quantities.detach()[:, :0], *gains], 1)
    fixed = [np.full(g.shape[1], bend.name in regions.first) for g, bend in zip(gains, bends, strict=True)]
    same = np.concatenate([np.zeros(0, dtype=bool), *fixed])
    return View(point, rows.detach(), row, norms.flat(pulled[0]), quantities, gain, winners, same, regions.known)


def rows_and_quantities(problem: Problem, regions: Regions, point: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """Rows (N, R) at a point, and the quantities (N, W) of the view there: one forward pass."""
    with torch.no_grad():
        rows, _, quantities = _evaluate(problem, regions, point, dict(view.winners))
    meter.count(forward=len(problem))
    return rows, quantities


@dataclass(frozen=True, eq=False)
class Bend:
    """A nonlinear node: its output (N, ...), and by how much its slope rises at each of its walls (N, ..., walls)."""

    name: str
    output: Tensor
    jump: Tensor


def _evaluate(
    problem: Problem, regions: Regions, point: Tensor, winners: dict[str, Tensor]
) -> tuple[Tensor, list[Bend], Tensor]:
    """Rows (N, R), bends, quantities (N, W); winners that are not given are filled in."""
    graph, known, count = regions.graph, regions.graph.by_name, len(problem)
    values = {name: v.to(point.device) for name, v in graph.constants.items()}
    values |= {name: point if leaf == regions.leaf else problem.inputs[leaf] for leaf, name in graph.inputs.items()}
    bends, quantities = [], []
    for node in graph.nodes:
        if node.name in values:
            continue
        values[node.name] = ops.evaluate(node, values, count)
        if ops.is_nonlinear(node):
            source = values[node.sources[0]]
            bend = partial(_pool, known[node.sources[0]], winners) if node.op in ops.POOLS else _kinks
            quantity, jump = bend(node, source, values)
            bends.append(Bend(node.name, values[node.name], jump))
            quantities.append(norms.flat(quantity))
    rows = problem.spec.rows(values[graph.output], problem.labels)
    return rows, bends, torch.cat([norms.flat(point)[:, :0], *quantities], 1)


def _pool(
    source: Node, winners: dict[str, Tensor], node: Node, value: Tensor, values: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Of every window each pixel against the winner: quantities (N, *outputs, K), and by how much the slope rises: 1, or 0 for the winner."""
    seen = windows(ops.max_pool(node, source.shape), value, -inf)
    seen = seen.reshape(len(value), *node.shape, seen.shape[-1])
    best = winners.setdefault(node.name, seen.detach().argmax(-1, keepdim=True))
    rival = (torch.arange(seen.shape[-1], device=seen.device) != best) & seen.isfinite()
    return torch.where(rival, torch.where(rival, seen, 0.0) - seen.gather(-1, best), -1.0), rival.double()


def _kinks(node: Node, value: Tensor, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The input less every kink of an activation, (N, *units, kinks), and by how much its slope rises there."""
    function = ops.activation(node, values, len(value))
    level = lambda at: function.value(torch.full_like(value.detach(), at))
    kinks = sorted(function.kinks)
    ends = [kinks[0] - 1, *kinks, kinks[-1] + 1]
    slopes = [(level(b) - level(a)) / (b - a) for a, b in pairwise(ends)]
    jumps = [after - before for before, after in pairwise(slopes)]
    return torch.stack([value - k for k in kinks], -1), torch.stack(jumps, -1)
