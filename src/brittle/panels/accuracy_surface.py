"""Accuracy over input radius and weight radius: a heat map with contours of both ends, the median frontier, and the two marginal curves."""

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np

from brittle.about import About
from brittle.panels._data import middle, survival
from brittle.panels._html import fill, number, percent, series
from brittle.plots import Axis, Mark, contour, figure, heat_map, line, scatter, stairs, stairs_band

ABOUT = About(
    promise="certified and attacked accuracy over both radii, and the curves of one radius alone",
    reference="",
    answers="71",
)
NAME = "accuracy_surface"
LEVELS = (0.75, 0.5, 0.25)
QUARTERS, SHARES = (0.0, 0.25, 0.5, 0.75, 1.0), ("0", "25 %", "50 %", "75 %", "100 %")

TEMPLATE = """
<h2>When inputs and weights move together</h2>
<p>Across: how far the input may move. Up: how far every weight may move, for each example on its own. The darker, the more examples survive every attack that was tried;
solid lines stand where 75, 50 and 25 % do, dashed ones where as many are <b>certified</b>. The truth lies between a solid line and its dashed partner.
Dots: the median example's own frontier, hollow where proved, filled where broken.</p>
{% for p in parts %}
{% if p.doubt %}<div class="doubts"><p><b>{{ p.model }}</b> {{ p.doubt }}</p></div>{% endif %}
<p><span class="swatch {{ p.series }}"></span><b>{{ p.model }}</b> {{ p.note }}</p>
{% if p.svg %}
<figure>
  <p class="legend"><span><i class="key {{ p.series }}"></i>attacked</span><span><i class="key thin"></i>certified (dashed)</span></p>
  <div class="scroll">{{ p.svg }}</div>
  {% for svg in p.alone %}<div class="scroll">{{ svg }}</div>{% endfor %}
</figure>
<div class="scroll"><table>
  <caption>Accuracy, certified to attacked, of {{ p.count }} examples</caption>
  <thead><tr><th>weights \\ input</th>{% for word in p.across %}<th class="n">{{ word }}</th>{% endfor %}</tr></thead>
  <tbody>{% for word, cells in p.rows %}<tr><th class="n">{{ word }}</th>{% for c in cells %}<td class="n">{{ c }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
{% endif %}
{% endfor %}
"""


def accuracy_surface(run) -> str:
    """One picture per model; "" where the audit did not ask, or asked of a region with nothing to move."""
    facts = {m: run.findings[m][NAME] for m in run.models if NAME in run.findings.get(m, {})}
    parts = [_part(model, found, series(run.models.index(model)).split()[0]) for model, found in facts.items()]
    told = [p for p in parts if p["svg"] or p["doubt"]]
    return fill(TEMPLATE, {"parts": told}) if told else ""


def _part(model: str, found: Mapping, colour: str) -> dict:
    part = {
        "model": model,
        "series": colour,
        "note": found.get("note") or "",
        "doubt": found.get("doubt") or "",
        "svg": "",
    }
    columns = found.get("columns") or {}
    if not columns:
        return part
    cells = [k for k, kind in enumerate(columns["kind"]) if kind == "cell"]
    rays = _rays(columns)
    xs, ys = (sorted({columns[name][k] for k in cells}) for name in ("input", "weight"))
    ends = {end: _grid(columns, cells, xs, ys, end) for end in ("certified", "attacked")}
    words = [*(found.get("unit") or "").split(" | "), "", ""]
    axes = Axis(f"input radius ({words[0]})", xs[0], xs[-1]), Axis(f"weight radius ({words[1]})", ys[0], ys[-1])
    label = f"Accuracy of {model} over input and weight radius"
    return {
        **part,
        "svg": figure(_marks(xs, ys, ends, rays, colour), *axes, label=label, height=380),
        "alone": [_alone(rays[way], axis, way[k], colour) for k, axis in enumerate(axes) if (way := list(rays)[k])],
        "count": len(next(iter(rays.values()))[0]),
        "across": [number(x) for x in xs],
        "rows": [
            (
                number(y),
                [f"{percent(ends['certified'][j][i])} – {percent(ends['attacked'][j][i])}" for i in range(len(xs))],
            )
            for j, y in enumerate(ys)
        ],
    }


def _rays(columns: Mapping[str, list]) -> dict[tuple[float, float], tuple[np.ndarray, np.ndarray]]:
    """Direction -> the certified and the attacked multiples of it, an entry per example."""
    found: dict[tuple[float, float], list] = {}
    for kind, a, b, low, high in zip(
        *(columns[n] for n in ("kind", "input", "weight", "certified", "attacked")), strict=True
    ):
        if kind == "ray":
            found.setdefault((a, b), []).append((float(low), float(high)))  # "inf" is a word in records
    return {way: (np.array([e[0] for e in ends]), np.array([e[1] for e in ends])) for way, ends in found.items()}


def _grid(
    columns: Mapping[str, list], cells: Sequence[int], xs: Sequence[float], ys: Sequence[float], end: str
) -> list[list[float]]:
    at = {(columns["input"][k], columns["weight"][k]): float(columns[end][k]) for k in cells}
    return [[at[x, y] for x in xs] for y in ys]


def _marks(xs: list, ys: list, ends: Mapping[str, list], rays: Mapping, colour: str) -> list[Mark]:
    marks: list[Mark] = [heat_map(xs, ys, ends["attacked"], colour)]
    marks += [contour(xs, ys, ends["attacked"], level, "thick") for level in LEVELS]
    marks += [contour(xs, ys, ends["certified"], level, "d1") for level in LEVELS]
    ordered = sorted(rays.items(), key=lambda ray: ray[0][1] / (ray[0][0] + ray[0][1]) if ray[0][0] else inf)
    other = "c1" if colour != "c1" else "c0"
    for end, classes in ((0, f"hollow {other}"), (1, f"edge {other}")):
        reach = [(middle(ends_[end]), way) for way, ends_ in ordered]
        known = [(t * a, t * b) for t, (a, b) in reach if t < inf]
        marks.append(line([a for a, _ in known], [b for _, b in known], f"thin d2 {other}"))
        marks.append(scatter([a for a, _ in known], [b for _, b in known], classes, size=4))
    return marks


def _alone(ends: tuple[np.ndarray, np.ndarray], axis: Axis, step: float, colour: str) -> str:
    """Accuracy over one radius with the other at 0: the band between what is certified and what is attacked."""
    low, high = (survival(e * step, axis.high) for e in ends)
    marks = [stairs_band(low, high, colour), stairs(*high, f"{colour} thin"), stairs(*low, f"{colour} thick")]
    up = Axis("accuracy, the other at 0", 0, 1, ticks=QUARTERS, texts=SHARES)
    return figure(marks, axis, up, label=f"accuracy over {axis.label} alone", height=190)
