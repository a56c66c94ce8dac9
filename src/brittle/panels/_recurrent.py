"""Drawings of a recurrent matrix and of what data do to its states, from the columns of findings. Reads plain values only."""

from collections.abc import Mapping, Sequence
from math import cos, isfinite, pi, sin

from markupsafe import Markup

from brittle.panels._html import fill, number, percent
from brittle.plots import Axis, Mark, band, contour, figure, line, rule, scatter
from brittle.plots.figure import scales
from brittle.plots.scales import superscript

Row = Mapping[str, object]
SIDE = 430  # pixels: two such drawings stand beside each other
TAGS = {"stable": "none", "marginal": "warn", "unstable": "invalid"}
BESIDE = (  # quantity, words, whether it is of the matrix as scaled
    ("norm", "spectral norm", False),
    ("numerical_radius", "numerical radius", False),
    ("henrici", "departure from normality, of 1", False),
    ("condition", "condition of the eigenvectors", False),
    ("distance", "smallest change to instability", True),
    ("kreiss_lower", "Kreiss constant, at least", True),
    ("kreiss_upper", "Kreiss constant, at most", True),
    ("transient", "largest power", True),
)

TABLE = """
<div class="scroll"><table>
  <thead><tr><th>matrix</th><th></th><th class="n">radius</th><th class="n">norm</th><th class="n">smallest change<br>to instability</th><th class="n">Kreiss<br>constant</th>
  <th class="n">largest<br>power</th><th class="n">non-normality<br>(more than … of random)</th></tr></thead>
  <tbody>{% for r in rows %}<tr><td>{% if r.link %}<a class="quiet" href="#{{ r.link }}">{{ r.name }}</a>{% else %}{{ r.name }}{% endif %}</td>
    <td><span class="tag {{ r.tag }}">{{ r.stability }}</span></td>
    {% for v in r.cells %}<td class="n">{{ v }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
<p class="faint">{{ foot }}</p>
"""
MATRIX = """
<h3 id="{{ link }}">{{ name }} <span class="tag {{ tag }}">{{ stability }}</span> <span class="quiet">{{ role }}, {{ size }} × {{ size }}</span></h3>
<p>{{ verdict }}</p>
<div class="gallery" style="grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr))">
{% for p in pictures %}<figure class="example">
  <p class="legend">{% for word, classes in p.legend %}<span><i class="key {{ classes }}"></i>{{ word }}</span>{% endfor %}</p>
  {{ p.svg }}
  <figcaption class="quiet">{{ p.caption }}</figcaption>
</figure>{% endfor %}
</div>
{% if beside %}<div class="scroll"><table>
  <caption>Beside matrices that were not trained{{ scaled }}</caption>
  <thead><tr><th></th><th class="n">this matrix</th>{% for m in models %}<th class="n" style="white-space: normal">{{ m }}</th>{% endfor %}</tr></thead>
  <tbody>{% for word, values in beside %}<tr><th style="min-width: 15rem">{{ word }}</th>{% for v in values %}<td class="n">{{ v }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>{% endif %}
"""


def rows(facts: Mapping) -> list[dict]:
    """The columns of a recorded finding, row by row."""
    columns = facts.get("columns") or {}
    count = max((len(v) for v in columns.values()), default=0)
    return [{name: values[k] for name, values in columns.items()} for k in range(count)]


def standing(points: Sequence[Mapping]) -> list[str]:
    """The sentences on fixed points, and on the stillest slow point of a part that has no fixed one."""
    said, parts = [], dict.fromkeys(p["part"] for p in points)
    for part in parts:
        mine = [p for p in points if p["part"] == part]
        said += [p["verdict"] for p in mine if p["kind"] == "fixed"] or [mine[0]["verdict"]]
    return said


