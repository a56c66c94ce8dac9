"""Nearest failure by repeated linearisation (Hasofer, Lind, Rackwitz, Fiessler), one run for each likely rival."""

import torch
from torch import Tensor

from brittle import norms
from brittle.about import EVERY_NORM, About
from brittle.attacks._probe import probe
from brittle.attacks._search import Tracker, radius_witness, searchable, sizes
from brittle.boundary import nearest_change, rooms
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a point at which the property fails; the nearest one may be nearer",
    reference="Rackwitz and Fiessler, Computers and Structures 1978; with a range: Croce and Hein (FAB), ICML 2020",
    norms=EVERY_NORM,
    answers="radius",
    cost="about 75 forward and 46 backward for ten classes, 87 and 58 for many, more where a probe fails",
    effort="quick",
)

OVERSHOOT = (
    0.1,
    1e-3,
)  # how far beyond zero the rows are aimed, in clean margins: first and last step (measured on digits)
NEWEST = 0.5  # weight of the newest linearisation in the average (measured: 0.3 to 0.7 differ little)
AGAIN = ((3, 3), (2, 5))  # stages of a run from a probe that failed
# how far beyond a last iterate that does not fail; on EfficientNet-Lite0 the boundary was at 1.1 to 1.8 (measured)
WALK = (1.25, 1.5, 2.0, 3.0, 4.0)


def hlrf(
    problem: Problem,
    *,
    seed: int = 0,
    start: Point | None = None,
    stages: tuple[tuple[int, int], ...] = ((15, 2), (4, 4), (2, 6)),
    probes: int = 10,
) -> Witness:
    """Search the point of smallest scale at which the property fails.

    Every row of the specification has a run of its own. At the iterate z the row f is linearised and the change v of smallest
    scale with ``f(z) + <grad f(z), c + v - z> = -overshoot`` is computed exactly, in the norms of the region and inside its ranges
    (:func:`brittle.boundary.nearest_change`); then z = c + v. From the second step on the linearisation is a running average of those met
    before: where the boundary has a kink, the newest one alone sends z from one side of it to the other for ever, and their mean points at it.
    The overshoot falls along. Runs that look far are dropped from stage to stage. On affine rows the first step is optimal.

    At last ``probes`` random points at 0.95 of the size found are queried. Where one fails, or nothing was found, a short run starts there.

    Guarantee: the witness violates the property where ``found``; every query counts, and the best one is shortened to the
    boundary. ``seed`` draws the probes.

    start   a point by leaf at which the runs begin (default: the clean point)
    stages  (rivals, steps) one after the other: how many rows per example are followed, for how many steps each. Specifications
            with ``rank`` above 1 follow the margin itself, in one run.
    probes  random points queried, forward only; 0 for none

    >>> from torch import nn
    >>> from brittle import Ball, Problem
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), model.bias.zero_()
    >>> problem = Problem(model, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=1.0))
    >>> round(float(hlrf(problem).size), 4)  # 3 / 5
    0.6
    """
    if not stages or any(rivals < 1 or steps < 1 for rivals, steps in stages):
        raise InputError(
            "hlrf.stages", "pairs (rivals, steps) of positive integers", stages, "for example ((9, 2), (2, 8))"
        )
    search = searchable(problem)
    with torch.no_grad():
        clean = search.rows()
    tracker = Tracker.of(search, "radius")
    tracker.see(search.centre, clean)
    point = search.centre if start is None else {k: v.to(search.centre[k].dtype) for k, v in start.items()}
    # joined last, so that an easy failure does not end the search for a nearer one
    beyond = Tracker.of(search, "radius")
    tracker.join(race(search, clean, point, stages, beyond))
    restart(search, clean, tracker, probes, AGAIN, seed, "hlrf")
    tracker.join(beyond)
    return radius_witness(problem, tracker, "hlrf")


def restart(
    problem: Problem,
    clean: Tensor,
    tracker: Tracker,
    probes: int,
    stages: tuple[tuple[int, int], ...],
    seed: int,
    name: str,
    rounds: int = 3,
) -> None:
    """Where one of ``probes`` random points beats what was found, or nothing was, race again from the best of them; at most ``rounds`` times.

    The first round asks about every example, each later one only about those that the round before it improved.
    """
    left = torch.arange(len(problem)) if probes else torch.arange(0)
    for k in range(rounds):
        if not len(left):
            return
        part, seen = problem.take(left), tracker.take(left)
        at, start = probe(part, seen, probes, seed, f"{name} {k}", far=2.0**k)
        if len(at):
            there = at.to(clean.device)
            again = part.take(at)
            point = {leaf: v[at.to(v.device)] for leaf, v in start.items()}
            seen.join_at(at, race(again, clean[left.to(clean.device)][there], point, stages))
        tracker.join_at(left, seen)
        left = left[at]


