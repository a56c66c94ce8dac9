"""The way to another class, seen: margin and compression factor along the segment, for the most compressed examples."""

from collections.abc import Mapping
from itertools import groupby

from brittle.about import About
from brittle.panels._html import fill, number, series
from brittle.plots import Axis, figure, line, nice_ticks, rule, scatter

ABOUT = About(
    promise="margin and cosine along the way to another class, the crossing marked", reference="", answers="66"
)
BUDGET = 12  # drawings on the page, shared by the models

TEMPLATE = """
<h2>On the way to another class</h2>
<p>The examples that are most fragile for their distance to another class. Going straight to the nearest example of that class, the margin
falls to 0 at the <b>crossing</b> (dot); an attacker gets there with the <b>predicted</b> change (dotted line), because he goes where the
score falls steepest. Below: how far gradient and way agree. Near 0, the network looks elsewhere than where the classes differ.</p>
{% for g in groups %}
<h3><span class="swatch {{ g.series }}"></span>{{ g.model }}</h3>
{% if g.note %}<p>{{ g.note }}</p>{% endif %}
<div class="gallery">{% for e in g.examples %}
  <figure class="example">{{ e.margin }}{{ e.cosine }}
  <figcaption>example {{ e.number }}, towards class {{ e.rival }}: crossing at {{ e.crossing }}, predicted change {{ e.predicted }}</figcaption></figure>{% endfor %}
</div>
{% endfor %}
"""


def compression_path(run) -> str:
    """The examples of every model, two small drawings each."""
    facts = {m: f["compression_path"] for m in run.models if "compression_path" in (f := run.findings.get(m, {}))}
    each = max(1, BUDGET // max(1, len(facts)))
    groups = [
        {
            "model": model,
            "series": series(run.models.index(model)),
            "note": found.get("doubt") or found.get("note") or "",
            "examples": _examples(found.get("columns") or {}, series(run.models.index(model)).split()[0])[:each],
        }
        for model, found in facts.items()
    ]
    return fill(TEMPLATE, {"groups": groups}) if groups else ""


def _examples(columns: Mapping, colour: str) -> list[dict]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [_example(list(part), colour) for _, part in groupby(rows, key=lambda row: row["example"])]


def _example(rows: list[dict], colour: str) -> dict:
    at, margins = [r["distance"] for r in rows], [r["margin"] for r in rows]
    first, length, size = rows[0], float(rows[0]["length"]), rows[0]["predicted_radius"]
    crossing = _crossing(at, margins)
    low, high = min(0.0, *margins), max(0.0, *margins)
    pad = 0.08 * (high - low) or 1.0
    marks = [line(at, margins, colour), rule(0.0, "y")]
    marks += [rule(size, "x")] if size is not None else []
    marks += [scatter([crossing], [0.0], colour, size=4)] if crossing is not None else []
    x = Axis("distance along the way", 0.0, length, ticks=tuple(nice_ticks(0.0, length, 4)))
    label = f"example {first['example']} on its way to class {first['rival']}"
    return {
        "number": first["example"],
        "rival": first["rival"],
        "crossing": number(crossing) if crossing is not None else "no point",
        "predicted": number(size),
        "margin": figure(
            marks, x, Axis("margin", low - pad, high + pad), label=f"margin of {label}", width=330, height=190
        ),
        "cosine": figure(
            [line(at, [r["cosine"] for r in rows], colour), rule(0.0, "y")],
            x,
            Axis(
                "agreement (cosine)",
                min(-0.2, *(r["cosine"] for r in rows)),
                1.0,
                ticks=(0.0, 0.5, 1.0),
                texts=("0", "0.5", "1"),
            ),
            label=f"cosine between gradient and way of {label}",
            width=330,
            height=150,
        ),
    }


def _crossing(at: list[float], margins: list[float]) -> float | None:
    """Where the margin first falls to 0, linear between the points; None where it never does.

    >>> _crossing([1.0, 2.0], [1.0, -1.0])
    1.5
    """
    for k, value in enumerate(margins):
        if value <= 0:
            share = margins[k - 1] / (margins[k - 1] - value) if k else 1.0
            return at[k - 1] + share * (at[k] - at[k - 1]) if k else at[0]
    return None
