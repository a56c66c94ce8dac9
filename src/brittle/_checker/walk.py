"""Lower bounds of linear forms of the logits, one example at a time: the proof evaluated again from slopes alone."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, hstack

from brittle._checker import cuts, planes, tree
from brittle._checker.affine import LAYERS, MOVABLE, Affine, Reader, Unknown, affine, gains, stencil, window_index
from brittle._checker.arithmetic import EPSILON, FLOOR, Array, above, below, gamma
from brittle._checker.moved import Room, bias_cost, corners, free_form, most_by_output, shared_form
from brittle._checker.pooling import pool_intercepts
from brittle._checker.products import product_intercepts
from brittle._checker.stencils import Stencil
from brittle._checker.support import rooms, support
from brittle.graph import Graph, Node, Ref

ROWS = 256  # linear forms pulled back at once: bounds the memory, changes no result
POOLS = ("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d")
PRODUCT = "product"
PARAMETERS = {
    "leaky_relu": ("negative_slope",),
    "hardtanh": ("min_val", "max_val"),
    "softplus": ("beta", "threshold"),
    "elu": ("alpha", "scale", "input_scale"),
    "celu": ("alpha",),
}


@dataclass(frozen=True)
class Moving:
    """One leaf of one example: where it is, and the ball ``|change / unit|_p <= radius`` cut by a box in which it moves.

    one  the radius that the ball has by itself, before a scale; 0: that of this example
    """

    centre: Array
    p: float
    radius: float
    low: Array | float = -np.inf
    high: Array | float = np.inf
    channels: int = 0
    unit: Array | float = 1.0
    one: float = 0.0

    def interval(self) -> tuple[Array, Array]:
        """The smallest box around the ball that the checker needs."""
        down, up = rooms(self.centre, self.low, self.high)
        if self.p == 0:
            down, up = (np.where(self.radius >= 1, side, 0.0) for side in (down, up))
        else:
            furthest = np.where(
                np.asarray(self.unit) == 0, 0.0, above(self.radius * np.asarray(self.unit, dtype=np.float64))
            )
            furthest = self.radius if np.ndim(self.unit) == 0 and self.unit == 1 else furthest
            down, up = np.minimum(down, furthest), np.minimum(up, furthest)
        return np.where(down > 0, below(self.centre - down), self.centre), np.where(
            up > 0, above(self.centre + up), self.centre
        )

    def room(self) -> Room:
        """How far a parameter may move: the box, and the ball itself where no range cuts it."""
        low, high = self.interval()
        box = above(np.maximum(high - self.centre, self.centre - low)) * (low < high)
        if not (np.all(np.isinf(self.low)) and np.all(np.isinf(self.high))) or self.p == 0:
            return Room(box)
        if self.p != np.inf:
            return Room(box, self.p, self.radius, self.unit)
        if not 0 < self.one < np.inf or self.radius == 0:
            return Room(box)
        doublings = np.ceil(np.log2(self.radius / self.one) - 2.0**-40)
        return Room(box, ease=min(1.0, self.radius / (self.one * 2.0**doublings * (1 + 2.0**-39))))

    def least(self, rows: Array) -> Array:
        """A lower bound of ``<row, v>`` over the region, for every row (R, D)."""
        down, up = rooms(self.centre, self.low, self.high)
        fall = support(-rows, self.p, self.radius, down, up, self.channels)
        slack = gamma(rows.shape[1]) * (np.abs(rows) @ np.abs(self.centre) + fall)
        return rows @ self.centre - fall - slack - FLOOR


@dataclass(frozen=True)
class Plane:
    """``lower z + least <= f(z) <= upper z + most``; as matrices from the node's output back to its input."""

    lower: csr_matrix | Array
    least: Array
    upper: csr_matrix | Array
    most: Array


