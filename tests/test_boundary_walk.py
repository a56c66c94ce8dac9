"""The attack that sees answers alone: near the nearest failure of linear decisions, and the same whatever the logits are."""

from collections.abc import Callable
from math import inf

import pytest
import torch
from torch import Tensor

import brittle as bt
from brittle import meter
from brittle.attacks.boundary_walk import boundary_walk
from brittle.norms import dual

SLOPE = torch.tensor([4.0, -3.0, 1.5, 0.25, 1.0, 2.0])


def decided(says: Callable[[Tensor], Tensor], p: float) -> bt.Problem:
    """The label is 0 where <SLOPE, x> + 1 > <SLOPE, .5>; ``says`` turns that number into the logit that is shown."""
    module = lambda x: torch.stack([says((x - 0.5) @ SLOPE + 1), torch.zeros(len(x))], 1)
    return bt.Problem(module, torch.full((3, 6), 0.5), torch.zeros(3).long(), bt.Ball(p=p, radius=1.0))


@pytest.mark.parametrize("p", [2, inf])
def test_near_the_nearest_failure_of_a_hard_label(p: float) -> None:
    witness = boundary_walk(decided(torch.sign, p), steps=20, draws=40)
    ratio = witness.size * torch.linalg.vector_norm(SLOPE, dual(p))
    assert bool(witness.found.all()) and bool((ratio >= 1 - 1e-5).all()) and bool((ratio <= 1.06).all()), ratio


def test_only_the_answer_counts() -> None:
    """Logits of quite another size and curvature, the same answers: the same walk, up to the last shortening."""
    one, other = (
        boundary_walk(decided(says, 2)).size for says in (torch.sign, lambda v: v.sign() * (1 + v.abs() ** 3))
    )
    torch.testing.assert_close(one, other, rtol=2e-3, atol=0)


def test_the_walk_is_counted_and_options_are_checked() -> None:
    problem = decided(torch.sign, 2)
    with meter.measure() as passes:
        boundary_walk(problem, steps=5, draws=10)
    assert passes.backward == 0 and 5 * 20 * len(problem) <= passes.forward <= (5 * 26 + 54) * len(problem)
    with pytest.raises(bt.InputError, match="draws"):
        boundary_walk(problem, draws=1)
