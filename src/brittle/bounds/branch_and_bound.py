"""Branch and bound over the signs of ReLU units, with optimised slopes and multipliers at every node, where a row could fail."""

from dataclasses import fields
from math import inf
from time import perf_counter

import torch
from torch import Tensor

from brittle import backward
from brittle.about import About
from brittle.bounds import _concrete, crown
from brittle.bounds._cuts import Budget, Cut, Round, arrays, chain, one_example
from brittle.bounds._grown import Effort, Tree
from brittle.bounds._slopes import LEVELS
from brittle.bounds._tree import Items, Root
from brittle.bounds._units import units_of
from brittle.errors import InputError
from brittle.graph import graph_of
from brittle.intervals import State
from brittle.planes import Planes
from brittle.problem import Problem
from brittle.results import Certificate
from brittle.transposes import inner

ABOUT = About(
    promise="lower bounds on every row of the specification, proved in float64 with outward rounding: their sign is settled where leaves suffice",
    reference="Wang et al., NeurIPS 2021, arXiv 2103.06624; Bunel et al., JMLR 2020, arXiv 1909.06588; De Palma et al. 2021, arXiv 2104.06718 (filtered smart branching); behind cuts, and cover: derived here",
    norms=(1, 2, inf),
    answers="margin",
    leaves=("input",),
    cost="that of crown, of the cuts of alpha_crown, and about 2 x steps passes per node of the tree",
    effort="thorough",
)
STORED = (
    2**22
)  # entries of the slopes of all leaves of one example, 4 MB: more are not kept, and the row stays undecided
SMALL = 64  # leaves of a first tree without cuts: most rows of small networks need no more

Key = tuple[int, int]


