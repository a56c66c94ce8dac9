"""The most fragile examples, seen: the clean input, the smallest change found, and the input that breaks."""

from collections.abc import Mapping

import numpy as np

from brittle.about import About
from brittle.panels._data import Answers, Unit, answers, regions, unit
from brittle.panels._html import fill, number, series
from brittle.panels._picture import as_picture, diverging, grey
from brittle.plots import Axis, bars, figure

ABOUT = About(promise="pictures of the witnesses nearest to their examples", reference="", answers="70")
EACH, BUDGET = 6, 18  # examples per model and region; examples on the page, of three pictures each: 0.9 MB at the worst
FEATURES = 32  # bars of a change that is no picture

TEMPLATE = """
<h2>Most fragile examples</h2>
<p>The correctly classified examples whose stored witness is nearest. In the middle the change: <span class="up-word">raised</span>,
<span class="down-word">lowered</span>, full colour at the stated value.</p>
{% for g in groups %}
<h3><span class="swatch {{ g.series }}"></span>{{ g.model }} <span class="faint">{{ g.name }}</span></h3>
<div class="gallery">{% for e in g.examples %}
  <figure class="example">
    {% if e.clean %}<div class="triple"><img alt="clean input" src="{{ e.clean }}"><img alt="change" src="{{ e.change }}"><img alt="perturbed input" src="{{ e.moved }}"></div>{% else %}<div class="scroll">{{ e.chart }}</div>{% endif %}
    <figcaption>example {{ e.number }}, label {{ e.label }}<br>{{ e.size }}<br><span class="faint">{{ e.amplitude }}</span></figcaption>
  </figure>{% endfor %}
</div>
{% endfor %}
{% if more %}<p class="faint">{{ more }} more pairs of model and region in the records.</p>{% endif %}
"""


def fragile(run) -> str:
    """Per model and region the nearest witnesses; "" where nothing was found."""
    pairs = [(model, name) for model in run.models for name in regions(run)]
    room = BUDGET // max(1, len(pairs))
    each = EACH if room >= EACH else 3 if room >= 3 else 1  # whole rows of three
    groups = []
    for model in run.models:
        groups += _of_model(run, model, [n for m, n in pairs if m == model], each)
    values = {"groups": groups[:BUDGET], "more": max(0, len(groups) - BUDGET)}
    return fill(TEMPLATE, values) if groups else ""


def _of_model(run, model: str, names: list[str], each: int) -> list[dict]:
    points = run.points(model)
    out = []
    for name in names:
        leaves = regions(run)[name]
        leaf = next((leaf for leaf in leaves if f"clean/{leaf}" in points and f"radius/{name}/{leaf}" in points), None)
        found = answers(run, model, "radius", name)
        if leaf is None or len(found) != len(points[f"clean/{leaf}"]):
            continue
        at = nearest(found, each)
        clean, moved = points[f"clean/{leaf}"], points[f"radius/{name}/{leaf}"]
        examples = [_example(found, int(i), clean[i], moved[i], leaves[leaf], unit(leaves)) for i in at]
        if examples:
            out.append({"model": model, "series": series(run.models.index(model)), "name": name, "examples": examples})
    return out


def nearest(found: Answers, most: int) -> np.ndarray:
    """Rows of the correctly classified examples with the smallest finite upper ends."""
    order = np.lexsort((found.example, found.upper))
    good = np.isfinite(found.upper) & (found.upper > 0) & ~found.misclassified
    return order[good[order]][:most]


def _example(found: Answers, i: int, clean: np.ndarray, moved: np.ndarray, ball: Mapping, of: Unit) -> dict:
    change = moved.astype(np.float64) - clean.astype(np.float64)
    most = float(np.abs(change).max(initial=0.0))
    kind, low = found.lower_kind[i], number(found.lower[i] * of.factor)
    harmless = f"harmless below {low} ({kind})" if kind != "none" and found.lower[i] > 0 else "nothing proved"
    facts = {
        "number": int(found.example[i]),
        "label": int(found.label[i]),
        "size": f"{of.noun} {number(found.upper[i] * of.factor)}; {harmless}",
        "amplitude": f"largest change of a feature {number(most)}",
        "clean": "",
    }
    before, after = as_picture(clean), as_picture(moved)
    if before is None or after is None:
        return {**facts, "chart": _bars(change)}
    low, high = (
        _bound(ball.get(k), f)
        for k, f in (("low", min(clean.min(), moved.min())), ("high", max(clean.max(), moved.max())))
    )
    pictures = {"clean": grey(before, low, high), "change": diverging(after - before, most)}
    return {**facts, **pictures, "moved": grey(after, low, high)}


def _bound(stated: object, fallback: float) -> float:
    return float(stated) if isinstance(stated, (int, float)) else float(fallback)


def _bars(change: np.ndarray) -> str:
    flat = change.reshape(-1)
    kept = np.sort(np.argsort(-np.abs(flat), kind="stable")[:FEATURES])
    most = float(np.abs(flat).max(initial=0.0)) or 1.0
    x = Axis(
        "features that change most" if len(kept) < len(flat) else "features", -0.5, len(kept) - 0.5, ticks=(), texts=()
    )
    marks = [bars([float(k) for k in range(len(kept))], flat[kept].tolist(), 0.8)]
    return figure(marks, x, Axis("change", -most, most), label="change of each feature", width=320, height=180)
