"""Robustness curves: the share of examples that survive, proved from below and witnessed from above, over the size of the change."""

from math import prod, sqrt

import numpy as np

from brittle.about import About
from brittle.panels._data import Answers, Unit, answers, at_scales, binomial_interval, laws, regions, survival, unit
from brittle.panels._html import fill, number, series
from brittle.plots import Axis, Mark, figure, nice_ticks, rule, scatter, stairs, stairs_band

ABOUT = About(
    promise="certified and attacked accuracy over the size of the change, with the unknown between",
    reference="",
    answers="30",
)

TEMPLATE = """
<h2>Robustness curves</h2>
<p>Lower edge: <b>certified</b> accuracy, the share of examples for which nothing of this size can break the property. Upper edge:
<b>attacked</b> accuracy, the share for which nothing of this size was found. <b>Shaded</b>: unknown.</p>
{% for c in charts %}
<figure>
  <figcaption><b class="name">{{ c.name }}</b> accuracy under changes of bounded {{ c.noun }}</figcaption>
  <p class="legend">{% for m in c.models %}<span><i class="key {{ m.series }}"></i>{{ m.name }}</span>{% endfor %}<span><i class="key thick"></i>certified</span><span><i class="key thin"></i>attacked</span><span><i class="key dot"></i>clean</span>{% if c.noise %}<span><i class="key diamond"></i>under random noise of that typical size</span>{% endif %}</p>
  <div class="scroll">{{ c.svg }}</div>
  <div class="scroll"><table>
    <thead><tr><th class="n">{{ c.noun }}</th>{% for m in c.models %}<th class="n">{{ m.name }} certified</th><th class="n">attacked</th>{% endfor %}</tr></thead>
    <tbody>{% for row in c.rows %}<tr><th class="n">{{ row.size }}</th>{% for cell in row.cells %}<td class="n">{{ cell.share|percent }} <span class="faint">{{ cell.interval }}</span></td>{% endfor %}</tr>{% endfor %}</tbody>
  </table></div>
</figure>
{% endfor %}
<p class="quiet">Small figures: exact 95 % intervals (Clopper–Pearson, pointwise) for the share in the population that the examples were drawn from.</p>
"""


def curves(run) -> str:
    """One chart and one table per region, all models together."""
    charts = [c for name, leaves in regions(run).items() if (c := _chart(run, name, unit(leaves), leaves))]
    return fill(TEMPLATE, {"charts": charts}) if charts else ""


def _chart(run, name: str, of: Unit, leaves) -> dict | None:
    found = {m: a.scaled(of.factor) for m in run.models if len(a := answers(run, m, "radius", name))}
    if not found:
        return None
    stop = reach(list(found.values()), of)
    colours = {m: series(k) for k, m in enumerate(run.models)}
    noise = _noise_points(run, leaves, stop, colours)
    marks = [mark for m, a in found.items() for mark in _marks(a, stop, colours[m])]
    declared = [rule(of.factor, "x", "declared", "declared")] if 0 < of.factor < 0.97 * stop else []
    x, y = Axis(of.noun, 0, stop), Axis("accuracy", 0, 1, ticks=QUARTERS, texts=("0", "25 %", "50 %", "75 %", "100 %"))
    label = f"Certified and attacked accuracy of {', '.join(found)} over {of.noun}, from 0 to {number(stop)}"
    return {
        "name": name,
        "noun": of.noun,
        "models": [{"name": m, "series": colours[m]} for m in found],
        "noise": bool(noise),
        "svg": figure([*declared, *marks, *noise], x, y, label=label, height=320),
        "rows": _rows(found, stop),
    }


QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


def reach(found: list[Answers], of: Unit) -> float:
    """Where the axis ends: beyond 99 % of the finite ends, so that a few far ones do not flatten the rest."""
    ends = np.concatenate([np.concatenate([a.lower, a.upper]) for a in found])
    known = ends[np.isfinite(ends) & (ends > 0)]
    return 1.05 * float(np.quantile(known, 0.99)) if len(known) else of.factor


def _marks(found: Answers, stop: float, colour: str) -> list[Mark]:
    low, high = survival(found.lower, stop), survival(found.upper, stop)
    return [
        stairs_band(low, high, colour),
        stairs(*high, f"{colour} thin"),
        stairs(*low, f"{colour} thick"),
        scatter([0.0], [found.clean], f"{colour} edge", [f"clean accuracy {number(100 * found.clean)} %"], size=5),
    ]


def _noise_points(run, leaves, stop: float, colours: dict[str, str]) -> list[Mark]:
    """Accuracy under a law that has a typical size in the norm of this region, drawn at that size."""
    out = []
    for name, by_leaf in laws(run).items():
        size = typical_size(run, leaves, by_leaf)
        if size is None or size > stop:
            continue
        for model, colour in colours.items():
            chance = answers(run, model, "probability", name).estimate
            known = 1 - chance[~np.isnan(chance)]
            if len(known):
                title = f"{name}: {model} is right on {number(100 * known.mean())} % of draws"
                out.append(scatter([size], [float(known.mean())], f"{colour} edge", [title], "diamond", 5))
    return out


def typical_size(run, leaves, by_leaf) -> float | None:
    """The size of a draw in the norm of a region: the radius of a uniform law in the same norm; sigma sqrt(d) for an l2
    region and an unclipped Gaussian in d dimensions (the root mean square of its norm). None where neither applies."""
    if len(leaves) != 1 or list(leaves) != list(by_leaf):
        return None
    ((leaf, ball),), (law,) = leaves.items(), by_leaf.values()
    if law.get("law") in ("UniformBall", "UniformSphere") and str(law.get("p")) == str(ball.get("p")):
        return float(law["radius"])
    shape = run.plan.data.get("inputs", {}).get(leaf, {}).get("shape")
    if isinstance(law.get("sigma"), float | int) and ball.get("p") == 2 and shape and not law.get("clip"):
        return float(law["sigma"]) * sqrt(prod(shape))
    return None


def _rows(found: dict[str, Answers], stop: float) -> list[dict]:
    sizes = np.array(nice_ticks(0, stop, 8))
    ends = [(at_scales(end, sizes), len(a)) for a in found.values() for end in (a.lower, a.upper)]
    return [{"size": number(s), "cells": [_cell(float(v[i]), n) for v, n in ends]} for i, s in enumerate(sizes)]


def _cell(share: float, count: int) -> dict:
    low, high = binomial_interval(share, count)
    return {"share": share, "interval": f"{100 * low:.0f}–{100 * high:.0f}"}