def race(
    problem: Problem,
    clean: Tensor,
    point: Point,
    stages: tuple[tuple[int, int], ...],
    beyond: Tracker | None = None,
) -> Tracker:
    """Follow ``stages[0][0]`` rows per example from ``point``, fewer from stage to stage; the tracker of all that was seen, by example.

    ``beyond`` receives what lies further out along the last changes of examples on which nothing failed.
    """
    count, rivals = len(problem), min(stages[0][0], clean.shape[1]) if problem.spec.rank == 1 else 1
    rows = clean.topk(rivals, 1, largest=False).indices
    if problem.spec.rank > 1:
        rows = clean.argsort(1)[:, problem.spec.rank - 1 :][:, :1]
    lane = torch.arange(count).repeat_interleave(rivals)  # which example a run belongs to
    tiled = problem.take(lane)
    state = {k: v[lane.to(v.device)] for k, v in point.items()}
    row, aim = rows.reshape(-1), clean.gather(1, rows).reshape(-1)
    done, total = 0, sum(steps for _, steps in stages)
    best, tracker = Tracker.of(problem, "radius"), Tracker.of(tiled, "radius")
    for stage, (_, steps) in enumerate(stages):
        tracker = Tracker.of(tiled, "radius")
        state, score = _run(tiled, tracker, state, row, aim, range(done, done + steps), total)
        done += steps
        best.join(tracker.nearest(count))
        if stage + 1 < len(stages):
            rivals, kept = min(rivals, stages[stage + 1][0]), rivals
            chosen = score.reshape(count, kept).topk(rivals, 1, largest=False).indices.cpu()
            at = (chosen + kept * torch.arange(count)[:, None]).reshape(-1)
            tiled, row, aim = tiled.take(at), row[at.to(row.device)], aim[at.to(aim.device)]
            state = {k: v[at.to(v.device)] for k, v in state.items()}
    if beyond is not None:
        _walk(tiled, tracker, state, (~best.found).repeat_interleave(rivals))
        beyond.join(tracker.nearest(count))
    return best


def _walk(problem: Problem, tracker: Tracker, point: Point, where: Tensor) -> None:
    """Query the runs ``where`` further out along their last change, until it fails.

    A row that lies above its tangents, as over many thin linear pieces or for ``exp(-v)``, is never reached by predictions in few steps.
    """
    centre = problem.centre
    for factor in WALK:
        at = (where & ~tracker.found).nonzero()[:, 0].cpu()
        if not len(at):
            return
        part, seen, further = problem.take(at), tracker.take(at), {}
        for leaf, value in point.items():
            start = centre[leaf][at.to(value.device)]
            moved = start + factor * (value[at.to(value.device)] - start)
            low, high = problem.region[leaf].range(moved)
            further[leaf] = torch.minimum(torch.maximum(moved, low), high)
        with torch.no_grad():
            seen.see(further, part.rows(further))
        tracker.join_at(at, seen)


def _run(
    problem: Problem, tracker: Tracker, point: Point, row: Tensor, aim: Tensor, steps: range, total: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Step on; returns the iterates and, as the score of each run, its smallest size so far or else the linear prediction."""
    centre, room, point = problem.centre, rooms(problem), dict(point)
    first, last = OVERSHOOT
    gradient: dict[str, Tensor] = {}
    value = torch.zeros_like(aim)
    for k in steps:
        left = 1 - (k + 1) / total
        newest, slope = _linearise(problem, tracker, point, row)
        value = newest if not gradient else value + NEWEST * (newest - value)
        gradient = {leaf: g if not gradient else gradient[leaf].lerp(g, NEWEST) for leaf, g in slope.items()}
        gap = (value + aim * (first * left + last)).clamp_min(0)
        change = nearest_change(problem, {leaf: -g for leaf, g in gradient.items()}, gap, room)
        point = {leaf: v + change[leaf] for leaf, v in centre.items()}
    predicted = sizes(problem, point).double()
    with torch.no_grad():
        tracker.see(point, problem.rows(point))
    return point, torch.where(tracker.found, tracker.value, predicted)


def _linearise(problem: Problem, tracker: Tracker, point: Point, row: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Query the iterate: the value at the centre (N,) and the gradient of the row's linearisation; zeros where not finite."""
    single = problem.spec.rank == 1
    objective = (lambda rows: rows.gather(1, row[:, None])[:, 0]) if single else None
    rows, gradient = problem.gradient(point, objective)
    margins = tracker.see(point, rows)
    value = rows.gather(1, row[:, None])[:, 0] if single else margins
    moved = sum((norms.flat(g) * norms.flat(point[leaf] - problem.centre[leaf])).sum(1) for leaf, g in gradient.items())
    finite = (value - moved).isfinite()
    if bool(finite.all()):
        return value - moved, gradient
    tracker.broken |= ~finite
    gradient = {leaf: torch.where(norms.spread(finite, g), g, 0.0) for leaf, g in gradient.items()}
    return torch.where(finite, value - moved, 0.0), gradient
