"""The page of a study: claims with their verdicts first, then one figure per claim, then the tables. Reads ``study.json`` only."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from markupsafe import Markup

from brittle import __version__
from brittle.files import read_json, write_bytes
from brittle.panels._html import environment, fill, number, series
from brittle.plots import Axis, Mark, band, brackets, figure, line, rule, scatter

TEMPLATES = Path(__file__).parent / "templates"
RECORD = "study.json"

CLAIMS = """
<div class="card">
<h2>What was claimed, and what was found</h2>
<p class="quiet">{{ paper }}</p>
<p>{% for verdict, count in counts %}<span class="tag {{ tags[verdict] }}">{{ count }} {{ verdict }}</span> {% endfor %}</p>
<div class="scroll"><table>
  <tbody>{% for c in claims %}<tr><td><span class="tag {{ tags[c.verdict] }}">{{ c.verdict }}</span></td><td>
    <p class="sentence"><strong>{{ c.statement }}</strong></p>
    <p class="sentence">{{ c.evidence }}</p>
    <p class="quiet sentence">{{ c.source }}{% if c.link %} · <a class="quiet" href="#{{ c.link }}">see the figure</a>{% endif %}</p>
  </td></tr>{% endfor %}</tbody>
</table></div>
{% for note in notes %}<p class="sentence quiet">{{ note }}</p>{% endfor %}
</div>
"""
PLOT = """
<h2>{{ title }}</h2>
{% if note %}<p>{{ note }}</p>{% endif %}
<figure><p class="legend">{% for word, classes in legend %}<span><i class="key {{ classes }}"></i>{{ word }}</span>{% endfor %}</p>
<div class="scroll">{{ svg }}</div></figure>
"""
TABLE = """
<h2>{{ title }}</h2>
{% if note %}<p>{{ note }}</p>{% endif %}
<div class="scroll"><table>
  <thead><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr></thead>
  <tbody>{% for row in rows %}<tr>{% for v in row %}<td>{{ v }}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
"""
SETTINGS = """
<h2>Settings</h2>
<dl class="facts">{% for k, v in settings.items() %}<div><dt>{{ k }}</dt><dd>{{ v }}</dd></div>{% endfor %}</dl>
"""
TAGS = {"reproduced": "none", "not reproduced": "invalid", "only when": "warn", "ours": ""}


def write(folder: str | Path) -> Path:
    """Draw ``report.html`` in the folder of a study and return its path."""
    target = Path(folder) / "report.html"
    write_bytes(target, render(read_json(Path(folder) / RECORD) or {}).encode())
    return target


def render(study: Mapping) -> str:
    """The page as text, a function of the record alone."""
    places = {p["title"]: f"{kind}-{k}" for kind in ("table", "plot") for k, p in enumerate(study[kind + "s"])}
    linked = [{**c, "link": places.get(c.get("figure", ""), "")} for c in study["claims"]]
    counts = [(v, n) for v in TAGS if (n := sum(c["verdict"] == v for c in linked))]
    values = {"claims": linked, "counts": counts, "paper": study["paper"], "notes": study["notes"], "tags": TAGS}
    claims = fill(CLAIMS, values)
    sections = [("claims", claims)]
    sections += [(f"plot-{k}", _plot(p)) for k, p in enumerate(study["plots"])]
    sections += [(f"table-{k}", _table(t)) for k, t in enumerate(study["tables"])]
    sections.append(("settings", fill(SETTINGS, {"settings": study["settings"]})))
    values = {
        "title": study["title"],
        "sections": sections,
        "subtitle": "study " + study["name"],
        "version": __version__,
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    }
    return environment().from_string((TEMPLATES / "page.html").read_text(encoding="utf-8")).render(values)


def _table(table: Mapping) -> Markup:
    rows = [[v if isinstance(v, str) else number(v) for v in row] for row in table["rows"]]
    return fill(TABLE, {**table, "rows": rows})


def _plot(plot: Mapping) -> Markup:
    curves = [_finite(c, plot["log_x"], plot["log_y"]) for c in plot["curves"]]
    marks: list[Mark] = [m for k, c in enumerate(curves) if c["x"] for m in _marks(c, series(k))]
    marks += [rule(at, "y", text=word) for at, word in plot["rules"]]
    xs = [v for c in curves for v in c["x"]]
    ys = [v for c in curves for name in ("y", "low", "high") for v in c[name]] + [at for at, _ in plot["rules"]]
    if not xs:
        return fill(TABLE, {"title": plot["title"], "note": "nothing could be measured", "columns": [], "rows": []})
    x, y = _axis(plot["x_label"], xs, plot["log_x"], zero=False), _axis(plot["y_label"], ys, plot["log_y"])
    legend = [(c["label"], series(k) + " dot" * (c["style"] == "points")) for k, c in enumerate(curves)]
    svg = figure(marks, x, y, label=plot["title"], height=340)
    return fill(PLOT, {"title": plot["title"], "note": plot["note"], "legend": legend, "svg": svg})


def _finite(curve: Mapping, log_x: bool, log_y: bool) -> dict:
    """The points that can be drawn: finite numbers, positive on a logarithmic axis; an interval's end below zero ends at its point."""
    fits = lambda v, log: isinstance(v, (int, float)) and isfinite(v) and (v > 0 or not log)
    ends = {n: curve[n] or curve["y"] for n in ("low", "high")}
    rows = [
        (a, b, lo if fits(lo, log_y) else b, hi if fits(hi, log_y) else b)
        for a, b, lo, hi in zip(curve["x"], curve["y"], ends["low"], ends["high"], strict=True)
        if fits(a, log_x) and fits(b, log_y)
    ]
    x, y, low, high = ([row[k] for row in rows] for k in range(4))
    return {"label": curve["label"], "style": curve["style"], "x": x, "y": y, "low": low, "high": high}


def _marks(curve: Mapping, classes: str) -> list[Mark]:
    xs, ys, low, high = (curve[n] for n in ("x", "y", "low", "high"))
    if curve["style"] == "points":
        return [brackets(xs, low, high, classes, (), 2), scatter(xs, ys, classes)]
    drawn = [line(xs, ys, classes)]
    return [band(xs, low, high, classes), *drawn] if curve["style"] == "band" else drawn


def _axis(label: str, values: Sequence[float], log: bool, zero: bool = True) -> Axis:
    """The range of the values with a margin; with ``zero`` it begins at 0 where that is not far below them."""
    low, high = min(values), max(values)
    if log:
        return Axis(label, low / 1.15, high * 1.15, log=True)
    low = 0.0 if zero and 0 < low < 0.5 * high else low
    pad = 0.04 * (high - low) or 0.5 * abs(high) or 1.0
    return Axis(label, low if low == 0 else low - pad, high + pad)
