"""Feature compression: how far each example is from failing, against how far it lies from another class."""

from collections.abc import Mapping

import numpy as np

from brittle.about import About
from brittle.panels._data import answers
from brittle.panels._html import fill, number, series
from brittle.plots import Axis, Mark, figure, line, scatter

ABOUT = About(
    promise="radius against the distance to another class, with the best possible mean", reference="", answers="64"
)
MEASURES = {  # column -> what a reader is told it is
    "path_cosine": "gradient and way point the same way",
    "path_ratio": "drop of the score the way achieves, of what its slope allows",
    "two_gradient": "way inside the two gradients of the competing scores",
    "row_space": "way inside all that the scores react to",
}

TEMPLATE = """
<h2>Why: how much of another class the decision sees</h2>
<p>Every dot is an example. Across: its distance to the nearest example of another class, beyond which no classifier can keep both right.
Up: the smallest change that {{ verb }}. Comparing with the nearest known example would put every dot on the straight <b>line</b>, half way.
Dots far below it belong to a network that has compressed away most of what tells the classes apart, so that little is left to overcome.</p>
{% for p in parts %}
{% if p.doubt %}<div class="doubts"><p><b>{{ p.model }}</b> {{ p.doubt }}</p></div>{% endif %}
<p><span class="swatch {{ p.series }}"></span><b>{{ p.model }}</b> {{ p.sentence }}</p>
{% endfor %}
{% if svg %}
<figure>
  <p class="legend">{% for p in parts if p.count %}<span><i class="key dot {{ p.series }}"></i>{{ p.model }}, {{ p.source }}</span>{% endfor %}<span><i class="key"></i>half way to another class</span>{% if optimum %}<span><i class="key thin"></i>best possible mean</span>{% endif %}</p>
  <div class="scroll">{{ svg }}</div>
</figure>
<div class="scroll"><table>
  <caption>How much of the way to another class is seen; medians, in brackets what a random direction would score</caption>
  <thead><tr><th>measure</th>{% for p in parts if p.count %}<th class="n">{{ p.model }}</th>{% endfor %}</tr></thead>
  <tbody>{% for row in rows %}<tr><td>{{ row.word }}</td>{% for value, chance in row.cells %}<td class="n">{{ value }}{% if chance %} <span class="faint">({{ chance }})</span>{% endif %}</td>{% endfor %}</tr>{% endfor %}</tbody>
</table></div>
{% endif %}
"""


def compression(run) -> str:
    """All models in one scatter plot, and a table of what they see."""
    facts = {m: f["compression"] for m in run.models if "compression" in (f := run.findings.get(m, {}))}
    if not facts:
        return ""
    parts = [_part(run, model, found) for model, found in facts.items()]
    good = [p for p in parts if p["count"]]
    values = {
        "parts": parts,
        "verb": "was found to flip the answer"
        if all(p["attacked"] for p in good)
        else "is predicted to flip the answer",
        "svg": _plot(good) if good else "",
        "optimum": any(p["best"] is not None for p in good),
        "rows": _rows([facts[p["model"]]["columns"] for p in good]),
    }
    return fill(TEMPLATE, values)


