"""Off the data: the share of each example's gradient that points off the subspace, with chance and initialisation as reference lines."""

from collections.abc import Mapping, Sequence

from brittle.about import About
from brittle.panels._html import fill, number, percent, series
from brittle.plots import Axis, Mark, bars, figure, rule

ABOUT = About(
    promise="on / off split of every example's gradient, chance, initialisation, and the gain that is left to remove",
    reference="",
    answers="68",
)
MOST = 200  # bars in one plot; more examples are thinned evenly
COLUMNS = (("off the data", "off_radius"), ("inside it", "on_radius"), ("anywhere", "radius"))

TEMPLATE = """
<h2>Why: sensitivity off the data</h2>
<p>One bar per example, smallest first: the share of the squared gradient of the margin that points off the subspace of the data, where examples
hardly differ. At <b>chance</b> the network cannot tell the two apart; what initialisation left there and training never touched can be removed for nothing.</p>
{% for p in parts %}
{% if p.doubt %}<div class="doubts"><p><b>{{ p.model }}</b> {{ p.doubt }}</p></div>{% endif %}
<p><span class="swatch {{ p.series }}"></span><b>{{ p.model }}</b> {{ p.note }}</p>
{% if p.svg %}<figure><figcaption class="quiet">{{ p.rule }}</figcaption><div class="scroll">{{ p.svg }}</div></figure>
{% if p.rows %}<div class="scroll"><table>
  <caption>Smallest l2 perturbations found (medians over the attacked examples), and the law of frozen noise</caption>
  <tbody>{% for word, value in p.rows %}<tr><th>{{ word }}</th><td class="n">{{ value }}</td></tr>{% endfor %}</tbody>
</table></div>{% endif %}{% endif %}
{% endfor %}
"""


def subspace(run) -> str:
    """One plot per model."""
    facts = {m: f["subspace"] for m in run.models if "subspace" in (f := run.findings.get(m, {}))}
    parts = [_part(model, found, series(run.models.index(model))) for model, found in facts.items()]
    return fill(TEMPLATE, {"parts": parts}) if parts else ""


def _part(model: str, found: Mapping, colour: str) -> dict:
    columns = found.get("columns") or {}
    shares = sorted(_known(columns.get("share", ())))
    part = {
        "model": model,
        "series": colour,
        "doubt": found.get("doubt") or "",
        "note": found.get("note") or "",
        "svg": "",
        "rows": [],
    }
    if not shares:
        return part
    part["rule"] = "; ".join(text for text in (found.get("threshold") or "", found.get("value") or "") if text)
    return {**part, "svg": _plot(shares, columns, colour), "rows": _rows(columns)}


def _plot(shares: Sequence[float], columns: Mapping, colour: str) -> str:
    drawn = shares[:: -(-len(shares) // MOST)]
    marks: list[Mark] = [bars([k + 0.5 for k in range(len(drawn))], drawn, 0.8, colour)]
    marks += [rule(at, "y", text=word) for at, word in _lines(columns)]
    x = Axis("examples, smallest share first", 0, len(drawn), ticks=(), texts=())
    return figure(
        marks,
        x,
        Axis("share off the data", 0, 1),
        label="Share of the gradient off the data, example by example",
        height=240,
    )


def _lines(columns: Mapping) -> list[tuple[float, str]]:
    """Chance and initialisation; one line where words beside two would overlap."""
    chance, initial = _known(columns.get("chance", ())), _known(columns.get("share_at_init", ()))
    if chance and initial and abs(chance[0] - initial[0]) < 0.08:
        return [(chance[0], "chance, and untrained copies")]
    return [(values[0], word) for values, word in ((chance, "chance"), (initial, "untrained copies")) if values]


def _rows(columns: Mapping) -> list[tuple[str, str]]:
    rows = [
        (word, number(_middle(columns[name]))) for word, name in COLUMNS if _known(columns.get(name, ()), endless=True)
    ]
    if _known(columns.get("ratio", ())):
        rows.append(
            ("gradient off the data, measured / predicted from the initialisation", number(_middle(columns["ratio"])))
        )
    gain = _middle(columns.get("removable_gain", ()))
    return [*rows, ("removing the off part gains at most", percent(gain - 1))] if gain is not None else rows


def _known(values: Sequence, endless: bool = False) -> list[float]:
    """The numbers among them; ``inf`` is written as a word in records."""
    numbers = [float(v) for v in values if v is not None and (endless or v not in ("inf", "-inf"))]
    return [v for v in numbers if v == v and (endless or abs(v) != float("inf"))]


def _middle(values: Sequence) -> float | None:
    known = sorted(_known(values, endless=True))
    return known[(len(known) - 1) // 2] if known else None
