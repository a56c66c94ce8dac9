"""Marks: functions of the two scales that give SVG. Values in data units, classes for colour and dash.

A mark is drawn inside the frame of a figure, which clips it. Every coordinate is written with two decimals; stairs are
snapped to half a pixel, the finest step that a display with two device pixels per unit can show, which bounds the length
of a path by the height of the drawing whatever the number of examples.
"""

from collections.abc import Callable, Sequence
from html import escape

from brittle.plots.scales import Scale

Mark = Callable[[Scale, Scale], str]
SNAP = 2  # parts of a pixel


def line(xs: Sequence[float], ys: Sequence[float], classes: str = "c0") -> Mark:
    """Straight pieces through the points."""

    def draw(x: Scale, y: Scale) -> str:
        points = " ".join(f"{pixel(x(a))},{pixel(y(b))}" for a, b in zip(xs, ys, strict=True))
        return f'<polyline class="line {escape(classes)}" points="{points}"/>'

    return draw


def stairs(edges: Sequence[float], levels: Sequence[float], classes: str = "c0") -> Mark:
    """A step function: ``levels[i]`` on [edges[i], edges[i + 1])."""

    def draw(x: Scale, y: Scale) -> str:
        return f'<path class="line {escape(classes)}" d="{_path(_corners(edges, levels, x, y))}"/>'

    return draw


def stairs_band(
    low: tuple[Sequence[float], Sequence[float]], high: tuple[Sequence[float], Sequence[float]], classes: str = "c0"
) -> Mark:
    """The area between two step functions, each given as (edges, levels)."""

    def draw(x: Scale, y: Scale) -> str:
        outline = _corners(*low, x, y) + _corners(*high, x, y)[::-1]
        return f'<path class="band {escape(classes)}" d="{_path(outline)}Z"/>'

    return draw


def band(xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], classes: str = "c0") -> Mark:
    """The area between two broken lines over the same abscissae."""

    def draw(x: Scale, y: Scale) -> str:
        there = [f"{pixel(x(a))},{pixel(y(b))}" for a, b in zip(xs, lows, strict=True)]
        back = [f"{pixel(x(a))},{pixel(y(b))}" for a, b in zip(xs, highs, strict=True)][::-1]
        return f'<polygon class="band {escape(classes)}" points="{" ".join(there + back)}"/>'

    return draw


def scatter(
    xs: Sequence[float],
    ys: Sequence[float],
    classes: str = "c0",
    titles: Sequence[str] = (),
    shape: str = "circle",
    size: float = 3,
) -> Mark:
    """Points; ``shape`` is "circle", "diamond", "square", "up" or "down"; titles appear where the pointer rests."""

    def draw(x: Scale, y: Scale) -> str:
        texts = titles or [""] * len(xs)
        return "".join(_point(x(a), y(b), shape, size, classes, t) for a, b, t in zip(xs, ys, texts, strict=True))

    return draw


def brackets(
    xs: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    classes: str = "c0",
    titles: Sequence[str] = (),
    cap: float = 2.5,
) -> Mark:
    """A vertical bar from low to high at every x, with short caps (half width ``cap`` pixels); also an error bar."""

    def draw(x: Scale, y: Scale) -> str:
        texts = titles or [""] * len(xs)
        bars_ = (_bracket(x(a), y(lo), y(hi), cap, t) for a, lo, hi, t in zip(xs, lows, highs, texts, strict=True))
        return f'<g class="bracket {escape(classes)}">{"".join(bars_)}</g>'

    return draw


def bars(xs: Sequence[float], heights: Sequence[float], width: float, classes: str = "c0") -> Mark:
    """Columns from zero, ``width`` in units of x."""

    def draw(x: Scale, y: Scale) -> str:
        out = []
        for a, height in zip(xs, heights, strict=True):
            left, right = sorted((x(a - width / 2), x(a + width / 2)))
            top, bottom = sorted((y(0), y(height)))
            out.append(
                f'<rect x="{pixel(left)}" y="{pixel(top)}" width="{pixel(right - left)}" height="{pixel(bottom - top)}"/>'
            )
        return f'<g class="bar {escape(classes)}">{"".join(out)}</g>'

    return draw


def rule(at: float, axis: str = "x", classes: str = "", text: str = "") -> Mark:
    """A thin line across the frame at one value of ``axis``, with a word beside it."""

    def draw(x: Scale, y: Scale) -> str:
        if axis == "x":
            where = f'x1="{pixel(x(at))}" x2="{pixel(x(at))}" y1="{pixel(y.start)}" y2="{pixel(y.stop)}"'
            label = f'<text class="note" x="{pixel(x(at) + 5)}" y="{pixel(y.stop + 12)}">{escape(text)}</text>'
        else:
            where = f'x1="{pixel(x.start)}" x2="{pixel(x.stop)}" y1="{pixel(y(at))}" y2="{pixel(y(at))}"'
            label = f'<text class="note" x="{pixel(x.start + 5)}" y="{pixel(y(at) - 5)}">{escape(text)}</text>'
        return f'<line class="rule {escape(classes)}" {where}/>{label if text else ""}'

    return draw


def pixel(value: float) -> str:
    """A coordinate with at most two decimals.

    >>> pixel(12.0), pixel(3.14159), pixel(-0.001)
    ('12', '3.14', '0')
    """
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _point(x: float, y: float, shape: str, size: float, classes: str, title: str) -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    kind = f'class="dot {escape(classes)}"'
    if shape == "circle":
        return f'<circle {kind} cx="{pixel(x)}" cy="{pixel(y)}" r="{pixel(size)}">{tip}</circle>'
    corners = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "up": [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
        "down": [(0, 1.2), (1.1, -0.9), (-1.1, -0.9)],
    }[shape]
    points = " ".join(f"{pixel(x + size * a)},{pixel(y + size * b)}" for a, b in corners)
    return f'<polygon {kind} points="{points}">{tip}</polygon>'


def _bracket(x: float, low: float, high: float, cap: float, title: str) -> str:
    caps = "".join(f"M{pixel(x - cap)},{pixel(v)}h{pixel(2 * cap)}" for v in (low, high)) if cap else ""
    tip = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="M{pixel(x)},{pixel(low)}V{pixel(high)}{caps}">{tip}</path>'


def _corners(edges: Sequence[float], levels: Sequence[float], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """The corners of a step function on the half-pixel grid, without those that the grid cannot tell apart."""
    at = [round(x(e) * SNAP) / SNAP for e in edges]
    height = [round(y(v) * SNAP) / SNAP for v in levels]
    corners = [(at[0], height[0])]
    for left, top in zip(at[1:], height[1:], strict=False):
        if top == corners[-1][1]:
            continue
        if left == corners[-1][0] and len(corners) > 1:
            corners[-1] = (left, top)
        else:
            corners += [(left, corners[-1][1]), (left, top)]
    return [*corners, (at[-1], corners[-1][1])]


def _path(corners: Sequence[tuple[float, float]]) -> str:
    first, *rest = corners
    text, (x, y) = [f"M{pixel(first[0])},{pixel(first[1])}"], first
    for a, b in rest:
        text.append(f"H{pixel(a)}" * (a != x) + f"V{pixel(b)}" * (b != y))
        x, y = a, b
    return "".join(text)