def table(found: Sequence[Mapping], links: Mapping[str, str]) -> Markup:
    """One line per matrix: stability first, then how robust it is."""
    lines = [
        {
            "name": r["matrix"], "link": links.get(r["matrix"], ""), "tag": TAGS[r["stability"]], "stability": r["stability"],
            "cells": [number(r["radius"]), number(r["norm"]), number(_value(r["distance"])) + _star(r), _kreiss(r) + _star(r),
                      number(_value(r["transient"])) + _star(r), f"{number(r['henrici'], 2)} ({percent(r['percentile_random'])})"],
        }
        for r in found
    ]  # fmt: skip
    starred = any(r["scale"] != 1 for r in found)
    foot = "* of the matrix scaled to spectral radius 0.99: itself it is not stable. " * starred
    return fill(
        TABLE, {"rows": lines, "foot": foot + "A normal matrix has Kreiss constant 1, and no power of it exceeds 1."}
    )


def matrix(row: Mapping, nulls: Sequence[Mapping], link: str) -> Markup:
    """Sentence, plane, transient, and the table of null models of one matrix."""
    beside = [n for n in nulls if n["matrix"] == row["matrix"]]
    star = lambda scaled: "*" if scaled and row["scale"] != 1 else ""
    lines = [
        (word + star(scaled), [number(_value(row[q]))] + [number(_value(n[q])) for n in beside])
        for q, word, scaled in BESIDE
        if row.get(q) is not None
    ]
    values = {
        "link": link, "name": row["matrix"], "role": row["role"], "size": row["size"], "stability": row["stability"],
        "tag": TAGS[row["stability"]], "verdict": row["verdict"], "pictures": [plane(row), transients(row)],
        "models": [f"{n['model']}{_median(n)}" for n in beside], "beside": lines if beside else [],
        "scaled": " (* once scaled to radius 0.99)" if row["scale"] != 1 else "",
    }  # fmt: skip
    return fill(MATRIX, values)


def plane(row: Mapping) -> dict:
    """Eigenvalues, unit circle, numerical range, and contours of the pseudospectra."""
    xs, ys, heights, half = row["grid_x"], row["grid_y"], row["grid"], False
    eigenvalues, boundary = row["eigenvalues"], row["numerical_range"]
    if ys and ys[0] == 0:  # a real matrix: the lower half mirrors the upper
        half = True
        heights, ys = [*heights[:0:-1], *heights], [-y for y in ys[:0:-1]] + list(ys)
    reach = max(xs) if xs else 1.1 * max(1.15, *(abs(complex(*z)) for z in eigenvalues))
    marks: list[Mark] = []
    legend = []
    for k, level in enumerate(row["levels"]):
        classes = f"c{k % 6} thin"
        marks.append(contour(xs, ys, heights, level, classes))
        legend.append((_power(level), classes))
    circle = [2 * pi * t / 120 for t in range(121)]
    marks.append(line([cos(t) for t in circle], [sin(t) for t in circle], ""))
    closed = [*boundary, boundary[0]]
    marks.append(line([z[0] for z in closed], [z[1] for z in closed], "thin d2"))
    marks.append(scatter([z[0] for z in eigenvalues], [z[1] for z in eigenvalues], "", size=1.8))
    x = Axis("real part", -reach, reach)
    across, _ = scales(x, Axis("", -reach, reach), SIDE, SIDE)
    svg = figure(
        marks,
        x,
        Axis("imaginary part", -reach, reach),
        label=f"Eigenvalues and pseudospectra of {row['matrix']}" + ", symmetric about the real axis" * half,
        width=SIDE,
        height=across.stop - across.start + 72,
    )
    caption = "Dots: eigenvalues. Solid: unit circle. Dotted: numerical range."
    if legend:
        caption += " Colours: how far a change of that norm can move eigenvalues; a contour that crosses the circle means that such a change can make the map unstable."
    return {"svg": svg, "legend": legend, "caption": caption}


