"""What several checks need: the leaves that carry gradients, small parts of a problem, differences, exact intervals."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor

from brittle.norms import flat
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Bracket, Finding
from brittle.spec import margin
from brittle.stats import clopper_pearson


def passed(name: str, title: str, note: str, *, value: str = "", threshold: str = "", remark: bool = False) -> Finding:
    """A check without doubt; ``remark`` marks one that a reader should see all the same (consequence "note")."""
    return Finding(name, title, note=note, value=value, threshold=threshold, consequence="note" if remark else "none")


def failed(
    name: str, title: str, consequence: str, note: str, doubt: str, *, value: str = "", threshold: str = ""
) -> Finding:
    """A check that found something: ``consequence`` "warn", "invalid" or "stop", and a doubt that says what to do."""
    return Finding(name, title, note=note, doubt=doubt, consequence=consequence, value=value, threshold=threshold)


def few(problem: Problem, most: int = 64) -> Problem:
    """The first examples, so many that a check stays cheap: at most ``most``, and at most a million input values (at least 4)."""
    features = sum(v[0].numel() for v in problem.inputs.values())
    count = min(len(problem), most, max(4, 1_000_000 // max(1, features)))
    return problem if count == len(problem) else problem.take(torch.arange(count))


def moving(problem: Problem) -> dict[str, Tensor]:
    """What a gradient is taken by: the leaves of the region; without a region, every floating-point input."""
    return problem.centre or {k: v for k, v in problem.inputs.items() if v.is_floating_point()}


def raw_logits(problem: Problem, at: "Tensor | Mapping[str, Tensor] | None" = None) -> Tensor:
    """Logits (M, C) of the quiet copy at any inputs of any number, without gradients. Counts M forward passes."""
    from brittle import meter
    from brittle.network import call

    x: Tensor | Mapping[str, Tensor] = problem.x if at is None else at
    meter.count(forward=len(x if isinstance(x, Tensor) else next(iter(x.values()))))
    with torch.no_grad():
        return call(problem.network.quiet, x)


def rows_of(problem: Problem, at: Tensor) -> "Tensor | dict[str, Tensor]":
    """The inputs of some examples, in any order and with repetitions."""
    here = at.to(problem.device)
    return problem.x[here] if isinstance(problem.x, Tensor) else {k: v[here] for k, v in problem.x.items()}


def correct(problem: Problem, logits: Tensor) -> Tensor:
    """(N,) bool on the CPU: the property holds at these logits."""
    return (margin(problem.spec.rows(logits, problem.labels), problem.spec.rank) > 0).cpu()


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two sets of logits, relative to the largest logit: max |a - b| / max |a|."""
    a, b = a.double(), b.double()
    scale = a.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((a - b).abs().max() / scale)


def rounding(logits: Tensor) -> float:
    """How far two orders of summation may disagree, relative: 1000 units of the last place (folklore: sums of some thousand terms)."""
    return 1000 * torch.finfo(logits.dtype if logits.is_floating_point() else torch.float32).eps


def interval(hits: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of the share of True in (N,) bool."""
    low, high = clopper_pearson(hits.sum()[None], len(hits), level)
    return float(low), float(high)


def share(hits: Tensor) -> float:
    """The share of True; 0 of nothing."""
    return float(hits.double().mean()) if hits.numel() else 0.0


REPEATABLE = 1e-4  # of the largest logit: far above non-deterministic summation, far below any useful noise (folklore)


def repetition(problem: Problem, times: int = 3) -> float:
    """The largest difference of ``times`` further evaluations of the same inputs from the first: 0 for a deterministic forward."""
    first, *others = [raw_logits(problem) for _ in range(times + 1)]
    return max(difference(first, other) for other in others)


def unrepeatable(name: str, title: str) -> Finding:
    """The answer of a check that compares evaluations, for a forward whose evaluations differ anyhow."""
    note = "Not judged, because repeated evaluations of the same inputs differ (see randomised forward, H4)."
    return passed(name, title, note, value="not judged", remark=True)


def distances(part: Problem) -> Tensor:
    """(N, N) distance from example i to example j in units of the one ball; infinite where it has radius 0."""
    leaf = part.leaves[0]
    ball, x = part.region[leaf], part.inputs[leaf].double()
    if ball.radius == 0:
        return torch.full((len(part), len(part)), inf, dtype=torch.float64, device=x.device)
    if ball.groups is not None:
        rows = [ball.size(x - row) for row in x]
        return torch.stack(rows) / ball.radius
    return torch.cdist(flat(x), flat(x), p=float(ball.p), compute_mode="donot_use_mm_for_euclid_dist") / ball.radius


CLOSER = 0.95  # a point must break the property clearly closer than the witness to count against the attacks


def survivors(problem: Problem, bracket: Bracket) -> Tensor:
    """(N,) scale at which attacks are tested again: just inside the witness of a radius, or the whole region that left a margin; else 0."""
    if bracket.quantity == "radius":
        return torch.where(bracket.upper.isfinite(), CLOSER * bracket.upper, problem.scale)
    if bracket.quantity == "margin":
        return torch.where(bracket.upper > 0, problem.scale, 0.0)
    return torch.zeros(len(problem), dtype=torch.float64)


def affordable(scale: Tensor, bracket: Bracket, most: int, passes: int, part: float, seed: int, name: str) -> Tensor:
    """The survivors on which a check may spend ``passes`` each: a random few, in all at most ``part`` of what the answer cost, if that is known."""
    spent = (bracket.cost.forward + bracket.cost.backward) * len(bracket)
    left = (scale > 0).nonzero()[:, 0]
    count = min(most, int(part * spent / passes)) if spent else most
    return left[torch.randperm(len(left), generator=generator(seed, name))[:count]].sort().values
