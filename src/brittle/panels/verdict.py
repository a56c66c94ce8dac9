"""The verdict: how far the evidence can be trusted, doubts first, then one sentence per region and law."""

from collections import Counter
from collections.abc import Mapping
from math import isfinite

import numpy as np

from brittle.about import About
from brittle.panels._data import Answers, Unit, answers, at_scales, commons, laws, middle, regions, telling_scale, unit
from brittle.panels._grade import Grade, grade, ratio
from brittle.panels._html import fill, number, percent, series, share
from brittle.panels._words import breaks, guarantee, weakest
from brittle.panels.common_change import sentence as common_sentence

ABOUT = About(promise="grade of the evidence, doubts, and one sentence per question", reference="", answers="10")

TEMPLATE = """
<h2>Verdict</h2>
{% for card in cards %}
<article class="card">
  <header class="verdict">
    <div class="grade grade-{{ card.grade.letter }}" role="img" aria-label="grade {{ card.grade.letter }}">{{ card.grade.letter }}</div>
    <div>
      <h3><span class="swatch {{ card.series }}"></span>{{ card.model }}</h3>
      <p class="quiet">Grade of the evidence, not of the network: {{ card.grade.meaning }} <span class="faint">({{ card.grade.reason }})</span>.</p>
    </div>
  </header>
  {% if card.doubts %}
  <div class="doubts">
    <h4>Doubts, before anything else</h4>
    <ul>{% for doubt in card.doubts %}<li>{{ doubt }}</li>{% endfor %}</ul>
  </div>
  {% else %}
  <p class="calm">No check raised a doubt. A passed checklist proves nothing by itself.</p>
  {% endif %}
  {% for name, sentence in card.sentences %}
  <p class="sentence"><b class="name">{{ name }}</b> {{ sentence }}</p>
  {% endfor %}
  {% if card.wrong %}<p class="quiet">Misclassified before anything moves, and counted with size 0: {{ card.wrong }}.</p>{% endif %}
  {% if card.rows %}
  <div class="scroll"><table>
    <caption>Accuracy at a size</caption>
    <thead><tr><th>region</th><th class="n">size</th><th class="n">clean</th><th class="n">certified</th><th class="n">attacked</th><th class="n">unknown</th><th class="n" title="median over correctly classified examples">upper / lower</th></tr></thead>
    <tbody>{% for row in card.rows %}
    <tr><th>{{ row.name }}</th><td class="n">{{ row.size }}</td><td class="n">{{ row.clean|percent }}</td><td class="n">{{ row.certified|percent }}</td><td class="n">{{ row.attacked|percent }}</td><td class="n">{{ row.unknown|percent }}</td><td class="n">{{ row.ratio|number }}</td></tr>
    {% endfor %}</tbody>
  </table></div>
  {% for name in card.moved %}<p class="quiet">Nothing is certified at the declared size of {{ name }}: no bound says anything there, which is not to say that nothing holds. The table tells a size at which the most fragile model still stands in the median.</p>{% endfor %}
  {% endif %}
</article>
{% endfor %}
<p class="quiet">Reproduce: seed {{ seed }}, effort {{ effort }}, key <code>{{ key[:16] }}</code>. The whole plan and the commands are at the end of this page.</p>
"""


def verdict(run) -> str:
    """One card per model."""
    summary = run.summary()
    scales = {name: telling_scale(summary, name, unit(leaves).factor) for name, leaves in regions(run).items()}
    cards = [_card(run, model, k, scales) for k, model in enumerate(run.models)]
    return fill(TEMPLATE, {"cards": cards, "seed": run.plan.seed, "effort": run.plan.effort, "key": run.key})


def model_grade(run, model: str) -> Grade:
    """The grade of one model of a run."""
    radii = [answers(run, model, "radius", name) for name in regions(run)]
    chances = [answers(run, model, "probability", name) for name in laws(run)]
    shared = [answers(run, model, "accuracy", name) for name in commons(run)]
    measured = ([a for a in asked if len(a)] for asked in (radii, chances, shared))
    return grade(run.checks.get(model, []), *measured)


def radius_sentence(found: Answers, of: Unit, broken: tuple[str, str], level: float) -> str:
    """What the brackets of a region say about at least half of the examples.

    found : answers in the units of ``of``.  broken : the verb in plural and singular ("flip the answer", "flips the answer").
    """
    many, one = broken
    if len(found) == 0:
        return "No answer was recorded."
    if found.misclassified.all():
        return "Every example is misclassified before anything moves; there is no robustness to measure."
    low, high = middle(found.lower), middle(found.upper)
    half = "the one example" if len(found) == 1 else "half of the examples"
    if high == 0:
        return "Half of the examples or more are misclassified before anything moves."
    below = f"no change with {of.noun} below {number(low)} can {many} ({_said(found.lower_kind, found.lower >= low, level)})"
    above = f"a change with {of.noun} {number(high)} {one} ({_said(found.upper_kind, found.upper <= high, level)})"
    if low > 0 and isfinite(high):
        return f"For {half}, {below}; for {half}, {above}."
    open_ended = int(np.isinf(found.upper).sum())
    if low > 0:
        return f"For {half}, {below}; no change that {one} was found for {share(open_ended, len(found))}."
    proved = int((found.lower > 0).sum())
    nothing = f"Something is proved for only {share(proved, len(found))}" if proved else "Nothing is proved"
    if isfinite(high):
        return f"{nothing}; for {half}, {above}."
    return f"{nothing}, and no change that {one} was found for {share(open_ended, len(found))}."


