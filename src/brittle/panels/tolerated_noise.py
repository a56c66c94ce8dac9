"""Tolerated noise: its histogram over examples, and how much longer than the worst case it is, against the square root of the dimension."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10

from brittle.about import About
from brittle.panels._html import fill, number, series
from brittle.plots import Axis, bars, brackets, figure, rule, scatter

ABOUT = About(promise="histogram of tolerated noise, and its ratio to the worst case", reference="", answers="52")
NAME = "tolerated_noise"
PER_DECADE = 10  # bins: 26 % wide, about three times the resolution of the bisection behind the numbers

TEMPLATE = """
<h2>Tolerated noise</h2>
<p>The length of noise that fails once in a thousand draws, and how much longer it is than the worst change that was found.
For a flat boundary the ratio is sqrt(n) / {{ beta }} under Gaussian noise.</p>
<figure>
  <p class="legend">{% for m in models %}<span><i class="key {{ m.series }}"></i>{{ m.name }}</span>{% endfor %}</p>
  <div class="scroll">{{ histogram }}</div>
  <div class="scroll">{{ ratios }}</div>
</figure>
<div class="scroll"><table>
  <thead><tr><th>model</th><th class="n">examples</th><th class="n">proved at least (median)</th><th class="n">tolerated (median)</th><th class="n">worst case (median)</th><th class="n">ratio (median)</th></tr></thead>
  <tbody>{% for m in models %}<tr><th>{{ m.name }}</th><td class="n">{{ m.count }}</td><td class="n">{{ m.lower }}</td><td class="n">{{ m.estimate }}</td><td class="n">{{ m.attacked }}</td><td class="n">{{ m.ratio }}</td></tr>{% endfor %}</tbody>
</table></div>
{% for m in models %}<p class="quiet"><b>{{ m.name }}</b> {{ m.note }}</p>{% endfor %}
"""


def tolerated_noise(run) -> str:
    """Models side by side; "" where the audit did not ask."""
    found = {m: run.findings[m][NAME] for m in run.models if run.findings.get(m, {}).get(NAME, {}).get("columns")}
    found = {m: f for m, f in found.items() if _known(f["columns"]["estimate"])}
    if not found:
        return ""
    models = [_words(run, model, facts) for model, facts in found.items()]
    columns = {model: facts["columns"] for model, facts in found.items()}
    first = next(iter(columns.values()))
    plane, root = first["half_space"][0], first["sqrt_n"][0]
    values = {
        "models": models,
        "beta": number(root / plane) if plane else "β",
        "histogram": _histogram(run, columns),
        "ratios": _ratios(run, columns, plane, root),
    }
    return fill(TEMPLATE, values)


def _words(run, model: str, facts: Mapping) -> dict:
    columns = facts["columns"]
    middle = lambda name: number(_median(_known(columns[name])))
    said = {name: middle(name) for name in ("lower", "estimate", "attacked", "ratio")}
    count = len(columns["example"])
    return {"name": model, "series": series(run.models.index(model)), "count": count, "note": facts["note"], **said}


def _histogram(run, columns: Mapping[str, Mapping]) -> str:
    """Counts in bins of equal ratios, drawn over the logarithm, models next to each other within a bin."""
    logs = {model: [log10(v) for v in _known(c["estimate"])] for model, c in columns.items()}
    every = [v for values in logs.values() for v in values]
    low, high = floor(min(every) * PER_DECADE), ceil(max(every) * PER_DECADE + 1e-9)
    high = max(high, low + 1)
    marks, top = [], 1
    width = 0.9 / len(logs)
    for slot, (model, values) in enumerate(logs.items()):
        counts = [0] * (high - low)
        for v in values:
            counts[min(max(floor(v * PER_DECADE) - low, 0), high - low - 1)] += 1
        xs = [low + k + 0.05 + (slot + 0.5) * width for k in range(high - low)]
        marks.append(bars(xs, [float(c) for c in counts], width, series(run.models.index(model))))
        top = max(top, *counts)
    each = max(1, -(-(high - low) // 8))
    ticks = tuple(float(k) for k in range(low, high + 1, each))
    texts = tuple(number(10 ** (k / PER_DECADE), 2) for k in ticks)
    x = Axis("tolerated noise length", low, high, ticks=ticks, texts=texts)
    whole = tuple(float(k) for k in range(0, top + 1, max(1, -(-top // 5))))
    y = Axis("examples", 0, top * 1.08, ticks=whole, texts=tuple(f"{k:.0f}" for k in whole))
    return figure(marks, x, y, label="Histogram of tolerated noise", height=240)


def _ratios(run, columns: Mapping[str, Mapping], plane: float | None, root: float) -> str:
    """Every example's ratio with what is proved below it, smallest first; sqrt(n) and the value of a half-space as lines."""
    marks, top = [], root if plane is None else plane
    for slot, (model, c) in enumerate(columns.items()):
        rows = sorted(
            (r, (low or 0.0) / a)
            for r, low, a in zip(c["ratio"], c["lower"], c["attacked"], strict=True)
            if r is not None
        )
        xs = [(slot + (k + 0.5) / len(rows)) / len(columns) for k in range(len(rows))]
        ratios, proofs = [r for r, _ in rows], [p for _, p in rows]
        classes = series(run.models.index(model))
        marks += [brackets(xs, proofs, ratios, classes, (), 0), scatter(xs, ratios, classes)]
        top = max([top, *ratios])
    marks += [] if plane is None else [rule(plane, "y", text=f"half-space, {number(plane)}")]
    if root < 2 * top:
        marks.append(rule(root, "y", text=f"sqrt(n) = {number(root)}"))
        top = max(top, root)
    x = Axis("examples, smallest ratio first; bars reach down to what is proved", 0, 1, ticks=(), texts=())
    return figure(
        marks, x, Axis("random over worst case", 0, top * 1.1), label="Ratio of random to worst case", height=240
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None]


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[(len(values) - 1) // 2] if values else None
