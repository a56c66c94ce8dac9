"""The leaves of a search tree over the signs of units: do they cover the region, and what does each prove?

On a leaf every split unit has a known sign, ``s z >= 0``. For any multipliers ``b >= 0`` the row is there at least ``row - sum b s z``, and a
lower bound of that form over the whole region is one of the row on the leaf. Where the leaves cover the region, the row is at least the
least of them. A row that has rounds of cuts has its leaves behind them. Wrong slopes and multipliers can make a proof fail, never make it false; the cover is checked here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from brittle._checker.affine import Unknown
from brittle._checker.arithmetic import Array
from brittle.graph import Graph, Node

SPLIT = ("relu", "leaky_relu")
NAMES = ("tree.rows", "tree.units", "tree.multipliers", "tree.last", "tree.slopes")


@dataclass(frozen=True)
class Leaf:
    """signs: split unit -> 1 or -1; multipliers by unit; slopes (U,) of the planes below units that bend; last: the multiplier of the row's last cut."""

    signs: Mapping[int, int]
    multipliers: Mapping[int, float]
    slopes: Array
    last: float = 0.0


def units(graph: Graph) -> list[tuple[Node, int]]:
    """The nodes whose units a tree may split, and where the units of each begin."""
    found, start = [], 0
    for node in graph.nodes:
        if node.varies and node.op in SPLIT:
            found.append((node, start))
            start += int(np.prod(node.shape))
    return found


def leaves_of(proof: Mapping[str, NDArray], total: int) -> dict[int, list[Leaf] | None]:
    """The leaves of every row that has any; None where a leaf contradicts itself or has a multiplier below 0.

    Raises :class:`Unknown` where the arrays do not fit together.
    """
    if not all(name in proof for name in NAMES):
        return {}
    rows, signed, multipliers, last, slopes = (np.asarray(proof[name]) for name in NAMES)
    if not (
        rows.ndim == 1
        and signed.ndim == 2
        and signed.shape == multipliers.shape
        and len(rows) == len(signed) == len(slopes)
        and last.shape == rows.shape
        and (not rows.any() or slopes.shape == (len(rows), total))
        and np.all(np.abs(signed) <= total)
    ):
        raise Unknown("a search tree whose arrays do not fit together")
    found: dict[int, list[Leaf] | None] = {}
    for at in np.nonzero(rows > 0)[0]:
        row = int(rows[at]) - 1
        mine, below = multipliers[at].astype(np.float64), slopes[at].astype(np.float64) / 255
        leaf = _leaf(signed[at].astype(np.int64), mine, below, float(last[at]))
        known = found.setdefault(row, [])
        if leaf is None or known is None:
            found[row] = None
        else:
            known.append(leaf)
    return found


def _leaf(signed: NDArray, multipliers: Array, slopes: Array, last: float) -> Leaf | None:
    if not 0 <= last < inf:
        return None
    used = signed != 0
    at = [int(unit) for unit in np.abs(signed[used]) - 1]
    if len(set(at)) < len(at) or not np.all(np.isfinite(multipliers[used]) & (multipliers[used] >= 0)):
        return None
    signs = {unit: int(np.sign(s)) for unit, s in zip(at, signed[used], strict=True)}
    return Leaf(signs, {unit: float(b) for unit, b in zip(at, multipliers[used], strict=True)}, slopes, last)


def covers(parts: list[dict[int, int]]) -> bool:
    """Whether every choice of signs agrees with one of the parts: one without conditions does, else both halves at a unit of all must.

    >>> covers([{0: 1}, {0: -1, 1: 1}, {0: -1, 1: -1}]), covers([{0: 1}, {0: -1, 1: 1}])
    (True, False)
    """
    if any(not part for part in parts):
        return True
    common = set(parts[0]).intersection(*parts) if parts else set()
    if not common:
        return False
    unit = min(common)
    half = lambda sign: [{u: s for u, s in part.items() if u != unit} for part in parts if part[unit] == sign]
    return covers(half(1)) and covers(half(-1))


def least(leaves: list[Leaf] | None, below: Callable[[Leaf], float]) -> float:
    """The least of what ``below`` proves on the leaves; -inf where they do not cover the region."""
    if not leaves or not covers([dict(leaf.signs) for leaf in leaves]):
        return -inf
    return min(below(leaf) for leaf in leaves)


def cut(low: Array, high: Array, leaf: Leaf, start: int) -> tuple[Array, Array, Array]:
    """(low, high, multiplied rows) of the units of one node on a leaf; of an empty part anything is true, and its interval is kept one."""
    low, high, rows = low.copy(), high.copy(), np.zeros_like(low)
    for unit, sign in leaf.signs.items():
        i = unit - start
        if not 0 <= i < len(low):
            continue
        rows[i] -= sign * leaf.multipliers[unit]
        if sign > 0:
            low[i] = max(low[i], 0.0)
            high[i] = max(high[i], low[i])
        else:
            high[i] = min(high[i], 0.0)
            low[i] = min(low[i], high[i])
    return low, high, rows
