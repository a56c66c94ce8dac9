"""The distance to the walls of the linear piece that holds the clean point: the bound of the paper, and its data-dependent form."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, log, prod

import torch
from torch import Tensor

from brittle import backward, intervals, ops, tails
from brittle.about import About
from brittle.errors import InputError, NotCertified
from brittle.graph import Node, graph_of
from brittle.intervals import State
from brittle.laws import Law
from brittle.noise import _walls
from brittle.noise._half_spaces import HalfSpaces
from brittle.noise._walls import piece
from brittle.planes import Planes, planes, windows
from brittle.problem import Problem
from brittle.results import Bracket

ABOUT = About(
    promise="the failure probability is at most the chance that noise leaves the linear piece of the clean point or changes its class",
    reference="Kurkova, arXiv 2602.18674, Theorem 3.1, for every norm and many classes; tighter tails, each unit's own distance",
    answers="probability",
    leaves=("input",),
    ends="upper",
    cost="1 backward pass per unit and row",
    effort="standard",
)
OUTSIDE = log(1e-30)  # noise outside the box on which rounding is estimated; charged in full


@dataclass(frozen=True, eq=False)
class Walls:
    """The linear piece of every example: l2 distances, rounded down, and what lies beyond each wall.

    units  (K, N) to the walls of hidden units, inf where a unit cannot bend; faces (R, N) to where a row of the specification is 0
    beyond, across   (K, N), (R, N) logarithms of ``P(noise crosses)`` under the law, for units and faces
    """

    units: Tensor
    faces: Tensor
    beyond: Tensor
    across: Tensor


def cell(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    distances: str = "own",
    max_units: int = 20_000,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, whose upper end is proved; the lower end is 0.

    While no hidden unit leaves the linear piece it is on at the clean point, the network is an affine map. With d_i the distance from the
    clean point to where unit i, all earlier ones frozen, changes its piece, and M_j to where row j of that affine map is 0,

        own       p <= sum_i T(d_i) + sum_j T(M_j)
        nearest   p <= (N + R) T(min over all d_i and M_j)          N walls of hidden units, R rows

    T is the probability of a half-space. For noise on the sphere of radius r in n dimensions T(a) <= 1/2 (1 - a^2 / r^2)^((n-1)/2) <=
    exp(-n a^2 / (2 r^2)), which makes "nearest" the paper's bound: non-trivial up to r = a sqrt(n / (2 ln(N + R))). As a number it is weak, and
    shown for what it is: walls of cells are hundreds of times nearer than a change of class, and crossing one rarely matters.

    Guarantee: proved, not statistical, for the real-arithmetic function of the stored weights and the law in real arithmetic.
    Piecewise-linear networks only: activations with kinks, max pooling (a wall for every pixel that could take over a window).

    problem   its region is not looked at, and may be absent
    laws      one unclipped law on one input leaf; laws that are not round (p = 1, inf) use "nearest" in its sub-Gaussian form
    distances "own" or "nearest"
    max_units refuse networks with more nonlinear units than this
    seed, level   not used: nothing is random
    Status: "not certified: ..." where nothing below 1 could be proved, "misclassified" where the clean point fails.

    >>> from brittle.laws import Gaussian
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU())
    >>> _ = torch.nn.init.ones_(net[0].weight), torch.nn.init.zeros_(net[0].bias)
    >>> problem = Problem(net, torch.full((1, 1), 2.0), torch.tensor([1]))
    >>> [round(float(cell(problem, {"x": Gaussian(1.0)}, distances=d).upper), 4) for d in ("own", "nearest")]  # 2 Phi(-2)
    [0.0455, 0.0455]
    """
    if distances not in ("own", "nearest"):
        raise InputError("distances", '"own" or "nearest"', repr(distances), "choose one of the two")

    def bound(question: Problem, law: HalfSpaces) -> Tensor:
        graph = graph_of(question)
        smooth = [node.op for node in graph.nodes if ops.is_nonlinear(node) and node.op in ops.SMOOTH]
        if smooth:
            raise NotCertified(f"operation {smooth[0]} is not piecewise linear: there are no cells")
        found, outside = walls(question, law)
        if distances == "own":
            return _walls.summed(torch.cat([found.beyond.exp(), found.across.exp(), outside.exp()[None]]))
        every = torch.cat([found.units, found.faces])
        count = every.isfinite().sum(0).clamp_min(_walls.unit_count(graph) + len(found.faces))
        return (count * law.tail(every.amin(0), law.widest).exp() + outside.exp()) * (1 + 2.0**-50)

    return _walls.proved("cell", problem, laws, level, max_units, 1, bound)


