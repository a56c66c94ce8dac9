"""The threat model: what moves, how far, inside which range, and what a bracket means."""

from brittle.about import About
from brittle.panels._data import commons, laws, regions, restriction
from brittle.panels._html import fill, number
from brittle.panels._words import in_steps, law, norm, valid_range

ABOUT = About(promise="what was allowed to move and what was asked", reference="", answers="20")

TEMPLATE = """
<h2>What was asked</h2>
{% if balls %}
<div class="scroll"><table>
  <caption>Worst case: the change may be any point of the region</caption>
  <thead><tr><th>region</th><th>what moves</th>{% if shared %}<th>whose change</th>{% endif %}<th>norm</th><th class="n">radius</th><th class="n">in 8-bit steps</th><th class="n">valid range</th></tr></thead>
  <tbody>{% for b in balls %}
  <tr><th>{{ b.name }}</th><td><code>{{ b.leaf }}</code>{% if b.where %} {{ b.where }} <span class="faint">({{ b.why }})</span>{% endif %}</td>{% if shared %}<td>{{ b.whose }}</td>{% endif %}<td>{{ b.norm }}</td><td class="n">{{ b.radius }}</td><td class="n">{{ b.steps or "–" }}</td><td class="n">{{ b.range }}</td></tr>
  {% endfor %}</tbody>
</table></div>
{% endif %}
{% if noises %}
<div class="scroll"><table>
  <caption>Random case: the change is drawn from a law</caption>
  <thead><tr><th>law</th><th>what moves</th><th>distribution</th></tr></thead>
  <tbody>{% for n in noises %}<tr><th>{{ n.name }}</th><td><code>{{ n.leaf }}</code></td><td>{{ n.law }}</td></tr>{% endfor %}</tbody>
</table></div>
{% endif %}
<dl class="facts">
  {% for word, value in facts %}<div><dt>{{ word }}</dt><dd>{{ value }}</dd></div>{% endfor %}
</dl>
<p>Every answer is a <b>bracket</b>. Up to its <b>lower end</b> nothing inside the region can break the property; that is proved. At its
<b>upper end</b> a concrete point does; that is witnessed and stored. The truth lies between, and what lies between is unknown.
For a probability of failure the upper end is the one that may be proved.</p>
"""


def threat(run) -> str:
    """Regions, laws, and the facts around them."""
    shared = commons(run)
    balls = [_ball(name, leaf, b) for name, leaves in (regions(run) | shared).items() for leaf, b in leaves.items()]
    noises = [
        {"name": name, "leaf": leaf, "law": law(facts)}
        for name, leaves in laws(run).items()
        for leaf, facts in leaves.items()
    ]
    return fill(TEMPLATE, {"balls": balls, "shared": bool(shared), "noises": noises, "facts": _facts(run)})


def _ball(name: str, leaf: str, ball: dict) -> dict:
    counted = " (positions of all channels together)" if ball.get("groups") else ""
    return {
        "name": name,
        "leaf": leaf,
        "whose": "one for all examples" if ball.get("shared") else "each example its own",
        "where": restriction(ball).strip(),
        "why": next((ball[side]["rule"] for side in ("within", "orthogonal_to") if ball.get(side)), ""),
        "norm": ("number of changes" if str(ball.get("p")) == "0" else norm(ball.get("p"))) + counted,
        "radius": number(ball.get("radius")) + _relative(ball),
        "steps": in_steps(ball),
        "range": valid_range(ball),
    }


def _relative(ball: dict) -> str:
    """What a radius is a multiple of.

    >>> _relative({"relative": "rms"}), _relative({"p": 2})
    (' × rms of the weights', '')
    """
    given = {"element": " × each weight", "rms": " × rms of the weights"}.get(str(ball.get("relative")), "")
    return given or (" × a unit for each entry" if ball.get("unit") is not None else "")


def _facts(run) -> list[tuple[str, str]]:
    specification = dict(run.plan.specification)
    kind = specification.pop("specification", "default")
    options = ", ".join(f"{k} {v}" for k, v in specification.items())
    asked = "the label keeps winning" if kind == "default" else f"{kind} {options}".strip()
    inputs = run.plan.data.get("inputs", {})
    shapes = "; ".join(f"{leaf}: {_shape(f)}" for leaf, f in inputs.items())
    models = "; ".join(f"{m}: {_size(f)}" for m, f in run.plan.models.items())
    return [
        ("property", asked),
        ("attacker", "knows the model and its weights"),
        ("examples", f"{run.plan.count:,}"),
        ("inputs", shapes),
        ("labels", str(run.sources.get("labels", "as given with the data"))),
        ("models", models),
        ("effort", run.plan.effort),
    ]


def _shape(facts: dict) -> str:
    """What one example of an input is.

    >>> _shape({"shape": [3, 8, 8], "dtype": "torch.float32"})
    '3 × 8 × 8, float32'
    """
    return f"{' × '.join(map(str, facts.get('shape', ())))}, {str(facts.get('dtype', '')).removeprefix('torch.')}"


def _size(facts: dict) -> str:
    count = facts.get("parameters")
    return f"{facts.get('class', '')}, {count:,} parameters" if isinstance(count, int) else str(facts.get("class", ""))
