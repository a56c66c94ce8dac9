"""Findings of diagnostics: why the network is brittle. A plot where axes are given, and a table."""

from collections.abc import Mapping, Sequence
from math import isfinite

from brittle.about import About
from brittle.discovery import methods
from brittle.panels._html import clip, fill, number, series
from brittle.plots import Axis, figure, line, scatter

ABOUT = About(promise="every diagnostic as title, sentence, plot and table", reference="", answers="80")
ROWS = 10  # of a table per model; the records hold the rest
POINTS = 400  # of a plotted column; more are thinned evenly

TEMPLATE = """
<h2>Why: diagnostics</h2>
{% for g in groups %}
<figure class="finding">
  <h3>{{ g.title }}</h3>
  {% for p in g.parts %}
  {% if p.doubt %}<div class="doubts"><p><b>{{ p.model }}</b> {{ p.doubt }}</p></div>{% endif %}
  {% if p.note %}<p><span class="swatch {{ p.series }}"></span><b>{{ p.model }}</b> {{ p.note }}</p>{% endif %}
  {% endfor %}
  {% if g.svg %}<p class="legend">{% for word, classes in g.legend %}<span><i class="key {{ classes }}"></i>{{ word }}</span>{% endfor %}</p><div class="scroll">{{ g.svg }}</div>{% endif %}
  {% for p in g.parts if p.head %}
  <div class="scroll"><table>
    <caption>{{ p.model }}</caption>
    <thead><tr>{% for h in p.head %}<th class="n">{{ h }}</th>{% endfor %}</tr></thead>
    <tbody>{% for row in p.rows %}<tr>{% for v in row %}<td class="n">{{ v }}</td>{% endfor %}</tr>{% endfor %}</tbody>
  </table></div>
  {% if p.more %}<p class="faint">… and {{ p.more }} more rows in the records.</p>{% endif %}
  {% endfor %}
</figure>
{% endfor %}
"""


def findings(run) -> str:
    """Every diagnostic that has no panel of its own."""
    own = {m.name for m in methods("panels")}
    names = dict.fromkeys(name for model in run.models for name in run.findings.get(model, {}) if name not in own)
    groups = [_group(run, name) for name in names]
    return fill(TEMPLATE, {"groups": groups}) if groups else ""


def _group(run, name: str) -> dict:
    by_model = {m: run.findings[m][name] for m in run.models if name in run.findings.get(m, {})}
    legend, svg = _plot(run, by_model)
    parts = [{"model": m, "series": series(run.models.index(m)), **_part(f)} for m, f in by_model.items()]
    title = next(iter(by_model.values())).get("title") or name
    return {"title": title, "parts": parts, "legend": legend, "svg": svg}


def _part(facts: Mapping) -> dict:
    columns = facts.get("columns") or {}
    count = max((len(v) for v in columns.values()), default=0)
    rows = [[_cell(v[i]) if i < len(v) else "" for v in columns.values()] for i in range(min(count, ROWS))]
    note, doubt = facts.get("note") or "", facts.get("doubt") or ""
    return {"note": note, "doubt": doubt, "head": list(columns), "rows": rows, "more": max(0, count - ROWS)}


def _cell(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return clip(f"{len(value)} values" if isinstance(value, (list, tuple)) else "–" if value is None else value, 60)


def _plot(run, by_model: Mapping[str, Mapping]) -> tuple[list, str]:
    drawn = [(m, ordinate, *pair) for m, f in by_model.items() for ordinate, pair in _curves(f)]
    if not drawn:
        return [], ""
    first = next(iter(by_model.values()))
    abscissa, unit = first["axes"][0], first.get("unit") or ""
    several = len({ordinate for _, ordinate, _, _ in drawn}) > 1
    marks, legend = [], []
    for k, (model, ordinate, xs, ys) in enumerate(drawn):
        classes = series(k if several else run.models.index(model))
        ordered = all(a < b for a, b in zip(xs, xs[1:], strict=False))
        marks.append(line(xs, ys, classes) if ordered and len(xs) > 1 else scatter(xs, ys, classes))
        legend.append((f"{model}: {ordinate}" if several else model, classes))
    xs, ys = [v for row in drawn for v in row[2]], [v for row in drawn for v in row[3]]
    words = _categories(first)
    x = (
        _axis(abscissa, xs)
        if words is None
        else Axis(abscissa, -0.5, len(words) - 0.5, ticks=tuple(map(float, range(len(words)))), texts=words)
    )
    y_word = unit if several else drawn[0][1] + (f" ({unit})" if unit else "")
    return legend, figure(marks, x, _axis(y_word, ys), label=f"{y_word} over {abscissa}")


def _curves(facts: Mapping) -> list[tuple[str, tuple[list[float], list[float]]]]:
    """(ordinate, (xs, ys)) for every drawable pair of axes; pairs with a missing or infinite number are left out."""
    axes, columns = facts.get("axes") or [], facts.get("columns") or {}
    if len(axes) < 2 or axes[0] not in columns:
        return []
    words = _categories(facts)
    xs = list(columns[axes[0]]) if words is None else [float(k) for k in range(len(columns[axes[0]]))]
    out = []
    for ordinate in axes[1:]:
        pairs = [(a, b) for a, b in zip(xs, columns.get(ordinate, ()), strict=False) if _finite(a) and _finite(b)]
        pairs = pairs[:: -(-len(pairs) // POINTS) or 1]
        if pairs:
            out.append((ordinate, ([float(a) for a, _ in pairs], [float(b) for _, b in pairs])))
    return out


def _categories(facts: Mapping) -> tuple[str, ...] | None:
    """The abscissa as words, where it is made of words and there are few enough to write."""
    values = (facts.get("columns") or {}).get(facts["axes"][0], ()) if facts.get("axes") else ()
    if not values or not all(isinstance(v, str) for v in values):
        return None
    return tuple(clip(v, 14) if len(values) <= 12 else "" for v in values)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _axis(label: str, values: Sequence[float]) -> Axis:
    """A range around the values; logarithmic where positive values span more than three decades."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 1000:
        return Axis(label, low / 1.2, high * 1.2, log=True)
    low = 0.0 if 0 < low < 0.5 * high else low
    pad = 0.04 * (high - low) or 0.5 * abs(high) or 1.0
    return Axis(label, low if low == 0 else low - pad, high + pad)
