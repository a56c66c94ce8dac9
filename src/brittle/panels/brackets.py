"""Bracket plot: every example as a bar from what is proved to what is witnessed."""

import numpy as np

from brittle.about import About
from brittle.panels._data import Answers, Unit, answers, regions, spread, unit
from brittle.panels._html import fill, number, series
from brittle.panels.curves import reach
from brittle.plots import Axis, figure, scatter
from brittle.plots import brackets as bracket_marks

ABOUT = About(promise="lower and upper end of every example, sorted", reference="", answers="40")
MOST, LEAST = (
    240,
    24,
)  # bars in one plot: two pixels of bar, one of gap, on a 760 px drawing; fewer where plots are many
BUDGET = 2000  # bars in the whole section; each takes about 200 bytes

TEMPLATE = """
<h2>Brackets, example by example</h2>
<p>Sorted by the upper end. A bar runs from the size that is proved harmless to the size of the stored witness: short bars are well known
examples, long bars open questions. <i class="key open"></i> no witness found; <i class="key cross"></i> misclassified before anything moves;
<i class="key square"></i> flips through rounding only, or not certified.</p>
{% for c in charts %}
<figure>
  <figcaption><b class="name">{{ c.name }}</b> {{ c.model }}{% if c.shown < c.count %} <span class="faint">({{ c.shown }} of {{ c.count }} examples, evenly spaced in rank)</span>{% endif %}</figcaption>
  <div class="scroll">{{ c.svg }}</div>
</figure>
{% endfor %}
"""


def brackets(run) -> str:
    """One plot per region and model, with the same range for all models of a region."""
    most = max(LEAST, min(MOST, BUDGET // max(1, len(run.models) * len(regions(run)))))
    charts = []
    for name, leaves in regions(run).items():
        of = unit(leaves)
        found = {m: a.scaled(of.factor) for m in run.models if len(a := answers(run, m, "radius", name))}
        stop = reach(list(found.values()), of) if found else 1.0
        charts += [_chart(name, m, series(run.models.index(m)), a, of, stop, most) for m, a in found.items()]
    return fill(TEMPLATE, {"charts": charts}) if charts else ""


def _chart(name: str, model: str, colour: str, found: Answers, of: Unit, stop: float, most: int) -> dict:
    order = np.lexsort((found.example, found.lower, found.upper))
    chosen = order[spread(len(order), most)]
    ranks = np.arange(len(chosen)) + 0.5
    wrong = found.misclassified[chosen]
    odd = np.array([found.status[i] not in ("ok", "misclassified") for i in chosen])
    lower, upper = found.lower[chosen], found.upper[chosen]
    open_ = np.isinf(upper) & ~wrong
    tips = [_tip(found, int(i)) for i in chosen]
    pick = lambda mask: ([float(r) for r in ranks[mask]], [t for t, m in zip(tips, mask, strict=True) if m])
    bars, tips_bars = pick(~wrong)
    cap = min(2.5, 0.35 * 700 / len(chosen))
    marks = [bracket_marks(bars, lower[~wrong].tolist(), upper[~wrong].tolist(), colour, tips_bars, cap)]
    at, texts = pick(open_)
    marks.append(scatter(at, [0.975 * stop] * len(at), f"{colour} hollow", texts, "up", min(4, cap + 1.5)))
    at, texts = pick(wrong)
    marks.append(scatter(at, [0.0] * len(at), "wrong", texts, "diamond", min(3.5, cap + 1)))
    at, texts = pick(odd & ~wrong)
    marks.append(scatter(at, np.minimum(lower[odd & ~wrong], stop).tolist(), "odd", texts, "square", min(3, cap + 1)))
    label = f"Brackets of {model} for {name}: {len(chosen)} examples sorted by their upper end"
    x = Axis("examples, most fragile first", 0, len(chosen), ticks=(), texts=())
    svg = figure(marks, x, Axis(of.noun, 0, stop), label=label, height=240)
    return {"name": name, "model": model, "svg": svg, "shown": len(chosen), "count": len(found)}


def _tip(found: Answers, i: int) -> str:
    ends = f"[{number(found.lower[i])} {found.lower_kind[i]}, {number(found.upper[i])} {found.upper_kind[i]}]"
    return f"example {found.example[i]}: {ends} {'' if found.status[i] == 'ok' else found.status[i]}".rstrip()
