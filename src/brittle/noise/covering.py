"""A proved upper end: noise that stays, surely or nearly surely, inside a certified region cannot break the property."""

from collections.abc import Callable, Mapping
from math import inf

import torch
from torch import Tensor

from brittle import meter, tails
from brittle.about import About
from brittle.errors import NotCertified
from brittle.laws import Gaussian, Law
from brittle.noise._moving import check_level, coverable, moving, sizes
from brittle.problem import Problem
from brittle.results import Bracket, Cost, Ends

ABOUT = About(
    promise="the failure probability is at most the tail outside a certified region; 0 for bounded noise inside it",
    reference="total probability over a certified region; Weng et al., ICML 2019, for the idea",
    answers="probability",
    ends="upper",
    cost="one certificate for bounded noise, up to 16 for Gaussian noise",
    effort="quick",
)
Certify = Callable[[Problem], Tensor]
TAILS = (0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-12)  # tried in turn; how densely is folklore, any choice is sound


def covering(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    certify: Certify | None = None,
    steps: tuple[float, ...] = TAILS,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, whose upper end is proved; the lower end is 0.

    If the property holds everywhere in a region R then ``p <= P(noise outside R)``. Bounded noise (ball, sphere, cube):
    R holds its whole support, ``p = 0``. Gaussian noise: R is the l2 ball of radius ``rho`` with the chi tail
    ``P(|noise|_2 > rho)``, or the l-inf ball with ``1 - P(|g| <= t)^n``; both are tried at growing radii, up to where the
    certificate gives out, and the smallest tail is kept; for a covariance the largest deviations, of a direction and of a feature, set the
    radii (features need not be independent, by Sidak's inequality). Replaced coordinates: R is the l0 ball of radius k in the range of the new
    values, if the clean point is in it, ``p = 0``. Several leaves: the union bound over leaves.

    Guarantee: proved, not statistical, for the real-arithmetic function of the stored weights and the law in real
    arithmetic, provided that ``certify`` is sound; tails are rounded outwards. A law with a clip has R intersected with
    the clip, which holds the clipped noise.

    problem   its region is not looked at, and may be absent
    certify   (problem with the region R) -> (N,) certified lower bounds of the margin over R; without it nothing is proved
    steps     Gaussian tails to try, falling
    seed, level   not used: nothing is random
    Status: "not certified: ..." where nothing could be proved.

    >>> from brittle.laws import UniformBall
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> problem = Problem(linear, torch.ones(1, 1), torch.tensor([1]))
    >>> by_hand = lambda p: 1.0 - p.radius("x")  # the margin is x itself
    >>> float(covering(problem, {"x": UniformBall(0.5)}, certify=by_hand).upper)
    0.0
    """
    check_level(level)
    moving(problem, laws)  # refuses unknown leaves before any work
    count = len(problem)
    upper = torch.ones(count, dtype=torch.float64)
    note = "not certified: the property is not proved on any region that covers the noise"
    with meter.measure() as passes:
        try:
            if certify is None:
                raise NotCertified("no bound was given")
            for sweep in _sweeps(laws, sizes(moving(problem, laws)), steps):
                upper = torch.minimum(upper, _swept(problem, laws, certify, sweep))
        except NotCertified as reason:
            note = str(reason)
    said = [u < 1 for u in upper.tolist()]
    return Bracket(
        "probability",
        torch.zeros(count, dtype=torch.float64),
        upper,
        Ends(("none",) * count, tuple("proved" if s else "none" for s in said)),
        tuple("ok" if s else note for s in said),
        Ends(("",) * count, tuple("covering" if s else "" for s in said)),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
    )


Cover = tuple[dict[str, tuple[float, float]], float]  # (p, radius) by leaf, and the probability outside


def _sweeps(laws: Mapping[str, Law], dimensions: Mapping[str, int], steps: tuple[float, ...]) -> list[list[Cover]]:
    """Sequences of growing covers with falling tails: one cover for bounded laws, an l2 and an l-inf sequence with Gaussians."""
    bounded = {leaf: law.support() for leaf, law in laws.items() if law.support()[1] < inf}
    spread = {leaf: law for leaf, law in laws.items() if isinstance(law, Gaussian)}
    for leaf, law in laws.items():
        if leaf not in bounded and leaf not in spread:
            raise NotCertified(f"no tail bound for the law {type(law).__name__} of leaf {leaf!r}")
    if not spread:
        return [[(bounded, 0.0)]]
    return [[_cover(bounded, spread, dimensions, p, tail / len(spread)) for tail in steps] for p in (2, inf)]


def _cover(
    bounded: Mapping[str, tuple[float, float]],
    spread: Mapping[str, Gaussian],
    dimensions: Mapping[str, int],
    p: float,
    tail: float,
) -> Cover:
    quantile, exact, which = {
        2: (tails.normal_norm_quantile, tails.normal_norm, 0),
        inf: (tails.normal_maximum_quantile, tails.normal_maximum, 1),
    }[p]
    balls, outside = dict(bounded), 0.0
    for leaf, law in spread.items():
        deviation = law.largest[which]
        radius = deviation * quantile(tail, dimensions[leaf])
        balls[leaf] = (p, radius)
        outside += exact(radius / deviation, dimensions[leaf])
    return balls, min(1.0, outside)


def _swept(problem: Problem, laws: Mapping[str, Law], certify: Certify, sweep: list[Cover]) -> Tensor:
    """The smallest tail over a sequence of growing covers; an example stays in the race while it is certified."""
    upper = torch.ones(len(problem), dtype=torch.float64)
    alive = coverable(moving(problem, laws), laws).nonzero()[:, 0]
    for cover, outside in sweep if len(alive) else ():
        value = certify(moving(problem.take(alive), laws, cover))
        alive = alive[torch.as_tensor(value).cpu() > 0]  # NaN is not > 0
        upper[alive] = outside
        if not len(alive):
            break
    return upper