@dataclass
class Model:
    """A graph made ready once: matrices of its affine operations, activations of the others."""

    graph: Graph
    moved: frozenset[str] = frozenset()
    constants: dict[str, NDArray] = field(default_factory=dict)
    known: dict[str, Node] = field(default_factory=dict)
    maps: dict[str, Affine] = field(default_factory=dict)
    flexible: dict[str, csr_matrix] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = self.graph.by_name
        self.constants = {name: value.numpy(force=True) for name, value in self.graph.constants.items()}
        names = {self.graph.parameters[p] for p in self.moved}
        fixed = {k: v for k, v in self.constants.items() if k not in names}
        for node in self.graph.nodes:
            if node.op == "input" or node.op == "constant":
                continue
            if not node.varies:
                fixed[node.name] = self.constants[node.name] = _folded(node, fixed)
            elif self.shape_of(node) is None:
                self.maps[node.name] = affine(node, self.known, self.constants if node.op in MOVABLE else fixed)

    def shape_of(self, node: Node) -> planes.Activation | str | None:
        """The activation of a node, "pool", "product", or None for an affine one."""
        if node.op in POOLS:
            return "pool"
        if node.op == PRODUCT:
            return "product"
        numbers = PARAMETERS.get(node.op, ())
        name, values = node.op, tuple(float(node.arguments[n]) for n in numbers)  # type: ignore[arg-type]
        if node.op == "gelu" and node.arguments["approximate"] != "none":
            name = f"gelu {node.arguments['approximate']}"
        if node.op == "relu6":
            name, values = "hardtanh", (0.0, 6.0)
        if node.op in ("clamp", "clip", "clamp_min", "clamp_max"):
            limit = lambda key, default: default if node.arguments.get(key) is None else float(node.arguments[key])  # type: ignore[arg-type]
            name, values = "hardtanh", (limit("min", -np.inf), limit("max", np.inf))
        return planes.activation(name, values)


def _folded(node: Node, constants: Mapping[str, NDArray]) -> NDArray:
    """Operations on constants that only regroup them."""
    value = node.arguments.get("input")
    if not isinstance(value, Ref) or value.name not in constants:
        raise Unknown(f"{node.op} of constants")
    old = constants[value.name]
    rules = {
        "reshape": lambda: old.reshape(node.shape),
        "t": lambda: old.T,
        "permute": lambda: old.transpose(node.arguments["dims"]),  # type: ignore[arg-type]
        "transpose": lambda: old.swapaxes(node.arguments["dim0"], node.arguments["dim1"]),  # type: ignore[arg-type]
        "neg": lambda: -old,
    }
    if node.op not in rules:
        raise Unknown(f"{node.op} of constants")
    return rules[node.op]()


