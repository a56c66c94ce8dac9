"""Slopes below bent units, chosen by ascent: a row of its own for every bound. A search in float32, in which nothing is proved."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from time import perf_counter

import torch
from torch import Tensor

from brittle import backward, meter, norms, ops
from brittle.bounds._extremes import extreme
from brittle.bounds._units import SPLIT, steepness
from brittle.graph import Node
from brittle.intervals import State
from brittle.planes import Planes, windows
from brittle.problem import Problem
from brittle.relaxation import read_by_pull_back
from brittle.transposes import transpose

LEVELS = 255  # slopes are stored as whole numbers of 1 / 255
RATE, DECAY = (
    0.3,
    0.05,
)  # step of the ascent at its beginning, and at its end relative to that: measured on two networks
PIECE = 2**22  # entries of the slopes of a block of rows


Rooms = Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]


def free_nodes(state: State) -> list[Node]:
    """The nodes whose lower slopes may be anything between those of their two pieces, in graph order."""
    return [node for node in state.graph.nodes if is_free(node)]


def is_free(node: Node) -> bool:
    """``max(z, steep z)`` with ``steep <= 1``."""
    return node.varies and node.op in SPLIT and steepness(node) <= 1


def starts(nodes: list[Node]) -> dict[str, tuple[int, int]]:
    """Where the units of each free node lie on one long axis."""
    ends, total = {}, 0
    for node in nodes:
        ends[node.name] = total, total + prod(node.shape)
        total += prod(node.shape)
    return ends


@dataclass(frozen=True, eq=False)
class Sketch:
    """The relaxation of one node's rows in float32: what the ascent looks at.

    planes  of every nonlinear node that the rows meet; for free ones its lower slope is not read
    spans   by free node that the rows meet, where its units lie on the axis of the slopes
    bends   (N, U) the units whose slope is free; start (N, U) where the ascent begins
    """

    problem: Problem
    state: State
    name: str
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    planes: Mapping[str, Planes]
    spans: Mapping[str, tuple[int, int]]
    bends: Tensor
    least: Tensor
    start: Tensor
    rooms: Rooms


def sketch(problem: Problem, state: State, name: str, relaxed: Mapping[str, Planes]) -> Sketch | None:
    """What pulling back rows of one node looks like; None where no unit is left whose slope is free."""
    read = read_by_pull_back(state.graph, name, frozenset())
    nodes = tuple(node for node in state.graph.nodes if node.varies and node.name in read)
    free = [node for node in free_nodes(state) if node.name in relaxed]
    if not any(node.name in read for node in free):
        return None
    flat = lambda values: torch.cat([v.flatten(1) for v in values], 1)
    bends = flat([backward.bent(state, node) & torch.tensor(node.name in read) for node in free])
    if not bool(bends.any()):
        return None
    low = [torch.full((1, prod(node.shape)), steepness(node), device=problem.device) for node in free]
    small = lambda v: v.float() if v.is_floating_point() else v
    thin = {
        node.name: Planes(*(getattr(relaxed[node.name], side).float() for side in Planes.__dataclass_fields__))
        for node in nodes
        if ops.is_nonlinear(node)
    }
    return Sketch(
        problem,
        state,
        name,
        nodes,
        {key: small(value) for key, value in state.constants.items()},
        thin,
        {key: span for key, span in starts(free).items() if key in read},
        bends,
        flat(low),
        flat([relaxed[node.name].lower_slope for node in free]).float(),
        rooms(problem, state),
    )


def rooms(problem: Problem, state: State) -> Rooms:
    """By input node: (centre, radius, down, up) in float32."""
    return {name: _room(problem, leaf) for leaf, name in state.graph.inputs.items()}


def _room(problem: Problem, leaf: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(centre, radius, down, up) of a leaf in float32; radius 0 where it does not move."""
    centre = problem.inputs[leaf].detach()
    centre = centre.float() if centre.is_floating_point() else centre
    if leaf not in problem.region:
        return centre, torch.zeros(0, device=centre.device), centre, centre
    ball = problem.region[leaf]
    low, high = ball.exact_range(problem.inputs[leaf].detach().double())
    down, up = ((side.expand_as(centre)).flatten(1).float() for side in (centre - low, high - centre))
    return centre, norms.proof_radius(ball.p, problem.radius(leaf)).to(centre.device).float(), down, up


def climb(seen: Sketch, rows: Tensor, steps: int, ends: float) -> Tensor:
    """Slopes (R, N, U) as whole numbers, uint8, for rows (R, N or 1, *shape): block by block, each by :func:`_ascend`."""
    count, total = seen.state.count, seen.start.shape[1]
    widest = max(total, *(prod(node.shape) for node in seen.nodes))
    size = max(1, PIECE // (count * widest))
    blocks = [_ascend(seen, part.float(), steps, ends) for part in rows.split(size)]
    return torch.cat([(block * LEVELS).round().to(torch.uint8) for block in blocks])


def _ascend(seen: Sketch, rows: Tensor, steps: int, ends: float) -> Tensor:
    """Adam within the slopes' ranges; the best of each row is kept."""
    slope = seen.start.expand(len(rows), *seen.start.shape).clone()
    first, second = torch.zeros_like(slope), torch.zeros_like(slope)
    best, most = slope.clone(), slope.new_full(slope.shape[:2], -torch.inf)
    taken = 0
    for step in range(1, steps + 1):
        value, gradient = bound(seen, rows, slope)
        taken += 1
        better = value > most
        most = torch.where(better, value, most)
        best[better] = slope[better]
        if step == steps or perf_counter() > ends:
            break
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square_(), 0.01)
        move = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt_() + 1e-12)
        slope = torch.maximum(slope.add_(move, alpha=RATE * DECAY ** ((step - 1) / steps)).clamp_(max=1), seen.least)
    meter.count(forward=taken * most.numel(), backward=taken * most.numel())
    return best


