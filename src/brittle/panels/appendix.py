"""Reproducibility: the whole plan, the versions, the commands, and what every word of guarantee means."""

import json

from brittle.about import About
from brittle.panels._html import clip, fill
from brittle.panels._words import GUARANTEES

ABOUT = About(promise="plan, versions, key, commands, meaning of the guarantees", reference="", answers="100")
PLAN = 40_000  # characters of the plan shown; the run folder holds all of it

TEMPLATE = """
<h2>Reproduce, and check</h2>
{% if command %}<p>Again, to the same numbers:</p><pre>{{ command }}</pre>{% endif %}
<p>Check this evidence without trusting the code that made it (replays every witness, evaluates every stored proof):</p>
<pre>brittle verify {{ folder }}</pre>
<dl class="facts">
  <div><dt>key of the plan</dt><dd><code>{{ key }}</code></dd></div>
  {% for word, value in facts %}<div><dt>{{ word }}</dt><dd>{{ value }}</dd></div>{% endfor %}
</dl>
<h3>What the words mean</h3>
<dl class="facts words">{% for word, meaning in guarantees %}<div><dt>{{ word }}</dt><dd>{{ meaning }}</dd></div>{% endfor %}
<div><dt>certified function</dt><dd>The real-arithmetic function of the stored weights.</dd></div>
<div><dt>grades</dt><dd>A: bracket closed within 5 %. B: checks passed, certificates exist. C: checks passed, proofs are missing. D: doubts. F: invalid.</dd></div></dl>
<p class="calm">A passed checklist proves nothing by itself: the checks look for mistakes that are known, and an attack that finds nothing may be a weak attack. Only the lower ends marked “proved” are proofs.</p>
<details><summary>The whole plan</summary><pre class="plan">{{ plan }}</pre></details>
<p class="quiet">Cite as: brittle {{ version }}, key {{ key[:16] }}.</p>
"""


def appendix(run) -> str:
    """Everything needed to run the same audit again."""
    plan = json.dumps(run.plan.facts(), indent=1, sort_keys=True, ensure_ascii=False)
    sources = [(f"source: {k}", clip(v, 300)) for k, v in sorted(run.sources.items()) if k != "command"]
    facts = [
        ("brittle", run.plan.brittle),
        ("torch", run.plan.torch),
        *((k, clip(v)) for k, v in sorted(run.environment.items()) if k not in ("brittle", "torch")),
        ("seed", str(run.plan.seed)),
        *sources,
    ]
    values = {
        "command": clip(run.sources.get("command", ""), 2000),
        "folder": run.folder.name,
        "key": run.key,
        "facts": facts,
        "guarantees": list(GUARANTEES.items()),
        "plan": clip(plan, PLAN),
        "version": run.plan.brittle,
    }
    return fill(TEMPLATE, values)
