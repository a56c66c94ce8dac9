"""The check of rescaled layers: quiet where no ball can be gamed, a note where it hardly matters, a warning where it does."""

from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.checks.rescaling import rescaling
from test_joint_regions import rescaled
from zoo import mlp, smooth


def region(**options) -> dict[str, bt.Ball]:
    return {"x": bt.Ball(p=inf, radius=0.02, low=0, high=1), "*.weight": bt.Ball(p=inf, radius=0.02, **options)}


def test_a_rescaled_twin_is_warned_of_and_its_gain_is_what_an_attack_sees():
    module, x, labels = mlp()
    problem = bt.Problem(module, x, labels, region())
    plain, gamed = rescaling(problem), rescaling(bt.Problem(rescaled(module, 64.0), x, labels, region()))
    assert plain.consequence == "note" and "3 layers" in plain.note
    assert gamed.consequence == "warn" and "relative" in str(gamed.doubt)
    for options in ({"relative": "element"}, {"relative": "rms"}, {"unit": 1.0}):
        assert rescaling(bt.Problem(module, x, labels, region(**options))).consequence == "none"


def test_the_gain_is_that_of_the_best_twin_in_closed_form():
    """m = w2 relu(w1 x) at w1 = 4, w2 = 1, x = 1: drops r w2 = r and r w1 = 4 r, 5 r in all; the best twin (2, 2) has 4 r."""
    module = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        module[0].weight.fill_(4.0), module[2].weight.fill_(1.0)
    ball = bt.Ball(p=inf, radius=0.01)
    found = rescaling(bt.Problem(module, torch.ones(1, 1), torch.ones(1), {"*.weight": ball}))
    assert found.value == "1.25 x the drop, 4 x the rms" and found.consequence == "note"
    answers = []
    for first in (4.0, 2.0):
        with torch.no_grad():
            module[0].weight.fill_(first), module[2].weight.fill_(4 / first)
        answers.append(
            4 - float(bt.margin(bt.Problem(module, torch.ones(1, 1), torch.ones(1), {"*.weight": ball})).upper)
        )
    assert answers[0] / answers[1] == pytest.approx(1.25, rel=0.01)  # the attack agrees up to the second order
    found = rescaling(
        bt.Problem(module, torch.ones(1, 1), torch.ones(1), {"0.weight": ball})
    )  # the other takes any scale
    assert found.consequence == "note" and "loses nothing" in found.note


def test_networks_that_are_not_homogeneous_and_regions_of_inputs_are_left_alone():
    module, x, labels = smooth()
    assert rescaling(bt.Problem(module, x, labels, {"*.weight": bt.Ball(p=2, radius=0.1)})).consequence == "none"
    assert rescaling(bt.Problem(*mlp(), bt.Ball(p=2, radius=0.1))).consequence == "none"


def test_batch_normalisation_is_scaled_against_the_layer_after_it_and_the_doctor_asks():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        module[1].running_mean.uniform_(-1, 1), module[1].weight.mul_(50.0), module[1].bias.mul_(50.0)
    x = torch.rand(16, 3)
    labels = module(x).argmax(1)
    found = [
        f
        for f in bt.doctor(module, x, labels, region={"3.weight": bt.Ball(p=2, radius=0.1)}).findings
        if f.name == "rescaling"
    ]
    assert found[0].consequence == "warn" and "2 layers" in found[0].note
