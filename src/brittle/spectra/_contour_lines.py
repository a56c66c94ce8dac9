"""Curves of constant height over a grid: marching squares, the pieces joined into lines."""

import numpy as np

# corners of a cell from the lower left, counter-clockwise: bits 1, 2, 4, 8; sides: 0 below, 1 right, 2 above, 3 left.
# Which sides the curve joins, for every pattern of corners above the level; 5 and 10 are saddles, resolved by the cell's mean
_JOINS = {
    1: [(3, 0)],
    2: [(0, 1)],
    3: [(3, 1)],
    4: [(1, 2)],
    6: [(0, 2)],
    7: [(3, 2)],
    5: [(3, 0), (1, 2)],
    10: [(0, 1), (2, 3)],
}
_JOINS |= {15 - pattern: joins for pattern, joins in list(_JOINS.items()) if pattern not in (5, 10)}

Side = tuple[int, int, int]  # (0: along x, 1: along y; row; column) of the lower left end


def contour_lines(x: np.ndarray, y: np.ndarray, values: np.ndarray, level: float) -> tuple[np.ndarray, ...]:
    """The curves ``values = level`` as polylines (k, 2); ``values[j, i]`` belongs to (x[i], y[j]). A closed one ends where it began.

    >>> lines = contour_lines(np.arange(2), np.arange(2), np.array([[0, 1], [0, 1]]), 0.25)
    >>> [line.tolist() for line in lines]
    [[[0.25, 0.0], [0.25, 1.0]]]
    """
    return tuple(
        np.array([_cut(x, y, values, level, side) for side in chain]) for chain in _chains(_neighbours(values, level))
    )


def _neighbours(values: np.ndarray, level: float) -> dict[Side, list[Side]]:
    """Which crossed sides the curve joins; each has one neighbour at the border of the grid, else two."""
    above = (values > level).astype(int)
    patterns = above[:-1, :-1] + 2 * above[:-1, 1:] + 4 * above[1:, 1:] + 8 * above[1:, :-1]
    joined: dict[Side, list[Side]] = {}
    for j, i in np.argwhere((patterns > 0) & (patterns < 15)).tolist():
        pattern = int(patterns[j, i])
        if pattern in (5, 10) and values[j : j + 2, i : i + 2].mean() > level:
            pattern = 15 - pattern  # the middle is above too: the curve cuts off the two low corners
        sides = ((0, j, i), (1, j, i + 1), (0, j + 1, i), (1, j, i))
        for a, b in _JOINS[pattern]:
            joined.setdefault(sides[a], []).append(sides[b])
            joined.setdefault(sides[b], []).append(sides[a])
    return joined


def _chains(joined: dict[Side, list[Side]]) -> list[list[Side]]:
    """Open lines from their ends, then the closed ones from anywhere."""
    chains, seen = [], set()
    for start in sorted(joined, key=lambda side: len(joined[side])):
        if start in seen:
            continue
        chain, closed = [start], len(joined[start]) == 2
        seen.add(start)
        while ahead := [side for side in joined[chain[-1]] if side not in seen]:
            chain.append(ahead[0])
            seen.add(ahead[0])
        chains.append([*chain, start] if closed else chain)
    return chains


def _cut(x: np.ndarray, y: np.ndarray, values: np.ndarray, level: float, side: Side) -> tuple[float, float]:
    """Where a side is crossed, by linear interpolation."""
    upright, j, i = side
    other = (j + 1, i) if upright else (j, i + 1)
    share = (level - values[j, i]) / (values[other] - values[j, i])
    return float(x[i] + share * (x[other[1]] - x[i])), float(y[j] + share * (y[other[0]] - y[j]))
