"""Design points: where, for each rival, failing is least unlikely under the noise; found by repeated linearisation.

At the iterate delta the row f is linearised, and the law is tilted along the falling direction ``a = -grad f`` until its mean
meets the linearised face: ``<a, mean(s a)> = f + <a, delta>``. For Gaussian noise that is the step of Hasofer, Lind, Rackwitz and
Fiessler; for a cube it is the same in the geometry of the cube's own large deviations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.laws import Law
from brittle.noise import _tilts
from brittle.problem import Problem
from brittle.spec import margin

RIVALS = 9  # rows followed at first: all of a ten-class problem (folklore)
EARLY, KEPT = 3.5, 2.5  # a rival so many standard deviations beyond the nearest is dropped: exp(-2.5 beta) of the mass
PACE, STEPS = 0.75, 6  # the plain step often cycles on ReLU networks (measured)
NEWTON = 25


@dataclass(frozen=True, eq=False)
class Design:
    """One lane per followed (example, row): lanes of one example are neighbours.

    example (L,), row (L,); tilt by leaf (L, D); beta (L,): sqrt of twice the large-deviation exponent of the face, for Gaussian
    noise its distance in standard deviations; no lane where nothing that the noise can do reaches a linearised face.
    """

    example: Tensor
    row: Tensor
    tilt: dict[str, Tensor]
    beta: Tensor

    def take(self, at: Tensor) -> "Design":
        return Design(self.example[at], self.row[at], {k: v[at] for k, v in self.tilt.items()}, self.beta[at])

    def nearest(self, count: int) -> Tensor:
        """(count,) the smallest beta of every example, inf where it has no lane."""
        return torch.full((count,), inf, dtype=torch.float64).scatter_reduce(0, self.example, self.beta, "amin")


def search(question: Problem, laws: Mapping[str, Law], steps: int = STEPS) -> Design:
    """Design points of a problem whose region has the leaves of ``laws`` and their clips (``_moving.moving``).

    The tilt moves towards that of each linearisation by PACE, and from the fourth step by less and less, since on a ReLU network the design point
    often lies on a kink, between whose two sides the plain step jumps for ever; the last two tilts are averaged for the same reason. A lane drops others from the race only while its row has come down
    as predicted. In float64, so that the batch does not show. Cost: one forward and up to 9 backward passes per example for the first step, one of
    each per lane and later step, up to six forward per lane for the last line search, most often two.
    """
    wide = question.double()
    with torch.no_grad():
        clean = wide.rows()
    first = _first(wide, laws, clean)
    height = clean[first.example.to(clean.device), first.row.to(clean.device)].cpu()
    design, tilt = first, {k: PACE * v for k, v in first.tilt.items()}
    before = tilt
    for step in range(1, steps):
        if not len(design.row):
            return design
        delta = {k: _tilts.mean(law, tilt[k]) for k, law in laws.items()}
        value, descent = _slopes(wide, laws, design, delta)
        face = _face(laws, value, descent, delta, design)
        pace = PACE * min(1.0, 3 / step)
        before, tilt = tilt, {k: (1 - pace) * v + pace * face.tilt[k] for k, v in tilt.items()}
        credible = value.abs() <= 0.5 * height
        design, kept = _pruned(face, len(question), EARLY if step + 2 < steps else KEPT, credible)
        tilt, height = {k: v[kept] for k, v in tilt.items()}, height[kept]
        before = {k: v[kept] for k, v in before.items()}
    tilt = {k: (v + before[k]) / 2 for k, v in tilt.items()}
    design, credible = _onto_the_boundary(wide, laws, Design(design.example, design.row, tilt, design.beta), height)
    reached = torch.zeros(len(question), dtype=torch.bool).index_fill(0, design.example[credible], True)
    kept = (credible | ~reached[design.example]).nonzero()[:, 0]  # lanes that lead nowhere, only where all do
    return _pruned(design.take(kept), len(question), KEPT, torch.ones(len(kept), dtype=torch.bool))[0]


def descend(
    question: Problem,
    laws: Mapping[str, Law],
    example: Tensor,
    row: Tensor,
    start: Mapping[str, Tensor],
    steps: int = STEPS,
) -> Design:
    """The design points that the search reaches from the noise ``start`` (L, D) by leaf on the examples (L,), each for its row (L,); those
    that end on the boundary. Cost: one forward and one backward pass per lane and step, and the line search."""
    wide = question.double()
    with torch.no_grad():
        height = wide.rows()[example.to(wide.device), row.to(wide.device)].cpu()
    lanes = Design(example, row, dict(start), torch.zeros(len(row), dtype=torch.float64))
    delta, tilt = dict(start), dict(start)
    for step in range(steps):
        value, descent = _slopes(wide, laws, lanes, delta)
        face = _face(laws, value, descent, delta, lanes)
        pace = PACE * min(1.0, 3 / step) if step else 1.0
        tilt = {k: (1 - pace) * v + pace * face.tilt[k] for k, v in tilt.items()}
        delta = {k: _tilts.mean(law, tilt[k]) for k, law in laws.items()}
    found, reached = _onto_the_boundary(wide, laws, Design(example, row, tilt, lanes.beta), height)
    return found.take((reached & (found.beta > 0) & found.beta.isfinite()).nonzero()[:, 0])


def perturbed(question: Problem, example: Tensor, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The points ``clip(centre + delta)`` in the dtype of each leaf; delta by leaf (L, D) for the examples (L,), or (L, M, D) for M points of
    each, which come out as (L M, ...)."""
    point = {}
    for leaf, change in delta.items():
        centre = question.centre[leaf][example.to(question.device)]
        flat = centre.reshape(len(centre), *[1] * (change.dim() - 2), -1).to(torch.float64)
        change = change.to(flat.device)
        moved = torch.empty(change.shape, dtype=centre.dtype, device=flat.device)
        point[leaf] = settled(
            question, leaf, torch.add(flat, change, out=moved), centre
        )  # added in float64, then rounded
    return point


