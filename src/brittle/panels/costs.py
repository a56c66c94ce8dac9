"""What it cost: passes per example, and seconds."""

import numpy as np

from brittle.about import About
from brittle.panels._data import answers
from brittle.panels._html import fill

ABOUT = About(promise="forward and backward passes per example, seconds", reference="", answers="90")

TEMPLATE = """
<h2>Costs</h2>
<div class="scroll"><table>
  <thead><tr><th>model</th><th>question</th><th class="n">forward passes</th><th class="n">backward passes</th><th class="n">seconds</th></tr></thead>
  <tbody>{% for r in rows %}<tr><th>{{ r.model }}</th><td>{{ r.name }} <span class="faint">{{ r.question }}</span></td><td class="n">{{ r.forward|number }}</td><td class="n">{{ r.backward|number }}</td><td class="n">{{ r.seconds|number }}</td></tr>{% endfor %}</tbody>
</table></div>
<p class="quiet">Passes per example, counted wherever they happen. Seconds are summed over all examples and workers; they differ from run to run and are no part of the evidence.</p>
"""


def costs(run) -> str:
    """One row per model and question."""
    rows = []
    for model in run.models:
        for question, name in run.plan.questions():
            found = answers(run, model, question, name)
            if len(found):
                passes = {"forward": float(np.nanmean(found.forward)), "backward": float(np.nanmean(found.backward))}
                rows.append(
                    {
                        "model": model,
                        "question": question,
                        "name": name,
                        "seconds": _seconds(run, model, f"{question}/{name}"),
                        **passes,
                    }
                )
    return fill(TEMPLATE, {"rows": rows}) if rows else ""


def _seconds(run, model: str, question: str) -> float | None:
    """Seconds of one question over all parts of a model; None where no timing was kept."""
    parts = {part.name for part in run.plan.stored() if part.model == model}
    found = [
        t["questions"][question]
        for name, t in run.timings.items()
        if name in parts and question in t.get("questions", {})
    ]
    return float(sum(found)) if found else None
