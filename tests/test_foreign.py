"""Attacks of other libraries: tracked on every query, judged like ours, refused in plain words."""

from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle import meter
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded


def question(p=2.0, radius=1.0, count=6, spec=None):
    data = digits("test")
    return bt.Problem(embedded("mlp"), data.x[:count], data.labels[:count], bt.Ball(p, radius, low=0, high=1), spec)


def pgd(model, inputs, labels, steps=10, radius=0.1, keep_last=True):
    """Sign steps; without ``keep_last`` it forgets what it found and returns the clean inputs."""
    x = inputs.clone()
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), labels)
        x = x + radius / 4 * torch.autograd.grad(loss, x)[0].sign()
        x = torch.maximum(torch.minimum(x, inputs + radius), inputs - radius).clamp(0, 1)
    return x.detach() if keep_last else inputs


def test_every_query_counts_even_those_that_the_attack_forgot():
    problem = question(inf, 1.0)
    last = bt.radius(problem, ends="upper", attacks=[bt.foreign(pgd)])
    forgotten = bt.radius(problem, ends="upper", attacks=[bt.foreign(partial(pgd, keep_last=False))])
    assert bool(last.upper.isfinite().any())
    torch.testing.assert_close(
        last.upper, forgotten.upper, rtol=1e-3, atol=0
    )  # all but the last point were seen on the way
    assert set(last.methods.upper) <= {"pgd", ""}


def test_margins_and_accuracies_stay_inside_the_region():
    problem = question(inf, 0.1, 20)
    bracket = bt.accuracy(problem, ends="upper", attacks=[bt.foreign(pgd, answers="margin")])
    found = bracket.witness.found
    assert 0 < int(found.sum()) < 20 and bool((bracket.witness.size[found] <= 1).all())
    outside = lambda model, inputs, labels: inputs + 10  # never asks the model: projected, then judged
    witness = bt.margin(problem, ends="upper", attacks=[bt.foreign(outside, answers="margin")]).witness
    assert bool((problem.size(witness.point) <= 1).all()) and bool((witness.point["x"] != problem.x).any())


def test_passes_are_counted_where_they_happen():
    problem = question(inf, 1.0)
    with meter.measure() as passes:
        bt.foreign(pgd)(problem)
    with meter.measure() as more:
        bt.foreign(partial(pgd, steps=20))(problem)
    assert more.forward - passes.forward == 10 * len(problem) and more.backward - passes.backward == 10 * len(problem)


def test_randomness_is_seeded_and_put_back():
    noise = lambda model, inputs, labels: inputs + torch.randn_like(inputs) * (1 + float(np.random.rand()))
    problem = question()
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (bt.foreign(noise, name="noise")(problem, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.point["x"], two.point["x"]) and not torch.equal(one.size, other.size)
    assert torch.equal(torch.get_rng_state(), state) and bool((np.random.get_state()[1] == numbers).all())


def test_a_single_logit_is_shown_as_two_classes():
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4.0]]))
    problem = bt.Problem(module, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([1, 0]), bt.Ball(inf, 1.0))
    seen = []

    def attack(model, inputs, labels):
        seen.append(model(inputs).shape)
        return pgd(model, inputs, labels, radius=2.0) if seen else inputs

    wide = bt.radius(problem, ends="upper", attacks=[bt.foreign(attack)])
    assert seen[0] == (2, 2)
    torch.testing.assert_close(wide.upper, torch.ones(2).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (lambda model, inputs, labels: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda model, inputs, labels: inputs[:1], r"inputs of shape \(6, 64\)"),
        (
            lambda model, inputs, labels: inputs / (labels != labels[1])[:, None],
            "NaN or infinity in . of 6 examples, the first number 1",
        ),
    ],
)
def test_what_goes_wrong_over_there_is_told(attack, words):
    with pytest.raises(bt.InputError, match=words):
        bt.foreign(attack)(question())


def test_bad_requests():
    with pytest.raises(bt.InputError, match="callable"):
        bt.foreign(3)
    with pytest.raises(bt.InputError, match="answers"):
        bt.foreign(pgd, answers="size")
    with pytest.raises(bt.InputError, match="one of"):
        bt.foreign(pgd, library="cleverhans")
    with pytest.raises(bt.InputError, match=r"functions of .*, got pgd; .* goes into bt.foreign\(pgd\)"):
        bt.margin(question(), attacks=[pgd])
    with pytest.raises(bt.InputError, match="other libraries move inputs only"):
        bt.foreign(pgd)(question().within({"0.weight": bt.Ball(2, 0.1)}))


def test_foolbox_torchattacks_and_art_answer_when_they_are_installed():
    """Not in the suite's own environment: ``pip install --no-deps foolbox eagerpy torchattacks adversarial-robustness-toolbox``."""
    problem = question(2.0, 1.0, 12)
    ours = bt.radius(problem, ends="upper").upper
    foolbox = pytest.importorskip("foolbox")
    found = bt.radius(problem, ends="upper", attacks=[bt.foreign(foolbox.attacks.DDNAttack(steps=50))])
    assert bool(found.witness.found.all()) and 0.99 < float((found.upper / ours).median()) < 1.05
    box = question(inf, 0.1, 20)
    fixed = [bt.foreign(foolbox.attacks.LinfPGD(), answers="margin")]
    assert float(bt.accuracy(box, ends="upper", attacks=fixed).upper) < 0.8
    torchattacks = pytest.importorskip("torchattacks")
    fixed = [bt.foreign(torchattacks.PGD(problem.module, eps=0.1), answers="margin")]
    assert float(bt.accuracy(box, ends="upper", attacks=fixed).upper) < 1
    art = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(problem.module, nn.CrossEntropyLoss(), (64,), 10, clip_values=(0, 1))
    fixed = [bt.foreign(art.ProjectedGradientDescent(estimator, eps=0.1, verbose=False), answers="margin")]
    assert float(bt.accuracy(box, ends="upper", attacks=fixed).upper) < 0.8
    with pytest.raises(bt.InputError, match="low=0, high=1"):
        bt.foreign(foolbox.attacks.LinfPGD())(problem.within(bt.Ball(2, 1.0)))
