"""How much noise is tolerated: the scale of a law at which the probability of failure reaches a target."""

from collections.abc import Callable, Mapping
from math import inf, log

import torch
from torch import Tensor

from brittle import meter
from brittle.discovery import EFFORTS, portfolio
from brittle.errors import InputError
from brittle.laws import Law, as_laws
from brittle.problem import Problem
from brittle.questions.probability import probability, proves
from brittle.randomness import fold
from brittle.results import Bracket, Cost, Ends

STEPS = 8  # of each bisection


def tolerated_noise(
    problem: Problem,
    law: Law | Mapping[str, Law],
    *,
    target: float = 1e-6,
    effort: str = "standard",
    seed: int = 0,
    level: float = 0.95,
    reach: float = 64.0,
    points: int = 128,
) -> Bracket:
    """Bracket of the scale s at which ``P(margin(v + s * noise) <= 0)`` reaches ``target``, one per example.

    p need not grow with s. ``lower``: at every scale up to it p is proved to be at most ``target``: the proofs are union bounds over half-spaces
    that do not hold the clean point, or over the outside of a region around it, and these only lose mass when the noise shrinks (a noise method
    of another package that proves upper ends in another way may break this).
    ``upper``: the smallest scale visited at which p is above ``target`` by an exact binomial limit, whose error is split over all visits.
    ``estimate``: where estimates of bt.probability cross the target, found by bisection; not part of any guarantee, NaN where they do not cross it.

    law      gives the shape of the noise; scales are multiples of it. Laws of several leaves are scaled together
    target   a probability in (0, 0.5)
    reach    scales from 1 / reach to reach are looked at, on a grid of ``points`` in equal ratios (by default 7 %): the resolution of the answer
    Status: "misclassified" (bracket [0, 0]); "not certified: ..." where nothing is proved at any scale visited; "ok". An end that is not found is 0
    or inf, of kind "none".

    How much longer random noise must be than the worst change: let the law have length 1 in the norm of the ball (``UniformSphere(1.0)``, or
    ``Gaussian(n ** -0.5)`` for n features) and divide, ``tolerated_noise(problem, law).over(radius(problem))``. A half-space that noise of
    scale s reaches at beta standard deviations has the ratio ``sqrt(n) / beta``.
    Errors: InputError for a target outside (0, 0.5), a clipped law (its scale does not stretch the clip), a law without a scale (Replace, Sampler), a bad effort or reach.

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> problem = Problem(linear, torch.ones(1, 1), torch.tensor([1]))
    >>> answer = tolerated_noise(problem, Gaussian(1.0), target=1e-3)  # 1 / 3.09
    >>> bool(answer.lower <= 0.3236 <= answer.upper), bool((answer.estimate / 0.3236 - 1).abs() < 0.1)
    (True, True)
    """
    laws = as_laws(law)
    _check(laws, target, effort, reach, points)
    grid = torch.logspace(-log(reach), log(reach), points, base=2.718281828459045, dtype=torch.float64)
    share = 1 - (1 - level) / STEPS
    at = lambda some, k, seed=seed, **options: probability(
        some, _scaled(laws, float(grid[k])), effort=effort, seed=seed, **options
    )
    proofs = [m.name for m in portfolio("noise", effort, "probability") if proves(m)]
    limits = [m.name for m in portfolio("noise", effort, "probability") if m.about.guarantee and m.about.ends == "both"]
    reasons: dict[int, str] = {}

    def proved(some: Problem, k: int) -> Tensor:
        answer = at(some, k, ends="upper", estimators=proofs)
        reasons.update(zip(some.index.tolist(), answer.status, strict=True))
        return torch.tensor([kind == "proved" for kind in answer.kinds.upper]) & (answer.upper <= target)

    def below(some: Problem, k: int) -> Tensor:  # not yet above the target with confidence
        # draws of its own at every scale: those that led here would not miss independently of the way that they led
        fresh = fold(seed, "tolerated_noise", k)
        return at(some, k, fresh, ends="lower", estimators=["monte_carlo", *limits], level=share).lower <= target

    def small(some: Problem, k: int) -> Tensor:
        answer = at(some, k, ends="lower")
        assert answer.estimate is not None
        return answer.estimate.nan_to_num(nan=0.0) < target

    count = len(problem)
    with meter.measure() as passes:
        wrong = problem.margin().cpu() <= 0
        lower, _ = _bisected(problem, proved, ~wrong, points)
        _, upper = _bisected(problem, below, ~wrong, points)
        inner, outer = _bisected(problem, small, ~wrong, points)
    ends = lambda index, blank: torch.where(
        wrong, 0.0, torch.where((index >= 0) & (index < points), grid[index.clamp(0, points - 1)], blank)
    )
    crossed = (inner >= 0) & (outer < points) & ~wrong
    middle = (grid[inner.clamp_min(0)] * grid[outer.clamp_max(points - 1)]).sqrt()
    low, high = ends(lower, 0.0), ends(upper, inf)
    kind = lambda value, bad, name: tuple(
        "proved" if w else "none" if v in (0.0, inf) else name
        for v, w in zip(value.tolist(), bad.tolist(), strict=True)
    )
    return Bracket(
        "noise scale",
        low,
        high,
        Ends(kind(low, wrong, "proved"), kind(high, wrong, "statistical")),
        tuple(
            "misclassified" if w else "ok" if low > 0 or reasons.get(i) is None else reasons[i]
            for w, low, i in zip(wrong.tolist(), low.tolist(), problem.index.tolist(), strict=True)
        ),
        Ends(("probability",) * count, ("probability",) * count),
        Ends(1.0, level),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        estimate=torch.where(crossed, middle, torch.nan),
        level=level,
    )


def _bisected(
    problem: Problem, holds: Callable[[Problem, int], Tensor], where: Tensor, points: int
) -> tuple[Tensor, Tensor]:
    """Grid indices of every example: the largest visited at which ``holds`` was true (-1: none) and the smallest at which it was false.

    Examples that ask about the same grid point are asked together.
    """
    inside = torch.full((len(problem),), -1)
    outside = torch.full((len(problem),), points)
    for _ in range(STEPS):
        middle = (inside + outside) // 2
        open_ = where & (outside - inside > 1)
        for k in middle[open_].unique().tolist():
            some = (open_ & (middle == k)).nonzero()[:, 0]
            yes = holds(problem.take(some), k)
            inside[some[yes]] = k
            outside[some[~yes]] = k
    return inside, outside


def _scaled(laws: Mapping[str, Law], factor: float) -> dict[str, Law]:
    return {leaf: law.scaled(factor) for leaf, law in laws.items()}


def _check(laws: Mapping[str, Law], target: float, effort: str, reach: float, points: int) -> None:
    if not 0 < target < 0.5:
        raise InputError("target", "a probability between 0 and 0.5", target, "write for example target=1e-6")
    if effort not in EFFORTS:
        raise InputError("effort", " | ".join(EFFORTS), effort, "choose one of these")
    if not 1 < reach < 1e6 or not 8 <= points <= 2**STEPS - 2:
        raise InputError(
            "reach and points", f"1 < reach < 1e6, 8 <= points <= {2**STEPS - 2}", (reach, points), "leave them out"
        )
    for leaf, law in laws.items():
        law.scaled(1.0)  # a law without a scale says so
        if law.clip is not None:
            raise InputError(
                f"law of {leaf!r}", "unclipped noise", law, "a clip does not stretch with the scale; leave it out"
            )
