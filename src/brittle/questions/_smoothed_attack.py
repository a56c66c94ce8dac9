"""A point at which a smoothed model changes its mind: a search by gradients of the mean over draws, judged by draws of its own."""

from collections.abc import Mapping
from math import inf

import torch
from torch import Tensor

from brittle.evidence import Witness
from brittle.laws import Law
from brittle.noise._plain import points
from brittle.problem import Problem
from brittle.questions._votes import Votes, count_votes
from brittle.randomness import fold

SAMPLES = 64  # draws behind a gradient (folklore)
STEPS = 4  # of the search at every scale tried (folklore)
TRIED = 8  # scales tried until the votes turn, each 1.5 times the last; as many halvings afterwards (folklore)
BEYOND = (
    1.02,
    1.05,
    1.1,
    1.2,
    1.5,
    2.0,
    3.0,
)  # of the scale found: the points that fresh draws judge (any list fixed before them is sound)
Point = Mapping[str, Tensor]


def break_smoothed(
    problem: Problem,
    question: Problem,
    laws: Mapping[str, Law],
    i: int,
    seed: int,
    guess: float,
    rival: int,
    tail: float,
    draws: int,
) -> Witness:
    """The nearest point found of example i at which the label is refuted; wrong with probability at most ``tail``.

    guess : the scale at which a half-space would turn. What the search sees has no part in the judgement: every point of ``BEYOND`` is
    judged by draws of its own at an equal share of the error.
    """
    one = problem.take(torch.tensor([i]))
    searched = lambda point: count_votes(question, i, laws, seed, "search", 4 * SAMPLES, around=point)
    scale, direction, other = max(guess, 1e-6), dict(one.centre), rival
    turned = False
    for step in range(TRIED):
        direction = _ascended(one, question, laws, i, fold(seed, step), direction, scale)
        votes = searched(direction)
        turned = not _leads(votes)
        if turned:
            break
        scale *= 1.5
    if not turned:
        return _none(one)
    low, high = 0.0, 1.0
    for _ in range(TRIED):
        middle = (low + high) / 2
        votes = searched(_between(one, direction, middle))
        low, high = (middle, high) if _leads(votes) else (low, middle)
        other = other if _leads(votes) else votes.rival
    for j, beyond in enumerate(BEYOND):
        point = one.settle(_between(one, direction, high * beyond), torch.full((1,), inf).double())
        votes = count_votes(question, i, laws, seed, f"judgement {j}", draws, around=point)
        if votes.rejects(other, tail / len(BEYOND)):
            lead = torch.tensor([(votes.label - float(votes.others[other])) / draws], dtype=torch.float64)
            return Witness(
                point, lead, torch.tensor([True]), one.size(point), ("found",), "gradients of the mean over draws"
            )
    return _none(one)


def _ascended(
    one: Problem, question: Problem, laws: Mapping[str, Law], i: int, seed: int, start: Point, scale: float
) -> dict[str, Tensor]:
    """A few steepest steps on the mean margin at one scale of the region."""
    region, point = one.scaled(scale), dict(start)
    for step in range(STEPS):
        slope = _gradient(question, laws, i, fold(seed, step), point)
        for leaf, value in slope.items():
            if leaf in one.region:
                ball = one.region[leaf]
                move = ball.steepest(-value) * (ball.radius * scale * (1.0 if step == 0 else 0.5))
                point[leaf] = point[leaf] + move.to(point[leaf].dtype)
        point = region.project(point)
    return point


def _gradient(question: Problem, laws: Mapping[str, Law], i: int, seed: int, point: Point) -> dict[str, Tensor]:
    """The gradient of the mean over draws of a smooth margin, by every leaf, (1, ...)."""
    total: dict[str, Tensor] = {}
    around = {**question.take(torch.tensor([i])).centre, **point}
    for block in points(question, i, laws, seed, SAMPLES, dict.fromkeys(laws, 0.0), around):
        many = question.take(torch.full((len(next(iter(block.values()))),), i))
        _, slopes = many.gradient(block, lambda rows: -torch.logsumexp(-rows, 1))
        for leaf, value in slopes.items():
            total[leaf] = total.get(leaf, 0) + value.sum(0, keepdim=True)
    return total


def _between(one: Problem, end: Point, share: float) -> dict[str, Tensor]:
    """A point on the ray from the clean point through ``end``, brought back into the valid range."""
    beyond = {leaf: clean + share * (end[leaf] - clean) for leaf, clean in one.centre.items()}
    return {
        leaf: torch.minimum(torch.maximum(value, one.region[leaf].range(value)[0]), one.region[leaf].range(value)[1])
        for leaf, value in beyond.items()
    }


def _leads(votes: Votes) -> bool:
    return votes.label > float(votes.others.max())


def _none(one: Problem) -> Witness:
    lead = torch.tensor([torch.nan], dtype=torch.float64)
    return Witness(one.centre, lead, torch.tensor([False]), torch.tensor([inf]).double(), ("none",), "clean")