def _said(kinds: tuple[str, ...], relied: np.ndarray, level: float) -> str:
    """What a statement may claim that relies on these examples; an example wrong from the start is its own witness."""
    return guarantee(weakest(k for k, r in zip(kinds, relied, strict=True) if r and k != "none"), level)


def probability_sentence(found: Answers, one: str, level: float) -> str:
    """What the brackets of a noise law say."""
    if len(found) == 0:
        return "No answer was recorded."
    high = middle(found.upper)
    kind = guarantee(weakest(k for k, v in zip(found.upper_kind, found.upper, strict=True) if v <= high), level)
    half = "the one example" if len(found) == 1 else "half of the examples"
    first = f"For {half}, a random draw {one} with probability at most {number(high)} ({kind})."
    known = found.estimate[~np.isnan(found.estimate)]
    if not len(known):
        return first
    spread = f", from {percent(float(known.min()))} to {percent(float(known.max()))}" if len(known) > 1 else ""
    return f"{first} Measured: {percent(float(known.mean()), 1)} of draws on average{spread} per example."


def doubts(run, model: str) -> list[str]:
    """Every reason not to believe a number of this model, gravest first."""
    order = {
        "stop": 0,
        "invalid": 1,
        "warn": 2,
    }  # a note comes last, and only where it raises a doubt about single examples
    rank = lambda check: order.get(check.get("consequence"), 3)
    failed = [c for c in run.checks.get(model, []) if rank(c) < 3 or c.get("doubt")]
    found = [str(c.get("doubt") or c.get("note") or c.get("title")) for c in sorted(failed, key=rank)]
    missing = [p for p in run.missing if p.startswith(f"{model}@") or ("@" not in p and p.rpartition("-")[0] == model)]
    if missing:
        found.insert(
            0,
            f"Parts of this run that are missing or damaged: {len(missing)}. The numbers cover the examples that are there. Run the same audit again to fill them in.",
        )
    found += [str(f["doubt"]) for f in run.findings.get(model, {}).values() if f.get("doubt")]
    for question, names in (("radius", regions(run)), ("accuracy", commons(run)), ("probability", laws(run))):
        for name in names:
            found += _from_status(answers(run, model, question, name), name, question)
    return list(dict.fromkeys(found))


def _card(run, model: str, k: int, scales: Mapping[str, float]) -> dict:
    many, one = breaks(run.plan.specification, plural=True), breaks(run.plan.specification)
    sentences, rows = [], []
    for name, leaves in regions(run).items():
        of, found = unit(leaves), answers(run, model, "radius", name)
        sentences.append((name, radius_sentence(found.scaled(of.factor), of, (many, one), run.plan.level)))
        rows += [_row(name, of, found, scales[name])] if len(found) else []
    sentences += [(f"{name}, one change for all", common_sentence(run, model, name)) for name in commons(run)]
    for name in laws(run):
        sentences.append((name, probability_sentence(answers(run, model, "probability", name), one, run.plan.level)))
    return {
        "model": model,
        "series": series(k),
        "grade": model_grade(run, model),
        "doubts": doubts(run, model),
        "sentences": sentences,
        "rows": rows,
        "moved": [row["name"] for row in rows if scales[row["name"]] != 1],
        "wrong": _wrong(run, model),
    }


def _wrong(run, model: str) -> str:
    """How many examples are wrong from the start; the same in every region."""
    for name in regions(run):
        found = answers(run, model, "radius", name)
        if found.misclassified.any():
            return share(int(found.misclassified.sum()), len(found))
    return ""


def _row(name: str, of: Unit, found: Answers, scale: float) -> dict:
    certified, attacked = (float(at_scales(end, np.array([scale]))[0]) for end in (found.lower, found.upper))
    return {
        "name": name,
        "size": number(scale * of.factor),
        "clean": found.clean,
        "certified": certified,
        "attacked": attacked,
        "unknown": max(0.0, attacked - certified),
        "ratio": ratio(found),
    }


def _from_status(found: Answers, name: str, question: str) -> list[str]:
    total, counts = len(found), Counter(found.status)
    out = []
    if counts["rounding-only"]:
        out.append(
            f"{name}: {share(counts['rounding-only'], total)} flip only through rounding in the model's own precision; such witnesses contradict no proof."
        )
    if counts["nan"]:
        out.append(
            f"{name}: {share(counts['nan'], total)} gave values that are not numbers; nothing is claimed for them."
        )
    # a probability without a proof still has its statistical end, named as such where it is shown
    unproved = {s: n for s, n in counts.items() if s.startswith("not certified") and question != "probability"}
    out += [f"{name}: {status} ({share(n, total)})." for status, n in sorted(unproved.items())]
    if counts["not attacked"]:
        out.append(f"{name}: {share(counts['not attacked'], total)} were not attacked.")
    crossed = int((found.lower > found.upper * (1 + 1e-9) + 1e-9).sum())
    if crossed:
        out.append(f"{name}: the two ends cross for {share(crossed, total)}.")
    return out
