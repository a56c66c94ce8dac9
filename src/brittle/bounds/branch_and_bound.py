"""Branch and bound over the signs of ReLU units, with optimised slopes and multipliers at every node of the tree."""

from dataclasses import dataclass, field
from math import inf
from time import perf_counter

import torch
from torch import Tensor

from brittle import backward, intervals, meter
from brittle.about import About
from brittle.bounds import _concrete, crown
from brittle.bounds._tree import Items, Root, ascend, proved
from brittle.bounds._units import units_of
from brittle.errors import InputError
from brittle.graph import graph_of
from brittle.planes import Planes, planes
from brittle.problem import Problem
from brittle.results import Certificate
from brittle.transposes import inner

ABOUT = About(
    promise="lower bounds on every row of the specification, proved in float64 with outward rounding: their sign is settled where leaves suffice",
    reference="Wang et al., NeurIPS 2021, arXiv 2103.06624; Xu et al., ICLR 2021, arXiv 2011.13824; score and cover: derived here",
    norms=(1, 2, inf),
    answers="margin",
    leaves=("input",),
    cost="that of crown, and about 2 x steps backward passes per node of the tree",
    effort="",
)
RESTARTS = (
    12  # of the ascent where nothing is left to split; each raises a multiplier by up to three times its unit: folklore
)
BLOCK = 2**21  # entries of the tensors that hold one value per unit, of the subproblems treated at once
STORED = (
    2**22
)  # entries of the slopes of all leaves of one example, 4 MB: more are not kept, and the row stays undecided


