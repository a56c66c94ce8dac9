"""Checks: what was looked at before believing a number, what failed, and what to do about it."""

from collections.abc import Mapping

from brittle.about import About
from brittle.panels._html import clip, fill

ABOUT = About(
    promise="every health check with measured value, threshold and consequence; failed ones first",
    reference="",
    answers="60",
)
GRAVITY = {"stop": 0, "invalid": 1, "warn": 2, "note": 3, "none": 4}

TEMPLATE = """
<h2>Health checks</h2>
{% if not failed %}<p class="calm">All {{ passed|length }} checks passed. That proves nothing by itself: a checklist finds known mistakes, not unknown ones.</p>{% endif %}
{% for rows, folded in ((failed, false), (passed, true)) if rows %}
{% if folded %}<details><summary>{{ rows|length }} passed</summary>{% endif %}
<div class="scroll"><table class="checks">
  <thead><tr><th>outcome</th><th>check</th><th>model</th><th>measured</th><th>threshold</th></tr></thead>
  <tbody>{% for r in rows %}
  <tr class="{{ r.consequence }}"><td><span class="tag {{ r.consequence }}">{{ r.word }}</span></td><td><b>{{ r.title }}</b>{% if r.text %}<p>{{ r.text }}</p>{% endif %}</td><td>{{ r.model }}</td><td>{{ r.value }}</td><td>{{ r.threshold }}</td></tr>
  {% endfor %}</tbody>
</table></div>
{% if folded %}</details>{% endif %}
{% endfor %}
"""


def health(run) -> str:
    """All checks of all models; "" where none were recorded."""
    rows = [_row(model, check) for model in run.models for check in run.checks.get(model, [])]
    if not rows:
        return fill(
            "<h2>Health checks</h2><p class='calm'>None were recorded: nothing here says that these numbers can be believed.</p>",
            {},
        )
    rows.sort(key=lambda r: GRAVITY[r["consequence"]])
    failed = [r for r in rows if r["consequence"] != "none"]
    passed = [r for r in rows if r["consequence"] == "none"]
    return fill(TEMPLATE, {"failed": failed, "passed": passed})


def _row(model: str, check: Mapping) -> dict:
    consequence = check.get("consequence")
    consequence = consequence if consequence in GRAVITY else "warn"  # a word this report does not know is no pass
    return {
        "model": model,
        "title": check.get("title") or check.get("name") or "",
        "text": clip(check.get("doubt") or check.get("note") or "", 600),
        "value": clip(check.get("value") or "–"),
        "threshold": clip(check.get("threshold") or "–"),
        "consequence": consequence,
        "word": "passed" if consequence == "none" else consequence,
    }
