"""Attacks of other libraries: tracked on every query, judged like ours, refused in plain words."""

import importlib.util
import os
import sys
import types
import warnings
from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle import meter
from brittle.questions.foreign import _rewired
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
        (lambda model, inputs, labels: inputs[:1], r"inputs of shape \(6, 64\), got a Tensor of shape \(1, 64\)"),
        (lambda model, inputs, labels: None, "got a NoneType; return the perturbed batch"),
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
    with pytest.raises(bt.InputError, match=r"got the class Attack; make one of it: bt.foreign\(Attack"):
        bt.foreign(type("Attack", (), {"__call__": lambda self, model, inputs, labels: inputs}))
    with pytest.raises(bt.InputError, match="answers"):
        bt.foreign(pgd, answers="size")
    with pytest.raises(bt.InputError, match="one of"):
        bt.foreign(pgd, library="cleverhans")
    with pytest.raises(bt.InputError, match=r"functions of .*, got pgd; .* goes into bt.foreign\(pgd\)"):
        bt.margin(question(), attacks=[pgd])
    with pytest.raises(bt.InputError, match="other libraries move inputs only"):
        bt.foreign(pgd)(question().within({"0.weight": bt.Ball(2, 0.1)}))


def test_attacks_may_write_into_what_they_are_given_and_ask_in_float64():
    def greedy(model, inputs, labels):
        wide = inputs.double()
        assert model(wide).dtype == torch.float32
        inputs.requires_grad_(True)
        slope = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), inputs)[0]
        inputs.detach_()
        labels.fill_(0)
        return inputs.add_(slope.sign()).clamp_(0, 1)

    problem = question(inf, 1.0)
    before, labels = problem.x.clone(), problem.labels.clone()
    assert bool(bt.foreign(greedy)(problem).found.any())
    assert torch.equal(problem.x, before) and torch.equal(problem.labels, labels) and not problem.x.requires_grad


class Part:
    """An attack as libraries build them: out of others, each with its own reference to the model."""

    def __init__(self, model, *parts):
        self.model, self.parts, self.named, self.first = (
            model,
            list(parts),
            dict(enumerate(parts)),
            (parts or (None,))[0],
        )


def test_every_attack_that_an_attack_is_made_of_gets_the_model_in_question():
    whole = Part("theirs", Part("theirs", Part("theirs")), Part("theirs"))
    twin = _rewired(whole, Part, {"model": "ours"}, {})
    reached = [twin, *twin.parts, *twin.named.values(), twin.first, twin.parts[0].first]
    assert all(part.model == "ours" for part in reached) and twin.first is twin.parts[0] is twin.named[0]
    assert [whole.model, whole.first.model, whole.first.first.model, whole.named[1].model] == ["theirs"] * 4


# ---- the real libraries: not in the suite's own environment ---------------------------------------------------------------------


@pytest.fixture
def peers(monkeypatch):
    """``pip install --no-deps --target PEERS foolbox eagerpy torchattacks adversarial-robustness-toolbox adv-lib``, and PEERS_PATH=PEERS."""
    for folder in os.environ.get("PEERS_PATH", "").split(os.pathsep):
        monkeypatch.syspath_prepend(folder) if folder else None
    names = ("torchvision", "torchvision.models", "torchvision.transforms", "visdom")  # imported, not used
    for name in [n for n in names if importlib.util.find_spec(n.partition(".")[0]) is None]:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other libraries say about their own imports
        yield


def attacked(attack, p, answers="radius"):
    """The witness, its passes, and our own radii of the same question."""
    problem = question(p, 1.0 if answers == "radius" else 0.1, 8)
    before = problem.x.clone()
    with meter.measure() as passes:
        witness = bt.foreign(attack, answers=answers)(problem)
    assert torch.equal(before, problem.x) and passes.forward > 8
    return witness, passes


