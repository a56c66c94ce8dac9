"""A quantile of the margin from draws, carried into the far tail by a Lipschitz constant and the isoperimetric inequality."""

from collections.abc import Callable, Mapping
from math import inf, log, pi, sqrt

import torch
from torch import Tensor

from brittle import backward, meter, tails
from brittle.about import About
from brittle.errors import InputError, NotCertified
from brittle.graph import graph_of
from brittle.intervals import State
from brittle.laws import Gaussian, Law, UniformBall, UniformSphere
from brittle.lipschitz import everywhere, lipschitz
from brittle.noise import _walls
from brittle.noise._half_spaces import HalfSpaces, half_spaces
from brittle.noise._likely import likely
from brittle.noise._moving import check_level, moving, shape
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Bracket, Cost, Ends
from brittle.spec import margin
from brittle.stats import binomial_upper

ABOUT = About(
    promise="the failure probability is at most this number with the stated confidence, however rare failures are",
    reference="Levy 1922; Borell, Invent. Math. 30 (1975); Sudakov and Tsirelson 1974, around a quantile instead of the clean margin",
    answers="probability",
    leaves=("input",),
    ends="upper",
    guarantee="statistical",
    cost="2,000 forward passes, and 2 backward passes per unstable unit and budget tried, about 3",
    effort="thorough",
)
BUDGETS = (1e-4, 1e-6, 1e-8, 1e-11, 1e-15)  # of the likely event; any choice is sound (folklore)
RANKS = (
    0.5,
    0.05,
)  # shares of the draws below the quantiles tried; any choice made before the draws is sound (folklore)
LARGE = 0.1  # part of a bound (folklore)
RARE = 1e-12  # a constant that holds everywhere, at no cost, is worth its time below this (folklore)
ROWS = 512  # draws per forward pass at most (folklore)
SHORT = 1e-9  # relative to the largest row seen: what evaluating margins in float64 may be off, thousands of times over
LEAST = 1e-300  # a bound that rests on draws is never reported as 0
Spread = Callable[[Tensor, Tensor], Tensor]


