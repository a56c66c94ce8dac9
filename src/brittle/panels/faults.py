"""Faults of the weights: rounding to short formats, flipped bits, and one ball of weights in three readings."""

from collections.abc import Mapping, Sequence

from brittle.about import About
from brittle.panels._html import fill, number, percent, series
from brittle.plots import Axis, Mark, brackets, figure, line, scatter

ABOUT = About(
    promise="accuracy after rounding and bit flips, and the three readings of a weight ball side by side", reference="", answers="72"
)  # fmt: skip
BALL = {  # reading -> what a reader is told it is
    "rounding": "rounding itself: one concrete fault",
    "random corners": "random faults: every weight at a random end of what rounding could do",
    "one shared change": "worst case, one change of the weights for all examples: certified to attacked",
    "each example its own change": "worst case, each example its own change, what certificates speak of: certified to attacked",
}

TEMPLATE = """
<h2>When the weights are faulty</h2>
<p>What a device may do to the weights, on these examples: round them to a shorter format, flip bits at random, or flip the bits that hurt most.
Below, one ball of weights asked about in different ways. <b>A concrete fault, one shared change and a change for each example are different
questions</b>: a harmless rounding does not make the ball around it harmless, and a ball that is not certified does not make the rounding harmful.</p>
{% for p in parts %}
<h3><span class="swatch {{ p.series }}"></span>{{ p.model }}</h3>
<p>{{ p.note }}</p>
{% if p.formats %}
<div class="scroll"><table>
  <caption>All weights rounded; the radius is that of the smallest ball per tensor that holds every rounding to the format (largest tensor)</caption>
  <thead><tr><th>format</th><th class="n">right</th><th class="n">same prediction</th><th class="n">radius</th><th class="n">radius / rms of the tensor</th><th></th></tr></thead>
  <tbody>{% for r in p.formats %}<tr><td>{{ r.format }}</td><td class="n">{{ r.accuracy }}</td><td class="n">{{ r.agreement }}</td><td class="n">{{ r.radius }}</td><td class="n">{{ r.rms }}</td><td>{{ r.status }}</td></tr>{% endfor %}</tbody>
</table></div>
{% endif %}
{% if p.svg %}<figure><p class="legend"><span><i class="key {{ p.worst }}"></i>worst flips found</span>{% if p.drawn %}<span><i class="key dot {{ p.random }}"></i>random flips: mean, down to the worst draw</span>{% endif %}</p>
<div class="scroll">{{ p.svg }}</div></figure>{% endif %}
{% if p.ball %}
<div class="scroll"><table>
  <caption>The ball of every rounding to {{ p.format }}, in four readings</caption>
  <tbody>{% for word, value in p.ball %}<tr><td>{{ word }}</td><td class="n">{{ value }}</td></tr>{% endfor %}</tbody>
</table></div>
{% endif %}
{% endfor %}
"""


def faults(run) -> str:
    """A table of formats, a picture of flips and the readings of one ball, for every model."""
    facts = {m: f["faults"] for m in run.models if "faults" in (f := run.findings.get(m, {}))}
    parts = [_part(model, found, run.models.index(model)) for model, found in facts.items()]
    return fill(TEMPLATE, {"parts": parts}) if parts else ""


def _part(model: str, found: Mapping, k: int) -> dict:
    columns = found.get("columns") or {}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    of = lambda reading: [r for r in rows if r["reading"] == reading]
    random = of("random bit flips")
    ball = next((r["format"] for r in of("random corners")), "")
    return {
        "model": model,
        "series": series(k),
        "note": found.get("doubt") or found.get("note") or "",
        "formats": [_format(r) for r in of("rounding") if r["leaf"] == "all"],
        "svg": _flips(of("worst bit flips"), random, model),
        "worst": series(0),
        "random": series(1),
        "drawn": bool(random),
        "format": ball,
        "ball": [(BALL[r["reading"]], _value(r)) for r in rows if _in_ball(r, ball)],
    }


def _format(row: Mapping) -> dict[str, str]:
    return {
        "format": row["format"],
        "accuracy": percent(row["accuracy"], 1),
        "agreement": percent(row["agreement"], 1),
        "radius": number(row["radius"]),
        "rms": number(row["radius_rms"]),
        "status": "" if row["status"] == "ok" else row["status"],
    }


def _in_ball(row: Mapping, ball: str) -> bool:
    return row["reading"] in BALL and row["format"] == ball and row["leaf"] == "all"


def _value(row: Mapping) -> str:
    """``"96 %"``, a mean with the smallest of all draws, or a bracket."""
    if row["reading"] == "random corners":
        return f"{percent(row['accuracy'], 1)} on average, {percent(row['worst'], 1)} at worst"
    if row["accuracy"] is not None:
        return percent(row["accuracy"], 1)
    return row["status"] if row["low"] is None else f"{percent(row['low'], 1)} to {percent(row['high'], 1)}"


def _flips(worst: Sequence[Mapping], random: Sequence[Mapping], model: str) -> str:
    """Accuracy over the number of flipped bits; random ones beyond the longest search are left to the table of columns."""
    if not worst:
        return ""
    most = worst[-1]["amount"]
    near = [r for r in random if r["amount"] <= most]
    marks: list[Mark] = [line([r["amount"] for r in worst], [r["accuracy"] for r in worst], series(0))]
    if near:
        xs = [r["amount"] for r in near]
        marks += [brackets(xs, [r["worst"] for r in near], [r["accuracy"] for r in near], series(1), (), 2)]
        marks += [scatter(xs, [r["accuracy"] for r in near], series(1))]
    x = Axis(
        "flipped bits of int8 weights",
        0,
        most + 0.5,
        ticks=tuple(float(v) for v in range(0, most + 1, max(1, most // 6))),
    )
    return figure(marks, x, Axis("right", 0, 1), label=f"Accuracy of {model} after bit flips", height=240)