def transients(row: Mapping) -> dict:
    """Norms of the powers between their envelopes, and those of a normal matrix with the same eigenvalues."""
    norms = [_value(v) for v in row["transient_norms"]]
    inner = float(row["radius"]) * float(row["scale"])
    steps = list(range(len(norms)))
    normal = [inner**k for k in steps]
    floor = max(1e-6, min(0.3 * min(v for v in norms if v > 0), 0.5))
    envelopes = [
        ("transient_lower", "largest so far, at least", "c2 thin d1"),
        ("transient_upper", "at most", "c1 thin d1"),
    ]
    curves = [("norm of the power", "c0", norms), ("normal matrix", "thin d2", normal)]
    curves += [(word, classes, [_value(v) for v in row[name]]) for name, word, classes in envelopes if row.get(name)]
    top = 2.0 * max(v for v in [1.0, *norms] if isfinite(v))
    marks: list[Mark] = [rule(1.0, "y")]
    for _, classes, values in curves:
        kept = [(k, v) for k, v in zip(steps, values, strict=False) if isfinite(v) and v > 0]
        if len(kept) > 1:
            marks.append(line([k for k, _ in kept], [min(max(v, floor / 10), 100 * top) for _, v in kept], classes))
    svg = figure(
        marks,
        Axis("power", 0, max(1, len(norms) - 1)),
        Axis("norm" + " once scaled to radius 0.99" * (row["scale"] != 1), floor, top, log=True),
        label=f"Norms of the powers of {row['matrix']}",
        width=SIDE,
        height=340,
    )
    return {
        "svg": svg,
        "legend": [(w, c) for w, c, _ in curves],
        "caption": "How large a change of the state can become, step by step, if the map stays this one.",
    }


def growth(row: Mapping) -> Markup:
    """Worst and median growth of a change of the state over windows of the data."""
    windows, worst, median = row["growth_windows"], row["growth_worst"], row["growth_median"]
    values = [max(float(v), 1e-12) for v in (*worst, *median)]
    low, high = 0.7 * min(values), 1.4 * max(1.0, *values)
    series = [("c1", worst), ("c0", median)]
    marks: list[Mark] = [rule(1.0, "y")]
    for classes, each in series:
        each = [max(float(v), 1e-12) for v in each]
        marks += [line(windows, each, classes), scatter(windows, each, classes, size=3)]
    x = Axis("length of the window in steps", min(windows) / 1.1, max(windows) * 1.1 + 0.1, log=True)
    y = Axis("growth of a small change", low, high, log=True)
    return figure(
        marks, x, y, label="growth of a small change of the state over windows of data", width=SIDE, height=300
    )


def exponents(row: Mapping) -> Markup:
    """The leading Lyapunov exponents with the middle nine tenths of the sequences."""
    mean, low, high = row["exponents"], row["exponents_low"], row["exponents_high"]
    at = [float(k + 1) for k in range(len(mean))]
    values = [*low, *high, row["rate_of_mean_jacobian"], 0.0]
    span = max(values) - min(values) or 1.0
    marks: list[Mark] = [rule(0.0, "y"), rule(row["rate_of_mean_jacobian"], "y", "d1")]
    marks += [band(at, low, high, "c0"), line(at, mean, "c0"), scatter(at, mean, "c0", size=3)]
    x = Axis(
        "which exponent",
        0.5,
        len(mean) + 0.5,
        ticks=tuple(at),
        texts=tuple(f"{int(k)}" if len(at) <= 16 or k % 4 == 1 else "" for k in at),
    )
    y = Axis("Lyapunov exponent, nats a step", min(values) - 0.08 * span, max(values) + 0.12 * span)
    return figure(marks, x, y, label="leading Lyapunov exponents along the data", width=SIDE, height=300)


def _kreiss(row: Mapping) -> str:
    low, high = row["kreiss_lower"], row["kreiss_upper"]
    if low is None:
        return "–"
    low, high = number(_value(low)), number(_value(high))
    return low if low == high else f"{low} … {high}"


def _star(row: Mapping) -> str:
    return "*" if row["scale"] != 1 else ""


def _median(null: Mapping) -> str:
    return f" (median of {null['count']})" if null["count"] > 1 else ""


def _value(value: object) -> float:
    """A recorded number: infinity is a word there, what was not computed is None."""
    return float("nan") if value is None else float(value)  # type: ignore[arg-type]


def _power(exponent: float) -> str:
    """A contour's level: a power of ten, or its value where the exponent is no whole number.

    >>> _power(-2.0), _power(-0.5)
    ('10⁻²', '0.316')
    """
    return f"10{superscript(int(exponent))}" if exponent == int(exponent) and exponent else number(10.0**exponent)
