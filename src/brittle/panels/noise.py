"""Noise: the probability that a random change breaks the property, example by example, on a logarithmic axis."""

import numpy as np

from brittle.about import About
from brittle.panels._data import Answers, answers, laws, middle, spread
from brittle.panels._html import fill, number, percent, series
from brittle.panels._words import guarantee, law, weakest
from brittle.plots import Axis, brackets, figure, rule, scatter

ABOUT = About(
    promise="estimate, interval and proved upper end of the probability of failure", reference="", answers="50"
)
MOST, LEAST, BUDGET = (
    160,
    12,
    1200,
)  # examples of one model in one plot, at most and at least; in the section, 300 bytes each
FLOOR = 1e-12  # the axis ends here; smaller proved ends are drawn at the edge, their value is in the tooltip

TEMPLATE = """
<h2>Random noise</h2>
<p>Probability that one random draw breaks the property. Dot and bar: the estimate with its {{ level }} interval.
<i class="key down"></i> the upper end of the bracket. A dot on the bottom line means that no draw failed, which is not a probability of zero.</p>
{% for c in charts %}
<figure>
  <figcaption><b class="name">{{ c.name }}</b> {{ c.law }}</figcaption>
  <p class="legend">{% for m in c.models %}<span><i class="key {{ m.series }}"></i>{{ m.name }}</span>{% endfor %}</p>
  <div class="scroll">{{ c.svg }}</div>
  <div class="scroll"><table>
    <thead><tr><th>model</th><th class="n">mean estimate</th><th class="n">median estimate</th><th class="n">worst</th><th class="n">median upper end</th><th>guarantee above</th></tr></thead>
    <tbody>{% for m in c.models %}<tr><th>{{ m.name }}</th><td class="n">{{ m.mean }}</td><td class="n">{{ m.median }}</td><td class="n">{{ m.worst }}</td><td class="n">{{ m.upper }}</td><td>{{ m.kind }}</td></tr>{% endfor %}</tbody>
  </table></div>
</figure>
{% endfor %}
"""


def noise(run) -> str:
    """One plot per law, the models side by side."""
    most = max(LEAST, min(MOST, BUDGET // max(1, len(run.models) * len(laws(run)))))
    charts = [c for name, by_leaf in laws(run).items() if (c := _chart(run, name, by_leaf, most))]
    level = f"{100 * run.plan.level:g} %"
    return fill(TEMPLATE, {"charts": charts, "level": level}) if charts else ""


def _chart(run, name: str, by_leaf, most: int) -> dict | None:
    found = {m: a for m in run.models if len(a := answers(run, m, "probability", name))}
    if not found:
        return None
    low = _low(list(found.values()))
    width = 1 / len(found)
    marks, models = [rule(low, "y")], []
    for slot, (model, a) in enumerate(found.items()):
        colour = series(run.models.index(model))
        marks += _marks(a, low, slot * width, width, colour, most)
        models.append({"name": model, "series": colour, **_numbers(a, run.plan.level)})
    ticks = tuple((k + 0.5) * width for k in range(len(found)))
    x = Axis("examples, safest first", 0, 1, ticks=ticks, texts=tuple(m[:24] for m in found))
    svg = figure(
        marks, x, Axis("probability of failure", low, 1, log=True), label=f"Probability of failure under {name}"
    )
    words = "; ".join(f"{leaf}: {law(facts)}" for leaf, facts in by_leaf.items())
    return {"name": name, "law": words, "svg": svg, "models": models}


def _low(found: list[Answers]) -> float:
    """The power of ten below every positive end, not below the floor."""
    values = np.concatenate([np.concatenate([a.interval_lower, a.estimate, a.upper]) for a in found])
    positive = values[np.isfinite(values) & (values > 0)]
    smallest = max(FLOOR, float(positive.min()) if len(positive) else 1e-3)
    return float(10.0 ** np.floor(np.log10(min(0.1, smallest)) - 1e-9))


def _marks(found: Answers, low: float, start: float, width: float, colour: str, most: int) -> list:
    key = np.where(np.isnan(found.estimate), found.upper, found.estimate)
    order = np.lexsort((found.example, found.upper, key))
    chosen = order[spread(len(order), most)]
    xs = start + width * (0.06 + 0.88 * (np.arange(len(chosen)) + 0.5) / len(chosen))
    known = ~np.isnan(found.estimate[chosen])
    drawn = lambda values: np.maximum(values, low)
    tips = [_tip(found, int(i)) for i in chosen]
    kept = [t for t, k in zip(tips, known, strict=True) if k]
    spare = ["" if k else t for t, k in zip(tips, known, strict=True)]
    at = chosen[known]
    return [
        scatter(xs.tolist(), drawn(found.upper[chosen]).tolist(), f"{colour} hollow", spare, "down", 3),
        brackets(
            xs[known].tolist(),
            drawn(found.interval_lower[at]).tolist(),
            drawn(found.interval_upper[at]).tolist(),
            colour,
            (),
            0,
        ),
        scatter(xs[known].tolist(), drawn(found.estimate[at]).tolist(), colour, kept, size=2.5),
    ]


def _tip(found: Answers, i: int) -> str:
    interval = f"{number(found.estimate[i])} [{number(found.interval_lower[i])}, {number(found.interval_upper[i])}]"
    return f"example {found.example[i]}: {interval}; at most {number(found.upper[i])} ({found.upper_kind[i]})"


def _numbers(found: Answers, level: float) -> dict:
    known = found.estimate[~np.isnan(found.estimate)]
    say = lambda f: percent(float(f(known)), 1) if len(known) else "–"
    return {
        "mean": say(np.mean),
        "median": say(np.median),
        "worst": say(np.max),
        "upper": number(middle(found.upper)),
        "kind": guarantee(weakest(found.upper_kind), level),
    }
