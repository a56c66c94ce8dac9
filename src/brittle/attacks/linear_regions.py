"""The exact last digits of a near failure of a piecewise-linear network: from one linear region to the next."""

from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
import torch
from torch import Tensor

from brittle import norms
from brittle.about import About
from brittle.attacks._kinked import Kinked
from brittle.attacks._regions import Regions, View, look, regions_of, rows_and_quantities
from brittle.attacks._search import Tracker, radius_witness, searchable
from brittle.attacks.hlrf import AGAIN, race, restart
from brittle.errors import InputError, NotCertified
from brittle.problem import Point, Problem
from brittle.results import Witness

ABOUT = About(
    promise="a point at which the property fails, locally nearest to float64 accuracy where every piece of the network is linear",
    reference="convex-concave procedure (Yuille and Rangarajan, Neural Computation 2003) on the walls that are met",
    norms=(1, 2, inf),
    answers="radius",
    leaves=("input",),
    cost="at most `passes` forward and backward, one backward for every wall looked at; hlrf before it where no start is given",
    effort="thorough",
    refines=True,
)

APPROACH = (9, 2), (4, 4)  # stages of hlrf where no start is given
BEYOND = 16  # units in the last place of the leaf, in clean logits, by which the row is aimed below zero: what a witness needs
WALLS_AT_ONCE = 48  # added to a program at a time, those that raise the row most
GAIN = 1e-9  # relative: a step that shortens the change by less ends the walk
OTHERS = 4  # rows, beside the one that fails, that are asked at the end
ROUNDS = 12  # of programs from one point
NEAR = 1e-8  # relative: a wall this near is kept for the next program
HELD = 2**22  # walls of all examples held at once, a few copies of each
BACK = 6  # halvings towards the last failure where a step leads outside the failures


