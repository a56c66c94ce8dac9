"""Adaptive multilevel splitting: the rare event as a product of frequent ones, without gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log, sqrt

import torch
from torch import Tensor

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.laws import Law
from brittle.noise import _normal_map
from brittle.noise._design import perturbed
from brittle.noise._moving import check_level, moving, sizes
from brittle.noise._rare import estimated, refused_laws
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Bracket, Cost
from brittle.spec import margin

ABOUT = About(
    promise="an estimate of small failure probabilities that needs no gradient, with an approximate interval from independent replicas",
    reference="Cerou and Guyader, Stochastic Analysis and Applications 25 (2007); for networks: Webb et al., ICLR 2019",
    answers="probability",
    cost="about particles * replicas * moves / 2 forward for every halving: 130,000 at p = 1e-6",
)
SLOW, STUCK = 0.05, 0.3  # acceptance and share of moved copies below which the chains are not believed (folklore)
APART = 3.0  # replicas that differ by more than this factor on average are refused (folklore)


def splitting(
    problem: Problem,
    laws: Mapping[str, Law],
    *,
    seed: int = 0,
    level: float = 0.95,
    particles: int = 250,
    replicas: int = 5,
    moves: int = 10,
    levels: int = 300,
) -> Bracket:
    """Estimate of ``P(margin(v + noise) <= 0)``, one per example, by adaptive multilevel splitting.

    The half of the particles with the largest margins is replaced by copies of the others, which move by preconditioned Crank-Nicolson steps
    ``g' = sqrt(1 - s^2) g + s xi`` that are accepted while the margin stays below the level; noise is a map of a standard normal g. The estimate is the
    product of the surviving shares. The interval comes from independent replicas, by Student's t in logarithms, and is never narrower than
    ideal chains would give: ``-ln p / (ln 2 D)`` for each replica's relative variance, D the fewest different particles at any level.

    Guarantee: none in ``lower`` and ``upper``, which stay 0 and 1. Unbiased for chains that mix perfectly; real ones are refused when fewer than 5 %
    of moves are accepted or fewer than 30 % of the copies moved at some level, or when replicas differ by a factor of 3 in the mean. Failures
    behind a barrier of large margins can be missed. Works on any network and finds modes that gradients miss, at 100 times the cost.

    laws       by leaf: Gaussian, UniformBall, UniformSphere, Replace, with or without a clip
    particles  per replica; replicas at least 3; moves of every copy at every level; levels at most: 2^-levels is the least p that is reached
    Returns ``diagnostics``: acceptance, moved and distinct (the least of all levels), relative_error (N,), replicas (N, R): log p of each.
    Errors: InputError for an unknown leaf, a clean point outside the clip, too few particles or replicas, a level outside (0, 1).

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> problem = Problem(linear, torch.full((1, 1), 4.0), torch.tensor([1]))
    >>> answer = splitting(problem, {"x": Gaussian(1.0)}, particles=100)  # P(4 + g <= 0) = 3.2e-5
    >>> bool(answer.interval[0, 0] < 3.167e-5 < answer.interval[0, 1])
    True
    """
    check_level(level)
    for name, value, least in (
        ("particles", particles, 10),
        ("replicas", replicas, 3),
        ("moves", moves, 1),
        ("levels", levels, 1),
    ):
        if not (isinstance(value, int) and value >= least):
            raise InputError(name, f"a whole number >= {least}", value, f"write for example {name}={10 * least}")
    question, count = moving(problem, laws), len(problem)
    unknown = refused_laws(problem, laws, _normal_map.knows, "splitting")
    if unknown is not None:
        return unknown
    with meter.measure() as passes:
        clean = question.margin().cpu() <= 0
        runs = [
            None if bad else _run(question.take(torch.tensor([i])), laws, seed, particles, replicas, moves, levels)
            for i, bad in enumerate(clean.tolist())
        ]
    nothing = Run(torch.full((replicas,), -inf, dtype=torch.float64), 0.0, 0.0, 0, 0)
    found = [run or nothing for run in runs]
    logs = torch.stack([run.log_p for run in found])
    mean = logs.logsumexp(1) - log(replicas)
    relative = _spread(logs, mean, torch.tensor([run.distinct for run in found], dtype=torch.float64))
    status = tuple("misclassified" if bad else _objection(run, float(r), replicas)
                   for bad, run, r in zip(clean.tolist(), found, relative, strict=True))  # fmt: skip
    diagnostics = {
        "acceptance": torch.tensor([run.acceptance for run in found], dtype=torch.float64),
        "moved": torch.tensor([run.moved for run in found], dtype=torch.float64),
        "distinct": torch.tensor([run.distinct for run in found], dtype=torch.float64),
        "relative_error": relative,
        "replicas": logs,
    }
    cost = Cost(passes.forward / count, passes.backward / count, passes.seconds)
    interval = _interval(mean, relative, replicas, level)
    return estimated("splitting", mean, interval, level, status, cost, diagnostics, searched=False)


@dataclass(frozen=True, eq=False)
class Run:
    """All replicas of one example: log p of each; the least of all levels: acceptance, share of copies that moved, different particles
    of a replica; levels used."""

    log_p: Tensor
    acceptance: float
    moved: float
    distinct: int
    levels: int


def _run(
    one: Problem, laws: Mapping[str, Law], seed: int, particles: int, replicas: int, moves: int, levels: int
) -> Run:
    """One example by itself, so that no rounding of a batch can steer the chains."""
    sources = [generator(seed, "splitting", int(one.index[0]), r) for r in range(replicas)]
    ambient = {k: _normal_map.coordinates(laws[k], size) for k, size in sizes(one).items()}
    state = {
        k: torch.stack([torch.randn((particles, m), generator=s, dtype=torch.float64) for s in sources])
        for k, m in ambient.items()
    }
    height = _heights(one, laws, state).reshape(replicas, particles)
    log_p, step = torch.zeros(replicas, dtype=torch.float64), torch.full((replicas,), 0.5, dtype=torch.float64)
    least, moved, distinct, used = 1.0, 1.0, particles, 0
    open_ = list(range(replicas))
    while open_ and used < levels:
        used += 1
        bar = height[open_].topk(particles // 2, 1).values[:, -1]
        done = [r for r, b in zip(open_, bar.tolist(), strict=True) if b <= 0]
        for r in done:
            log_p[r] += (height[r] <= 0).double().mean().log()
        open_, bar = [r for r in open_ if r not in done], bar[bar > 0]
        killed = height[open_] >= bar[:, None]
        log_p[open_] += (1 - killed.double().mean(1)).log()
        dead = killed.all(1).tolist()  # a plateau: nothing is lower
        if any(dead):
            open_, bar, killed = (
                [r for r, d in zip(open_, dead) if not d],
                bar[~torch.tensor(dead)],
                killed[~torch.tensor(dead)],
            )
        if open_:
            rates, shifted = _refill(one, laws, state, height, step, open_, bar, killed, sources, moves)
            least, moved = min(least, sum(rates) / len(rates)), min(moved, sum(shifted) / len(shifted))
            mark = next(iter(state.values()))  # copies that never moved agree in every coordinate
            distinct = min(distinct, *(len(mark[r, :, 0].unique()) for r in open_))
            if least < SLOW or moved < STUCK:
                break  # refused in any case
    log_p[open_] = -inf
    return Run(log_p, least, moved, distinct, used)


def _refill(one: Problem, laws: Mapping[str, Law], state: dict[str, Tensor], height: Tensor, step: Tensor, open_: list[int], bar: Tensor,
            killed: Tensor, sources: list[torch.Generator], moves: int) -> tuple[list[float], list[float]]:  # fmt: skip
    """Replace the killed by copies of survivors and move these below the bar; returns acceptance and share of moved copies per replica."""
    replica, slot = [], []
    for r, gone in zip(open_, killed, strict=True):
        alive, dead = (~gone).nonzero()[:, 0], gone.nonzero()[:, 0]
        parent = alive[torch.randint(len(alive), (len(dead),), generator=sources[r])]
        for v in (*state.values(), height):
            v[r, dead] = v[r, parent]
        replica.append(torch.full_like(dead, r))
        slot.append(dead)
    numbers, at, which = [len(s) for s in slot], torch.cat(replica), torch.cat(slot)
    bars, pace = bar.repeat_interleave(torch.tensor(numbers)), step[at][:, None]
    accepted = torch.zeros(len(at), dtype=torch.float64)
    for _ in range(moves):
        tried = {}
        for k, v in state.items():
            fresh = [
                torch.randn((n, v.shape[2]), generator=sources[r], dtype=torch.float64)
                for r, n in zip(open_, numbers, strict=True)
            ]
            tried[k] = (1 - pace.square()).sqrt() * v[at, which] + pace * torch.cat(fresh)
        value = _heights(one, laws, tried)
        take = value < bars
        accepted += take
        height[at[take], which[take]] = value[take]
        for k, v in state.items():
            v[at[take], which[take]] = tried[k][take]
    rates = [float(part.mean() / moves) for part in accepted.split(numbers)]
    for r, rate in zip(open_, rates, strict=True):  # aim at a quarter; the step of one level is fixed before it starts
        step[r] = (step[r] * exp(2 * (rate - 0.25))).clamp(1e-3, 0.999)
    return rates, [float((part > 0).double().mean()) for part in accepted.split(numbers)]


def _heights(one: Problem, laws: Mapping[str, Law], state: Mapping[str, Tensor]) -> Tensor:
    """Margins (M,) in float64 of the points that the standard normals (..., m) stand for; -1 for logits that are not finite."""
    clean = {k: v.detach().reshape(-1).cpu().double() for k, v in one.centre.items()}  # of the one example
    delta = {k: _normal_map.noise(law, state[k].flatten(0, -2), clean[k]) for k, law in laws.items()}
    same = torch.zeros(len(next(iter(delta.values()))), dtype=torch.long)
    with torch.no_grad():
        rows = one.take(same).rows(perturbed(one, same, delta))
    return margin(rows, one.spec.rank).double().cpu().nan_to_num(nan=-1.0)


def _spread(logs: Tensor, mean: Tensor, particles: Tensor) -> Tensor:
    """Relative standard error of the mean of the replicas: what they show, or what ideal chains of so many different particles (N,)
    would have if that is more."""
    count = logs.shape[1]
    known = mean > -inf
    shown = torch.where(known[:, None], (logs - mean[:, None]).exp(), 1.0).std(1) / sqrt(count)
    many = count * particles.clamp_min(1)
    ideal = torch.maximum(-mean / (log(2) * many), 1 / many).sqrt()
    return torch.where(known, torch.maximum(shown, ideal), inf)


def _interval(mean: Tensor, relative: Tensor, replicas: int, level: float) -> Tensor:
    from scipy.special import stdtrit

    reach = float(stdtrit(replicas - 1, 0.5 + level / 2)) * relative
    low = torch.where(relative < inf, (mean - reach).exp(), 0.0)
    return torch.stack([low, torch.where(relative < inf, (mean + reach).exp().clamp_max(1), 1.0)], 1)


def _objection(run: Run, relative: float, replicas: int) -> str:
    if run.acceptance < SLOW:
        return f"not estimated: only {100 * run.acceptance:.0f} % of the moves were accepted at some level"
    if run.moved < STUCK:
        return f"not estimated: only {100 * run.moved:.0f} % of the copies moved at some level"
    if bool((run.log_p == -inf).all()):
        return "not estimated: no particle reached a failure"
    if relative * sqrt(replicas) > APART - 1:
        return f"not estimated: the {replicas} replicas disagree"
    return ""