def _part(run, model: str, found: Mapping) -> dict:
    columns = found.get("columns") or {}
    part = {
        "model": model,
        "series": series(run.models.index(model)),
        "doubt": found.get("doubt") or "",
        "count": 0,
        "attacked": True,
    }
    if not columns:
        return {**part, "sentence": found.get("note") or "Nothing was measured.", "source": "", "best": None}
    column = lambda name: np.array([np.nan if v is None else v for v in columns[name]], dtype=float)
    good = np.array([s in ("ok", "no witness") for s in columns["status"]])
    predicted, across = column("predicted_radius"), 2 * column("half_distance")
    attacked = _attacked(run, model, columns["example"])
    size = predicted if attacked is None else attacked
    good &= np.isfinite(size) & np.isfinite(across)
    best = next((float(v) for v in columns.get("optimum", ()) if v is not None), None)
    if not good.any():
        return {**part, "sentence": found.get("note") or "Nothing was measured.", "source": "", "best": best}
    source = "predicted" if attacked is None else "attacked"
    told = _sentence(size[good], across[good], best)
    if attacked is not None:
        told += f" The prediction, which runs no attack, was {number(float(np.median(predicted[good] / size[good])))} times that size in the median."
    return {
        **part,
        "sentence": told,
        "source": source,
        "attacked": attacked is not None,
        "best": best,
        "count": int(good.sum()),
        "across": across[good],
        "size": size[good],
        "unit": found.get("unit") or "size",
        "titles": [f"example {e}" for e, g in zip(columns["example"], good, strict=True) if g],
    }


def _attacked(run, model: str, examples: list) -> np.ndarray | None:
    """The upper ends of the region that the diagnostics asked about, as distances; None where there is none, or it is not one input."""
    name, leaves = next(iter(run.plan.regions.items()), ("", {}))
    if len(leaves) != 1:
        return None
    ((leaf, ball),) = leaves.items()
    if ball.get("within") or ball.get("orthogonal_to"):
        return None
    if not leaf.split(".")[0] == "x" or str(ball.get("p")) not in ("1", "2", "inf") or not ball.get("radius"):
        return None
    found = answers(run, model, "radius", name)
    by_example = dict(zip(found.example.tolist(), (found.upper * float(ball["radius"])).tolist(), strict=True))
    return np.array([by_example.get(e, np.nan) for e in examples], dtype=float)


def _sentence(size: np.ndarray, across: np.ndarray, best: float | None) -> str:
    mean, reference = float(size.mean()), float(across.mean()) / 2 if best is None else best
    ratio = mean / reference
    what = (
        "half the mean distance to another class"
        if best is None
        else "the best mean that any classifier could have on these examples"
    )
    return (
        f"Mean size {number(mean)}; {what} is {number(reference)}. That is {100 * ratio:.0f} % of it, what a wholly compressed classifier, "
        f"which keeps 1/√d of the possible, would keep in d = {number(ratio**-2)} dimensions."
    )


def _plot(parts: list[dict]) -> str:
    near, far = min(float(p["across"].min()) for p in parts), max(float(p["across"].max()) for p in parts)
    low, wide = (0.9 * near if near > 0.4 * far else 0.0), (1.05 * far or 1.0)
    high = 1.08 * max(wide / 2, *(float(p["size"].max()) for p in parts))
    marks: list[Mark] = [line([low, wide], [low / 2, wide / 2], "")]
    for p in parts:
        marks.append(scatter(p["across"].tolist(), p["size"].tolist(), p["series"].split()[0], p["titles"]))
        if p["best"] is not None and p["best"] <= high:
            marks.append(line([low, wide], [p["best"]] * 2, f"{p['series'].split()[0]} thin d2"))
    unit = parts[0]["unit"].replace("l-inf", "l∞")
    x, y = (
        Axis(f"distance to the nearest example of another class ({unit})", low, wide),
        Axis(f"smallest change, {unit}", 0, high),
    )
    return figure(marks, x, y, label="smallest change of every example over its distance to another class", height=340)


def _rows(columns: list[Mapping]) -> list[dict]:
    rows = [
        {"word": word, "cells": [(_middle(c, name), _middle(c, f"{name}_chance")) for c in columns]}
        for name, word in MEASURES.items()
    ]
    rank = {
        "word": "directions that carry the scores (effective rank)",
        "cells": [(_middle(c, "effective_rank"), "") for c in columns],
    }
    return [*rows, rank]


def _middle(columns: Mapping, name: str) -> str:
    known = [v for v, s in zip(columns.get(name, ()), columns["status"], strict=False) if s == "ok" and v is not None]
    return number(float(np.median(known)), 2) if known else "–"
