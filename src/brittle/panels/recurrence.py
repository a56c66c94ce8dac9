"""Recurrence: stability of every recurrent matrix, what grows along the data, and the pictures of the Jacobians."""

from collections.abc import Mapping

from brittle.about import About
from brittle.panels import _recurrent as draw
from brittle.panels._html import fill, series

ABOUT = About(
    promise="stability, pseudospectra, transients and growth along the data of every recurrent part",
    reference="",
    answers="72",
)
SHOWN = (
    4  # matrices with pictures per model: Jacobians first, they are what the network does; brittle spectrum draws all
)

TEMPLATE = """
<h2>Why: what the recurrence does to a change</h2>
<p>A recurrent network applies the same map again and again. Its Jacobians tell whether a small change of the state dies out, how small a change of the weights could
undo that, and how large the change may become before it dies.</p>
{% for p in parts %}
{% if p.doubt %}<div class="doubts"><p><b>{{ p.model }}</b> {{ p.doubt }}</p></div>{% endif %}
<p><span class="swatch {{ p.series }}"></span><b>{{ p.model }}</b> {{ p.note }}</p>
{% for text in p.standing %}<p class="sentence">{{ text }}</p>{% endfor %}
{{ p.table }}
{% for a in p.along %}
<div class="gallery" style="grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr))">
<figure class="example"><p class="legend"><span><i class="key c1"></i>worst</span><span><i class="key c0"></i>median</span></p>{{ a.growth }}</figure>
<figure class="example"><p class="legend"><span><i class="key c0"></i>mean over the sequences</span><span><i class="key thin"></i>rate of the mean Jacobian</span></p>{{ a.exponents }}</figure>
</div>
{% endfor %}
{% for drawn in p.matrices %}{{ drawn }}{% endfor %}
{% if p.more %}<p class="faint">{{ p.more }} more matrices in the records; brittle spectrum draws all of them.</p>{% endif %}
{% endfor %}
"""


def recurrence(run) -> str:
    """Models with something recurrent; "" where there is none."""
    facts = {m: f["recurrence"] for m in run.models if "recurrence" in (f := run.findings.get(m, {}))}
    parts = [_part(run, model, found) for model, found in facts.items() if found.get("columns") or found.get("doubt")]
    return fill(TEMPLATE, {"parts": parts}) if parts else ""


def _part(run, model: str, found: Mapping) -> dict:
    rows = draw.rows(found)
    place = run.models.index(model)
    order = sorted(rows, key=lambda r: r["role"] == "gate block")[:SHOWN]
    links = {row["matrix"]: f"recurrence-{place}-{k}" for k, row in enumerate(order)}
    return {
        "model": model,
        "series": series(place),
        "doubt": found.get("doubt") or "",
        "note": found.get("note") or "",
        "standing": list(dict.fromkeys(text for row in rows for text in row["fixed_points"]))[:3],
        "table": draw.table(rows, links) if rows else "",
        "along": [{"growth": draw.growth(r), "exponents": draw.exponents(r)} for r in rows if r["along"]],
        "matrices": [draw.matrix(row, row["nulls"], links[row["matrix"]]) for row in order],
        "more": len(rows) - len(order),
    }
