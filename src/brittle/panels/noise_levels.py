"""Probability of failure over the noise level, both logarithmic: estimate, every bound, the paper's, and the worst-case radii."""

from collections.abc import Mapping

from brittle.about import About
from brittle.panels._data import laws
from brittle.panels._html import fill, series
from brittle.panels._words import law
from brittle.plots import Axis, Mark, brackets, figure, line, rule, scatter

ABOUT = About(promise="probability of failure over the noise level, with every bound", reference="", answers="51")
NAME = "noise_levels"
FLOOR = 1e-12  # the axis ends here; what is proved smaller leaves the picture at the bottom
WORDS = {
    "estimate": "estimate and its interval",
    "paper": "bound from dimension and number of units",
    "cell": "union bound, each unit's own distance",
    "probabilistic_crown": "probabilistic CROWN (proved)",
    "covering": "worst-case CROWN and the chi tail (proved)",
    "proven": "PROVEN (proved)",
    "isoperimetry": "quantile and isoperimetry (statistical)",
}
FACTS = ("example", "level", "estimate", "interval_lower", "interval_upper", "lower", "upper", "certified", "attacked")

TEMPLATE = """
<h2>From certain to likely: failures over the noise level</h2>
<p>Noise levels are multiples of the law {{ law }}. Lines are upper bounds; the dot and its bar are the estimate; at the bottom the
probability is {{ floor }} or less. The vertical lines stand where a typical draw is as long as the worst case: left of “certified” no change of
that length can fail at all, at “attacked” one is known that does.</p>
{% for c in charts %}
<figure>
  <figcaption><b class="name">{{ c.model }}</b> example {{ c.example }}</figcaption>
  <p class="legend">{% for word, classes in c.legend %}<span><i class="key {{ classes }}"></i>{{ word }}</span>{% endfor %}</p>
  <div class="scroll">{{ c.svg }}</div>
</figure>
{% endfor %}
{% for model, note in notes %}<p class="quiet"><b>{{ model }}</b> {{ note }}</p>{% endfor %}
"""


def noise_levels(run) -> str:
    """One picture per model and example; "" where the audit did not ask."""
    found = {m: run.findings[m][NAME] for m in run.models if run.findings.get(m, {}).get(NAME, {}).get("columns")}
    charts = [chart for model, facts in found.items() for chart in _charts(model, facts["columns"])]
    if not charts:
        return ""
    words = next((law(facts) for by_leaf in laws(run).values() for facts in by_leaf.values()), "")
    notes = [(model, facts.get("note", "")) for model, facts in found.items()]
    return fill(TEMPLATE, {"charts": charts, "law": words, "floor": "10⁻¹²", "notes": notes})


def _charts(model: str, columns: Mapping[str, list]) -> list[dict]:
    out = []
    for example in dict.fromkeys(columns["example"]):
        rows = [k for k, e in enumerate(columns["example"]) if e == example]
        mine = {name: [values[k] for k in rows] for name, values in columns.items()}
        legend, svg = _drawn(mine, f"Probability of failure of example {example} of {model} over the noise level")
        out.append({"model": model, "example": example, "legend": legend, "svg": svg})
    return out


def _drawn(rows: Mapping[str, list], label: str) -> tuple[list[tuple[str, str]], str]:
    bounds = [name for name in ("paper", *(n for n in rows if n not in (*FACTS, "paper"))) if _says(rows[name])]
    marks: list[Mark] = []
    legend = [(WORDS["estimate"], series(0))]
    for k, name in enumerate(bounds):
        classes = series(k + 1)
        xs, ys = _line(rows["level"], rows[name])
        marks.append(line(xs, ys, classes))
        legend.append((WORDS.get(name, name.replace("_", " ")), classes))
    seen = [k for k, v in enumerate(rows["estimate"]) if v is not None and v > FLOOR]
    at = lambda name: [max(float(rows[name][k]), FLOOR) for k in seen]
    levels = [rows["level"][k] for k in seen]
    marks += [
        brackets(levels, at("interval_lower"), at("interval_upper"), series(0)),
        scatter(levels, at("estimate"), series(0), size=3.5),
    ]
    marks += _stops(rows)
    stops = [v for name in ("certified", "attacked") for v in rows[name][:1] if v is not None]
    low, high = min([*rows["level"], *stops]), max([*rows["level"], *stops])
    x = Axis("noise level", low / 1.1, high * 1.1, log=True)
    return legend, figure(marks, x, Axis("probability of failure", FLOOR, 1.0, log=True), label=label, height=340)


def _stops(rows: Mapping[str, list]) -> list[Mark]:
    """The worst-case radii as vertical lines; where their words would overlap, the right one speaks for both."""
    certified, attacked = rows["certified"][0], rows["attacked"][0]
    close = certified is not None and attacked is not None and attacked < 2 * certified
    words = ("", "certified, attacked") if close else ("certified", "attacked")
    return [rule(float(v), "x", text=w) for v, w in zip((certified, attacked), words, strict=True) if v is not None]


def _says(values: list) -> bool:
    return any(v is not None and v < 1 for v in values)


def _line(levels: list[float], values: list[float | None]) -> tuple[list[float], list[float]]:
    """A bound where it says anything; one level of 1 beyond it, so that the line is seen to end there."""
    known = [(x, y) for x, y in zip(levels, values, strict=True) if y is not None]
    last = max(k for k, (_, y) in enumerate(known) if y < 1)
    xs, ys = zip(*((x, max(y, FLOOR / 10)) for x, y in known[: last + 2]), strict=True)
    return list(xs), list(ys)
