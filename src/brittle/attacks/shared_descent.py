"""One change common to all examples, by steepest descent on the sum of their losses: what a corrupted device does to a whole set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn

from brittle import norms
from brittle.about import About
from brittle.attacks._search import random_point, searchable
from brittle.attacks.apgd import apgd
from brittle.errors import InputError
from brittle.network import copied
from brittle.problem import Point, Problem
from brittle.randomness import generator
from brittle.region import Ball
from brittle.results import Witness
from brittle.spec import margin

ABOUT = About(
    promise="one common change that breaks many examples at once; another one may break more",
    reference="joint descent in weights and inputs: Tsai et al., ICASSP 2021; universal changes: Moosavi-Dezfooli et al., CVPR 2017",
    norms=(1, 2, inf),
    answers="accuracy",
    cost="steps x restarts forward and backward; where something else moves for each example also apgd; 3 to 5 forward at the end",
    effort="quick",
)

STEP = 0.5, 0.01  # of the radius, first and last, geometric between
SHRINK = 2.0**-20  # of a change that rounding has put outside


@dataclass(frozen=True, eq=False)
class State:
    """``change`` of every common leaf, (1, ...), and ``own`` points (N, ...) of the leaves that move for each example."""

    change: Mapping[str, Tensor]
    own: Mapping[str, Tensor]


def shared_descent(
    problem: Problem,
    *,
    seed: int = 0,
    start: Point | None = None,
    steps: int = 40,
    restarts: int = 4,
    losses: tuple[str, ...] = ("count", "count", "margin"),
) -> Witness:
    """Break as many examples as possible by one change of the leaves whose balls are ``shared``.

    Every step goes down the sum over examples of a loss of their rows: the common leaves by the steepest step of their ball, and at the
    same time every leaf of its own (an input, say) for each example. The weights are held once, whatever the number of examples. A
    common change of inputs is cut off at the range, example by example. The state that broke most examples is kept; there each
    remaining example is attacked alone (:func:`brittle.attacks.apgd.apgd`) with the common change held fixed.

    Guarantee: the common leaves of the witness are one value (parameters) or the inputs moved by one change and cut off (inputs), inside the region
    at the smallest scale of any example; ``found`` and the margins are re-measured at it, on all examples. Not guaranteed: that
    an example that was wrong at the clean point is still wrong.

    start     a point by leaf, (N, ...) or (1, ...), at which the first run begins (default: the clean point)
    steps     gradient steps of one run. Twice as many break one point more of the digits at twice the cost, four or eight times as many no more than that
              (five networks, weights moving by .01 and .02); of momentum, Adam, batches of half the examples and a hinge on the easiest ones none broke more at both
    restarts  runs; the second begins at the opposite of the best change so far, later ones at random
    losses    what is summed over the examples, one run each in turn: "count" ``1 / (1 + exp(-4 margin / u))``, u the median size of a clean
              margin, a smooth count of those that still hold (best of five on digits, measured); "margin"; "cross-entropy"
              ``-log(1 + sum exp(-row))``, which goes on for examples that are broken already

    Errors: InputError without a shared ball.

    >>> from brittle import Ball
    >>> linear = nn.Linear(1, 1)
    >>> with torch.no_grad():
    ...     _ = linear.weight.fill_(1.0), linear.bias.zero_()
    >>> x, labels = torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([1, 1, 0])
    >>> region = {"bias": Ball(p=2, radius=1.5, shared=True)}
    >>> shared_descent(Problem(linear, x, labels, region)).found.tolist()  # down: the first breaks; up: the last one; never both
    [True, False, False]

    Reference: in ``ABOUT``.
    """
    unknown = [name for name in losses if name not in LOSSES]
    if unknown or not losses or steps < 1 or restarts < 1:
        expected = f"steps, restarts >= 1, losses among {', '.join(LOSSES)}"
        raise InputError("shared_descent", expected, (steps, restarts, losses), "correct them")
    common = {leaf: ball for leaf, ball in problem.region.items() if ball.shared}
    if not common:
        raise InputError(
            "shared_descent", "a ball with shared=True", "none", "use apgd for changes of each example's own"
        )
    search = searchable(problem)
    usual = float(search.margin().abs().median().clamp_min(1e-30))
    best, most = None, (-1, -inf)
    for run in range(restarts):
        begin = _begin(search, common, start if run == 0 else None, seed, run)
        if run == 1 and best is not None:
            begin = State({leaf: -v for leaf, v in best.change.items()}, begin.own)
        made = LOSSES[losses[run % len(losses)]]
        loss = lambda rows, made=made: made(rows, search.spec.rank, usual)
        state, broken = _descend(search, common, begin, loss, steps)
        if broken > most:
            best, most = state, broken
    assert best is not None
    return _finish(problem, common, best, seed)


def _begin(problem: Problem, common: Mapping[str, Ball], start: Point | None, seed: int, run: int) -> State:
    alone, centre = _alone(problem), problem.centre
    own = random_point(alone, seed, "shared_descent", run) if run else alone.project(alone.centre)
    if start is not None:
        own |= {leaf: alone.project_leaf(leaf, v.to(centre[leaf])) for leaf, v in start.items() if leaf in own}
    change = {}
    for leaf, ball in common.items():
        like, reach = centre[leaf][:1], _reach(problem, ball)
        change[leaf] = torch.zeros_like(like)
        if start is not None and leaf in start:
            change[leaf] = start[leaf][:1].to(like) - like
        elif run:
            drawn = norms.uniform_ball(tuple(like.shape[1:]), ball.p, generator(seed, "shared_descent", run, leaf))
            change[leaf] = ball.stretched(drawn[None].to(like)) * float(reach)
        change[leaf] = _inside(problem, leaf, ball, change[leaf])
    return State(change, own)


def _descend(
    problem: Problem, common: Mapping[str, Ball], state: State, loss: Callable[[Tensor], Tensor], steps: int
) -> tuple[State, tuple[int, float]]:
    """The state that broke most examples (ties: of the least loss), and that number and minus that loss."""
    alone = _alone(problem)
    best, most = state, (-1, -inf)
    for k in range(steps + 1):
        point = _point(problem, state)
        rows, gradient = problem.gradient(point, loss)
        broken = (int((margin(rows, problem.spec.rank) <= 0).sum()), -float(loss(rows).double().sum()))
        if broken > most:
            best, most = state, broken
        length = STEP[0] * (STEP[1] / STEP[0]) ** (k / max(1, steps - 1))
        gradient = {leaf: g.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for leaf, g in gradient.items()}
        change = {}
        for leaf, ball in common.items():
            slope = _slope(problem, leaf, ball, state.change[leaf], gradient[leaf])
            step = length * float(_reach(problem, ball)) * ball.steepest(slope)
            change[leaf] = _inside(problem, leaf, ball, state.change[leaf] - step)
        own = {}
        for leaf, value in state.own.items():
            step = norms.spread(length * alone.radius(leaf).to(value), value) * alone.region[leaf].steepest(
                gradient[leaf]
            )
            own[leaf] = alone.project_leaf(leaf, value - step)
        state = State(change, own)
    return best, most


def _slope(problem: Problem, leaf: str, ball: Ball, change: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by the common change, (1, ...): where an example is cut off at its range, it has none."""
    if leaf not in problem.inputs:
        return gradient
    low, high = ball.range(change)
    moved = problem.inputs[leaf] + change
    return torch.where((moved >= low) & (moved <= high), gradient, 0.0).sum(0, keepdim=True)