def linear_regions(
    problem: Problem, *, seed: int = 0, start: Point | None = None, passes: int = 380, programs: int = 32
) -> Witness:
    """Walk from a failure to the nearest point of the decision boundary that no neighbouring linear region betters.

    In its linear region the row that fails is affine. At a wall, where a ReLU (any kink, a rival of a maximum) switches, its slope changes by
    the sensitivity of the row to that unit: where it grows the row is convex, where it falls concave. Concave walls are crossed freely (what lies beyond is lower than the
    linear continuation). Convex ones join the program as they are met: minimise ``|v|_p`` subject to ``row + sum_j gain_j max(0, s_j(v)) <= 0`` inside the
    range. Its solution lies on a wall whose multiplier is below ``gain_j`` times that of the row, and beyond it otherwise. With one hidden layer
    the program bounds the row from above, so every step fails and is nearer than the one before; deeper, where a unit's own slopes change
    across a wall, the step is shortened until it fails.

    Guarantee: the witness violates the property where ``found``, and is never larger than the start. Where the walk ends by itself (before
    ``passes``), it is a minimum among the points of its own region and across each single wall that it lies on, up to 1e-9.
    Networks with curved activations, several leaves, subspaces, p = 0 and specifications of rank above 1 are not walked: they keep the failure they
    started from.

    start   a failure by leaf (default: the one that a few steps of ``hlrf`` find); where it does not fail, it is left alone
    passes  forward and backward passes an example, at most
    programs  linear programs an example, at most (p = 1 and inf; some 30 ms each of a processor with a hundred walls; for p = 2 they are cheap
            and not counted)

    >>> from torch import nn
    >>> from brittle import Ball, Problem
    >>> model = nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), model.bias.zero_()
    >>> problem = Problem(model, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=1.0))
    >>> round(float(linear_regions(problem).size), 4)  # 3 / 5
    0.6
    """
    if passes < 1 or programs < 1:
        raise InputError(
            "linear_regions", "passes and programs >= 1", (passes, programs), "give it some hundreds and some tens"
        )
    search = searchable(problem)
    tracker = Tracker.of(search, "radius")
    with torch.no_grad():
        clean = search.rows()
        tracker.see(search.centre, clean)
        if start is not None:
            point = {k: v.to(search.centre[k].dtype) for k, v in start.items()}
            tracker.see(point, search.rows(point))
    if start is None:
        tracker.join(race(search, clean, search.centre, APPROACH))
        restart(search, clean, tracker, 16, AGAIN, seed, "linear_regions")
    at = (tracker.found & (tracker.value > 0)).nonzero()[:, 0].cpu()
    suited = all(ball.p in ABOUT.norms and ball.section is None and ball.radius > 0 for ball in search.region.values())
    if suited and search.spec.rank == 1 and len(at):
        try:
            regions = regions_of(search)
        except NotCertified:
            return radius_witness(problem, tracker, "linear_regions")
        for some in at.split(max(1, HELD // max(1, regions.walls))):
            _walk(search, regions, tracker, some, passes, programs)
    return radius_witness(problem, tracker, "linear_regions")


@dataclass(eq=False)
class Walker:
    """One example on its way: its change (D,), the size, the row that fails, the convex walls to begin with, the passes it has
    spent, the programs it has left."""

    change: np.ndarray
    size: float
    row: int
    walls: list[int] = field(default_factory=list)
    spent: int = 0
    programs: int = 0
    done: bool = False

    others: list[int] | None = None  # rows that may fail nearer in these regions, to be tried; None: not asked yet

    def move(self, change: np.ndarray, size: float, row: int) -> None:
        self.change, self.size, self.row = change, size, row
        self.others = None

    def arrive(self, rows: np.ndarray) -> None:
        """Nothing nearer where this row fails: the next smallest of the others, or the end."""
        if self.others is None:
            self.others = [int(r) for r in np.argsort(rows, kind="stable") if r != self.row][:OTHERS]
        self.done = not self.others
        if self.others:
            self.row, self.walls = self.others.pop(0), []


@dataclass(frozen=True, eq=False)
class Ground:
    """What examples walk on: the problem in float64, its regions, the room below and above, how far below zero to aim, (N, ...) each."""

    problem: Problem
    regions: Regions
    down: np.ndarray
    up: np.ndarray
    beyond: np.ndarray

    @property
    def order(self) -> float:
        return self.problem.region[self.regions.leaf].p

    def take(self, at: list[int]) -> "Ground":
        return Ground(self.problem.take(torch.tensor(at)), self.regions, self.down[at], self.up[at], self.beyond[at])

    def point(self, changes: list[np.ndarray]) -> Tensor:
        centre = self.problem.centre[self.regions.leaf]
        return centre + torch.as_tensor(np.stack(changes)).to(centre).reshape(centre.shape)

    def length(self, change: np.ndarray) -> float:
        return float(np.linalg.norm(change, {1: 1, 2: 2, inf: np.inf}[self.order]))


def _walk(problem: Problem, regions: Regions, tracker: Tracker, at: Tensor, passes: int, programs: int) -> None:
    """Walk the examples ``at`` together; what they find is in the tracker."""
    tiny = max(torch.finfo(value.dtype).eps for value in problem.centre.values())
    leaf, part = regions.leaf, problem.take(at).double()
    centre = part.centre[leaf]
    low, high = (side.expand(centre.shape) for side in problem.region[leaf].exact_range(centre))
    down, up = (norms.flat(room).cpu().numpy() for room in (centre - low, high - centre))
    with torch.no_grad():
        reach = part.logits().abs().amax(1).cpu().numpy()
        start = tracker.point[leaf][at.to(problem.device)].double()
        rows = part.rows({leaf: start})
    ground = Ground(part, regions, down, up, BEYOND * tiny * reach)
    changes = np.clip(norms.flat(start - centre).cpu().numpy(), -down, up)
    walkers = [
        Walker(v, ground.length(v), int(row), spent=3, programs=programs)
        for v, row in zip(changes, rows.argmin(1).tolist(), strict=True)
    ]
    while open_ := [i for i, walker in enumerate(walkers) if not walker.done and walker.spent < passes]:
        _step(ground.take(open_), [walkers[i] for i in open_], passes)
    seen = Tracker.of(part, "radius")
    point = {leaf: ground.point([walker.change for walker in walkers])}
    with torch.no_grad():
        seen.see(point, part.rows(point))
    seen.point = {k: v.to(tracker.point[k]) for k, v in seen.point.items()}
    tracker.join_at(at, seen)


@dataclass(eq=False)
class Try:
    """One example's program at its present point, the rows (R,) there, and the solution tried last."""

    walker: Walker
    function: Kinked
    rows: np.ndarray
    walls: list[int] = field(default_factory=list)
    change: np.ndarray | None = None
    settled: bool = False

    def met(self) -> list[int]:
        """The walls on which the solution lies, or beyond them."""
        if self.change is None:
            return []
        slopes, v = self.function.slopes, self.change
        reach = np.abs(slopes).sum(1) * np.abs(v).max() * NEAR
        return [wall for wall, yes in zip(self.walls, self.function.offsets + slopes @ v >= -reach, strict=True) if yes]


def _step(ground: Ground, walkers: list[Walker], passes: int) -> None:
    """From the present points to the solutions of their programs, whose convex walls are added as they are met."""
    view = look(ground.problem, ground.regions, ground.point([w.change for w in walkers]), _rows(ground, walkers))
    gradient, values = view.gradient.cpu().numpy(), view.rows.cpu().numpy()
    side, gains = view.side().cpu().numpy(), view.gains.cpu().numpy()
    quantity = view.quantities.detach().cpu().numpy() * side
    tries = []
    for i, walker in enumerate(walkers):
        walker.spent += 2
        value = values[i, walker.row] + ground.beyond[i] - gradient[i] @ walker.change
        none = np.zeros((0, len(walker.change)))
        program = Kinked(value, gradient[i], none[:, 0], none[:, 0], none, ground.down[i], ground.up[i])
        tries.append(Try(walker, program, values[i]))
    fixed = view.fixed
    wanted = [
        _affordable([j for j in w.walls if gains[i, j] > 0], fixed, passes - w.spent) for i, w in enumerate(walkers)
    ]
    for _ in range(ROUNDS):
        _add(view, tries, wanted, quantity, side, gains)
        for attempt in tries:
            if not attempt.settled:
                _solve(ground, attempt)
        if all(attempt.settled for attempt in tries):
            return
        rows, quantities = _look_at(ground, view, tries)
        for i, attempt in enumerate(tries):
            wanted[i] = []
            if not attempt.settled:
                wanted[i] = _judge(ground, attempt, rows[i], quantities[i] * side[i], gains[i], fixed, passes)
    _shorten(ground, tries)


def _rows(ground: Ground, walkers: list[Walker]) -> Tensor:
    return torch.tensor([w.row for w in walkers], device=ground.problem.device)


def _add(
    view: View, tries: list[Try], wanted: list[list[int]], quantity: np.ndarray, side: np.ndarray, gains: np.ndarray
) -> None:
    """Walls join the programs."""
    slopes = view.slopes(wanted)
    for i, (attempt, walls) in enumerate(zip(tries, wanted, strict=True)):
        if not walls:
            continue
        attempt.walker.spent += int((~view.fixed[walls]).sum())
        f, sign = attempt.function, side[i, walls]
        new = slopes[i].cpu().numpy() * sign[:, None]
        offsets = quantity[i, walls] - new @ attempt.walker.change
        attempt.walls += walls
        attempt.function = replace(
            f,
            gains=np.concatenate([f.gains, gains[i, walls]]),
            offsets=np.concatenate([f.offsets, offsets]),
            slopes=np.concatenate([f.slopes, new]),
        )


def _solve(ground: Ground, attempt: Try) -> None:
    """The solution of the program; an example whose solution is no nearer than where it stands has arrived."""
    walker = attempt.walker
    if walker.programs < 1:
        walker.done = attempt.settled = True
        return
    walker.programs -= int(ground.order != 2)
    attempt.change = attempt.function.nearest(ground.order, walker.change)
    if attempt.change is None or ground.length(attempt.change) > walker.size * (1 - GAIN):
        walker.arrive(attempt.rows)
        attempt.settled = True


def _look_at(ground: Ground, view: View, tries: list[Try]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and quantities at the solutions: one forward pass for each that is still open."""
    changes = [t.walker.change if t.change is None or t.settled else t.change for t in tries]
    rows, quantities = rows_and_quantities(ground.problem, ground.regions, ground.point(changes), view)
    return rows.cpu().numpy(), quantities.cpu().numpy()


def _judge(
    ground: Ground,
    attempt: Try,
    rows: np.ndarray,
    quantity: np.ndarray,
    gains: np.ndarray,
    fixed: np.ndarray,
    passes: int,
) -> list[int]:
    """Move where the solution fails; else the convex walls that were met and are not in the program yet."""
    walker, change = attempt.walker, attempt.change
    assert change is not None
    walker.spent += 1
    if rows.min() <= 0:
        walker.walls = attempt.met()
        walker.move(change, ground.length(change), int(rows.argmin()))
        attempt.settled = True
        return []
    rise = np.where((gains > 0) & (quantity > 0), gains * quantity, 0.0)
    rise[attempt.walls] = 0.0
    met = [int(j) for j in np.argsort(-rise, kind="stable")[:WALLS_AT_ONCE] if rise[j] > 0]
    return _affordable(met, fixed, passes - walker.spent)


def _affordable(walls: list[int], fixed: np.ndarray, passes: int) -> list[int]:
    """The first walls whose gradients cost no more than so many passes."""
    cost = np.cumsum(~fixed[walls])
    return [wall for wall, spent in zip(walls, cost.tolist(), strict=True) if spent <= passes]


def _shorten(ground: Ground, tries: list[Try]) -> None:
    """Where the solutions do not fail after all, back towards the present points until they do; where none does, the walk ends."""
    share = 1.0
    for _ in range(BACK):
        share /= 2
        left = [t for t in tries if not t.settled]
        if not left:
            return
        changes = [
            t.walker.change if t.settled or t.change is None else t.walker.change + share * (t.change - t.walker.change)
            for t in tries
        ]
        with torch.no_grad():
            rows = ground.problem.rows({ground.regions.leaf: ground.point(changes)}).cpu().numpy()
        for attempt, change, row in zip(tries, changes, rows, strict=True):
            if attempt.settled:
                continue
            attempt.walker.spent += 1
            if row.min() <= 0 and ground.length(change) < attempt.walker.size:
                attempt.walker.walls = attempt.met()
                attempt.walker.move(change, ground.length(change), int(row.argmin()))
                attempt.settled = True
    for attempt in tries:
        if not attempt.settled:
            attempt.walker.arrive(attempt.rows)
