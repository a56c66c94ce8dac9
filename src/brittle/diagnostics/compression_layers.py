"""Where is the change of class lost? Layer by layer: the energy of the way that is kept, and how much an attack is preferred to it."""

from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.about import About
from brittle.activations import layer_names, recorded
from brittle.boundary import nearest_change, rooms
from brittle.diagnostics._energy import jacobians, kept
from brittle.errors import InputError
from brittle.partners import Examples, Partners, find_partners, moving_input
from brittle.problem import Problem
from brittle.results import Finding, Witness
from brittle.spec import margin

ABOUT = About(
    promise="per layer: the share of the way to another class that survives into it, and how much more a small attack moves it",
    reference="arXiv 2406.16200 with its reviewers' question where compression happens; both measures derived here",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="for each of the examples: up to exact + 4 forward passes, or probes forward and probes x layers backward; one forward per partner",
    effort="standard",
)
TITLE = "Where the change of class is lost, layer by layer"
WIDE = 2  # examples where the Jacobian can only be sketched: each costs probes x layers backward passes; folklore


def compression_layers(
    problem: Problem,
    *,
    seed: int = 0,
    partners: Examples | None = None,
    witness: Witness | None = None,
    layers: str = "*",
    most: int = 16,
    examples: int = 8,
    probes: int = 16,
    exact: int = 1024,
    mass: float = 0.99,
) -> Finding:
    """Medians over the first ``examples`` correctly classified examples with a partner, one row per layer.

    ``energy``       ``|P_l Delta|^2 / |Delta|^2``: Delta the way to the nearest correctly classified partner, P_l onto the directions of
                     the input that carry the share ``mass`` of the squared singular values of the Jacobian from input to layer l, at x
    ``dimension``    how many directions those are; ``energy_chance`` = dimension / D is what a random way would keep
    ``selectivity``  ``|h(x + delta) - h(x)| / |h(x + u Delta / |Delta|) - h(x)|`` with ``u = |delta|_2``: how much more the layer's output h moves under the
                     attack than under as small a step towards the other class. 1 = no preference, which is the chance level

    delta is the change of ``witness`` (examples without a found one are left out), else the linear prediction: the smallest change inside the
    valid range that closes the margin if it were linear at x. Energy never rises from layer to layer of a chain beyond the share 1 - mass.
    Jacobians are exact and in float64 up to ``exact`` input features. Beyond, ``probes`` random probes of each layer find at most as many
    dimensions, so that ``energy`` is a lower estimate; then two examples and half as many layers are looked at.

    layers : a name pattern (``"features.*"``); of more than ``most`` that match, evenly spaced ones are taken.
    Errors as for ``compression``, and InputError for callables without layers.

    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     _ = network[0].weight.copy_(torch.eye(2)), network[1].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), network[1].bias.zero_()
    >>> problem = Problem(network, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([0, 1]))
    >>> found = compression_layers(problem)  # Delta = (-2, -2), and the last layer sees its first coordinate alone
    >>> found.columns["energy"].round(decimals=6).tolist(), found.columns["dimension"].tolist()
    ([1.0, 0.5], [2.0, 1.0])
    """
    leaf, ball = moving_input(problem)
    others = find_partners(problem, partners)
    features = problem.inputs[leaf][0].numel()
    large = features > exact
    wide = problem.within({leaf: ball.with_radius(1.0)})
    wide = wide if large else wide.double()
    names = _spaced(layer_names(wide.network.quiet, layers), most // 2 if large else most)
    at, nearest = _looked_at(wide, others, witness, min(examples, WIDE) if large else examples)
    if not len(at):
        return Finding(
            "compression_layers", TITLE, note="No example is classified correctly and has a partner of another class."
        )
    part = wide.take(at)
    way = others.values[nearest].to(part.inputs[leaf]) - part.inputs[leaf]
    change = (
        _change(part, leaf) if witness is None else witness.point[leaf].to(part.inputs[leaf])[at] - part.inputs[leaf]
    )
    selective = _selectivity(part, leaf, way, change, names)
    spans = [jacobians(part.take(torch.tensor([k])), leaf, names, probes, exact, seed) for k in range(len(part))]
    ways = norms.flat(way).double()
    order = [n for n in selective if all(n in s for s in spans)]
    energy = {n: [kept(s[n].double(), w, mass) for s, w in zip(spans, ways, strict=True)] for n in order}
    middle = lambda values: torch.tensor([float(torch.as_tensor(values[n]).double().median()) for n in order]).double()
    dimension = middle({n: [float(count) for _, count in energy[n]] for n in order})
    columns: dict[str, Tensor | list] = {
        "layer": order,
        "energy": middle({n: [share for share, _ in energy[n]] for n in order}),
        "energy_chance": dimension / features,
        "dimension": dimension,
        "selectivity": middle(selective),
    }
    return Finding("compression_layers", TITLE, columns, ("layer", "energy"), "share", _sentence(columns, len(at)))


def _spaced(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    """At most ``most``, evenly spaced, the last included."""
    if most < 1:
        raise InputError("compression_layers", "most >= 1", most, "correct it")
    step = len(names) / min(most, len(names))
    return tuple(names[int((k + 1) * step + 0.5) - 1] for k in range(min(most, len(names))))


def _looked_at(wide: Problem, others: Partners, witness: Witness | None, most: int) -> tuple[Tensor, Tensor]:
    """The first right examples with a partner (and a witness, where one is given), and their nearest partners."""
    good = (wide.margin() > 0) & (others.index >= 0).any(1)
    if witness is not None:
        if len(witness.margin) != len(wide):
            raise InputError(
                "witness", f"{len(wide)} examples", len(witness.margin), "pass the witness of this problem"
            )
        good &= witness.found.to(good.device) & torch.tensor([s == "found" for s in witness.status], device=good.device)
    at = good.nonzero()[:most, 0]
    row = others.distance[at].argmin(1)
    return at, others.index[at, row]


def _change(part: Problem, leaf: str) -> Tensor:
    """The smallest change inside the range that closes the margin, were it linear."""
    rows, gradients = part.gradient({leaf: part.inputs[leaf]})
    return nearest_change(part, {leaf: -gradients[leaf]}, margin(rows, part.spec.rank), rooms(part))[leaf]


def _selectivity(part: Problem, leaf: str, way: Tensor, change: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Layer -> (N,), in the order of evaluation; layers whose output has no batch axis are left out."""
    x = part.inputs[leaf]
    step = way * norms.spread(norms.norm(change, 2) / norms.norm(way, 2), way)
    seen = []
    for point in (x, x + change, x + step):
        with torch.no_grad(), recorded(part.network.quiet, names) as outputs:  # type: ignore[arg-type]
            part.logits({leaf: point})
        seen.append({n: v.flatten(1).double() for n, v in outputs.items() if len(v) == len(part)})
    clean, attacked, towards = seen
    move = lambda there, n: norms.norm(there[n] - clean[n], 2)
    tiny = torch.finfo(torch.float64).tiny
    return {n: move(attacked, n) / move(towards, n).clamp_min(tiny) for n in clean}


def _sentence(columns: dict[str, Tensor | list], count: int) -> str:
    layer, energy, chance, selective = (columns[k][-1] for k in ("layer", "energy", "energy_chance", "selectivity"))
    return (
        f"Of the way to another class, {float(energy):.0%} (chance {float(chance):.0%}) is left in what layer {layer or 'of all'} reads, and an attack "
        f"moves that layer {float(selective):.3g} times as much as a step of its length towards that class (median of {count} examples)."
    )
