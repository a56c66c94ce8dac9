"""The frame: two axes with ticks and words around marks, as one accessible SVG element."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from brittle.plots.marks import Mark, pixel
from brittle.plots.scales import Scale, log_ticks, nice_ticks, tick_text

TOP, RIGHT, BOTTOM = 28, 14, 44
ROOM = 7  # pixels around the frame in which a mark on its border is still whole
CHARACTER = 7.0  # pixels: width of a digit at the tick labels' 12 px


@dataclass(frozen=True)
class Axis:
    """One axis: its words, its range, and the ticks (default: nice ones)."""

    label: str
    low: float
    high: float
    log: bool = False
    ticks: tuple[float, ...] | None = None
    texts: tuple[str, ...] | None = None

    def labelled(self, count: int) -> list[tuple[float, str]]:
        """The ticks with their labels."""
        chosen = list(self.ticks) if self.ticks is not None else None
        if chosen is None:
            chosen = log_ticks(self.low, self.high) if self.log else nice_ticks(self.low, self.high, count)
        texts = self.texts or [tick_text(v, chosen, self.log) for v in chosen]
        return list(zip(chosen, texts, strict=True))


def figure(marks: Sequence[Mark], x: Axis, y: Axis, *, label: str, width: float = 760, height: float = 300) -> Markup:
    """One SVG element: marks inside a clipped frame, ticks and light grid lines around them.

    label : what a reader who cannot see the drawing should be told.
    width, height : in user units; the page scales the drawing to the column.

    >>> from brittle.plots import line
    >>> svg = figure([line([0, 1], [0, 1])], Axis("size", 0, 1), Axis("accuracy", 0, 1), label="a diagonal")
    >>> svg.startswith('<svg class="plot" role="img"')
    True
    """
    across, up = scales(x, y, width, height)
    inside = "".join(mark(across, up) for mark in marks)
    left, wide, high = across.start - ROOM, across.stop - across.start + 2 * ROOM, up.start - TOP + 2 * ROOM
    frame = f'x="{pixel(left)}" y="{TOP - ROOM}" width="{pixel(wide)}" height="{pixel(high)}"'
    box = f"{pixel(left)} {TOP - ROOM} {pixel(wide)} {pixel(high)}"
    return Markup(
        f'<svg class="plot" role="img" aria-label="{escape(label)}" viewBox="0 0 {pixel(width)} {pixel(height)}">'
        f"{_grid(y, across, up)}{_ticks(x, across, up)}"
        f'<svg {frame} viewBox="{box}">{inside}</svg>'
        f'<line class="axis" x1="{pixel(across.start)}" x2="{pixel(across.stop)}" y1="{pixel(up.start)}" y2="{pixel(up.start)}"/>'
        f'<text class="label" x="0" y="12">{escape(y.label)}</text>'
        f'<text class="label end" x="{pixel(across.stop)}" y="{pixel(height - 6)}">{escape(x.label)}</text>'
        "</svg>"
    )


def scales(x: Axis, y: Axis, width: float = 760, height: float = 300) -> tuple[Scale, Scale]:
    """The two maps from data to pixels that :func:`figure` uses; y grows upwards."""
    widest = max((len(text) for _, text in y.labelled(5)), default=1)
    left = 10 + CHARACTER * widest
    across = Scale(x.low, x.high, left, width - RIGHT, x.log)
    return across, Scale(y.low, y.high, height - BOTTOM, TOP, y.log)


def _grid(y: Axis, across: Scale, up: Scale) -> str:
    out = []
    for value, text in y.labelled(5):
        at = pixel(up(value))
        out.append(f'<line class="grid" x1="{pixel(across.start)}" x2="{pixel(across.stop)}" y1="{at}" y2="{at}"/>')
        out.append(
            f'<text class="tick end" x="{pixel(across.start - 7)}" y="{pixel(up(value) + 4)}">{escape(text)}</text>'
        )
    return "".join(out)


def _ticks(x: Axis, across: Scale, up: Scale) -> str:
    out = []
    for value, text in x.labelled(8):
        at = pixel(across(value))
        out.append(
            f'<line class="axis" x1="{at}" x2="{at}" y1="{pixel(up.start)}" y2="{pixel(up.start + 4)}"/>'
            f'<text class="tick middle" x="{at}" y="{pixel(up.start + 18)}">{escape(text)}</text>'
        )
    return "".join(out)
