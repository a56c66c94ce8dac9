"""A row bounded where it could fail: rounds of half-spaces that the row's own planes cut off the region.

Where a row is at most ``level``, so is every linear form that was proved to lie below it: ``<a, x> + c <= 0``. What is proved of units and of the row behind that
cut, with ``f >= min f + g (<a, x> + c)`` for any ``g >= 0``, holds wherever the row is at most its level; elsewhere the row is more than that. Wrong slopes or
multipliers can make a proof fail, never make it false.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brittle._checker import planes
from brittle._checker.affine import Unknown
from brittle._checker.arithmetic import EPSILON, Array
from brittle.graph import Graph, Node

NAMES = ("cuts.level", "cuts.rounds", "cuts.planes", "cuts.slopes", "cuts.multipliers", "cuts.last")


@dataclass(frozen=True)
class Round:
    """planes (U,) lower slopes under this round's intervals, slopes (U,) those of the row, multipliers (2, U) of the units' two ends, last of the row."""

    planes: Array
    slopes: Array
    multipliers: Array
    last: float


def units(graph: Graph) -> list[tuple[Node, int]]:
    """The nodes ``max(z, steep z)``, steep <= 1, and where the units of each begin."""
    found, start = [], 0
    for node in graph.nodes:
        if node.varies and (node.op == "relu" or node.op == "leaky_relu" and node.arguments["negative_slope"] <= 1):  # type: ignore[operator]
            found.append((node, start))
            start += int(np.prod(node.shape))
    return found


def rounds_of(proof: Mapping[str, NDArray], total: int, rows: int) -> dict[int, tuple[float, list[Round]]]:
    """(level, rounds) of every row that has any.

    Raises :class:`Unknown` where the arrays do not fit together, or a multiplier is below 0 or not finite.
    """
    if not all(name in proof for name in NAMES):
        return {}
    level, taken, below, slopes, multipliers, last = (np.asarray(proof[name]) for name in NAMES)
    if not taken.any():
        return {}
    most = below.shape[1] if below.ndim == 3 else 0
    shapes = (below.shape, slopes.shape, multipliers.shape, last.shape)
    wanted = ((rows, most, total), (rows, most, total), (rows, most, 2, total), (rows, most))
    if shapes != wanted or taken.shape != (rows,) or level.shape != () or taken.max() > most:
        raise Unknown("rounds of cuts whose arrays do not fit together")
    if not all(np.all(np.isfinite(v) & (v >= 0)) for v in (multipliers, last)):
        raise Unknown("multipliers of cuts below 0 or not finite")
    wide = lambda v: v.astype(np.float64)
    one = lambda r, t: Round(
        wide(below[r, t]) / 255, wide(slopes[r, t]) / 255, wide(multipliers[r, t]), float(last[r, t])
    )
    return {int(r): (float(level), [one(r, t) for t in range(int(taken[r]))]) for r in np.nonzero(taken)[0]}


def bending(
    f: planes.Activation, steep: float, slope: Array, low: Array, high: Array
) -> tuple[Array, Array, Array, Array]:
    """(lower slope, least, upper slope, most) of the planes of bent units, those of the function elsewhere."""
    lower, chord = planes.bending(f, np.clip(slope, steep, 1.0), low, high)
    return lower, planes.intercepts(f, lower, low, high)[0], chord, planes.intercepts(f, chord, low, high)[1]


@dataclass(frozen=True)
class Cut:
    """``sum over inputs <a, x> + c <= 0``: a (D,) by input, largest |x| by input."""

    a: Mapping[str, Array]
    c: float
    largest: Mapping[str, Array]

    def times(self, g: Array) -> tuple[dict[str, Array], Array]:
        """(rows on the inputs, offsets): g times the cut for every multiplier, no more than that in spite of rounding."""
        size = sum((np.abs(a) @ self.largest[name] for name, a in self.a.items()), abs(self.c))
        return {name: g[:, None] * a[None] for name, a in self.a.items()}, g * self.c - 8 * EPSILON * g * size
