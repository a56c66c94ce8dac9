"""The search for the largest certified scale: few evaluations, no early stop, never past what was attacked."""

from collections.abc import Callable
from math import inf

import pytest
import torch
from torch import Tensor

import brittle as bt
from brittle.questions._ends import Evidence
from brittle.questions._search import Search
from brittle.results import Certificate

MARGINS = {
    "power law": (lambda s: 1 - s**1.5, 1.0, 3),
    "line": (lambda s: 1 - s, 1.0, 3),
    "saturates": (lambda s: 1 - torch.minimum(4 * s, 0.8 + 0.2 * s), 1.0, 3),  # a range binds: the margin is convex
    "jumps": (lambda s: 0.5 + torch.where(s < 0.37, 0 * s, -inf), 0.37, 12),
    "plunges": (lambda s: 1 - s - (20 * (s - 0.5)).clamp_min(0) ** 3, 0.5386, 13),
}


def searched(of: Callable[[Tensor], Tensor], upper: float, tolerance: float) -> tuple[Tensor, list[int]]:
    """What the search says of three examples whose margin is ``of(scale)``, and how many were evaluated in each turn."""
    problem = bt.Problem(torch.nn.Linear(2, 2), torch.zeros(3, 2), torch.zeros(3).long(), bt.Ball(p=2, radius=1.0))
    turns = []

    def bound(part: bt.Problem) -> Certificate:
        turns.append(len(part))
        assert bool((part.scale < upper).all())
        return Certificate(of(part.scale)[:, None], "made up", {}, ())

    clean = of(torch.zeros(3, dtype=torch.float64))
    search = Search(problem, clean, torch.full_like(clean, upper), Evidence.none(3), [""] * 3)
    return search.scale(bound, torch.zeros_like(clean), tolerance), turns


@pytest.mark.parametrize("upper", [1.001, 1.6, 40.0, inf])
@pytest.mark.parametrize("kind", MARGINS)
def test_the_root_is_found_from_below_in_few_evaluations(kind: str, upper: float) -> None:
    of, root, most = MARGINS[kind]
    for tolerance in (0.05, 0.01):
        found, turns = searched(of, upper, tolerance)
        assert bool((found < min(root * 1.001, upper)).all()) and bool((found > root * (1 - 1.3 * tolerance)).all()), (
            found
        )
        assert len(turns) <= most + 4 * (upper > 10), turns


@pytest.mark.parametrize(("root", "expected"), [(0.9, 0.5 * 2**0.125), (0.52, 0.5)])
def test_a_coarse_search_tries_rounds_of_cuts_once(root: float, expected: float) -> None:
    """From what crown left, and only where the other end is known: one step an eighth of the way up, kept if it holds."""
    problem = bt.Problem(torch.nn.Linear(2, 2), torch.zeros(3, 2), torch.zeros(3).long(), bt.Ball(p=2, radius=1.0))
    turns = []

    def bound(part: bt.Problem, rounds: int = 1) -> Certificate:
        turns.append(len(part))
        return Certificate(root - part.scale[:, None], "made up", {}, ())

    half = torch.full((3,), 0.5, dtype=torch.float64)
    search = Search(problem, 2 * half, 2 * half, Evidence.none(3), [""] * 3)
    assert torch.allclose(search.decide(bound, half, 0.05), torch.full_like(half, expected)) and turns == [3]
    assert bool((search.decide(bound, half, 0.01) > root * 0.98).all()) and len(turns) > 2


def test_a_coarse_search_above_an_earlier_bound_takes_one_step() -> None:
    """To the middle of the bracket on a logarithm; without an attack there is no middle, and the search goes on."""
    problem = bt.Problem(torch.nn.Linear(2, 2), torch.zeros(3, 2), torch.zeros(3).long(), bt.Ball(p=2, radius=1.0))
    for upper, most, least in ((1.0, 1, 0.4), (inf, 9, 0.57)):
        turns = []

        def bound(part: bt.Problem, turns: list[int] = turns) -> Certificate:
            turns.append(len(part))
            return Certificate(0.6 - part.scale[:, None], "made up", {}, ())

        low = torch.full((3,), 0.16, dtype=torch.float64)
        clean = torch.full_like(low, 0.6)
        found = Search(problem, clean, torch.full_like(low, upper), Evidence.none(3), [""] * 3).scale(bound, low, 0.05)
        assert len(turns) <= most and bool((found >= least - 1e-12).all())