def isoperimetry(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    draws: int = 2000,
    error: float | None = None,
    budgets: tuple[float, ...] = BUDGETS,
    ranks: tuple[float, ...] = RANKS,
    max_units: int = 2_000,
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, whose upper end holds with confidence ``1 - error``; the lower end is 0.

    Let q > 0 be the i-th smallest of k drawn margins. With confidence 1 - a the law gives ``{margin < q}`` at most the measure u, the
    (1 - a)-quantile of Beta(i, k - i + 1). If the margin is L-Lipschitz, failures lie at a distance of at least q / L from ``{margin >= q}``, and by isoperimetry

        Gaussian sigma      p <= Phi(Phi^-1(u) - q / (L sigma));   any covariance: L after whitening
        sphere, radius r    p <= cap(psi(u) - 2 asin(min(1, q / (2 L r)))),  cap the measure of a cap, psi its inverse; a ball is a shadow of a sphere
        cube [-e, e]^n      as Gaussian with sigma = e sqrt(2 / pi): the cube is the image of normal numbers under e (2 Phi - 1)

    L holds everywhere, or where all units stay in intervals that hold but for a probability eta (those of ``probabilistic_crown``): continue the
    network outside so that every unit keeps its slopes, then the continuation is L-Lipschitz, and ``p <= eta + bound(u + eta)``. Per rival
    row with its own L, summed, or for the margin with the largest L; the smallest over budgets counts. The error is split over rows and ranks.

    **Trap.** ``P(margin drops by t) <= exp(-t^2 / (2 L^2 sigma^2))`` is about the drop below the *median or mean under noise*, not below the clean margin. With
    ``margin = 2.5 - sum |delta_i| / 8``, L = 1, n = 64 and sigma = 1 it says 0.044 from the clean margin; nearly every draw fails. Hence quantiles.

    Guarantee: "statistical", for each example on its own; L and eta are proved in float64 with outward rounding, for the real-arithmetic function of the stored
    weights. The margins drawn are evaluated in float64, and q is shortened by 1e-9 of the largest row seen. Half-space networks: exact up to the sampling
    error of u, about 0.1 standard deviations.

    problem   its region is not looked at, and may be absent
    laws      one unclipped law on one input leaf: Gaussian, UniformBall or UniformSphere with p = 2, UniformBall with p = inf
    draws     per example; they depend on the seed and the identity of the example alone
    error     probability that the end is wrong, default a fiftieth of 1 - level
    budgets   values of eta to try, from the middle one on; and 0, a constant that holds everywhere, where failures are very rare
    ranks     shares of the draws to take quantiles at
    max_units refuse networks with more nonlinear units than this
    Status: "not certified: ..." where nothing below 1 could be said.

    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> answer = isoperimetry(Problem(linear, torch.full((1, 1), 6.0), torch.tensor([1])), {"x": Gaussian(1.0)})
    >>> bool(1e-9 < answer.upper < 4e-9)  # Phi(-6) is 1e-9: from 2,000 draws of which none fails
    True
    """
    check_level(level)
    error = (1 - level) / 50 if error is None else error
    if not (isinstance(draws, int) and draws >= 1):
        raise InputError("draws", "a whole number >= 1", draws, "write for example draws=2000")
    if not (budgets and all(0 < b < 1 for b in budgets) and ranks and all(0 < r < 1 for r in ranks) and 0 < error < 1):
        raise InputError(
            "budgets, ranks and error", "numbers between 0 and 1", (budgets, ranks, error), "leave them out"
        )
    question, count = moving(problem, laws), len(problem)
    upper, slopes = torch.ones(count, dtype=torch.float64), torch.full((count,), torch.nan, dtype=torch.float64)
    note = _walls.VACUOUS
    with meter.measure() as passes, torch.no_grad():
        try:
            law = half_spaces(question, laws)
            given = laws[law.leaf]
            spread = _spread(given, question.inputs[law.leaf][0].numel())
            graph = graph_of(question)
            backward.check(graph, [], max_units, "raise max_units, or rely on covering")
            # one example at a time: units that are unstable for any example of a batch share tensors, and the search for good weights
            # would depend on its neighbours (every answer a valid bound, but not the same one)
            for at in torch.arange(count).split(1):
                some = question.take(at)
                seen = _quantiles(some, law.leaf, given, seed, draws, ranks, error)
                upper[at], slopes[at] = _bounds(some, law.take(at), given, spread, budgets, seen)
        except NotCertified as reason:
            note = str(reason)
        wrong = (problem.double().margin() <= 0).tolist()
    said = (upper < 1).tolist()
    return Bracket(
        "probability",
        torch.zeros(count, dtype=torch.float64),
        upper,
        Ends(("none",) * count, tuple("statistical" if s else "none" for s in said)),
        tuple("ok" if s else "misclassified" if w else note for s, w in zip(said, wrong, strict=True)),
        Ends(("",) * count, tuple("isoperimetry" if s else "" for s in said)),
        Ends(1.0, 1 - error),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        diagnostics={"lipschitz": slopes},
    )


def _quantiles(
    question: Problem, leaf: str, given: Law, seed: int, draws: int, ranks: tuple[float, ...], error: float
) -> tuple[Tensor, Tensor]:
    """(N, R + 1, K) quantiles of every row and, last, of the margin; (K,) what lies below them at most, with confidence 1 - error together."""
    wide, found = question.double(), []
    which = [min(draws, max(1, round(r * draws))) for r in ranks]
    for i in range(len(wide)):
        centre = wide.centre[leaf][i]
        noise = given.draws(draws, shape(wide.centre[leaf]), generator(seed, "isoperimetry", leaf, int(wide.index[i])))
        values = []
        for block in noise.split(ROWS):
            repeated = wide.take(torch.full((len(block),), i))
            values.append(repeated.rows({leaf: centre + block.to(centre.device)}))
        rows = torch.cat(values)
        every = torch.cat([rows, margin(rows, question.spec.rank)[:, None]], 1).cpu()
        short = SHORT * (1 + every.abs().amax())
        ordered = torch.where(every.isfinite(), every, -inf).sort(0).values
        found.append(ordered[[k - 1 for k in which]].T - short)
    each = error / (len(which) * found[0].shape[0])
    below = binomial_upper(torch.tensor([k - 1 for k in which]), draws, each)
    return torch.stack(found), below


def _bounds(
    question: Problem,
    law: HalfSpaces,
    given: Law,
    spread: Spread,
    budgets: tuple[float, ...],
    seen: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """(N,) the smallest bound over the budgets visited, and the largest of the constants behind it.

    From the middle one on: down while the event's own probability is a large part of the bound, else up.
    """
    count, ordered = len(question), torch.tensor(sorted(map(log, budgets)), dtype=torch.float64)
    gather, stretch = (given.gathered, given.largest[0]) if isinstance(given, Gaussian) else (None, 1.0)
    best, slopes = torch.ones(count, dtype=torch.float64), torch.full((count,), torch.nan, dtype=torch.float64)

    def value(problem: Problem, state: State, cost: Tensor, which: Tensor) -> Tensor:
        rows, _, _ = backward.specification(problem, state)
        steep = lipschitz(state, rows, state.graph.inputs[law.leaf], gather=gather, stretch=stretch).cpu()
        found = _joined(seen[0][which], seen[1], steep, cost.cpu(), spread, problem.spec.rank)
        slopes[which] = torch.where(found < best[which], steep.amax(0), slopes[which])
        best[which] = torch.minimum(found, best[which])
        return found

    step, which = torch.zeros(count, dtype=torch.long), torch.arange(count)
    at = torch.full((count,), len(ordered) // 2)
    while len(which):
        found = likely(question.take(which), law.take(which), ordered[at], torch.zeros(len(which), dtype=torch.bool))
        here = value(found.problem, found.state, found.cost, which)
        wanted = torch.where(found.cost.cpu() > LARGE * here, -1, 1)
        step = torch.where(step == 0, wanted, step)
        going = (step == wanted) & (at + step >= 0) & (at + step < len(ordered)) & ((here < 1) | (step > 0))
        at, step, which = (at + step)[going], step[going], which[going]
    left = (best < RARE).nonzero()[:, 0]
    if len(left):
        some = question.take(left)
        value(some, everywhere(some, graph_of(some)), torch.zeros(len(left), dtype=torch.float64), left)
    return best, slopes


def _joined(quantile: Tensor, below: Tensor, steep: Tensor, cost: Tensor, spread: Spread, rank: int) -> Tensor:
    """(B,) bounds from quantiles (B, R + 1, K), constants (R, B) and costs (B,)."""
    steep = steep.nan_to_num(nan=inf, posinf=inf)  # a constant that overflowed says nothing
    most = torch.cat([steep, steep.amax(0, keepdim=True)]).T  # (B, R + 1)
    share = (below + cost[:, None, None]).clamp_max(1.0).expand_as(quantile)
    distance = quantile / most[..., None].clamp_min(1e-300)
    value = torch.where(quantile > 0, spread(share, distance.clamp_min(0)), 1.0).amin(2)
    together = value[:, -1] if rank > 1 else torch.minimum(value[:, -1], _walls.summed(value[:, :-1].T))
    return ((cost + together) * (1 + 2.0**-40)).clamp(LEAST, 1.0)


def _spread(law: Law, dimension: int) -> Spread:
    """(measure u of a set's complement, distance from the set) -> at most the measure of what is at least so far away."""
    if isinstance(law, Gaussian):
        return _normal_spread
    if isinstance(law, UniformBall) and law.p == inf:
        scale = law.radius * sqrt(2 / pi) * (1 + 2.0**-50)
        return lambda share, distance: _normal_spread(share, distance / scale)
    if isinstance(law, (UniformBall, UniformSphere)) and law.p == 2:
        ambient = dimension + 2 * isinstance(law, UniformBall)
        if ambient >= 2:
            return lambda share, distance: _cap_spread(share, distance, law.radius, ambient)
    raise NotCertified(f"no isoperimetric inequality is known here for the law {type(law).__name__}")


def _normal_spread(share: Tensor, distance: Tensor) -> Tensor:
    from scipy.special import ndtri

    start = torch.as_tensor(ndtri(share.clamp(1e-300, 1.0).numpy()), dtype=torch.float64) + 1e-9
    value = torch.exp(tails.log_normal((distance * (1 - 1e-12) - start).nan_to_num(nan=-inf)))
    return torch.where(share < 1, value, 1.0)


def _cap_spread(share: Tensor, distance: Tensor, radius: float, ambient: int) -> Tensor:
    from scipy.special import betaincinv

    half = torch.minimum(share, 1 - share).clamp(0, 0.5)
    height = torch.as_tensor(betaincinv(0.5, (ambient - 1) / 2, (1 - 2 * half).numpy()), dtype=torch.float64).sqrt()
    angle = torch.where(share <= 0.5, torch.acos(height), pi - torch.acos(height)) + 1e-9
    half_chord = (distance * (1 - 1e-12) / (2 * radius)).clamp_max(1.0)
    left = angle - 2 * torch.asin(half_chord)
    value = torch.exp(tails.log_sphere(torch.cos(left.clamp(0, pi / 2)), ambient))
    value = torch.where(left >= pi / 2, 1.0, torch.where(left <= 0, 0.0, value))
    return torch.where(share < 1, value, 1.0)
