"""Sources of vulnerability: a bar per moving leaf, what share of the predicted drop of the margin it accounts for."""

from collections.abc import Mapping, Sequence
from math import inf

from brittle.about import About
from brittle.panels._html import clip, fill, number, percent, series
from brittle.plots import Axis, Mark, bars, figure

ABOUT = About(promise="share of the predicted drop of the margin by input and layer", reference="", answers="69")
NAME = "sources"
LABELLED = 12  # leaves that all get a word under their bar; of more every other one

TEMPLATE = """
<h2>Why: which layer is to blame</h2>
<p>If the input and the weights moved together, how much of its margin would an example lose through each of them? To first order the losses add up;
a bar is the mean share of one leaf over the correctly classified examples. This is no bound: it says where to look.</p>
{% for p in parts %}
{% if p.doubt %}<div class="doubts"><p><b>{{ p.model }}</b> {{ p.doubt }}</p></div>{% endif %}
<p><span class="swatch {{ p.series }}"></span><b>{{ p.model }}</b> {{ p.note }}{% if p.value %} <span class="quiet">{{ p.rule }}: {{ p.value }}.</span>{% endif %}</p>
{% endfor %}
{% for g in groups %}
<figure>
  <p class="legend">{% for m in g.models %}<span><i class="key {{ m.series }}"></i>{{ m.model }}</span>{% endfor %}</p>
  <div class="scroll">{{ g.svg }}</div>
  <div class="scroll"><table>
    <caption>Mean share, and the size at which the leaf alone is predicted to break the median example</caption>
    <thead><tr><th>leaf</th>{% for m in g.models %}<th class="n">{{ m.model }}: share</th><th class="n">breaks at</th>{% endfor %}</tr></thead>
    <tbody>{% for row in g.rows %}<tr><th>{{ row.leaf }}</th>{% for c in row.cells %}<td class="n">{{ c.share }}</td><td class="n">{{ c.size }}</td>{% endfor %}</tr>{% endfor %}</tbody>
  </table></div>
</figure>
{% endfor %}
"""


def sources(run) -> str:
    """Models with the same leaves share a drawing; "" where the audit did not ask."""
    facts = {m: run.findings[m][NAME] for m in run.models if NAME in run.findings.get(m, {})}
    if not facts:
        return ""
    parts = [_part(run, model, found) for model, found in facts.items()]
    groups: dict[tuple, dict[str, Mapping]] = {}
    for model, found in facts.items():
        columns = found.get("columns") or {}
        leaves = tuple(name.removeprefix("share ") for name in columns if name.startswith("share "))
        if leaves and any(m > 0 for m in columns["margin"]):
            groups.setdefault(leaves, {})[model] = columns
    drawn = [_group(run, leaves, columns) for leaves, columns in groups.items()]
    return fill(TEMPLATE, {"parts": parts, "groups": drawn})


def _part(run, model: str, found: Mapping) -> dict:
    words = {"rule": found.get("threshold") or "", "value": found.get("value") or ""}
    note, doubt = found.get("note") or "", found.get("doubt") or ""
    return {"model": model, "series": _series(run, model), "note": note, "doubt": doubt, **words}


def _series(run, model: str) -> str:
    return series(run.models.index(model)).split()[0]


def _group(run, leaves: Sequence[str], columns: Mapping[str, Mapping]) -> dict:
    shares = {m: [_mean(_right(c, f"share {leaf}")) for leaf in leaves] for m, c in columns.items()}
    sizes = {m: [_middle(_right(c, f"size {leaf}")) for leaf in leaves] for m, c in columns.items()}
    width = 0.8 / len(columns)
    marks: list[Mark] = []
    for slot, model in enumerate(columns):
        xs = [k + 0.1 + (slot + 0.5) * width for k in range(len(leaves))]
        marks.append(bars(xs, [v or 0.0 for v in shares[model]], 0.94 * width, _series(run, model)))
    words = tuple(clip(leaf, 14) if len(leaves) <= LABELLED or k % 2 == 0 else "" for k, leaf in enumerate(leaves))
    x = Axis("moving leaf, input first", 0, len(leaves), ticks=tuple(k + 0.5 for k in range(len(leaves))), texts=words)
    top = max(v or 0.0 for values in shares.values() for v in values)
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    y = Axis(
        "share of the predicted drop",
        0,
        max(0.5, min(1.0, 1.1 * top)),
        ticks=ticks[: 3 if top <= 0.45 else 5],
        texts=None,
    )
    return {
        "models": [{"model": m, "series": _series(run, m)} for m in columns],
        "svg": figure(marks, x, y, label="Share of the predicted drop of the margin, leaf by leaf", height=240),
        "rows": [
            {
                "leaf": leaf,
                "cells": [{"share": percent(shares[m][k], 0), "size": number(sizes[m][k], 2)} for m in columns],
            }
            for k, leaf in enumerate(leaves)
        ],
    }


def _right(columns: Mapping, name: str) -> list[float]:
    """The values of correctly classified examples; ``inf`` is a word in records, what is missing is left out."""
    rows = zip(columns["margin"], columns[name], strict=True)
    known = [float(v) for m, v in rows if m is not None and m > 0 and v is not None]
    return [v for v in known if v == v]


def _mean(values: Sequence[float]) -> float | None:
    finite = [v for v in values if abs(v) < inf]
    return sum(finite) / len(finite) if finite else None


def _middle(values: Sequence[float]) -> float | None:
    return sorted(values)[(len(values) - 1) // 2] if values else None
