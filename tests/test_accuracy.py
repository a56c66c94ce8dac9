"""Accuracy: each end saves the other work, and neither loses by it."""

from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle import meter
from brittle.attacks.apgd import apgd
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp


def problem(radius: float) -> bt.Problem:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.rand(12, 6)
    return bt.Problem(module, x, module(x).argmax(1), bt.Ball(inf, radius, low=0, high=1))


def watched(method, seen: list[set[int]]):
    def asked(part: bt.Problem, **options):
        seen.append(set(part.index.tolist()))
        return method(part, **options)

    asked.__name__ = method.__name__
    return asked


@pytest.mark.parametrize("radius", [0.01, 0.05, 0.2])
def test_what_one_end_settles_the_other_is_not_asked(radius: float) -> None:
    question, attacked, cheap, dear = problem(radius), [], [], []

    def costly(part: bt.Problem, **options):
        dear.append(set(part.index.tolist()))
        meter.count(backward=1000 * len(part))
        return crown(part)

    def attack(part: bt.Problem, *, seed: int = 0):
        attacked.append(set(part.index.tolist()))
        return apgd(part, seed=seed)

    answer = bt.accuracy(question, attacks=[attack], bounds=[costly, watched(ibp, cheap)])
    assert answer.witness is not None
    broken = set(question.index[answer.witness.found].tolist())
    assert cheap[0] == {0} and dear[0] == {0}  # the example on which passes are counted
    assert cheap[1] == set(range(12))  # nothing was broken yet, nothing proved
    by_ibp = {i for i in range(12) if float(ibp(question.take(torch.tensor([i]))).rows.min()) > 0}
    assert all(not asked & by_ibp for asked in (*attacked, *dear[1:]))
    assert all(not asked & broken for asked in dear[1:])
    assert len(broken) + 12 * float(answer.lower) <= 12


@pytest.mark.parametrize("radius", [0.02, 0.1])
def test_the_order_costs_neither_end_anything(radius: float) -> None:
    question = problem(radius)
    both = bt.accuracy(question)
    certified = (crown(question).rows.amin(1) > 0) | (ibp(question).rows.amin(1) > 0)
    assert float(both.lower) >= float(certified.double().mean())
    assert float(both.upper) <= float(bt.accuracy(question, ends="upper", attacks=["apgd"]).upper)
