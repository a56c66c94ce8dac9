"""Compression through the layers: what is left of the way to another class, network beside network."""

from collections.abc import Mapping

from brittle.about import About
from brittle.panels._html import clip, fill, series
from brittle.plots import Axis, Mark, figure, line, rule, scatter

ABOUT = About(
    promise="energy of the way that is kept, and preference for the attack, layer by layer", reference="", answers="65"
)

TEMPLATE = """
<h2>Where another class is lost, layer by layer</h2>
<p>Of the way from an example to the nearest one of another class, the share that each layer still reacts to (its energy), and how much more
a small attack moves the layer than as small a step towards that class. A robust network keeps much and prefers little.</p>
{% for p in parts %}<p><span class="swatch {{ p.series }}"></span><b>{{ p.model }}</b> {{ p.note }}</p>{% endfor %}
{% for g in groups %}
<figure>
  <p class="legend">{% for m in g.models %}<span><i class="key {{ m.series }}"></i>{{ m.model }}</span>{% endfor %}<span><i class="key thin"></i>what a random way would keep</span></p>
  <div class="scroll">{{ g.energy }}</div>
  <div class="scroll">{{ g.selectivity }}</div>
</figure>
{% endfor %}
"""


def compression_layers(run) -> str:
    """Models with the same layers share their drawings."""
    facts = {m: f["compression_layers"] for m in run.models if "compression_layers" in (f := run.findings.get(m, {}))}
    parts = [
        {"model": m, "series": _series(run, m), "note": f.get("doubt") or f.get("note") or ""} for m, f in facts.items()
    ]
    groups: dict[tuple, dict[str, Mapping]] = {}
    for model, found in facts.items():
        if columns := found.get("columns"):
            groups.setdefault(tuple(columns["layer"]), {})[model] = columns
    return fill(TEMPLATE, {"parts": parts, "groups": [_group(run, *g) for g in groups.items()]}) if facts else ""


def _series(run, model: str) -> str:
    return series(run.models.index(model))


def _group(run, layers: tuple, columns: Mapping[str, Mapping]) -> dict:
    at = [float(k) for k in range(len(layers))]
    words = tuple(clip(name or "all", 14) if len(layers) <= 12 or k % 2 == 0 else "" for k, name in enumerate(layers))
    x = Axis("layer, from the input to the scores", -0.5, len(layers) - 0.5, ticks=tuple(at), texts=words)
    energy: list[Mark] = []
    preferred: list[Mark] = [rule(1.0, "y")]
    for model, found in columns.items():
        colour = _series(run, model).split()[0]
        energy += [line(at, found["energy"], colour), scatter(at, found["energy"], colour, size=3.5)]
        energy += [line(at, found["energy_chance"], f"{colour} thin d2")]
        preferred += [line(at, found["selectivity"], colour), scatter(at, found["selectivity"], colour, size=3.5)]
    most = max(2.0, 1.1 * max(v for found in columns.values() for v in found["selectivity"]))
    share = Axis(
        "share of the way that is kept",
        0,
        1,
        ticks=(0, 0.25, 0.5, 0.75, 1.0),
        texts=("0", "25 %", "50 %", "75 %", "100 %"),
    )
    return {
        "models": [{"model": m, "series": _series(run, m).split()[0]} for m in columns],
        "energy": figure(energy, x, share, label="share of the way to another class kept by each layer", height=230),
        "selectivity": figure(
            preferred,
            x,
            Axis("times as much moved by the attack (1: no preference)", 0, most),
            label="selectivity of each layer",
            height=210,
        ),
    }
