"""Checks A1 to A14 and S1 to S16 of a finished measurement: each fires on an attack, a model or a record broken for it, and not on healthy ones."""

import sys
from dataclasses import replace
from functools import cache, partial
from math import inf
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

import brittle as bt
import zoo
from brittle.attacks.apgd import apgd
from brittle.checks.other_attacks import chao, other_attacks
from brittle.checks.unfinished import unfinished
from brittle.health import after
from brittle.questions._rivals import rivals
from brittle.results import Bracket

L2 = bt.Ball(p=2, radius=1.0)


@cache
def plane() -> tuple[bt.Problem, Bracket]:
    """Twelve points of a plane in four dimensions, at their exact distances 0.3 to 2.5."""
    module = nn.Linear(4, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, -4.0, 0.0, 0.0], [0.0] * 4, [0.0, 0.0, 0.1, 0.0]]))
        module.bias.copy_(torch.tensor([0.0, 0.0, -9.0]))
    x = torch.outer(torch.linspace(0.3, 2.5, 12), torch.tensor([0.6, -0.8, 0.0, 0.0]))
    problem = bt.Problem(module, x, torch.zeros(12).long(), L2)
    return problem, bt.radius(problem, effort="quick")


def weakened(bracket: Bracket, factor: float = 3.0) -> Bracket:
    """The same measurement by an attack that stops so many times too far out."""
    assert bracket.witness is not None
    return replace(
        bracket, upper=factor * bracket.upper, witness=replace(bracket.witness, size=factor * bracket.witness.size)
    )


def free(bracket: Bracket) -> Bracket:
    """Of unknown cost, so that checks may spend what they need."""
    return replace(bracket, cost=type(bracket.cost)())


def sign_step(model, inputs, labels):
    """One step along the sign of the gradient, as broken as the gradient is."""
    inputs = inputs.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    return inputs + 0.4 * torch.autograd.grad(loss, inputs)[0].sign()


# ---- attacks that find more ------------------------------------------------------------------------------------------


def test_no_other_attack_beats_the_exact_distance():
    problem, bracket = plane()
    assert other_attacks(problem, free(bracket), rivals=rivals).consequence == "none"


@pytest.mark.parametrize(
    "name, consequence, sign",
    [
        ("single step", "invalid", "S1"),
        ("half the region", "invalid", "S2"),
        ("twice the steps", "warn", "A3"),
        ("short steps", "warn", "A5"),
        ("long steps", "warn", "A5"),
        ("random start 1", "warn", "A4"),
        ("square", "invalid", "S6"),
        ("boundary_walk", "invalid", "S6"),
    ],
)
def test_an_attack_that_stops_too_early_is_beaten(name, consequence, sign):
    problem, bracket = plane()
    found = other_attacks(problem, weakened(free(bracket)), rivals=lambda part: {name: rivals(part)[name]})
    assert found.consequence == consequence and sign in found.note and name in found.value
    two = weakened(free(bracket), 1.5)  # what half the size cannot break
    kept = other_attacks(problem, two, rivals=lambda part: {name: rivals(part)[name]})
    assert (kept.consequence == "none") == (name == "half the region")


def test_a_margin_that_an_attack_left_is_broken_by_others():
    """The gradient of a rounded input is zero, and its sign leads nowhere; blind attacks cross the step (S6)."""
    module = zoo.rounded()
    problem = bt.Problem(module, torch.full((4, 2), 0.3), torch.zeros(4).long(), bt.Ball(p=inf, radius=0.4))
    stuck = bt.margin(problem, attacks=[bt.foreign(sign_step, answers="margin")], ends="upper")
    assert bool((stuck.upper > 0).all())
    found = other_attacks(problem, free(stuck), rivals=rivals)
    assert found.consequence == "invalid" and "square" in found.value


def test_points_of_a_smoothed_copy_transfer_where_gradients_vanish():
    module, x, labels = zoo.saturated()
    problem = bt.Problem(module, x, labels, bt.Ball(p=inf, radius=0.5))
    stuck = bt.margin(problem, attacks=[partial(apgd, steps=10, restarts=1)], ends="upper")
    assert bool((stuck.upper > 0).any())
    only = lambda part: {"smoothed copy": rivals(part)["smoothed copy"]}
    found = other_attacks(problem, free(stuck), rivals=only)
    assert found.consequence == "warn" and "S7" in found.note
    problem, bracket = plane()  # without kinks there is nothing to smooth
    assert other_attacks(problem, weakened(free(bracket)), rivals=only).consequence == "none"


def test_an_attack_inside_a_certified_ball_stops_everything():
    problem, bracket = plane()
    short = weakened(free(bracket))
    assert other_attacks(problem, replace(short, lower=1.5 * bracket.upper), rivals=rivals).consequence == "stop"
    with pytest.raises(
        bt.BracketError
    ):  # S10, S11: a witness and a proof that contradict each other never form a bracket
        replace(bracket, lower=1.001 * bracket.upper)


def test_other_attacks_cost_at_most_a_share_of_the_answer():
    problem, bracket = plane()
    calls = []
    spy = lambda part: calls.append(len(part)) or {}
    for passes, few in ((0, 8), (500, 1), (1_000, 2), (40, None)):
        cost = replace(bracket, cost=type(bracket.cost)(forward=passes))
        other_attacks(problem, cost, rivals=spy)
        assert (calls.pop() if few else calls) == (few or [])


def test_chao_estimates_what_no_run_has_found():
    g = torch.Generator().manual_seed(0)
    chance = torch.rand(4000, generator=g)
    runs = torch.rand(3, 4000, generator=g) < 0.2 + 0.3 * chance
    unseen = int((~runs.any(0)).sum())
    assert 0.6 * unseen < chao(runs) <= 1.05 * unseen  # a lower estimate, which unequal chances pull down
    assert chao(torch.zeros(3, 5).bool()) == chao(torch.ones(3, 5).bool()) == 0


@pytest.mark.parametrize("step, consequence", [(2.0, "none"), (0.004, "warn")])
def test_a_descent_that_runs_out_of_steps_is_unfinished(step, consequence):
    problem, bracket = plane()
    found = unfinished(problem, free(bracket), attack=partial(apgd, step=step, losses=("margin",)))
    assert found.consequence == consequence
    assert unfinished(problem, bracket).value == "not judged"


def test_audits_attack_again_from_the_standard_effort_on():
    problem, bracket = plane()
    names = lambda effort: {f.name for f in after(problem, bracket, 0, effort)}
    assert names("standard") - names("quick") == {"other_attacks", "unfinished"}