def _point(problem: Problem, state: State) -> dict[str, Tensor]:
    """The leaves at a state, in the order of the region: common parameters (1, ...), all others (N, ...)."""
    point = {}
    for leaf, ball in problem.region.items():
        if leaf in state.own:
            point[leaf] = state.own[leaf]
            continue
        inputs = leaf in problem.inputs
        centre = problem.inputs[leaf] if inputs else problem.centre[leaf][:1]
        low, high = ball.range(centre)
        point[leaf] = (
            torch.minimum(torch.maximum(centre + state.change[leaf], low), high)
            if inputs
            else centre + state.change[leaf]
        )
    return point


def _inside(problem: Problem, leaf: str, ball: Ball, change: Tensor) -> Tensor:
    """A common change brought into its ball, and where it is of a parameter, into its range."""
    change = ball.project(change, _reach(problem, ball)[None].to(change))
    if leaf in problem.inputs or (ball.low is None and ball.high is None):
        return change
    centre = problem.centre[leaf][:1]
    low, high = ball.range(centre)
    return torch.minimum(torch.maximum(centre + change, low), high) - centre


def _reach(problem: Problem, ball: Ball) -> Tensor:
    """The radius of a common change: it has to lie in the region of every example."""
    return ball.radius * problem.scale.min()


