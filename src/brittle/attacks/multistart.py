"""Nearest failure from many starts: every rival from the clean point, then from random points, then along the boundary."""

import torch

from brittle.about import EVERY_NORM, About
from brittle.attacks._polish import polish
from brittle.attacks._search import Tracker, radius_witness, random_point, searchable
from brittle.attacks.fmn import follow
from brittle.attacks.hlrf import race, restart
from brittle.attacks.proximal import prune
from brittle.errors import InputError
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a point at which the property fails; the nearest one may be nearer",
    reference="hlrf and fmn restarted: Rackwitz and Fiessler, Computers and Structures 1978; Pintor et al., NeurIPS 2021",
    norms=EVERY_NORM,
    answers="radius",
    cost="about 680 forward and 560 backward at the default restarts and steps",
    effort="thorough",
)

EVERY_RIVAL = ((9, 12), (3, 8))  # stages of the run from the clean point
FROM_RANDOM = ((9, 3), (4, 5), (2, 8))  # stages of each restart
PROBES = 32  # random points that ask, at last, whether the search missed a whole region
POLISH = 30  # steps of the last digits


def multistart(
    problem: Problem,
    *,
    seed: int = 0,
    start: Point | None = None,
    restarts: int = 4,
    steps: int = 150,
    polishing: int = POLISH,
) -> Witness:
    """Search the point of smallest scale at which the property fails, from several starts.

    First :func:`brittle.attacks.hlrf.hlrf` with all likely rivals from the clean point; then again from uniform random points of the
    region at the smallest scale found so far, where other pieces of the network are met; in l1 the primal-dual descent of
    :func:`brittle.attacks.proximal.proximal`, with 5/3 of ``steps``, instead of most of what follows; at last descent along the boundary
    as in :func:`brittle.attacks.fmn.fmn` from the best point of all, and its last digits by two cuts (``_polish.py``): inside a linear
    region of the network, and at simple kinks between them, the point is a local minimum.

    Guarantee: the witness violates the property where ``found``; every query counts, and the best one is shortened to the
    boundary. More restarts are never worse before that last descent.

    start     a point by leaf at which the first run begins (default: the clean point)
    restarts  runs from random points
    steps     of the last descent
    polishing  steps of the last digits

    >>> from torch import nn
    >>> from brittle import Ball, Problem
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), model.bias.zero_()
    >>> problem = Problem(model, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=1.0))
    >>> round(float(multistart(problem, restarts=1).size), 4)  # 3 / 5
    0.6
    """
    if restarts < 0 or steps < 1 or polishing < 0:
        given = (restarts, steps, polishing)
        raise InputError("multistart", "restarts >= 0, steps >= 1 and polishing >= 0", given, "correct them")
    search = searchable(problem)
    with torch.no_grad():
        clean = search.rows()
    tracker = Tracker.of(search, "radius")
    tracker.see(search.centre, clean)
    point = search.centre if start is None else {k: v.to(search.centre[k].dtype) for k, v in start.items()}
    tracker.join(race(search, clean, point, EVERY_RIVAL))
    unit = search.scaled(1 / search.scale)
    for run in range(restarts):
        scale = torch.where(tracker.found, tracker.value, 1.0).cpu()
        begin = random_point(unit.scaled(scale), seed, "multistart", run)
        tracker.join(race(search, clean, begin, FROM_RANDOM))
    restart(search, clean, tracker, PROBES, FROM_RANDOM, seed, "multistart")
    if all(ball.p == 1 for ball in search.region.values()):
        prune(search, tracker, point, 5 * steps // 3)
        steps = max(1, steps // 20)
    follow(search, tracker, tracker.point, None, steps)
    polish(search, tracker, polishing)
    return radius_witness(problem, tracker, "multistart")