def branch_and_bound(
    problem: Problem,
    *,
    leaves: int = 2000,
    steps: int = 12,
    max_units: int = 20_000,
    seconds: float = inf,
) -> Certificate:
    """Lower bounds (N, R) on the rows of the specification over the whole region, refined until their sign is settled.

    Rows that ``crown`` leaves at or below 0 are split: on the part of the region where unit j has ``s z_j >= 0`` every multiplier
    ``b >= 0`` gives ``row >= min_region (row - b s z_j)``, and the unit is linear there. Slopes of the units that still bend and the multipliers are raised by a
    few steps of Adam; the unit split next is the one whose planes are furthest from the truth at the point that attains the bound. The
    row is at least the least of its leaves. Intervals of the units stay those of the root.

    Guarantee: sound for the real-arithmetic function of the stored weights; every leaf is closed only by a bound evaluated
    again with outward rounding, from the slopes and multipliers as stored. A row is improved until it is positive and no further: for its sign, not its size
    (``bt.radius`` asks for signs). Rows of examples where a point of the region was found to fail, or where the budget ended, stay
    those of ``crown``.

    leaves     of all rows of one example together, at most; fewer where the stored slopes of all leaves would exceed 4 million entries
    steps      of the ascent at every node of the tree; the root takes three times as many
    max_units  refuse networks with more units than this
    seconds    of the clock for all examples, after which open rows stay undecided: the result then depends on the machine. Default: no limit

    ``proof`` holds the slopes of ``crown`` and, padded with zeros, L the largest number of leaves, D the depth, U the units of all
    relu and leaky_relu nodes in graph order: ``"tree.rows"`` (N, L) the row + 1; ``"tree.units"`` (N, L, D) the unit + 1, its sign that of
    the split; ``"tree.multipliers"`` (N, L, D) float32; ``"tree.slopes"`` (N, L, U) lower slopes in units of 1 / 255.

    Raises :class:`NotCertified`: as ``crown``, for moving parameters, and for nonlinear operations other than relu and leaky_relu.

    >>> from brittle.region import Ball
    >>> module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> problem = Problem(module, torch.zeros(1, 2), module(torch.zeros(1, 2)).argmax(1), Ball(p=inf, radius=0.1))
    >>> bool((branch_and_bound(problem).rows >= crown.crown(problem).rows).all())
    True
    """
    for name, value in (("leaves", leaves), ("steps", steps)):
        if value < 1:
            raise InputError(name, "a whole number from 1", repr(value), "leave it out for the default")
    graph = graph_of(problem)
    moved = [leaf for leaf in problem.leaves if problem.parameter_name(leaf) is not None]
    backward.check(graph, moved, max_units, "use crown")
    budget = min(leaves, max(1, STORED // units_of(graph).total))
    ends = perf_counter() + seconds
    run = lambda part: _bound(part, budget, steps, ends)
    return _concrete.in_turns(problem, backward.entries(graph), run)


def _bound(problem: Problem, budget: int, steps: int, ends: float) -> Certificate:
    root, start, relaxed = _root(problem)
    state, rows, output = root.state, root.rows, root.state.graph.output
    lower = crown._least(problem, state, output, rows, relaxed) + root.offsets - root.doubt
    proof = {
        f"{name}.{side}": getattr(p, side) for name, p in relaxed.items() for side in ("lower_slope", "upper_slope")
    }
    # positive by more than the rounding of whoever evaluates the proof again, in units of the largest row
    size = inner(rows.abs(), state.largest(output)) + root.offsets.abs()
    tree = _Tree(root, budget, steps, ends, target=1e-9 * (1 + size.amax(0)))
    tree.grow(_open_rows(lower, start, tree.target))
    for example, row, value in tree.settled():
        lower[row, example] = max(float(lower[row, example]), value)
    return _concrete.certificate(lower, "branch_and_bound", proof | tree.arrays())


def _root(problem: Problem) -> tuple[Root, Tensor, dict[str, Planes]]:
    """The walk of crown: intervals, the lower slopes of all units (N, U), and its planes."""
    graph = graph_of(problem)
    state = intervals.start(problem, graph)
    relaxed = backward.relax(
        state,
        lambda *unit: crown._enclose(problem, *unit),
        lambda state, node, _: planes(state, node),
        lambda *field: crown._local(problem, *field),
    )
    meter.count(forward=3 * len(problem))
    root = Root(problem, state, units_of(graph), *backward.specification(problem, state))
    return root, torch.cat([relaxed[node.name].lower_slope.flatten(1) for node in root.units.nodes], 1), relaxed


def _open_rows(lower: Tensor, slopes: Tensor, target: Tensor) -> Items:
    """The rows that are not positive yet, unsplit."""
    row, example = (lower <= target).nonzero(as_tuple=True)
    zero = torch.zeros(len(row), slopes.shape[1], dtype=torch.float64)
    return Items(example, row, zero, slopes[example].clamp(0, 1), zero.clone(), zero + 1)


@dataclass(eq=False)
class _Tree:
    """The search: open subproblems, level by level, and the leaves that are closed."""

    root: Root
    budget: int
    steps: int
    ends: float
    target: Tensor
    closed: list[Items] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    lost: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.lost = torch.zeros(len(self.root.problem), dtype=torch.bool)

    def grow(self, items: Items) -> None:
        used = torch.zeros(len(self.root.problem), dtype=torch.long)
        first, block = 3, max(1, BLOCK // self.root.units.total)
        while len(items):
            children = []
            for at in torch.arange(len(items)).split(block):
                children += self._visit(items.take(at[~self.lost[items.example[at]]]), first)
                if perf_counter() > self.ends:
                    self.lost[items.example] = True
            first = 1
            items = Items.join(children) if children else items.take(torch.arange(0))
            used = torch.bincount(torch.cat([c.example for c in [*self.closed, items]]), minlength=len(used))
            self.lost |= used > self.budget
            items = items.take(~self.lost[items.example])

    def _visit(self, items: Items, first: int) -> list[Items]:
        """Bound some subproblems, close those that are positive, and return the halves of the others."""
        if not len(items):
            return []
        need = self.target[items.example]
        items, sight = ascend(self.root, items, first * self.steps, need)
        self.lost[items.example[sight.true <= 0]] = True
        done = self._close(items, sight.value > need)
        split_up = sight.score.amax(1) < 0
        stuck = (~done & split_up & ~self.lost[items.example]).nonzero()[:, 0]
        done[stuck] = self._persist(items.take(stuck))
        self.lost[items.example[~done & split_up]] = True
        split = ~done & ~self.lost[items.example]
        return _halves(items.take(split), sight.score[split], sight.coefficient[split]) if bool(split.any()) else []

    def _persist(self, items: Items) -> Tensor:
        """(M,) which are proved after all: where every unit is split only the multipliers are left to raise, and to infinity where the part is empty."""
        done = torch.zeros(len(items), dtype=torch.bool)
        for _ in range(RESTARTS):
            at = (~done).nonzero()[:, 0]
            if not len(at) or perf_counter() > self.ends:
                break
            need = self.target[items.example[at]]
            better, sight = ascend(self.root, items.take(at), 3 * self.steps, need)
            done[at] = self._close(better, sight.value > need)
            items = items.replaced(at, better)
        return done

    def _close(self, items: Items, hopeful: Tensor) -> Tensor:
        """(M,) which are proved, with slopes and multipliers as they will be stored; those are kept as leaves."""
        at = hopeful.nonzero()[:, 0]
        if len(at):
            stored = items.take(at).as_stored()
            value = proved(self.root, stored)
            good = value > self.target[stored.example]
            self.closed.append(stored.take(good))
            self.values.append(value[good])
            hopeful = hopeful.clone()
            hopeful[at[~good]] = False
        return hopeful

    def _kept(self) -> tuple[Items, Tensor] | None:
        """The leaves of examples whose every row is settled, and their bounds."""
        if not self.closed:
            return None
        leaves, values = Items.join(self.closed), torch.cat(self.values)
        keep = ~self.lost[leaves.example]
        return (leaves.take(keep), values[keep]) if bool(keep.any()) else None

    def settled(self) -> list[tuple[int, int, float]]:
        """(example, row, the least bound of its leaves)."""
        kept = self._kept()
        if kept is None:
            return []
        least: dict[tuple[int, int], float] = {}
        for example, row, value in zip(kept[0].example.tolist(), kept[0].row.tolist(), kept[1].tolist(), strict=True):
            least[example, row] = min(value, least.get((example, row), inf))
        return [(*key, value) for key, value in least.items()]

    def arrays(self) -> dict[str, Tensor]:
        """The leaves by example, padded with zeros."""
        kept, count, total = self._kept(), len(self.root.problem), self.root.units.total
        leaves = None if kept is None else kept[0]
        most = 1 if leaves is None else int(torch.bincount(leaves.example).amax())
        depth = 1 if leaves is None else max(1, int((leaves.sign != 0).sum(1).amax()))
        rows, slopes = torch.zeros(count, most, dtype=torch.int32), torch.zeros(count, most, total, dtype=torch.uint8)
        units = torch.zeros(count, most, depth, dtype=torch.int32)
        multipliers = torch.zeros(count, most, depth, dtype=torch.float32)
        if leaves is not None:
            at = leaves.example.argsort(stable=True)
            leaves = leaves.take(at)
            place = torch.arange(len(at)) - torch.searchsorted(leaves.example, leaves.example)
            where = leaves.example, place
            rows[where] = (leaves.row + 1).int()
            slopes[where] = (leaves.slope * 255).round().to(torch.uint8)
            found = leaves.sign.abs().topk(depth, 1)  # the split units first
            split = found.values > 0
            signed = (found.indices + 1) * leaves.sign.gather(1, found.indices)
            units[where] = torch.where(split, signed, 0.0).int()
            multipliers[where] = torch.where(split, leaves.multiplier.gather(1, found.indices), 0.0).float()
        return {"tree.rows": rows, "tree.units": units, "tree.multipliers": multipliers, "tree.slopes": slopes}


def _halves(items: Items, score: Tensor, coefficient: Tensor) -> list[Items]:
    """Both signs of the unit with the largest score; slopes and multipliers go on from where they are."""
    unit = score.argmax(1, keepdim=True)
    size = items.size.scatter(1, unit, coefficient.gather(1, unit).abs().clamp_min(1e-6))
    half = lambda sign: Items(
        items.example,
        items.row,
        items.sign.scatter(1, unit, sign),
        items.slope,
        items.multiplier,
        size,
    )
    return [half(1.0), half(-1.0)]