def _alone(problem: Problem) -> Problem:
    """The same examples with the leaves of their own only."""
    return replace(problem, region={leaf: ball for leaf, ball in problem.region.items() if not ball.shared})


def _finish(problem: Problem, common: Mapping[str, Ball], state: State, seed: int) -> Witness:
    """Settle the common change, attack what is left example by example, and judge the whole."""
    change = {leaf: v.to(problem.centre[leaf]) for leaf, v in state.change.items()}
    own = {leaf: v.to(problem.centre[leaf]) for leaf, v in state.own.items()}
    change = {leaf: _settled(problem, leaf, ball, change[leaf]) for leaf, ball in common.items()}
    if own:
        own = _alone(problem).settle(own)
        with torch.no_grad():
            left = (problem.margin(_point(problem, State(change, own))) > 0).nonzero()[:, 0].cpu()
        if len(left):
            found = apgd(_fixed(problem, State(change, own), left), seed=seed)
            for leaf, value in own.items():
                better = norms.spread(found.found.to(value.device), value)
                at = left.to(value.device)
                own[leaf] = value.index_copy(0, at, torch.where(better, found.point[leaf], value[at]))
    point = _point(problem, State(change, own))
    return problem.witness({k: v.expand(len(problem), *v.shape[1:]) for k, v in point.items()}, "shared_descent")


def _settled(problem: Problem, leaf: str, ball: Ball, change: Tensor) -> Tensor:
    """The change at which no example lies outside by rounding: shortened by little, then by twice as much, as in ``Problem.settle``."""
    only = replace(problem, region={leaf: ball})
    for attempt in range(24):
        size = only.size(_point(only, State({leaf: change}, {})))
        if bool((size <= problem.scale.min()).all()):
            return change
        change = _inside(problem, leaf, ball, change) * (1 - min(1.0, SHRINK * 2.0**attempt))
    return torch.zeros_like(change)


def _fixed(problem: Problem, state: State, at: Tensor) -> Problem:
    """Some examples, with the common change built into the module and the inputs: only the leaves of their own still move."""
    point, some = _point(problem, state), problem.take(at)
    module = problem.network.original
    values = {
        problem.parameter_name(k): v[0]
        for k, v in point.items()
        if state.change.keys() & {k} and k not in problem.inputs
    }
    if values:
        module = copied(problem.network.quiet)
        assert isinstance(module, nn.Module)
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                parameters[str(name)].copy_(value)
    inputs = {
        k: point[k][at.to(v.device)] if k in state.change else v[at.to(v.device)] for k, v in problem.inputs.items()
    }
    x = inputs["x"] if isinstance(problem.x, Tensor) else {k.removeprefix("x."): v for k, v in inputs.items()}
    region = {leaf: ball for leaf, ball in problem.region.items() if not ball.shared}
    return Problem(module, x, some.labels, region, some.spec, some.index, some.scale)


def _count(rows: Tensor, rank: int, usual: float) -> Tensor:
    return torch.sigmoid(4 / usual * margin(rows, rank))


def _margin(rows: Tensor, rank: int, usual: float) -> Tensor:
    return margin(rows, rank)


def _cross_entropy(rows: Tensor, rank: int, usual: float) -> Tensor:
    return -torch.nn.functional.softplus(torch.logsumexp(-rows, 1))


LOSSES: dict[str, Callable[[Tensor, int, float], Tensor]] = {
    "count": _count,
    "margin": _margin,
    "cross-entropy": _cross_entropy,
}