def walls(question: Problem, law: HalfSpaces) -> tuple[Walls, Tensor]:
    """The walls around every example, and the logarithm (N,) of the probability that rounding was estimated in too small a box."""
    graph = graph_of(question)
    radius, outside = law.box(torch.full((len(question),), OUTSIDE, dtype=torch.float64, device=question.device))
    problem = _walls.boxed(question, law, radius)
    state, clean = intervals.start(problem, graph), _clean(question, law)
    near, beyond = [], []

    def wall(base: Tensor, slope: Tensor, there: Tensor) -> None:
        along = tails.lengths(slope)
        near.append(torch.where(there, _distance(base, along), inf))
        beyond.append(torch.where(there, law.tail(base, law.read(-slope)), -inf))

    def enclose(state: State, node: Node, at: Tensor, one: Tensor, relaxed: backward.Relaxed) -> tuple[Tensor, Tensor]:
        source = backward.source_of(node)
        left, right = piece(state, node, clean[source].flatten(1)[:, at].T)
        if node.op in ops.POOLS:
            return -right.abs(), right.abs()
        moves = backward.bent(state, node).flatten(1)[:, at].T
        base, slope = _walls.pulled_rows(problem, state, law, source, one, relaxed)
        wall(_less(base, left), slope, moves & left.isfinite())
        base, slope = _walls.pulled_rows(problem, state, law, source, -one, relaxed)
        wall(_less(base, -right), slope, moves & right.isfinite())
        return left, right

    def choose(state: State, node: Node, relaxed: backward.Relaxed) -> Planes:
        if node.op not in ops.POOLS:
            return planes(state, node)
        source = backward.source_of(node)
        for rows, there in _takeovers(state, node, clean[source]):
            wall(*_walls.pulled_rows(problem, state, law, source, rows, relaxed), there)
        return _frozen_pool(state, node, clean[source])

    relaxed = backward.relax(state, enclose, choose)
    base, slope = _walls.specified(problem, state, law, relaxed)
    empty = base.new_zeros(0, len(question))
    across = law.along(base, -slope.expand(-1, len(question), -1))
    faces = _distance(base, tails.lengths(slope))
    return Walls(torch.cat([empty, *near]), faces, torch.cat([empty, *beyond]), across), outside


def _clean(question: Problem, law: HalfSpaces) -> dict[str, Tensor]:
    """The value of every node at the clean point, up to rounding: a wrong side only makes a distance negative."""
    point = _walls.boxed(question, law, torch.zeros(len(question), dtype=torch.float64))
    state = intervals.start(point, graph_of(question))
    for node in state.graph.nodes:
        if node.varies and node.op != "input":
            intervals.forward(state, node)
    return {name: (low + state.high[name]) / 2 for name, low in state.low.items()}


def _distance(base: Tensor, along: tails.Lengths) -> Tensor:
    """From the clean point to where ``base + <w, delta>`` is 0, rounded down; inf where it never is."""
    distance = (base / along.two).clamp_min(0) * (1 - 2.0**-50)
    return torch.where((along.two == 0) & (base > 0), inf, distance.nan_to_num(nan=0.0, posinf=inf))


def _less(base: Tensor, end: Tensor) -> Tensor:
    """``base - end`` rounded down."""
    difference = base - end
    return torch.nextafter(difference, torch.full_like(difference, -inf))


def _takeovers(state: State, node: Node, clean: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (K, N, *shape) ``largest pixel - another pixel`` of every window at the clean point, and which of them are real (K, N)."""
    shape = state.known[backward.source_of(node)].shape
    index = ops.max_pool(node, shape).index.to(clean.device)
    pixels = torch.arange(shape[0], device=clean.device)[:, None, None] * prod(shape[1:]) + index  # (C, outputs, K)
    valid = (index >= 0).expand_as(pixels).flatten()
    best = pixels.expand(state.count, *pixels.shape).gather(-1, _largest(state, node, clean)).expand(-1, *pixels.shape)
    pixels, best = pixels.flatten(), best.flatten(1)
    for block in torch.arange(len(pixels), device=clean.device).split(backward.rows_at_once(state)):
        rows = clean.new_zeros(len(block), state.count, prod(shape))
        rows.scatter_(2, best[:, block].T[..., None], 1.0)
        there = valid[block][:, None] & (best[:, block].T != pixels[block][:, None])
        other = pixels[block].clamp_min(0)[:, None, None].expand(-1, state.count, 1)
        rows.scatter_add_(2, other, -there[..., None].to(rows))
        yield rows.reshape(len(block), state.count, *shape), there


def _frozen_pool(state: State, node: Node, clean: Tensor) -> Planes:
    """The pixel that is largest at the clean point, while no other takes over."""
    best = _largest(state, node, clean)
    size = ops.max_pool(node, state.known[backward.source_of(node)].shape).index.shape[1]
    slope = clean.new_zeros(*best.shape[:-1], size).scatter(-1, best, 1.0).reshape(state.count, *node.shape, size)
    zero = clean.new_zeros(state.count, *node.shape)
    return Planes(slope, zero, slope, zero)


def _largest(state: State, node: Node, clean: Tensor) -> Tensor:
    """Which pixel of every window is largest: (N, C, outputs, 1)."""
    pool = ops.max_pool(node, state.known[backward.source_of(node)].shape)
    return windows(pool, clean, -inf).argmax(-1, keepdim=True)
