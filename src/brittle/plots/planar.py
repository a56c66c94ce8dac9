"""Marks over a grid of two variables: a heat map, and contour lines by marching squares."""

from collections.abc import Sequence
from html import escape

from brittle.plots.marks import Mark, pixel
from brittle.plots.scales import Scale

# A cell's corners below, counter-clockwise from the lower left, are numbered 0..3; its sides 0 (bottom), 1 (right), 2 (top),
# 3 (left). For every pattern of corners above the level: the pairs of sides that the contour joins. The two saddles (5, 10)
# are resolved by the value at the centre of the cell.
_SIDES = {1: [(3, 0)], 2: [(0, 1)], 3: [(3, 1)], 4: [(1, 2)], 6: [(0, 2)], 7: [(3, 2)]}
_SIDES |= {15 - pattern: sides for pattern, sides in list(_SIDES.items())}
_CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))


def heat_map(xs: Sequence[float], ys: Sequence[float], values: Sequence[Sequence[float]], classes: str = "c0") -> Mark:
    """``values[j][i]`` around (xs[i], ys[j]): one colour, its opacity from the smallest value (0) to the largest (1)."""
    flat = [v for row in values for v in row]
    low, span = min(flat), (max(flat) - min(flat)) or 1.0

    def draw(x: Scale, y: Scale) -> str:
        across, up = _edges([x(a) for a in xs]), _edges([y(b) for b in ys])
        out = []
        for j, row in enumerate(values):
            top, bottom = sorted((up[j], up[j + 1]))
            for i, value in enumerate(row):
                left, right = sorted((across[i], across[i + 1]))
                box = f'x="{pixel(left)}" y="{pixel(top)}" width="{pixel(right - left)}" height="{pixel(bottom - top)}"'
                out.append(f'<rect {box} fill-opacity="{(value - low) / span:.3g}"/>')
        return f'<g class="heat {escape(classes)}">{"".join(out)}</g>'

    return draw


def contour(
    xs: Sequence[float], ys: Sequence[float], values: Sequence[Sequence[float]], level: float, classes: str = "c0"
) -> Mark:
    """The curve ``values == level``, linear inside every cell; ``values[j][i]`` belongs to (xs[i], ys[j])."""
    segments = contour_segments(xs, ys, values, level)

    def draw(x: Scale, y: Scale) -> str:
        path = "".join(f"M{pixel(x(a))},{pixel(y(b))}L{pixel(x(c))},{pixel(y(d))}" for (a, b), (c, d) in segments)
        return f'<path class="line {escape(classes)}" d="{path}"/>'

    return draw


def contour_segments(
    xs: Sequence[float], ys: Sequence[float], values: Sequence[Sequence[float]], level: float
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The pieces of a contour line, in data units.

    >>> contour_segments([0, 1], [0, 1], [[0, 1], [0, 1]], 0.25)
    [((0.25, 0.0), (0.25, 1.0))]
    """
    out = []
    for j in range(len(ys) - 1):
        for i in range(len(xs) - 1):
            corners = [(xs[i + a], ys[j + b], values[j + b][i + a] - level) for a, b in _CORNERS]
            out += [(_cut(corners, s), _cut(corners, t)) for s, t in _joined([c[2] for c in corners])]
    return out


def _joined(heights: list[float]) -> list[tuple[int, int]]:
    pattern = sum(1 << k for k, height in enumerate(heights) if height > 0)
    if pattern in (5, 10):
        centre_above = sum(heights) > 0
        return [(0, 1), (2, 3)] if (pattern == 5) == centre_above else [(3, 0), (1, 2)]
    return _SIDES.get(pattern, [])


def _cut(corners: list[tuple[float, float, float]], side: int) -> tuple[float, float]:
    (xa, ya, a), (xb, yb, b) = corners[side], corners[(side + 1) % 4]
    share = a / (a - b)
    return xa + share * (xb - xa), ya + share * (yb - ya)


def _edges(centres: list[float]) -> list[float]:
    """Cell borders half way between the centres; the outer cells as wide as their inner half."""
    if len(centres) == 1:
        return [centres[0] - 5, centres[0] + 5]
    middle = [(a + b) / 2 for a, b in zip(centres, centres[1:], strict=False)]
    return [2 * centres[0] - middle[0], *middle, 2 * centres[-1] - middle[-1]]
