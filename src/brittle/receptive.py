"""The receptive field of one unit as a small network of its own: what a row on one position of a convolution is pulled back through.

A unit of a convolution reads a window of its source, that window reads a window of the source before, and so on. Cut out for many
units of many examples at once, the windows form a graph of the same operations on small images, without padding, in which every pair of an
example and a position is an example. What pulls rows back through the whole network does so through this one unchanged:
``coefficients``, offsets and slack are those of the whole, less the zeros.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from brittle import ops
from brittle.graph import Graph, Node, Ref
from brittle.intervals import State, magnitude, moved
from brittle.planes import Planes

ALIKE = ("batch_norm", "add", "sub", "neg")  # affine operations that read, at a position, that position alone
CONVOLUTIONS = ("conv1d", "conv2d")


@dataclass(frozen=True)
class Window:
    """Along every axis of the image: the unit at position i reads ``size`` entries from ``start + step i`` on."""

    step: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    def leaves(self, space: tuple[int, ...], positions: tuple[int, ...]) -> bool:
        """Whether some position reads beyond the image."""
        axes = zip(self.step, self.start, self.size, space, positions, strict=True)
        return any(start < 0 or start + step * (p - 1) + size > extent for step, start, size, extent, p in axes)

    def joined(self, other: "Window") -> "Window":
        """The smallest window around two of equal steps."""
        start = tuple(map(min, self.start, other.start))
        stops = (max(a + n, b + m) for a, n, b, m in zip(self.start, self.size, other.start, other.size, strict=True))
        return Window(self.step, start, tuple(stop - s for stop, s in zip(stops, start, strict=True)))


@dataclass(frozen=True, eq=False)
class Field:
    """The windows of the nodes that a node reads, and the graph on them; the same for every position."""

    node: Node
    windows: Mapping[str, Window]
    whole: Mapping[str, str]  # nodes that cut out a part of a window -> the node that has it
    graph: Graph
    known: Mapping[str, Node]
    spaces: Mapping[str, tuple[int, ...]]

    @property
    def entries(self) -> int:
        """Numbers in the largest window."""
        return max(prod(self.known[name].shape) for name in self.windows)


def field_of(state: State, name: str) -> Field | None:
    """The receptive field of one unit of a node; None where it is no smaller than half the network, or an operation has no windows."""
    known, last = state.graph.by_name, state.graph.by_name[name]
    positions = last.shape[1:]
    one = (1,) * len(positions)
    windows = {name: Window(one, (0,) * len(positions), one)}
    reads: dict[tuple[str, str], Window] = {}
    for node in reversed(state.graph.nodes):
        if node.name not in windows or node.op == "input":
            continue
        for source in dict.fromkeys(node.sources):
            if not known[source].varies:
                continue
            seen = _read(node, known[source], known, windows[node.name])
            if seen is None or windows.get(source, seen).step != seen.step:
                return None
            padded = seen.leaves(known[source].shape[1:], positions)
            if padded and node.op in CONVOLUTIONS and known[source].op in ops.AFFINE:
                return None  # padding would be taken for the affine function's value there
            reads[node.name, source] = seen
            windows[source] = windows.get(source, seen).joined(seen)
    small = sum(known[n].shape[0] * prod(window.size) for n, window in windows.items())
    if not positions or 2 * small > sum(prod(known[n].shape) for n in windows):
        return None
    parts = {part(source, n): (source, seen) for (n, source), seen in reads.items() if seen != windows[source]}
    graph = _cut(state.graph, windows, reads)
    windows |= {name: seen for name, (_, seen) in parts.items()}
    return Field(
        last,
        windows,
        {n: s for n, (s, _) in parts.items()},
        graph,
        {**known, **graph.by_name},
        {n: known[n].shape[1:] for n in windows if n in known},
    )


def part(source: str, reader: str) -> str:
    """The name of the node that cuts out what one reader sees of a source of which another sees more."""
    return f"{source} for {reader}"


def _read(node: Node, source: Node, known: Mapping[str, Node], seen: Window) -> Window | None:
    """What the window of a node reads of one source."""
    if len(source.shape) != len(seen.step) + 1:
        return None
    if node.op in CONVOLUTIONS and not isinstance(node.arguments["padding"], str):
        kernel = known[node.arguments["weight"].name].shape[2:]  # type: ignore[union-attr]
        stride, padding, dilation = (
            ops.as_tuple(node.arguments[o], len(kernel)) for o in ("stride", "padding", "dilation")
        )
        axes = list(zip(seen.step, seen.start, seen.size, stride, padding, dilation, kernel, strict=True))
        return Window(
            tuple(step * s for step, _, _, s, _, _, _ in axes),
            tuple(start * s - p for _, start, _, s, p, _, _ in axes),
            tuple((n - 1) * s + d * (k - 1) + 1 for _, _, n, s, _, d, k in axes),
        )
    pointwise = node.op in ops.ACTIVATIONS and ops.is_nonlinear(node)
    tensors = [name for name in node.sources if not known[name].varies]
    alike = node.op == "batch_norm" or (node.op in ALIKE and not tensors and source.shape == node.shape)
    return seen if pointwise or alike else None


def _cut(graph: Graph, windows: Mapping[str, Window], reads: Mapping[tuple[str, str], Window]) -> Graph:
    """The graph on the windows. Where another reader needs more of a source, a node of its own cuts out what one reads."""
    nodes = []
    for node in graph.nodes:
        if node.name not in windows:
            continue
        arguments = dict(node.arguments)
        for source in (s for s in dict.fromkeys(node.sources) if (node.name, s) in reads):
            wide, seen = windows[source], reads[node.name, source]
            if wide == seen:
                continue
            before = [b - a for a, b in zip(wide.start, seen.start, strict=True)]
            after = [w - n - b for w, n, b in zip(wide.size, seen.size, before, strict=True)]
            pads = tuple(-cut for pair in reversed(list(zip(before, after, strict=True))) for cut in pair)
            piece = part(source, node.name)
            shape = (graph.by_name[source].shape[0], *seen.size)
            cut = {"input": Ref(source), "pad": pads, "value": 0.0}
            nodes.append(Node(piece, "constant_pad_nd", cut, shape, target="aten.constant_pad_nd.default"))
            arguments = {k: Ref(piece) if v == Ref(source) else v for k, v in arguments.items()}
        if node.op in CONVOLUTIONS:
            arguments["padding"] = (0,) * len(windows[node.name].size)
        nodes.append(replace(node, arguments=arguments, shape=(node.shape[0], *windows[node.name].size)))
    return replace(graph, nodes=tuple(nodes))


@dataclass(frozen=True, eq=False)
class Places:
    """Pairs of an example and a position: (M,) and one (M,) per axis."""

    field: Field
    examples: Tensor
    positions: tuple[Tensor, ...]

    def gather(self, name: str, value: Tensor) -> Tensor:
        """What the pairs see of the value (N or 1, channels, *space) of a node, 0 beyond the image: (M, channels, *size)."""
        window, count = self.field.windows[name], self.field.node.shape[1:]
        pads, begins = [], []
        for step, start, size, extent, p in zip(
            window.step, window.start, window.size, value.shape[2:], count, strict=True
        ):
            before, begin = max(0, -start), max(0, start)
            stop = begin + step * (p - 1) + size
            pads, begins = [before, max(0, stop - before - extent), *pads], [*begins, (begin, stop)]
        seen = functional.pad(value, pads) if any(pads) else value
        for axis, (begin, stop) in enumerate(begins):
            seen = seen[(slice(None),) * (axis + 2) + (slice(begin, stop),)]
            seen = seen.unfold(axis + 2, window.size[axis], window.step[axis])
        axes = len(begins)
        seen = seen.permute(0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
        examples = self.examples if len(value) > 1 else torch.zeros_like(self.examples)
        return seen[(examples, *self.positions)]

    def inside(self, name: str) -> Tensor | None:
        """(M, 1, *size): 1 where the window of a pair lies in the image, 0 beyond; None where all do."""
        window, space = self.field.windows[name], self.field.spaces[name]
        if not window.leaves(space, self.field.node.shape[1:]):
            return None
        return self.gather(name, torch.ones(1, 1, *space, dtype=torch.float64, device=self.examples.device))

    def take(self, value: Tensor) -> Tensor:
        """Numbers per example, (N, ...) or one for all, per pair."""
        return value[self.examples] if len(value) > 1 else value


class Gathered(dict[str, Tensor]):
    """Values of nodes, gathered when they are first read: most intervals of a window are never looked at."""

    def __init__(self, gather: Callable[[str], Tensor]) -> None:
        super().__init__()
        self.gather = gather

    def __missing__(self, name: str) -> Tensor:
        self[name] = self.gather(name)
        return self[name]


def restricted(state: State, places: Places, relaxed: Mapping[str, Planes]) -> tuple[State, dict[str, Planes]]:
    """The state of the windows and the planes of their nonlinear nodes, every pair an example. Nodes must have been visited."""
    field = places.field
    nodes = [state.known[name] for name in field.windows if name not in field.whole]
    side = lambda values: Gathered(lambda name: places.gather(name, values[field.whole.get(name, name)]))
    affine = [n for n in nodes if n.op in ops.AFFINE]
    reaches = {n.name: reach for n in affine if (reach := moved(state, n)) is not None}
    wobble = {
        n: replace(r, pattern=places.take(r.pattern), scale=places.take(r.scale)) for n, r in state.wobble.items()
    }
    small = State(
        field.graph, len(places.examples), state.constants, wobble, side(state.low), side(state.high), dict(field.known)
    )
    small.magnitudes |= {n.name: places.gather(n.name, magnitude(state, n)) for n in affine if state.terms(n)}
    small.reaches |= {n: (places.gather(n, down), places.gather(n, up)) for n, (down, up) in reaches.items()}
    sides = ("lower_slope", "lower", "upper_slope", "upper")
    cut = lambda name: Planes(*(places.gather(name, getattr(relaxed[name], s)) for s in sides))
    return small, {n.name: cut(n.name) for n in nodes if ops.is_nonlinear(n)}
