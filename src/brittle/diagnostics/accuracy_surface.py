"""How accurate is the network when the input and the weights move together? Certified and attacked, over both radii."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, pi, tan

import torch
from torch import Tensor

from brittle.about import EVERY_NORM, About
from brittle.diagnostics._relative import parameter_leaves, relative_balls, size_in_words
from brittle.errors import InputError
from brittle.problem import Problem
from brittle.region import Ball, Region
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="certified and attacked accuracy over a grid of input and weight radii, and every example's own frontier along rays between them",
    reference="the joint question of Tsai, Hsu, Yu and Chen, arXiv 2102.11935; frontiers along rays are our construction",
    norms=EVERY_NORM,
    cost="about 5 questions of bt.radius and at most 24 of bt.margin per example, at quick effort",
    effort="thorough",
)
TITLE = "Accuracy when inputs and weights move together"
ASSUMED = (
    2**22
)  # examples x weights that are moved without having been asked for: each example carries its own copy of every weight
LEAST = 8  # examples; fewer make no picture
FAR = 0.9  # the axes end where this share of the attacked radii lies, so that a few sturdy examples do not flatten the picture


@dataclass
class Known:
    """What is settled: per example, points (input, weight) of the plane that are proved safe, and points that are known to break it."""

    safe: Tensor
    broken: Tensor

    def certified(self, a: float, b: float) -> Tensor:
        """(N,) bool: some safe point has both radii at least as large."""
        return ((self.safe[..., 0] >= a) & (self.safe[..., 1] >= b)).any(1)

    def attacked(self, a: float, b: float) -> Tensor:
        """(N,) bool: some breaking point has both radii at most as large."""
        return ((self.broken[..., 0] <= a) & (self.broken[..., 1] <= b)).any(1)

    def learn(self, at: Tensor, a: float, b: float, safe: Tensor, broken: Tensor) -> None:
        """Add one point for the examples ``at``; where it settles nothing, one that never will."""
        self.safe, self.broken = (
            torch.cat([known, _points(at, len(known), a, b, holds, never)], 1)
            for known, holds, never in ((self.safe, safe, -1.0), (self.broken, broken, inf))
        )


@dataclass(frozen=True, eq=False)
class Ray:
    """A direction of the plane, and per example the largest multiple of it that holds for certain and the smallest known to fail."""

    way: tuple[float, float]
    lower: Tensor
    upper: Tensor

    def points(self, multiples: Tensor) -> Tensor:
        """(N, 2): where the multiples lie; an endless one on an axis has nothing of the other side."""
        return (multiples[:, None] * torch.tensor(self.way, dtype=torch.float64)).nan_to_num(nan=0.0)


def accuracy_surface(
    problem: Problem,
    *,
    margin: Callable[..., Bracket],
    radius: Callable[[Problem], Bracket],
    points: int = 5,
    rays: int = 3,
    examples: int = 24,
    relative: float = 0.01,
    seed: int = 0,
) -> Finding:
    """Accuracy over (input radius) x (weight radius): a certified surface below, an attacked one above, and the band between them.

    An example survives at (a, b) if the property holds for every input change of size a joined with every weight change of size b, each example with its own
    weights. Both ends are monotone by construction: a proof at (a, b) holds at every smaller pair, a witness at every larger one. First the
    frontier is searched along rays ``t (a, b)``: input alone, weights alone and ``rays`` directions between them, per example a certified and an
    attacked t. Then cells of the grid that these leave open are asked one by one.

    Rows of two kinds, in the column ``kind``. "cell": ``input`` and ``weight`` are radii, ``certified`` and ``attacked`` accuracies there, over all
    examples looked at. "ray": of one ``example``; ``input`` and ``weight`` are the direction, ``certified`` and ``attacked`` the largest multiples of it that hold for certain,
    and the smallest known to fail (inf: none found, 0: wrong already). The grid ends where nine tenths of the attacked radii of one leaf alone lie.

    Radii are those of the region where all its inputs, or all its parameters, have the same one, else multiples of the region; ``unit`` says which, input | weight.
    Without a parameter in the region every weight is asked about as moving by a part of itself (``relative`` scales that part, the picture scales with it).

    margin, radius   verbs of the other families; ``bt.diagnose`` gives them
    points   of the grid along each axis, 0 among them
    examples the first so many; 24 take 6 seconds on a network of 17,000 weights, 50 where they are convolutions
    Errors: InputError without a moving input and a parameter to move. A shared change is asked about as if each example had its own.

    >>> from brittle import diagnose
    >>> linear = torch.nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> region = {"x": Ball(p=inf, radius=1.0), "weight": Ball(p=inf, radius=1.0)}  # the margin is 2 x: it falls to 2 (x - a) (1 - b)
    >>> found = diagnose(Problem(linear, torch.tensor([[3.0]]), torch.tensor([0]), region), "accuracy_surface", rays=1)
    >>> [round(t, 2) for kind, t in zip(found.columns["kind"], found.columns["attacked"]) if kind == "ray"]  # along (1, 0), (0, 1) and (3, 1)
    [3.0, 1.0, 1.0]
    """
    if points < 2 or rays < 0 or examples < 1 or not 0 < relative < inf:
        raise InputError(
            "accuracy_surface",
            "points >= 2, rays >= 0, examples >= 1, relative > 0",
            (points, rays, examples, relative),
            "correct them",
        )
    inputs, weights = _sides(problem, relative)
    some = problem.take(torch.arange(min(_affordable(problem, weights, examples), len(problem))))
    frontier = [_ray(some, inputs, weights, way, radius) for way in ((1.0, 0.0), (0.0, 1.0))]
    far = _far(frontier[0], 0), _far(frontier[1], 1)
    for k in range(1, rays + 1):
        slope = tan(pi / 2 * k / (rays + 1))
        way = (far[0], slope * far[1]) if slope <= 1 else (far[0] / slope, far[1])
        frontier.append(_ray(some, inputs, weights, way, radius))
    broken = torch.stack([ray.points(ray.upper) for ray in frontier], 1)
    broken = torch.where(
        broken.isfinite().all(-1, keepdim=True), broken, inf
    )  # where nothing was found, nothing is broken
    known = Known(torch.stack([ray.points(ray.lower) for ray in frontier], 1), broken)
    grid = [(far[0] * i / (points - 1), far[1] * j / (points - 1)) for i in range(points) for j in range(points)]
    for a, b in sorted(grid, key=lambda cell: cell[0] / far[0] + cell[1] / far[1]):
        _settle(some, inputs, weights, known, a, b, margin)
    units = _unit(inputs), _unit(weights)
    columns = _columns(some, frontier, grid, known, (units[0][0], units[1][0]))
    told = " | ".join(word for _, word in units)
    note = _sentence(columns, units, bool(parameter_leaves(problem)), any(b.shared for b in problem.region.values()))
    return Finding("accuracy_surface", TITLE, columns, unit=told, note=note)


def _sides(problem: Problem, relative: float) -> tuple[dict[str, Ball], dict[str, Ball]]:
    own = {leaf: replace(ball, shared=False) for leaf, ball in problem.region.items() if ball.radius > 0}
    inputs = {leaf: ball for leaf, ball in own.items() if leaf in problem.inputs}
    weights = {leaf: ball for leaf, ball in own.items() if leaf not in inputs} or relative_balls(problem, relative)
    if not inputs or not weights:
        missing = "an input that moves" if not inputs else "a parameter to move"
        raise InputError(
            "accuracy_surface",
            "an input and a parameter that move",
            f"a region without {missing}",
            "give both a ball of radius > 0",
        )
    return inputs, weights


def _affordable(problem: Problem, weights: Region, examples: int) -> int:
    """How many examples to look at: as many as were asked for, fewer where nobody asked for these weights and they are many."""
    if parameter_leaves(problem):
        return examples
    parameters = problem.network.parameters()
    size = sum(parameters[leaf.removeprefix("param:")].numel() for leaf in weights)
    if size * min(LEAST, examples) > ASSUMED:
        raise InputError(
            "accuracy_surface",
            f"at most {ASSUMED // LEAST:,} weights where the region names none",
            f"{size:,}",
            "give the weights that move a ball",
        )
    return min(examples, ASSUMED // size)


def _at(inputs: Region, weights: Region, a: float, b: float) -> dict[str, Ball]:
    """The region with its input radii times a and its weight radii times b; what does not move is left out."""
    moved = [(inputs, a), (weights, b)]
    return {
        leaf: ball.with_radius(ball.radius * scale) for side, scale in moved for leaf, ball in side.items() if scale > 0
    }


def _ray(
    some: Problem, inputs: Region, weights: Region, way: tuple[float, float], radius: Callable[[Problem], Bracket]
) -> Ray:
    found = radius(some.within(_at(inputs, weights, *way)))
    return Ray(way, found.lower.double(), found.upper.double())


def _far(ray: Ray, axis: int) -> float:
    """How far an axis goes: most attacked radii lie within; without any, twice the certified ones, or the region itself."""
    for ends, factor in ((ray.upper, 1.0), (ray.lower, 2.0)):
        known = sorted(v for v in ends.tolist() if 0 < v < inf)
        if known:
            return ray.way[axis] * factor * known[min(len(known) - 1, int(FAR * len(known)))]
    return 1.0


def _settle(
    some: Problem, inputs: Region, weights: Region, known: Known, a: float, b: float, margin: Callable[..., Bracket]
) -> None:
    """Ask about one cell, of the examples for which the points known so far leave it open."""
    open_ = (~known.certified(a, b) & ~known.attacked(a, b)).nonzero()[:, 0]
    if not len(open_) or a == b == 0:
        return
    found = margin(some.take(open_).within(_at(inputs, weights, a, b)))
    broken = torch.zeros(len(open_), dtype=torch.bool) if found.witness is None else found.witness.found.cpu()
    known.learn(open_, a, b, found.lower.cpu() > 0, broken)


def _points(at: Tensor, count: int, a: float, b: float, holds: Tensor, never: float) -> Tensor:
    new = torch.full((count, 1, 2), never, dtype=torch.float64)
    new[at[holds], 0] = torch.tensor([a, b], dtype=torch.float64)
    return new


def _unit(side: Mapping[str, Ball]) -> tuple[float, str]:
    """What one multiple of a side of the region is, and its name."""
    balls = {(ball.radius, ball.p, ball.relative) for ball in side.values()}
    who = next(iter(side)) if len(side) == 1 else f"{len(side)} leaves"
    if len(balls) > 1 or any(ball.unit is not None and not ball.relative for ball in side.values()):
        return 1.0, f"{who}, multiples of the region"
    ((radius, p, relative),) = balls
    return radius, f"{who}, {size_in_words(p, relative)}"


def _columns(
    some: Problem, frontier: Sequence[Ray], grid: Sequence[tuple[float, float]], known: Known,
    units: tuple[float, float],
) -> dict[str, list]:  # fmt: skip
    columns: dict[str, list] = {name: [] for name in ("kind", "example", "input", "weight", "certified", "attacked")}

    def add(*row: object) -> None:
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)

    wrong = some.margin().cpu() <= 0
    for a, b in grid:
        low = float((known.certified(a, b) & ~wrong).double().mean())
        high = float((~known.attacked(a, b) & ~wrong).double().mean())
        add("cell", None, a * units[0], b * units[1], low, high)
    for ray in frontier:
        (a, b), ends = ray.way, (ray.lower.tolist(), ray.upper.tolist())
        for example, low, high in zip(some.index.tolist(), *ends, strict=True):
            add("ray", example, a * units[0], b * units[1], low, high)
    return columns


def _sentence(columns: Mapping[str, list], units: Sequence[tuple[float, str]], declared: bool, shared: bool) -> str:
    rays: dict[tuple, list] = {}
    for kind, a, b, low, high in zip(
        *(columns[n] for n in ("kind", "input", "weight", "certified", "attacked")), strict=True
    ):
        if kind == "ray":
            rays.setdefault((a, b), []).append((low, high))
    middle = lambda values: sorted(values)[(len(values) - 1) // 2]
    said = []
    for (a, b), ends in list(rays.items())[:2]:
        low, high = (middle([e[k] for e in ends]) * (a or b) for k in (0, 1))
        said.append(f"{low:.3g} to {high:.3g} ({units[0][1] if b == 0 else units[1][1]})")
    text = f"Half of the examples survive an input change of {said[0]} alone, and a weight change of {said[1]} alone: certified to attacked."
    if len(rays) > 2:
        (a, b), ends = list(rays.items())[2 + (len(rays) - 3) // 2]
        low, high = (middle([e[k] for e in ends]) for k in (0, 1))
        text += f" Together, at this proportion, ({low * a:.3g}, {low * b:.3g}) to ({high * a:.3g}, {high * b:.3g})."
    text += "" if declared else " The region names no parameters: every weight is assumed to move by a part of itself."
    return text + (" A shared change was asked about as one of each example's own." if shared else "")
