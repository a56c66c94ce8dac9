"""How much of a change of class does the decision see? Feature compression, and the radius it predicts without an attack."""

from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.about import About
from brittle.diagnostics import _chance
from brittle.diagnostics._local import local_measures
from brittle.errors import InputError
from brittle.partners import Examples, Partners, find_partners, moving_input, rivals
from brittle.paths import REASONS, Walk, walk
from brittle.problem import Problem
from brittle.results import Bracket, Finding, Witness

ABOUT = About(
    promise="per example: the radius predicted without an attack, and the shares of the way to another class that the decision sees",
    reference="arXiv 2406.16200 (path integral, probing vectors); prediction, measures and chance levels derived here",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="at most classes x midpoints + 3 forward and classes x midpoints + outputs backward; one forward per partner",
    effort="standard",
)
SAID = {
    **REASONS,
    "duplicate": "the same point carries another label: no classifier has a radius above 0 here",
    "no witness": "no attack found a failure, so its radius is not known",
}


def compression(
    problem: Problem,
    *,
    seed: int = 0,
    partners: Examples | None = None,
    radius: Bracket | None = None,
    witness: Witness | None = None,
    optimum: Callable[..., object] | object = None,
    classes: int = 5,
    midpoints: int = 8,
    outputs: int = 10,
) -> Finding:
    """Measures along the way ``Delta = x' - x`` to a correctly classified partner x' of another class, g the row that falls there.

    ``predicted_radius``  distance in the norm of the ball: :func:`brittle.paths.walk`; ``predicted_class`` and ``partner`` go with it
    ``path_cosine``       mean ``cos(-grad g, Delta)`` up to the first crossing: the compression factor of the paper, -1 .. 1
    ``path_ratio``        ``(g(x) - g(x')) / (|Delta|_p mean |grad g|_q)`` over the whole way: at most 1 by Hoelder, for midpoints enough
    ``two_gradient``      ``|P Delta| / |Delta|``, P onto the span of the gradients of both logits at x; ``row_space`` onto that of all
                          centred logits (the ``outputs`` largest); ``effective_rank``, ``stable_rank`` of that Jacobian
    ``half_distance``     half the distance to the nearest example of another class, whatever the network says of it
    ``robustness_ratio``  radius / half_distance; ``d_eff = robustness_ratio ** -2``, the dimension in which 1 / sqrt(d) would say as much

    The partner of all but the prediction is the nearest one (``nearest_partner``). Columns that end in ``_chance`` hold what a random
    direction (for ``path_cosine`` the mean of its absolute value) would score. None of the measures is a bound: a network may
    exceed half the distance on single examples, never on average the optimum. A class without a
    partner is predicted from the gradient at x alone (``partner`` -1). Against the best attack the prediction is within 9 % in the median on
    digits and MNIST (``benchmarks/compression.py``). On EfficientNet-Lite0, five images of ImageNet with each other as partners, it was 0.7 to
    1.1 times the attack in l2; where a quick attack said 2.6 times the prediction, a better one said 1.1 times.
    One value per example, NaN only beside a ``status``
    other than "ok", whose ``reason`` is stated; distances in the units of the input.

    partners   (x, labels) among which partners are looked for; default: the problem's own examples
    radius     a Bracket of :func:`brittle.radius` on this problem: its upper ends take the place of the prediction in the ratios
    witness    a Witness (default: that of ``radius``): adds ``attack_alignment = |cos(change, Delta)|``
    optimum    the best possible mean radius of the rightly classified examples, what has it as ``.mean``, or :func:`brittle.optimum` itself,
               which is then asked (``bt.diagnose`` and audits pass it): adds ``optimum`` and ``optimum_ratio = radius / optimum``
    classes, midpoints, outputs   of the walk and of the Jacobian
    Errors: InputError where partners are of one class, where several inputs move or none is a floating-point tensor, for p = 0 and top-k.

    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> from brittle import Ball
    >>> found = compression(Problem(linear, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), Ball(p=2, radius=1.0)))
    >>> found.columns["predicted_radius"].tolist()  # 6 / 5 and 4 / 5
    [1.2, 0.8]

    Reference: J. Gao, Z. Lu et al., "Feature compression is the root cause of adversarial fragility in neural network
    classifiers", arXiv 2406.16200. The prediction, the box-feasible gradient and the chance levels are derived here.
    """
    leaf, ball = moving_input(problem)
    others = find_partners(problem, partners)
    paths = walk(problem, others, classes=classes, midpoints=midpoints)
    way = norms.flat(others.values[paths.nearest.clamp_min(0)].double() - problem.inputs[leaf].double())
    columns = _paths(problem, ball.p, others, paths, way) | _local(problem, leaf, others, paths, way, outputs)
    size = _size(problem, ball.radius, paths, radius)
    best = _best(optimum, problem, leaf, ball.p, paths)
    columns |= _ratios(size, others.other / 2, best)
    witness = witness if witness is not None or radius is None else radius.witness
    if witness is not None:
        columns |= _alignment(problem, leaf, way, witness)
    status = _status(paths, others, size, columns)
    columns = {name: _known(name, values.cpu(), status) for name, values in columns.items()}
    return Finding(
        "compression",
        "How much of a change of class the decision sees",
        {"example": problem.index, **columns, "status": status, "reason": [SAID.get(s, "") for s in status]},
        ("half_distance", "predicted_radius"),
        f"{NAMES[ball.p]} size",
        _sentence(columns, status, NAMES[ball.p]),
        value=_value(columns, size.cpu(), status, best),
    )