def settled(question: Problem, leaf: str, moved: Tensor, like: Tensor) -> Tensor:
    """Values (..., D) of a leaf in the dtype and shape of ``like`` (L, ...), clipped to the leaf's range."""
    value = moved.to(like.dtype).reshape(-1, *like.shape[1:])
    if question.region[leaf].low is None and question.region[leaf].high is None:
        return value
    low, high = question.region[leaf].range(value)
    return torch.minimum(torch.maximum(value, low), high)


def rows_at(question: Problem, example: Tensor, point: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and rows of the specification at points of the examples (L,). Inputs that move are not copied first."""
    if set(point) == set(question.inputs):
        labels, spec = question.labels[example.to(question.device)], question.spec.take(example)
        x = point["x"] if isinstance(question.x, Tensor) else {k.removeprefix("x."): v for k, v in point.items()}
        logits = replace(
            question, x=x, labels=labels, spec=spec, index=question.index[example], scale=question.scale[example]
        ).logits()
        return logits, spec.rows(logits, labels)
    some = question.take(example)
    logits = some.logits(point)
    return logits, some.spec.rows(logits, some.labels)


def _first(wide: Problem, laws: Mapping[str, Law], clean: Tensor) -> Design:
    """Every row linearised at the clean point; lanes for the nearest ones."""
    count, rank = len(wide), wide.spec.rank
    which = clean.topk(min(RIVALS, clean.shape[1]), 1, largest=False).indices
    if rank > 1:
        which = clean.argsort(1)[:, rank - 1 : rank]
    _, gradients = wide.row_gradients(wide.centre, which)
    lanes = which.shape[1]
    example, row = torch.arange(count).repeat_interleave(lanes), which.reshape(-1).cpu()
    descent = {
        k: _masked(wide, k, -g.reshape(count * lanes, -1).cpu().double(), example, None) for k, g in gradients.items()
    }
    nothing = {k: torch.zeros_like(v) for k, v in descent.items()}
    start = Design(example, row, nothing, torch.zeros(len(row), dtype=torch.float64))
    value = clean.gather(1, which).reshape(-1).cpu()
    every = torch.ones(len(row), dtype=torch.bool)
    return _pruned(_face(laws, value, descent, nothing, start), count, 2 * EARLY, every)[
        0
    ]  # far from final: prune little


def _slopes(
    wide: Problem, laws: Mapping[str, Law], design: Design, delta: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The followed row (L,) at the iterate, and minus its gradient by leaf (L, D); for rank > 1 those of the margin."""
    lanes, point = wide.take(design.example), perturbed(wide, design.example, delta)
    row = design.row.to(wide.device)[:, None]
    pick = (
        (lambda rows: rows.gather(1, row)[:, 0]) if wide.spec.rank == 1 else (lambda rows: margin(rows, wide.spec.rank))
    )
    rows, gradient = lanes.gradient(point, pick)
    descent = {k: _masked(wide, k, -norms.flat(g).cpu(), design.example, delta[k]) for k, g in gradient.items()}
    return pick(rows).cpu(), descent


def _masked(wide: Problem, leaf: str, descent: Tensor, example: Tensor, delta: Tensor | None) -> Tensor:
    """No slope along coordinates that the clip holds fast, none where it is not a number."""
    descent = descent.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    if delta is None or wide.region[leaf].low is None:
        return descent
    centre = wide.centre[leaf][example.to(wide.device)]
    low, high = (norms.flat(b.expand(centre.shape)).cpu() for b in wide.region[leaf].range(centre))
    moved = norms.flat(centre).cpu() + delta
    return torch.where((moved < low) | (moved > high), 0.0, descent)


def _face(
    laws: Mapping[str, Law], value: Tensor, descent: Mapping[str, Tensor], delta: Mapping[str, Tensor], old: Design
) -> Design:
    """The tilts that bring the mean onto each linearised face; beta = inf where the support does not reach it."""
    gap = (value + torch.stack([(descent[k] * delta[k]).sum(1) for k in laws]).sum(0)).clamp_min(0)
    most = torch.stack([_tilts.limit(law, descent[k]) for k, law in laws.items()]).sum(0)
    open_ = (most > gap) & gap.isfinite()
    goal = torch.where(open_, torch.minimum(gap, 0.999 * most), 0.0)
    s = torch.zeros_like(goal)
    for _ in range(NEWTON):  # concave: Newton's method rises to the root from below
        parts = [_tilts.reach(law, descent[k], s) for k, law in laws.items()]
        left, slope = goal - torch.stack([p[0] for p in parts]).sum(0), torch.stack([p[1] for p in parts]).sum(0)
        step = torch.where(left > 1e-12 * goal, left / slope.clamp_min(1e-300), 0.0)
        if not bool((step > 0).any()):
            break
        s = s + step
    tilt = {k: s[:, None] * a for k, a in descent.items()}
    return Design(old.example, old.row, tilt, torch.where(open_, _beta(laws, tilt), inf))


def _beta(laws: Mapping[str, Law], tilt: Mapping[str, Tensor]) -> Tensor:
    """sqrt(2 I): I is the log density ratio at the mean, which for exponential tilts is the exponent of Chernoff's bound."""
    at_mean = lambda k, law: _tilts.log_ratio(law, tilt[k][:, None], _tilts.mean(law, tilt[k])[:, None])[:, 0, 0]
    exponent = torch.stack([at_mean(k, law) for k, law in laws.items()]).sum(0)
    return (2 * exponent.clamp_min(0)).sqrt()


def _pruned(design: Design, count: int, excess: float, credible: Tensor) -> tuple[Design, Tensor]:
    """The lanes at most ``excess`` beyond the nearest credible one of their example, all where none is; and which these are."""
    beta = torch.where(credible, design.beta, inf)
    nearest = torch.full((count,), inf, dtype=torch.float64).scatter_reduce(0, design.example, beta, "amin")
    kept = (design.beta.isfinite() & (design.beta <= nearest[design.example] + excess)).nonzero()[:, 0]
    return design.take(kept), kept


def _onto_the_boundary(
    wide: Problem, laws: Mapping[str, Law], design: Design, height: Tensor, steps: int = 6
) -> tuple[Design, Tensor]:
    """Scale every tilt so that the row, ``height`` without noise, is zero at its mean to 2 %; and whether that was found (L,).

    The secant method, at most doubling, until the row has changed its sign; then the Illinois variant of regula falsi. Lanes that have arrived
    are not evaluated again; one that has not is left where its row is negative.
    """
    scale = torch.ones_like(height)
    low, at_low, high, at_high = (
        torch.zeros_like(scale),
        height.clone(),
        torch.full_like(scale, inf),
        torch.zeros_like(scale),
    )
    open_ = torch.arange(len(scale))
    for _ in range(steps):
        if not len(open_):
            break
        some, s, left = design.take(open_), scale[open_], low[open_]
        value = _row(wide, some, {k: _tilts.mean(law, s[:, None] * some.tilt[k]) for k, law in laws.items()})
        value = value.nan_to_num(nan=-1.0)
        ahead = s + value * (s - left) / (at_low[open_] - value)
        fails = value <= 0
        at_low[open_] = torch.where(fails, at_low[open_] / torch.where(high[open_] < inf, 2.0, 1.0), value)
        at_high[open_] = torch.where(fails, value, at_high[open_] / 2)
        low[open_], high[open_] = torch.where(fails, left, s), torch.where(fails, s, high[open_])
        a, b, f, g = low[open_], high[open_], at_low[open_], at_high[open_]
        inside = (a * g - b * f) / (g - f)
        ahead = torch.where(ahead.isfinite(), torch.minimum(torch.maximum(ahead, 1.1 * s), 2 * s), 2 * s)
        arrived = value.abs() <= 0.02 * height[open_]
        scale[open_] = torch.where(arrived, s, torch.where(b < inf, inside.nan_to_num(nan=1.0), ahead))
        open_ = open_[~arrived]
    scale[open_] = torch.where(high[open_] < inf, high[open_], scale[open_])
    found = torch.ones(len(scale), dtype=torch.bool)
    found[open_] = high[open_] < inf
    tilt = {k: scale[:, None] * v for k, v in design.tilt.items()}
    return Design(design.example, design.row, tilt, _beta(laws, tilt)), found


def _row(wide: Problem, design: Design, delta: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        _, rows = rows_at(wide, design.example, perturbed(wide, design.example, delta))
    picked = rows.gather(1, design.row.to(rows.device)[:, None])[:, 0]
    return (picked if wide.spec.rank == 1 else margin(rows, wide.spec.rank)).cpu()