@pytest.mark.parametrize(
    ("name", "p", "options"),
    [
        ("ddn", 2, {"steps": 40}),
        ("fmn", inf, {"norm": inf, "steps": 40}),
        ("fmn", 0, {"norm": 0, "steps": 40}),
        ("alma", 2, {"distance": "l2", "num_steps": 40}),
        ("sigma_zero", 0, {"num_steps": 40}),
        ("vfga", 0, {"targeted": False}),
    ],
)
def test_functions_of_adv_lib(peers, name, p, options):
    attacks = pytest.importorskip("adv_lib.attacks")
    witness, passes = attacked(partial(getattr(attacks, name), **options), p)
    assert bool(witness.found.all()) and passes.backward > 8 and witness.method.endswith(name)
    ours = bt.radius(question(p, 1.0, 8), ends="upper", effort="quick").upper
    assert 0.9 < float((witness.size / ours).median()) < 2


@pytest.mark.parametrize(
    ("name", "p", "answers", "options"),
    [
        ("DDNAttack", 2, "radius", {"steps": 40}),
        ("L1FMNAttack", 1, "radius", {"steps": 60}),
        ("LinfDeepFoolAttack", inf, "radius", {"steps": 20}),
        ("SaltAndPepperNoiseAttack", 0, "radius", {"steps": 20}),
        ("LinfPGD", inf, "margin", {}),
        ("FGSM", inf, "margin", {}),
    ],
)
def test_attacks_of_foolbox(peers, name, p, answers, options):
    foolbox = pytest.importorskip("foolbox")
    witness, _ = attacked(getattr(foolbox.attacks, name)(**options), p, answers)
    assert bool(witness.found.any())
    with pytest.raises(bt.InputError, match="low=0, high=1"):
        bt.foreign(foolbox.attacks.LinfPGD())(question().within(bt.Ball(2, 1.0)))


@pytest.mark.parametrize(
    ("name", "p", "answers", "options"),
    [
        ("PGD", inf, "margin", {"eps": 0.1, "steps": 10}),
        ("APGDT", inf, "margin", {"eps": 0.1, "steps": 10}),
        ("FGSM", inf, "margin", {"eps": 0.1}),
        ("DeepFool", 2, "radius", {"steps": 20}),
        ("MultiAttack", inf, "margin", {}),
    ],
)
def test_attacks_of_torchattacks(peers, name, p, answers, options):
    torchattacks = pytest.importorskip("torchattacks")
    module, asked = question().module, []
    module.register_forward_hook(lambda *_: asked.append(1))
    if name == "MultiAttack":  # holds attacks with references of their own
        attack = torchattacks.MultiAttack([torchattacks.PGD(module, eps=0.1), torchattacks.FGSM(module, eps=0.1)])
    else:
        attack = getattr(torchattacks, name)(module, **options)
    asked.clear()
    witness, passes = attacked(attack, p, answers)
    assert bool(witness.found.any()) and passes.backward > 0
    assert not asked  # the user's own model is not the one that was attacked


@pytest.mark.parametrize(
    ("name", "p", "answers", "options"),
    [
        ("ProjectedGradientDescent", inf, "margin", {"eps": 0.1, "max_iter": 10, "verbose": False}),
        ("FastGradientMethod", inf, "margin", {"eps": 0.1}),
        ("DeepFool", 2, "radius", {"max_iter": 20, "verbose": False}),
        ("HopSkipJump", 2, "radius", {"max_iter": 2, "max_eval": 50, "init_eval": 10, "verbose": False}),
    ],
)
def test_attacks_of_art(peers, name, p, answers, options):
    art = pytest.importorskip("art.attacks.evasion")
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(question().module, nn.CrossEntropyLoss(), (64,), 10, clip_values=(0, 1))
    attack = getattr(art, name)(estimator, **options)
    witness, passes = attacked(attack, p, answers)
    assert bool(witness.found.any()) and attack.estimator is estimator
    assert (passes.backward > 0) != (name == "HopSkipJump")  # steps of attacks inside the attack are counted too
