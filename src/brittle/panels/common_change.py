"""One change common to all examples: the bracketed accuracy, beside the other two readings of a region, which it is not."""

from collections.abc import Mapping

import numpy as np

from brittle.about import About
from brittle.panels._data import Answers, answers, at_scales, commons
from brittle.panels._html import fill, number, percent, series
from brittle.panels._words import norm

ABOUT = About(
    promise="accuracy under one change common to all examples, certified and attacked, told apart from the other readings",
    reference="",
    answers="45",
)

TEMPLATE = """
<h2>One change for all examples</h2>
<p>Three readings of a region, never mixed up. <b>A concrete fault</b> is one set of weights that was really tried: rounding, flipped bits. <b>One shared change</b>
is the worst set of weights (or shift of inputs) for all examples together: what a corrupted device does to a whole set. <b>A change of each example's own</b>
is the worst for every example by itself: no one device does that to all of them, and it is what the certificates speak of, so that they hold
for a shared change too. This section tells the second reading; a shared change has one answer for the whole set, no radius for an example.</p>
{% for c in cards %}
<figure>
  <figcaption><span class="swatch {{ c.series }}"></span><b class="name">{{ c.name }}</b> {{ c.model }}: {{ c.moves }}</figcaption>
  <div class="scroll"><table>
    <caption>Accuracy of {{ c.count }} examples</caption>
    <thead><tr><th>reading</th><th class="n">certified</th><th class="n">attacked</th><th>certified by</th><th>attacked by</th></tr></thead>
    <tbody>
    <tr><th>nothing moves</th><td class="n"></td><td class="n">{{ c.clean|percent(1) }}</td><td></td><td></td></tr>
    <tr><th>one shared change</th><td class="n">{{ c.certified|percent(1) }}</td><td class="n">{{ c.attacked|percent(1) }}</td><td>{{ c.below }}</td><td>{{ c.above }}</td></tr>
    {% if c.own %}<tr><th>a change of each example's own <span class="faint">(region {{ c.own.name }})</span></th><td class="n">{{ c.own.certified|percent(1) }}</td><td class="n">{{ c.own.attacked|percent(1) }}</td><td></td><td></td></tr>{% endif %}
    </tbody>
  </table></div>
  <p>{{ c.sentence }}</p>
  {% if c.worst %}<p class="quiet">Broken by the shared change: examples {{ c.worst }}.</p>{% endif %}
</figure>
{% endfor %}
"""
LISTED = 20  # broken examples named by their numbers


def common_change(run) -> str:
    """One card per region and model; "" where no region is shared."""
    cards = [_card(run, model, name, leaves) for name, leaves in commons(run).items() for model in run.models]
    return fill(TEMPLATE, {"cards": cards}) if cards else ""


def sentence(run, model: str, name: str) -> str:
    """What the bracket of a shared change says."""
    certified, attacked = run.shared_accuracy(model, name)
    if certified is None or attacked is None:
        return "One change for all examples: part of the answer is missing; run the same audit again."
    found = answers(run, model, "accuracy", name)
    below = (
        f"no one change common to all examples brings accuracy below {percent(certified, 1)} (proved)"
        if certified > 0
        else "nothing is certified, which is nothing known, not no robustness"
    )
    above = f"one stored change brings it down to {percent(attacked, 1)} (witnessed)"
    if attacked >= _clean(found):
        above = f"no change was found that brings it below {percent(attacked, 1)}"
    return f"Of these {len(found):,} examples, {below}; {above}."


def _card(run, model: str, name: str, leaves: Mapping) -> dict:
    found = answers(run, model, "accuracy", name)
    certified, attacked = run.shared_accuracy(model, name)
    broken = [int(e) for e, m in zip(found.example, found.upper, strict=True) if m <= 0]
    return {
        "model": model,
        "series": series(run.models.index(model)),
        "name": name,
        "moves": "; ".join(_moves(leaf, ball) for leaf, ball in leaves.items()),
        "count": len(found),
        "clean": _clean(found),
        "certified": certified,
        "attacked": attacked,
        "below": _methods(found.lower_method),
        "above": _methods(found.upper_method),
        "own": _own(run, model, leaves),
        "sentence": sentence(run, model, name),
        "worst": ", ".join(map(str, broken[:LISTED]))
        + (f" and {len(broken) - LISTED} more" if len(broken) > LISTED else ""),
    }


def _clean(found: Answers) -> float:
    """Accuracy before anything moves; the status, which tells it for a radius, is that of the certificate here."""
    return float((found.clean_margin > 0).mean()) if len(found) else 0.0


def _moves(leaf: str, ball: Mapping) -> str:
    whose = "one change for all" if ball.get("shared") else "each example its own"
    relative = {"element": " × each weight", "rms": " × rms"}.get(str(ball.get("relative")), "")
    return f"{leaf} by {norm(ball.get('p'))} {number(ball.get('radius'))}{relative}, {whose}"


def _methods(names: tuple[str, ...]) -> str:
    return ", ".join(sorted({n for n in names if n and n != "clean"})) or "–"


def _own(run, model: str, leaves: Mapping) -> dict | None:
    """The same balls with a change of each example's own, where the audit asked for them too."""
    alone = lambda balls: {leaf: {**ball, "shared": False} for leaf, ball in balls.items()}
    for name, others in run.plan.regions.items():
        if dict(others) == alone(leaves):
            found = answers(run, model, "radius", name)
            if not len(found):
                return None
            certified, attacked = (float(at_scales(end, np.array([1.0]))[0]) for end in (found.lower, found.upper))
            return {"name": name, "certified": certified, "attacked": attacked}
    return None
