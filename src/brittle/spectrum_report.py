"""The page of ``brittle spectrum``: verdicts first, then the data, then every matrix with its pictures. Reads ``spectrum.json`` only."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from brittle import __version__
from brittle.files import read_json, write_bytes
from brittle.panels import _recurrent as draw
from brittle.panels._html import environment, fill, number

TEMPLATES = Path(__file__).parent / "templates"
RECORD = "spectrum.json"

VERDICT = """
<div class="card">
<h2>What was found</h2>
{% for text in along %}<p class="sentence"><strong>{{ text }}</strong></p>{% endfor %}
{% for text in resting %}<p class="sentence">{{ text }}</p>{% endfor %}
{{ table }}
</div>
"""
ALONG = """
<h2>Along the data</h2>
<p>A small change of the state is carried through the network's own states. Left: by how much it can grow over a window of the data, at the worst place and in the
median. Right: at which rate, direction by direction, in the long run; the band holds nine tenths of the sequences.</p>
{% for p in parts %}
<h3>{{ p.name }} <span class="quiet">{{ p.kind }}, {{ p.sequences }} sequences, {{ p.steps }} steps</span></h3>
<p>{{ p.verdict }}</p>
<div class="gallery" style="grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr))">
<figure class="example"><p class="legend"><span><i class="key c1"></i>worst</span><span><i class="key c0"></i>median</span></p>{{ p.growth }}</figure>
<figure class="example"><p class="legend"><span><i class="key c0"></i>mean over the sequences</span><span><i class="key thin"></i>rate of the mean Jacobian</span></p>{{ p.exponents }}</figure>
</div>
{% endfor %}
<p class="faint">{{ note }}</p>
"""
SETTINGS = """
<h2>Settings</h2>
<dl class="facts">{% for k, v in settings.items() %}<div><dt>{{ k }}</dt><dd>{{ v }}</dd></div>{% endfor %}</dl>
"""


def write(folder: str | Path) -> Path:
    """Draw ``report.html`` in the folder of a spectrum and return its path."""
    target = Path(folder) / "report.html"
    write_bytes(target, render(read_json(Path(folder) / RECORD) or {}).encode())
    return target


def render(record: Mapping) -> str:
    """The page as text, a function of the record alone: ``findings`` as ``bt.spectrum(...).facts()`` gives them, and ``settings``."""
    findings, settings = record["findings"], record["settings"]
    found, nulls = draw.rows(findings["matrices"]), draw.rows(findings["null models"])
    links = {row["matrix"]: f"matrix-{k}" for k, row in enumerate(found)}
    along = findings.get("along data") or {}
    paths, resting = draw.rows(along), draw.rows(findings.get("fixed points") or {})
    verdicts = {
        "along": [r["verdict"] for r in paths],
        "resting": draw.standing(resting),
        "table": draw.table(found, links),
    }
    sections = [("verdict", fill(VERDICT, verdicts))]
    if paths:
        parts = [
            {**r, "name": r["part"] or "the cell", "growth": draw.growth(r), "exponents": draw.exponents(r)}
            for r in paths
        ]
        sections.append(("along", fill(ALONG, {"parts": parts, "note": along.get("note", "")})))
    heading = Markup("<h2>Matrix by matrix</h2>")
    drawn = [draw.matrix(row, nulls, links[row["matrix"]]) for row in found]
    sections.append(("matrices", heading + Markup("").join(drawn)))
    sections.append(("settings", fill(SETTINGS, {"settings": {k: _word(v) for k, v in settings.items()}})))
    values = {
        "title": str(settings.get("model", "matrix")),
        "sections": sections,
        "subtitle": f"spectrum · {len(found)} matrices · {settings.get('effort', '')} effort",
        "version": __version__,
        "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
    }
    return environment().from_string((TEMPLATES / "page.html").read_text(encoding="utf-8")).render(values)


def _word(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
