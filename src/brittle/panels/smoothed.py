"""Smoothed models: how far the label keeps its lead under noise that is put on top, apart from what the given model does."""

import numpy as np

from brittle.about import About
from brittle.panels._data import Answers, answers, middle, smoothings, unit
from brittle.panels._html import fill, series
from brittle.panels._words import law

ABOUT = About(promise="radii of smoothed models, apart from those of the given ones", reference="", answers="46")

TEMPLATE = """
<h2>Smoothed models</h2>
<p><b>Another model.</b> The smoothed model answers with the class that the given model names most often under the noise below. Its radii hold for that model,
deployed with its noise, and say nothing of the given one, whose radii stand in the sections above. Both ends are statistical: votes of random draws.</p>
{% for c in cards %}
<figure>
  <figcaption><b class="name">{{ c.name }}</b> {{ c.law }}; {{ c.draws }} draws for each example, each bracket holds with confidence {{ c.level }}</figcaption>
  <div class="scroll"><table>
    <caption>Radius of the smoothed model, {{ c.noun }}, of {{ c.count }} examples</caption>
    <thead><tr><th>model</th><th class="n">median at least</th><th class="n">median at most</th><th class="n">label leads</th><th class="n">abstained</th><th class="n">another class leads</th></tr></thead>
    <tbody>{% for m in c.models %}<tr><th><i class="key {{ m.series }}"></i>{{ m.name }}</th><td class="n">{{ m.lower|number }}</td><td class="n">{{ m.upper|number }}</td><td class="n">{{ m.leads|percent(1) }}</td><td class="n">{{ m.abstained|percent(1) }}</td><td class="n">{{ m.wrong|percent(1) }}</td></tr>{% endfor %}</tbody>
  </table></div>
</figure>
{% endfor %}
"""


def smoothed(run) -> str:
    """One card per smoothing, the models side by side; "" where none was asked for."""
    cards = [_card(run, name, facts) for name, facts in smoothings(run).items()]
    return fill(TEMPLATE, {"cards": cards}) if cards else ""


def _card(run, name: str, facts) -> dict:
    of = unit(facts["region"])
    found = {m: a.scaled(of.factor) for m in run.models if len(a := answers(run, m, "smoothed", name))}
    return {
        "name": name,
        "law": "; ".join(f"{leaf}: {law(told)}" for leaf, told in facts["laws"].items()),
        "draws": f"{facts['draws']:,}",
        "level": f"{100 * facts['level']:g} %",
        "noun": of.noun,
        "count": max(map(len, found.values())),
        "models": [_row(m, a, series(run.models.index(m))) for m, a in found.items()],
    }


def _row(model: str, found: Answers, colour: str) -> dict:
    abstained = np.array([s.startswith("abstained") for s in found.status])
    wrong = found.misclassified
    return {
        "name": model,
        "series": colour,
        "lower": middle(found.lower),
        "upper": middle(found.upper),
        "leads": float((~abstained & ~wrong).mean()),
        "abstained": float(abstained.mean()),
        "wrong": float(wrong.mean()),
    }