NAMES = {1: "l1", 2: "l2", inf: "l-inf"}


def _paths(problem: Problem, p: float, others: Partners, paths: Walk, way: Tensor) -> dict[str, Tensor]:
    kinds = rivals(problem, others.outputs)
    predicted = kinds.gather(1, paths.row.clamp_min(0)[:, None])[:, 0]
    return {
        "predicted_radius": paths.radius,
        "predicted_class": torch.where(paths.row >= 0, predicted, -1),
        "partner": paths.partner,
        "nearest_partner": paths.nearest,
        "distance": norms.norm(way, p),
        "crossing": paths.crossing,
        "path_cosine": paths.cosine,
        "path_cosine_chance": torch.full_like(paths.cosine, _chance.cosine(way.shape[1])),
        "path_ratio": paths.ratio,
        "path_ratio_chance": _chance.path_ratio(way, p),
    }


def _local(problem: Problem, leaf: str, others: Partners, paths: Walk, way: Tensor, outputs: int) -> dict[str, Tensor]:
    kinds = rivals(problem, others.outputs)
    rival = kinds.gather(1, paths.nearest_row.clamp_min(0)[:, None])[:, 0]
    local = local_measures(problem, leaf, way, rival, outputs)
    d = way.shape[1]
    return {
        "two_gradient": local["two_gradient"],
        "two_gradient_chance": torch.full_like(local["two_gradient"], _chance.share(min(2, others.outputs), d)),
        "row_space": local["row_space"],
        "row_space_chance": (local["dimensions"] / d).clamp_max(1).sqrt(),
        "effective_rank": local["effective_rank"],
        "stable_rank": local["stable_rank"],
    }


def _size(problem: Problem, unit: float, paths: Walk, radius: Bracket | None) -> Tensor:
    """(N,) the radius of the network as a distance: attacked where a bracket is given, else predicted."""
    if radius is None:
        return paths.radius
    if radius.quantity != "radius" or len(radius) != len(problem):
        got = f"{radius.quantity} of {len(radius)}"
        raise InputError(
            "radius", f"a bracket of the radius of {len(problem)} examples", got, "pass bt.radius(problem)"
        )
    return radius.upper.to(paths.radius) * unit


def _best(optimum: object, problem: Problem, leaf: str, p: float, paths: Walk) -> float | None:
    """The best mean radius over the examples that the network gets right; None where it is not known."""
    if callable(optimum):
        right = torch.tensor([s != "misclassified" for s in paths.status], device=problem.device)
        labels = problem.labels[right]
        if len(labels.unique()) < 2:
            return None
        optimum = optimum(problem.inputs[leaf][right], labels, p=p)
    return None if optimum is None else float(getattr(optimum, "mean", optimum))  # type: ignore[arg-type]