def forward(model: Model, inputs: Mapping[str, Array]) -> Array:
    """The logits of one example, by the checker's own arithmetic: shows that its graph is the module's function."""
    values = {model.graph.inputs[leaf]: value.reshape(-1) for leaf, value in inputs.items()}
    for node in model.graph.nodes:
        if not node.varies or node.name in values:
            continue
        if node.name in model.maps:
            part = model.maps[node.name]
            values[node.name] = sum((m @ values[s] for s, m in part.parts), part.bias)
            continue
        z, shape = values[node.sources[0]], model.shape_of(node)
        if isinstance(shape, planes.Activation):
            values[node.name] = shape.value(z)
        elif node.op == PRODUCT:
            values[node.name] = z[: len(z) // 2] * z[len(z) // 2 :]
        else:
            index = window_index(Reader(node, model.known, model.constants))
            values[node.name] = np.where(index >= 0, z[index], -np.inf).max(1)
    return values[model.graph.output]


@np.errstate(over="ignore", invalid="ignore")
def rows_below(
    model: Model,
    leaves: Mapping[str, Moving],
    fixed: Mapping[str, Array],
    proof: Mapping[str, Array],
    coefficients: Array,
    offsets: Array,
) -> Array:
    """Proved lower bounds (R,) of ``coefficients @ logits + offsets`` over the region of one example.

    leaves  moving leaves; fixed: the inputs that stay; proof: ``"NODE.lower_slope"`` and ``"NODE.upper_slope"`` of this
    example, ``"NODE.sharing"`` of its rows, ``"tree.NAME"`` the leaves of a search tree,
    ``"cuts.NAME"`` rounds of cuts. A node without slopes gets planes of slope 0, which is interval arithmetic.
    Raises :class:`Unknown` where a moving parameter meets an operation other than a layer.
    """  # fmt: skip
    walk = _Walk(model, leaves, fixed, proof)
    for node in model.graph.nodes:
        if node.varies and node.op != "input":
            walk.step(node)
    found = walk.below(model.graph.output, coefficients, offsets, last=True)
    trees = tree.leaves_of(proof, sum(prod(node.shape) for node, _ in tree.units(model.graph)))
    total = sum(prod(node.shape) for node, _ in cuts.units(model.graph))
    for row, (level, rounds) in cuts.rounds_of(proof, total, len(found)).items():
        parts = trees.pop(row, [])
        value = walk.on_rounds(rounds, level, coefficients[row : row + 1], offsets[row : row + 1], parts)
        found[row] = max(found[row], value)
    for row, parts in trees.items():
        if row < len(found):
            found[row] = max(found[row], walk.on_tree(parts, coefficients[row : row + 1], offsets[row : row + 1]))
    return found


class _Walk:
    """Intervals and planes of one example, node after node."""

    def __init__(
        self, model: Model, leaves: Mapping[str, Moving], fixed: Mapping[str, Array], proof: Mapping[str, Array]
    ) -> None:
        self.model, self.proof = model, proof
        self.leaves: dict[str, Moving] = {}
        self.low: dict[str, Array] = {}
        self.high: dict[str, Array] = {}
        self.planes: dict[str, Plane] = {}
        self.slop: dict[str, Array] = {}
        self.room: dict[str, Room] = {}
        self.moved: dict[str, Array | float] = {}
        for leaf, name in model.graph.inputs.items():
            ball = leaves[leaf] if leaf in leaves else Moving(fixed[leaf].reshape(-1), np.inf, 0.0)
            self.leaves[name] = ball
            self.low[name], self.high[name] = ball.interval()
        for leaf, ball in leaves.items():
            if leaf not in model.graph.inputs:
                self.room[model.graph.parameters[leaf.removeprefix("param:")]] = ball.room()

    def largest(self, name: str) -> Array:
        return np.maximum(np.abs(self.low[name]), np.abs(self.high[name]))

    def step(self, node: Node) -> None:
        if node.name in self.model.maps:
            self._affine(node)
            return
        source = node.sources[0]
        self._tighten(node, source)
        if not (np.isfinite(self.low[source]).all() and np.isfinite(self.high[source]).all()):
            raise Unknown(f"{node.op} of an unbounded value")
        kind = self._pool if node.op in POOLS else self._product if node.op == PRODUCT else self._activation
        self.planes[node.name] = kind(node)

    def _tighten(self, node: Node, source: str) -> None:
        """The interval of what enters a nonlinear node, by linear forms of every unit.

        Forms of moving weights depend on intervals in both directions: tighter ones here could lose what was proved there. So with
        moving weights the units are those that the bounds pull back, the bent ones; none where no slopes are stored.
        """
        low, high = self.low[source], self.high[source]
        wanted = np.ones(len(low), dtype=bool)
        if self.room:
            f = self.model.shape_of(node)
            kinks = f.kinks if isinstance(f, planes.Activation) else ()
            inside = [(low < kink) & (kink < high) for kink in kinks] or [low < high]
            wanted = np.any(inside, 0) & (f"{node.name}.lower_slope" in self.proof)
        unit = np.eye(len(low))[wanted]
        if not len(unit):
            return
        zero = np.zeros(len(unit))
        self.low[source], self.high[source] = low.copy(), high.copy()
        self.low[source][wanted] = np.maximum(low[wanted], self.below(source, unit, zero))
        self.high[source][wanted] = np.minimum(high[wanted], -self.below(source, -unit, zero))

    def below(self, name: str, rows: Array, offsets: Array, last: bool = False) -> Array:
        """Lower bounds of ``rows @ value(name) + offsets``, block by block; ``last``: rows of the specification, one block."""
        size = len(rows) if last else ROWS
        blocks = range(0, len(rows), size)
        return np.concatenate([self._pull(name, rows[i : i + size], offsets[i : i + size], last) for i in blocks])

    def on_tree(
        self, parts: list[tree.Leaf] | None, coefficients: Array, offsets: Array, cut: cuts.Cut | None = None
    ) -> float:
        """A lower bound of one row of the logits: the least over leaves that cover the region, or what is behind a cut; -inf where they do not."""
        return tree.least(parts, lambda leaf: self.on_leaf(leaf, coefficients, offsets, cut))

    def on_leaf(self, leaf: tree.Leaf, coefficients: Array, offsets: Array, cut: cuts.Cut | None) -> float:
        """A lower bound of one row of the logits where the units have the signs of a leaf; the walk is over."""
        here = copy(self)
        here.low, here.high, here.planes = dict(self.low), dict(self.high), dict(self.planes)
        beside: dict[str, Array] = {}
        for node, start in tree.units(self.model.graph):
            source = node.sources[0]
            here.low[source], here.high[source], rows = tree.cut(here.low[source], here.high[source], leaf, start)
            beside[source] = beside.get(source, 0.0) + rows[None]
        for node, start in tree.units(self.model.graph):
            low, high = here.low[node.sources[0]], here.high[node.sources[0]]
            f = self.model.shape_of(node)
            lower, chord = planes.bending(f, leaf.slopes[start : start + len(low)], low, high)  # type: ignore[arg-type]
            least, most = planes.intercepts(f, lower, low, high)[0], planes.intercepts(f, chord, low, high)[1]  # type: ignore[arg-type]
            here.planes[node.name] = Plane(lower, least, chord, most)
        if cut is not None:
            forms, more = cut.times(np.array([leaf.last]))
            beside |= {name: beside.get(name, 0.0) + form for name, form in forms.items()}
            offsets = offsets + more
        return float(here._pull(self.model.graph.output, coefficients, offsets, True, beside)[0])

    def on_rounds(
        self,
        rounds: list[cuts.Round],
        level: float,
        coefficients: Array,
        offsets: Array,
        leaves: list[tree.Leaf] | None = None,
    ) -> float:
        """A lower bound of one row, at most ``level``: the best of its rounds, each behind the cut of the one before, and of leaves behind them all; the walk is over."""
        if self.room:
            raise Unknown("cuts where parameters move")
        here = copy(self)
        here.low, here.high, here.planes = dict(self.low), dict(self.high), dict(self.planes)
        cut, best, output = None, -np.inf, self.model.graph.output
        for one in rounds:
            if cut is not None:
                here._tightened(one, cut)
            mine = copy(here)
            mine.planes = dict(here.planes)
            for node, start in cuts.units(self.model.graph):
                mine.planes[node.name] = here._bending(node, one.slopes[start : start + prod(node.shape)])
            best = max(best, float(mine._pull(output, coefficients, offsets, False)[0]))
            if cut is not None:
                beside, more = cut.times(np.array([one.last]))
                best = max(best, float(mine._pull(output, coefficients, offsets + more, False, beside)[0]))
            forms: dict[str, Array] = {}
            constant = mine._pull(output, coefficients, offsets - level, False, forms=forms)
            cut = cuts.Cut({k: v[0] for k, v in forms.items()}, float(constant[0]), {k: self.largest(k) for k in forms})
        best = max(best, here.on_tree(leaves, coefficients, offsets, cut))
        return min(best, level)

    def _tightened(self, one: cuts.Round, cut: cuts.Cut) -> None:
        """Intervals and planes of one round, node after node."""
        for node, start in cuts.units(self.model.graph):
            span = slice(start, start + prod(node.shape))
            self._behind(node.sources[0], one.multipliers[:, span], cut)
            self.planes[node.name] = self._bending(node, one.planes[span])

    def _behind(self, source: str, multipliers: Array, cut: cuts.Cut) -> None:
        """Intersect the intervals of bent units with what holds behind a cut; of an empty part anything is true, and its interval is kept one."""
        low, high = self.low[source].copy(), self.high[source].copy()
        at = np.nonzero((low < 0) & (high > 0))[0]
        if not len(at) or source in self.leaves:  # of an input the ball says all that is used
            return
        unit = np.eye(len(low))[at]
        ends = []
        for side, rows in enumerate((unit, -unit)):
            beside, more = cut.times(multipliers[side, at])
            ends.append(self._pull(source, rows, more, False, beside))
        low[at] = np.minimum(np.maximum(low[at], ends[0]), high[at])
        high[at] = np.maximum(np.minimum(high[at], -ends[1]), low[at])
        self.low[source], self.high[source] = low, high

    def _bending(self, node: Node, slopes: Array) -> Plane:
        low, high = self.low[node.sources[0]], self.high[node.sources[0]]
        steep = float(node.arguments["negative_slope"]) if node.op == "leaky_relu" else 0.0  # type: ignore[arg-type]
        return Plane(*cuts.bending(self.model.shape_of(node), steep, slopes, low, high))  # type: ignore[arg-type]

    def _affine(self, node: Node) -> None:
        part = self.model.maps[node.name]
        low = high = part.bias
        size = part.size
        for source, matrix in part.parts:
            rise, fall = matrix.maximum(0), matrix.minimum(0)
            low = low + rise @ self.low[source] + fall @ self.high[source]
            high = high + rise @ self.high[source] + fall @ self.low[source]
            size = size + abs(matrix) @ self.largest(source)
        down, up = self._flexible(node)
        self.slop[node.name], self.moved[node.name] = gamma(part.terms) * size + FLOOR, down + up
        self.low[node.name] = below(low - (self.slop[node.name] + down))
        self.high[node.name] = above(high + (self.slop[node.name] + up))

    def _flexible(self, node: Node) -> tuple[Array | float, Array | float]:
        """(down, up): how much further moving parameters carry each output of a layer, the second-order term included."""
        down: Array | float = 0.0
        up: Array | float = 0.0
        weight, bias = self._moving(node)
        if weight is not None:
            taps, low, high, _, factor = self._products(node)
            if node.op in LAYERS and weight.p == np.inf:
                stored = self.model.constants[node.arguments["weight"].name]  # type: ignore[union-attr]
                down, up = corners(taps, weight, stored.reshape(-1).astype(np.float64), low, high)
            else:
                down = up = factor * most_by_output(taps, weight, np.maximum(np.abs(low), np.abs(high)))
        if bias is not None:
            shift = bias.box[self._products(node)[0].bias]
            down, up = down + shift, up + shift
        return down * (1 + 8 * EPSILON), up * (1 + 8 * EPSILON)

    def _moving(self, node: Node) -> tuple[Room | None, Room | None]:
        """The rooms of the weight and the bias of a layer, where they move."""
        if node.op not in MOVABLE:
            return None, None
        name = lambda key: getattr(node.arguments[key], "name", "")
        return self.room.get(name("weight")), self.room.get(name("bias"))

    def _products(self, node: Node) -> tuple[Stencil, Array, Array, Array | float, Array | float]:
        """What the weight of a layer multiplies, and where: products, interval of the values less a shift, the shift, a factor on each output."""
        read, source = Reader(node, self.model.known, self.model.constants), node.sources[0]
        if node.op in LAYERS:
            return stencil(read), self.low[source], self.high[source], 0.0, 1.0
        taps, mean, deviation = gains(read)
        return taps, below(self.low[source] - mean), above(self.high[source] - mean), mean, deviation

    def _taken(self, node: Node, rows: Array, last: bool) -> tuple[Array | float, Array | float]:
        """(form, constant): what moving parameters of a layer take from rows is at most ``form @ h + constant``."""
        weight, bias = self._moving(node)
        form, constant = 0.0, 0.0
        if weight is not None:
            taps, low, high, shift, factor = self._products(node)
            width = self.model.known[node.sources[0]].shape[-1] if node.op == "linear" else 0
            form, constant = free_form(taps, weight, rows * factor * (1 + 8 * EPSILON), low, high, width)
            share = self._share(node, len(rows)) if last else np.zeros(len(rows))
            if share.any():
                other, more = shared_form(taps, weight, rows * factor, low, high)
                form = (1 - share)[:, None] * form + share[:, None] * other
                constant = (1 - share) * constant + share * more
            away = self.largest(node.sources[0]) + np.abs(shift)
            doubt = np.abs(form) @ away * gamma(rows.shape[1]) if node.op not in LAYERS else 0.0
            constant = constant - (form * shift).sum(1) + doubt
        return form, constant if bias is None else constant + bias_cost(self._products(node)[0], bias, rows)

    def _share(self, node: Node, count: int) -> Array:
        """How much each row of the specification takes of the form that shares a kernel: any number in [0, 1] is sound."""
        stored = self.proof.get(f"{node.name}.sharing")
        if stored is None:
            return np.zeros(count)
        if stored.shape != (count,) or not ((stored >= 0) & (stored <= 1)).all():
            raise Unknown(f"shares of {node.name} with shape {stored.shape} or outside [0, 1]")
        return stored.astype(np.float64)

    def _activation(self, node: Node) -> Plane:
        f, source = self.model.shape_of(node), node.sources[0]
        low, high = self.low[source], self.high[source]
        lower, upper = self._slope(node, "lower_slope", low.shape), self._slope(node, "upper_slope", low.shape)
        self.low[node.name], self.high[node.name] = planes.image(f, low, high)  # type: ignore[arg-type]
        return Plane(lower, planes.intercepts(f, lower, low, high)[0], upper, planes.intercepts(f, upper, low, high)[1])  # type: ignore[arg-type]

    def _pool(self, node: Node) -> Plane:
        index, source = window_index(Reader(node, self.model.known, self.model.constants)), node.sources[0]
        inside = index >= 0
        low = np.where(
            inside, self.low[source][index], self.low[source][index].min(1, keepdims=True, where=inside, initial=np.inf)
        )
        high = np.where(
            inside, self.high[source][index], low
        )  # a tap outside stands for the least inside: never the maximum
        self.low[node.name], self.high[node.name] = low.max(1), high.max(1)
        lower = np.where(inside, self._slope(node, "lower_slope", index.shape), 0.0)
        upper = np.where(inside, self._slope(node, "upper_slope", index.shape), 0.0)
        rows, taps = np.nonzero(inside)
        shape = (len(index), len(self.low[source]))
        back = [csr_matrix((s[rows, taps], (rows, index[rows, taps])), shape=shape) for s in (lower, upper)]
        least, most = pool_intercepts(lower, upper, low, high)
        return Plane(back[0], least, back[1], most)

    def _product(self, node: Node) -> Plane:
        low, high = (side[node.sources[0]].reshape(2, -1) for side in (self.low, self.high))
        self.low[node.name], self.high[node.name] = product_intercepts(np.zeros_like(low), low, high)
        lower, upper = (self._slope(node, side, low.shape) for side in ("lower_slope", "upper_slope"))
        back = [csr_matrix(hstack([diags(s[0]), diags(s[1])])) for s in (lower, upper)]
        least, most = product_intercepts(lower, low, high)[0], product_intercepts(upper, low, high)[1]
        return Plane(back[0], least, back[1], most)

    def _slope(self, node: Node, side: str, shape: tuple[int, ...]) -> Array:
        stored = self.proof.get(f"{node.name}.{side}")
        if stored is None:
            return np.zeros(shape)
        if stored.size != prod(shape) or not np.isfinite(stored).all():
            raise Unknown(f"slopes of {node.name} with shape {stored.shape} or not finite")
        return stored.reshape(shape).astype(np.float64)

    def _pull(
        self,
        name: str,
        rows: Array,
        offsets: Array,
        last: bool,
        beside: Mapping[str, Array] | None = None,
        forms: dict[str, Array] | None = None,
    ) -> Array:
        """``beside``: rows on nodes before this one, added to the form; ``forms``: filled with the rows on the inputs, which are then no part of the value."""
        pending, total, size = {**(beside or {}), name: rows}, offsets, np.abs(offsets)
        steps = 0
        for node in reversed(self.model.graph.nodes):
            if node.name not in pending:
                continue
            if node.name in self.leaves and forms is not None:
                forms[node.name] = pending.pop(node.name)
                continue
            if node.name in self.leaves:
                value = self.leaves[node.name].least(pending.pop(node.name))
                total, size = total + value, size + np.abs(value)
                continue
            rows = pending.pop(node.name)
            constant, lost, back = self._through(node, rows, last)
            total, size, steps = total + constant - lost, size + np.abs(constant) + lost, steps + 2
            for source, piece in back:
                pending[source] = pending[source] + piece if source in pending else piece
                total = total - EPSILON * (np.abs(pending[source]) @ self.largest(source))
        found = below(total - gamma(steps) * size - FLOOR)
        # what overflowed proves nothing, and no sort or minimum passes over it
        return np.where(np.isfinite(found), found, -np.inf)

    def _through(self, node: Node, rows: Array, last: bool) -> tuple[Array, Array, list[tuple[str, Array]]]:
        """(constant, what rounding and moving parameters may cost, rows on the sources) of rows pulled through one node."""
        wide = np.abs(rows)
        if node.name in self.model.maps:
            part = self.model.maps[node.name]
            count = len(self.slop[node.name])
            form, taken = self._taken(node, rows, last)
            # the constant is a sum over all inputs, or over the entries of a kernel, and at most <|row|, moved>
            longest = max((prod(self.model.known[name].shape) for name in node.sources), default=1)
            slop = self.slop[node.name] + (4 * gamma(part.terms + count) + gamma(longest)) * self.moved[node.name]
            lost = wide @ slop * (1 + gamma(count))
            return rows @ part.bias - taken, lost, [(s, _times(rows, m) - form) for s, m in part.parts]
        plane, source = self.planes[node.name], node.sources[0]
        up, down = np.maximum(rows, 0), np.minimum(rows, 0)
        constant = up @ plane.least + down @ plane.most
        piece = _times(up, plane.lower) + _times(down, plane.upper)
        reach = _times(up, abs(plane.lower)) - _times(down, abs(plane.upper))
        heights = np.maximum(np.abs(plane.least), np.abs(plane.most))
        lost = gamma(rows.shape[1]) * (wide @ heights) + gamma(8) * (reach @ self.largest(source))
        return constant, lost, [(source, piece)]


def _times(rows: Array, factor: csr_matrix | Array) -> Array:
    return rows * factor if isinstance(factor, np.ndarray) else np.asarray(factor.T @ rows.T).T