def branch_and_bound(
    problem: Problem,
    *,
    leaves: int = 4000,
    steps: int = 4,
    rounds: int = 6,
    max_units: int = 8_000,
    seconds: float = inf,
) -> Certificate:
    """Lower bounds (N, R) on the rows of the specification over the whole region, refined until their sign is settled.

    Rows that ``crown`` leaves at or below 0 are split: on the part of the region where unit j has ``s z_j >= 0`` every multiplier
    ``b >= 0`` gives ``row >= min_region (row - b s z_j)``, and the unit is linear there. Slopes of the units that still bend and the multipliers are raised by a
    few steps of Adam. Of the units whose planes are furthest from the truth at the point that attains the bound, the one is split whose halves are bounded best by
    what is known already. The row is at least the least of its leaves. Where every unit has its sign what is left is a convex program, solved exactly: a linear
    one, or for p = 2 its dual.

    Rows that a small tree does not settle are bounded where they could fail first (``alpha_crown``): intervals of all units hold behind its cuts, and the last cut joins
    every leaf with a multiplier of its own. A tree that after a few levels is foreseen to be far too large is given up.

    Guarantee: sound for the real-arithmetic function of the stored weights; every leaf is closed only by a bound evaluated
    again with outward rounding, from the slopes and multipliers as stored. A row is improved until it is positive and no further: for its sign, not its size
    (``bt.radius`` asks for signs). Rows of examples where a point of the region was found to fail, or where the budget ended, stay
    those of ``crown``; such points come back in ``points``, and ``bt.radius`` measures them as witnesses. The result does not depend on the clock unless ``seconds`` is given.

    leaves     of all rows of one example together, at most; fewer where the stored slopes of all leaves would exceed 4 million entries
    steps      of the ascent at every node of the tree; the root takes three times as many, a round of cuts five times. Few: a bound half raised is raised further by the next split
    rounds     of cuts before a tree that is not small; 0: none
    max_units  refuse networks with more units than this: a few hundred leaves of theirs could be kept, which gain little over ``alpha_crown``
    seconds    of the clock for each example, after which open rows stay undecided: not reproducible, the result then depends on the machine. Default: no limit

    ``proof`` holds the slopes of ``crown`` and, padded with zeros, L the largest number of leaves, D the depth, U the units of all
    relu and leaky_relu nodes in graph order: ``"tree.rows"`` (N, L) the row + 1; ``"tree.units"`` (N, L, D) the unit + 1, its sign that of
    the split; ``"tree.multipliers"`` (N, L, D) and ``"tree.last"`` (N, L), of the cut, float32; ``"tree.slopes"`` (N, L, U) lower slopes in units of 1 / 255. A row that also has
    rounds, ``"cuts.NAME"`` as of ``alpha_crown``, has its leaves behind them.

    Raises :class:`NotCertified`: as ``crown``, for moving parameters, and for nonlinear operations other than relu and leaky_relu.

    >>> from brittle.region import Ball
    >>> module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> problem = Problem(module, torch.zeros(1, 2), module(torch.zeros(1, 2)).argmax(1), Ball(p=inf, radius=0.1))
    >>> bool((branch_and_bound(problem).rows >= crown.crown(problem).rows).all())
    True
    """
    for name, value, least in (("leaves", leaves, 1), ("steps", steps, 1), ("rounds", rounds, 0)):
        if value < least:
            raise InputError(name, f"a whole number from {least}", repr(value), "leave it out for the default")
    graph = graph_of(problem)
    moved = [leaf for leaf in problem.leaves if problem.parameter_name(leaf) is not None]
    backward.check(graph, moved, max_units, "use crown")
    effort = Effort(
        min(leaves, max(1, STORED // units_of(graph).total)), steps, perf_counter() + seconds * len(problem)
    )
    return _concrete.in_turns(problem, backward.entries(graph), lambda part: _bound(part, effort, rounds))


def _bound(problem: Problem, effort: Effort, rounds: int) -> Certificate:
    search = _Search(problem, effort)
    search.plainly()
    if rounds and effort.leaves > 1:
        for example in search.open.any(1).nonzero()[:, 0].tolist():
            search.behind_cuts(example, rounds)
    return search.certificate()


class _Search:
    """The rows of all examples that are open, and what has been proved of the others."""

    def __init__(self, problem: Problem, effort: Effort) -> None:
        self.problem, self.effort = problem, effort
        self.base, self.state, self.relaxed, self.rows, self.extra = crown.walked(problem, "adaptive")
        self.units = units_of(self.state.graph)
        # positive by more than the rounding of whoever evaluates the proof again, in units of the largest row
        largest = inner(self.rows.abs(), self.state.largest(self.state.graph.output)) + self.extra.abs()
        self.level = 1e-9 * (1 + largest.amax(0))
        self.lower = self.base.rows.clone()
        self.open = (self.lower <= self.level[:, None]) & self.lower.isfinite()
        self.rounds: dict[Key, list[Round]] = {}
        self.leaves: list[tuple[Tensor, Tensor, Items]] = []
        centre = {leaf: v.detach().double() for leaf, v in problem.centre.items()}
        self.points = {leaf: v.clone() for leaf, v in centre.items()}

    def plainly(self) -> None:
        """A small tree for every open row, all at once."""
        example, row = self.open.nonzero(as_tuple=True)
        if not len(example):
            return
        slopes = torch.cat([self.relaxed[node.name].lower_slope.flatten(1) for node in self.units.nodes], 1)
        small = self.effort if self.effort.leaves <= SMALL else Effort(SMALL, self.effort.steps, self.effort.ends)
        root = self._root(example, row, _taken(self.state, example))
        self._keep(root, Tree(root, small).grow(slopes[example].clamp(0, 1), warm=False))

    def behind_cuts(self, example: int, rounds: int) -> None:
        """The open rows of one example, the worst first, until one stays undecided."""
        for row in self.lower[example].argsort().tolist():
            if not self.open[example, row]:
                continue
            if perf_counter() > self.effort.ends or not self._settles(example, row, rounds):
                return

    def _settles(self, example: int, row: int, rounds: int) -> bool:
        one = slice(example, example + 1)
        sides = [side.name for side in fields(Planes)]
        mine = {name: Planes(*(getattr(plane, side)[one] for side in sides)) for name, plane in self.relaxed.items()}
        state, here = one_example(self.state, example), self.problem.take(torch.tensor([example]))
        form, extra = self._form(torch.tensor([example]), torch.tensor([row])), self.extra[row, one].reshape(1, 1)
        budget = Budget(5 * self.effort.steps, rounds, float(self.level[example]), self.effort.ends)
        value, taken, cut = chain(here, state, mine, form[None], extra, budget)
        self.rounds[example, row] = taken
        if value > budget.level:
            self.lower[example, row], self.open[example, row] = budget.level, False
            return True
        self.lower[example, row] = max(float(self.lower[example, row]), value)
        root = self._root(torch.tensor([example]), torch.tensor([row]), state, cut)
        self._keep(root, Tree(root, self.effort).grow(taken[-1].slopes.float()[None] / LEVELS, warm=True))
        return not bool(self.open[example, row])

    def _form(self, example: Tensor, row: Tensor) -> Tensor:
        return self.rows[row, example if self.rows.shape[1] > 1 else 0]

    def _root(self, example: Tensor, row: Tensor, state: State, cut: Cut | None = None) -> Root:
        problem, form = self.problem.take(example), self._form(example, row)
        return Root(example, row, problem, state, self.units, form, self.extra[row, example], self.level[example], cut)

    def _keep(self, root: Root, tree: Tree) -> None:
        """The leaves of rows that are settled, and the points that fail: their examples are done with."""
        for base, point in tree.failing.items():
            example = int(root.example[base])
            self.open[example] = False
            for leaf, value in point.items():
                self.points[leaf][example] = value
        found = tree.leaves()
        if found is None:
            return
        items, values = found
        for base in items.base.unique().tolist():
            key = int(root.example[base]), int(root.row[base])
            least = float(values[items.base == base].amin())
            least = least if root.cut is None else min(least, float(self.level[key[0]]))
            self.lower[key], self.open[key] = max(float(self.lower[key]), least), False
        self.leaves.append((root.example[items.base], root.row[items.base], items))

    def certificate(self) -> Certificate:
        proof = {**self.base.proof, **arrays(self.rounds, self.level, self.lower.shape[1]), **self._arrays()}
        return Certificate(self.lower, "branch_and_bound", proof, self.base.notes, self.points)

    def _arrays(self) -> dict[str, Tensor]:
        """The leaves by example, padded with zeros."""
        count, total = len(self.problem), self.units.total
        if not self.leaves:
            none = torch.zeros(count, 1, dtype=torch.int32)
            wide = {"tree.units": none[..., None], "tree.multipliers": none[..., None].float()}
            return {"tree.rows": none, **wide, "tree.last": none.float(), "tree.slopes": torch.zeros(count, 1, total, dtype=torch.uint8)}  # fmt: skip
        example, row = torch.cat([part[0] for part in self.leaves]), torch.cat([part[1] for part in self.leaves])
        leaves = Items.join([part[2] for part in self.leaves])
        at = example.argsort(stable=True)
        example, row, leaves = example[at], row[at], leaves.take(at)
        most = int(torch.bincount(example).amax())
        depth = max(1, int((leaves.sign != 0).sum(1).amax()))
        where = example, torch.arange(len(at)) - torch.searchsorted(example, example)
        rows, units = torch.zeros(count, most, dtype=torch.int32), torch.zeros(count, most, depth, dtype=torch.int32)
        multipliers, last = torch.zeros(count, most, depth), torch.zeros(count, most)
        slopes = torch.zeros(count, most, total, dtype=torch.uint8)
        rows[where], last[where] = (row + 1).int(), leaves.last
        slopes[where] = (leaves.slope * LEVELS).round().to(torch.uint8)
        found = leaves.sign.abs().topk(depth, 1)  # the split units first
        split = found.values > 0
        signed = (found.indices + 1) * leaves.sign.gather(1, found.indices).long()
        units[where] = torch.where(split, signed, 0).int()
        multipliers[where] = torch.where(split, leaves.multiplier.gather(1, found.indices), 0.0)
        return {
            "tree.rows": rows,
            "tree.units": units,
            "tree.multipliers": multipliers,
            "tree.last": last,
            "tree.slopes": slopes,
        }


def _taken(state: State, example: Tensor) -> State:
    """The intervals of some examples, one more than once."""
    low, high = ({name: v[example] for name, v in side.items()} for side in (state.low, state.high))
    return State(state.graph, len(example), state.constants, low=low, high=high, known=state.known)