def _ratios(size: Tensor, half: Tensor, best: float | None) -> dict[str, Tensor]:
    columns = {"half_distance": half, "robustness_ratio": size / half, "d_eff": (half / size).square()}
    return (
        columns if best is None else {**columns, "optimum": torch.full_like(half, best), "optimum_ratio": size / best}
    )


def _alignment(problem: Problem, leaf: str, way: Tensor, witness: Witness) -> dict[str, Tensor]:
    if leaf not in witness.point or len(witness.margin) != len(problem):
        got = f"{', '.join(witness.point)} of {len(witness.margin)} examples"
        raise InputError(
            "witness", f"a witness that moves {leaf} of {len(problem)} examples", got, "pass bracket.witness"
        )
    change = norms.flat(witness.point[leaf].double() - problem.inputs[leaf].double())
    cosine = (change * way).sum(1).abs() / (norms.norm(change, 2) * norms.norm(way, 2))
    found = witness.found.to(cosine.device)
    return {
        "attack_alignment": torch.where(found, cosine, torch.nan),
        "attack_alignment_chance": torch.full_like(cosine, _chance.cosine(way.shape[1])),
    }


def _status(paths: Walk, others: Partners, size: Tensor, columns: dict[str, Tensor]) -> list[str]:
    """The first reason that applies to each example; "ok" promises that every column is a finite number."""
    lost = (others.other == 0).tolist()
    silent = ~size.isfinite() | columns.get("attack_alignment", size).isnan()
    strange = ~torch.stack([v.double().isfinite() for v in columns.values()]).all(0)
    words = []
    for said, same, unseen, odd in zip(paths.status, lost, silent.tolist(), strange.tolist(), strict=True):
        reasons = (("duplicate", same), ("no witness", unseen), ("not finite", odd))
        words.append(said if said != "ok" else next((word for word, holds in reasons if holds), "ok"))
    return words


ALWAYS = {"half_distance", "optimum"}
WITHOUT = {"robustness_ratio", "d_eff", "optimum_ratio"}


def _known(name: str, values: Tensor, status: Sequence[str]) -> Tensor:
    """A column with NaN (-1 for numbers of classes and partners) where the status takes the value away."""
    keep = torch.tensor([_says(name, word) for word in status], dtype=torch.bool)
    return torch.where(keep, values, torch.nan if values.is_floating_point() else -1)


def _says(name: str, word: str) -> bool:
    if word == "ok" or name in ALWAYS or name.endswith("_chance"):
        return True
    if word == "misclassified":
        return name == "predicted_radius"
    if word == "duplicate":
        return name not in WITHOUT
    return word == "no witness" and name not in {*WITHOUT, "attack_alignment"}


def _sentence(columns: dict[str, Tensor], status: Sequence[str], norm: str) -> str:
    good = torch.tensor([s == "ok" for s in status])
    if not bool(good.any()):
        common = max(set(status), key=status.count)
        return f"Nothing could be measured: {SAID[common]}."
    middle = lambda name: float(columns[name][good].median())
    return (
        f"For half of the {int(good.sum())} measured examples a change of {norm} size {middle('predicted_radius'):.3g} or less is predicted "
        f"to flip the answer, half the distance to another class being {middle('half_distance'):.3g}; gradient and way to that class "
        f"agree to {middle('path_cosine'):.2f} (chance {middle('path_cosine_chance'):.2f})."
    )


def _value(columns: dict[str, Tensor], size: Tensor, status: Sequence[str], best: float | None) -> str:
    """The ratio of means, which unlike ratios of examples has an optimum to be compared with."""
    good = torch.tensor([s == "ok" for s in status])
    if not bool(good.any()):
        return ""
    ratio = float(size[good].mean()) / (float(columns["half_distance"][good].mean()) if best is None else best)
    return f"mean radius {ratio:.3g} of {'half the distance' if best is None else 'the optimum'}, d_eff {ratio**-2:.3g}"