def bound(seen: Sketch, rows: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """(values (R, N), gradient (R, N, U)) of the bounds by these slopes, rounded anyhow.

    The rows are pulled back to the inputs and minimised there at x*; then x* goes forward through the planes that the rows chose. The row of what
    arrives is the bound, and with a unit's plane ``a z`` below, coefficient c > 0 on its output, its derivative by a is ``c z``:
    planes not chosen and x* itself stand still, by the envelope theorem.
    """
    rows = rows.expand(len(rows), seen.state.count, *rows.shape[2:])
    arrived, inputs = _back(seen, rows, slope)
    per, gradient = rows.shape[:2], torch.zeros_like(slope)
    values: dict[str, Tensor] = {**seen.constants, **inputs}
    for node in seen.nodes:
        if node.op == "input":
            continue
        if not ops.is_nonlinear(node):
            values[node.name] = ops.evaluate(node, values, prod(per))
            continue
        form, plane, z = arrived[node.name], seen.planes[node.name], values[backward.source_of(node)]
        above = form < 0
        if node.name not in seen.spans:
            values[node.name] = _along(seen, node, above, z)
            continue
        start, stop = seen.spans[node.name]
        z = z.reshape(form.shape)
        below = slope[..., start:stop].reshape(form.shape) * z
        values[node.name] = torch.where(above, torch.addcmul(plane.upper, plane.upper_slope, z), below).flatten(0, 1)
        part = (form.clamp_min(0) * z).flatten(2)
        gradient[..., start:stop] = part * seen.bends[:, start:stop]
    total = (rows * values[seen.name].reshape(rows.shape)).flatten(2).sum(2)
    return total, gradient


def _back(seen: Sketch, rows: Tensor, slope: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(rows that arrive at the nonlinear nodes, where in the region they are least at the inputs)."""
    active: dict[str, Tensor] = {seen.name: rows}
    arrived: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    for node in reversed(seen.nodes):
        form = active.pop(node.name)
        if node.op == "input":
            inputs[node.name] = lowest(seen.problem, seen.state, node.name, form, seen.rooms[node.name])
            continue
        if ops.is_nonlinear(node):
            arrived[node.name] = form
            back = {backward.source_of(node): _through(seen, node, form, slope)}
        else:
            moving = seen.state.moving(node)
            back = transpose(seen.state.known, seen.constants, node, form, moving) if moving else {}
        for name, new in back.items():
            active[name] = active[name] + new if name in active else new
    return arrived, inputs


def _through(seen: Sketch, node: Node, form: Tensor, slope: Tensor) -> Tensor:
    plane, positive = seen.planes[node.name], form.clamp_min(0)
    if node.name in seen.spans:
        start, stop = seen.spans[node.name]
        return torch.addcmul(positive * slope[..., start:stop].reshape(form.shape), form - positive, plane.upper_slope)
    if node.op not in ops.POOLS:
        return torch.addcmul(positive * plane.lower_slope, form - positive, plane.upper_slope)
    taps = positive[..., None] * plane.lower_slope + (form - positive)[..., None] * plane.upper_slope
    shape = seen.state.known[backward.source_of(node)].shape
    pull = torch.func.vjp(_taps(seen, node), form.new_zeros(prod(form.shape[:2]), *shape))[1]
    return pull(taps.flatten(0, 1))[0].reshape(*form.shape[:2], *shape)


def _along(seen: Sketch, node: Node, above: Tensor, z: Tensor) -> Tensor:
    """The plane of a node without free slopes that its row chose, at z: (R N, *shape)."""
    plane, per = seen.planes[node.name], above.shape[:2]
    if node.op in ops.POOLS:
        taps = _taps(seen, node)(z).reshape(*per, *plane.lower_slope.shape[1:])
        slope = torch.where(above[..., None], plane.upper_slope, plane.lower_slope)
        value = (taps * slope).sum(-1)
    else:
        value = torch.where(above, plane.upper_slope, plane.lower_slope) * z.reshape(above.shape)
    return (value + torch.where(above, plane.upper, plane.lower)).flatten(0, 1)


def _taps(seen: Sketch, node: Node) -> Callable[[Tensor], Tensor]:
    """What every window of a pooling sees: (M, *shape of its input) -> (M, *shape of its output, K)."""
    pool = ops.max_pool(node, seen.state.known[backward.source_of(node)].shape)
    return lambda value: windows(pool, value, 0.0).reshape(len(value), *node.shape, -1)


def lowest(
    problem: Problem, state: State, name: str, form: Tensor, room: tuple[Tensor, Tensor, Tensor, Tensor]
) -> Tensor:
    """Where in ball and range a form (R, N, *shape of the input) is least: (R N, *shape)."""
    centre, radius, down, up = room
    rows, per = len(form), form.shape[:2]
    every = lambda v: v.expand(rows, *v.shape).flatten(0, 1)
    if not len(radius):
        return every(centre)
    leaf = next(leaf for leaf, node in state.graph.inputs.items() if node == name)
    p = problem.region[leaf].p
    change = extreme(-form.reshape(prod(per), -1), p, every(radius), every(down), every(up))
    return every(centre) + change.reshape(prod(per), *centre.shape[1:])
