"""Every health check passes on healthy models and fires on the models broken for it."""

import io
import random
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

import brittle as bt
import broken
import zoo
from brittle.about import About
from brittle.checks.input_range import sign_test
from brittle.digest import state_digest
from brittle.discovery import Method, methods
from brittle.health import CONSEQUENCES, Health, after, doctor
from brittle.problem import Problem
from brittle.region import Ball
from brittle.results import Ends, Finding

BEFORE = [m for m in methods("checks") if m.about.answers == "before"]
AFTER = [m for m in methods("checks") if m.about.answers == "after"]


def region(case) -> Ball:
    return Ball(p=2, radius=1.0, low=case.low, high=case.high)


@cache
def digits():
    """An MLP trained for a moment on scikit-learn's digits: 0..1 inputs, over 90 % accuracy."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x[:1200]), y[:1200]).backward()
        optimiser.step()
    return module.eval(), x[1200:], y[1200:]


@pytest.fixture(scope="module", autouse=True)
def trained_once():
    digits()


def assert_well_formed(finding: Finding) -> None:
    assert finding.consequence in CONSEQUENCES
    grave = finding.consequence in ("warn", "invalid", "stop")  # a note may raise a doubt about single examples
    assert finding.doubt is not None if grave else finding.doubt is None or finding.consequence == "note"
    assert finding.note.endswith(".") and finding.title and finding.name
    for text in (finding.doubt, finding.note):
        assert text is None or (text[0].isupper() or text[0] in "0123456789'") and text.endswith(".")
    assert finding.doubt is None or any(
        mark in finding.doubt for mark in ("; ", ": ", ", so ")
    )  # what is wrong; what to do
    assert Finding.of(finding.facts()).facts() == finding.facts()


@pytest.mark.parametrize("case", broken.BROKEN, ids=lambda c: c.name)
def test_a_broken_model_is_recognised(case):
    module, x, labels = case.make()
    state = random.getstate(), torch.get_rng_state()
    health = doctor(module, x, labels, region=region(case))
    assert torch.equal(torch.get_rng_state(), state[1])
    got = {f.name: f.consequence for f in health.findings}
    assert {name: got.get(name) for name in case.expected} == case.expected
    false_alarms = {n: c for n, c in got.items() if n not in case.expected and c not in ("none", "note")}
    assert not false_alarms
    for finding in health.findings:
        assert_well_formed(finding)
    assert len(health.doubts) == sum(c in ("warn", "invalid", "stop") for c in got.values())


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)
def test_a_healthy_model_raises_no_alarm(case, bounded):
    module, x, labels = case.make()
    health = doctor(module, x, labels, region=region(case) if bounded else None)
    assert health.verdict == "ok", health
    assert {f.name for f in health.findings} == {m.name for m in BEFORE}


@pytest.mark.parametrize(
    "ball", [Ball(p=2, radius=1.0, low=0, high=1), {"0.weight": Ball(p=torch.inf, radius=0.01)}, None], ids=str
)
def test_digits_raise_no_alarm(ball):
    module, x, labels = digits()
    assert doctor(module, x, labels, region=ball).verdict == "ok"


def test_the_control_of_the_broken_zoo_is_healthy():
    assert doctor(*broken.healthy()).verdict == "ok"


@pytest.mark.parametrize(
    "make, remedy",
    [
        (broken.bytes_as_inputs, "divided by 255"),
        (broken.normalised_twice, "normalisation of ImageNet undone"),
        (broken.normalisation_forgotten, "normalised with the constants of"),
        (broken.labels_off_by_one, "add -1 to every label"),
        (broken.labels_from_one, "subtract 1"),
        (broken.softmax_output, "leave out the final softmax"),
        (broken.copies_wrongly, "wrap it in a function"),
    ],
)
def test_the_remedy_is_named(make, remedy):
    assert remedy in doctor(*make()).doubts[0]


@pytest.mark.parametrize("check", BEFORE, ids=lambda m: m.name)
@pytest.mark.parametrize("case", [*zoo.CASES, "digits"], ids=lambda c: getattr(c, "name", c))
def test_conformance(case, check):
    module, x, labels = digits() if case == "digits" else case.make()
    problem = Problem(module, x[:64], labels[:64], Ball(p=2, radius=1.0))
    before, started = state_digest(module), time.perf_counter()
    finding = check.function(problem, seed=3)
    assert time.perf_counter() - started < 2
    assert finding.name == check.name
    assert_well_formed(finding)
    assert state_digest(module) == before
    assert finding.facts() == check.function(problem, seed=3).facts()  # the seed alone decides
    assert check.about.cost and check.about.reference and check.about.promise.startswith(("H", "A13"))


def test_a_check_that_raises_becomes_a_warning(monkeypatch):
    import brittle.checks.precision as victim

    def precision(problem, *, seed=0):
        raise KeyError("lost")

    monkeypatch.setattr(victim, "precision", precision)
    finding = next(f for f in doctor(*broken.healthy()).findings if f.name == "precision")
    assert finding.consequence == "warn" and "KeyError" in finding.doubt
    assert_well_formed(finding)


def test_a_check_of_another_package_takes_part(monkeypatch):
    import brittle.health as health

    class Foreign:
        def function(self, problem, *, seed=0):
            return Finding("foreign", "a foreign check", note="All is well.")

        name, about = "foreign", About("promise", "reference", answers="before")

    monkeypatch.setattr(health, "methods", lambda family: (*methods(family), Foreign()))
    assert isinstance(BEFORE[0], Method)
    assert "foreign" in {f.name for f in doctor(*broken.healthy()).findings}


@pytest.mark.parametrize(
    "module, x, labels",
    [
        (broken.body(), torch.full((4, 8), torch.nan), torch.zeros(4)),
        (broken.body(), torch.rand(0, 8), torch.zeros(0)),
        (broken.body(), torch.rand(4, 8), torch.zeros(3)),
        (broken.body(), torch.rand(4, 8), torch.full((4,), 0.5)),
        (broken.body(), torch.rand(4, 8), None),
        (broken.body(), "text", torch.zeros(4)),
        (broken.body(), torch.rand(4, 9), torch.zeros(4)),
        ("no model", torch.rand(4, 8), torch.zeros(4)),
    ],
)
def test_bad_input_is_a_finding_and_no_traceback(module, x, labels):
    health = doctor(module, x, labels)
    assert health.verdict == "stop" and len(health.doubts) == 1
    assert_well_formed(health.findings[0])


def test_a_label_out_of_range_beyond_the_subset_is_seen():
    module, x, labels = broken.labelled(broken.body(), broken.data(600))
    for i in range(0, 600, 7):
        spoiled = labels.clone()
        spoiled[i] = 4
        assert doctor(module, x, spoiled).verdict == "stop"
        if i > 30:
            break


def test_health_is_readable_and_survives_a_record():
    from rich.console import Console

    health = doctor(*broken.softmax_output())
    assert "doubtful" in repr(health) and health.worst == "warn"
    assert Health.of(health.facts()).facts() == health.facts()
    console = Console(width=160, file=io.StringIO())
    console.print(health)
    assert "Health: doubtful" in console.file.getvalue() and "softmax" in console.file.getvalue()
    assert bt.doctor is doctor


def test_the_sign_test_is_the_binomial_tail():
    from scipy.stats import binomtest

    for gained, lost in [(0, 0), (5, 0), (7, 3), (2, 9)]:
        expected = binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
        assert sign_test(gained, lost) == pytest.approx(expected)


# ---- after a measurement -------------------------------------------------------------------------------------------


def measured() -> tuple[Problem, bt.Bracket]:
    """The affine plane with its exact radii 0.4, 0.4 and 0.2 as both ends, and the nearest boundary points (a hair beyond)."""
    module, x, labels = zoo.affine()
    problem = Problem(module, x, labels, Ball(p=2, radius=1.0))
    margin = problem.margin(problem.centre).double()
    normal = torch.tensor([[3.0, -4.0]]).double() / 5 * torch.tensor([[-1.0], [1.0], [-1.0]])
    point = x.double() + normal * (margin / 5 * (1 + 1e-5))[:, None]
    witness = problem.witness({"x": point.float()}, "by hand")
    assert bool(witness.found.all())
    three = ("by hand",) * 3
    bracket = bt.Bracket(
        "radius", margin / 5 * 0.999, witness.size, Ends(("proved",) * 3, ("witnessed",) * 3), ("ok",) * 3, Ends(three, three),
        witness=witness,
    )  # fmt: skip
    return problem, bracket


def verdicts(problem: Problem, bracket: bt.Bracket) -> dict[str, str]:
    findings = after(problem, bracket, seed=1)
    for finding in findings:
        assert_well_formed(finding)
    assert {f.name for f in findings} == {m.name for m in AFTER}
    return {f.name: f.consequence for f in findings if f.consequence not in ("none", "note")}


def test_a_sound_measurement_raises_no_alarm_but_that_three_are_few():
    assert verdicts(*measured()) == {"sample_size": "warn"}


def test_a_point_larger_than_claimed_is_invalid():
    problem, bracket = measured()
    short = replace(bracket, lower=bracket.lower / 2, upper=bracket.upper * (1 - 1e-5))
    assert verdicts(problem, short)["feasibility"] == "invalid"
    assert "feasibility" not in verdicts(problem, replace(bracket, upper=bracket.upper * (1 - 1e-8)))


def test_a_point_outside_the_range_is_invalid():
    problem, bracket = measured()
    assert verdicts(problem.within(Ball(p=2, radius=1.0, low=0, high=1.0)), bracket)["feasibility"] == "invalid"


def test_a_point_that_does_not_fail_again_is_invalid():
    problem, bracket = measured()
    point = {"x": torch.cat([bracket.witness.point["x"][:2], problem.x[2:]])}
    assert verdicts(problem, replace(bracket, witness=replace(bracket.witness, point=point)))["replay"] == "invalid"


def test_a_misclassified_example_with_credit_is_invalid():
    problem, bracket = measured()
    wrong = Problem(problem.module, problem.x, torch.tensor([0, 1, 1]), problem.region)
    assert verdicts(wrong, bracket)["counts"] == "invalid"


def test_a_search_that_comes_back_with_nothing_is_doubted_unless_a_range_may_explain_it():
    problem, bracket = measured()
    nothing = replace(bracket.witness, found=torch.zeros(3, dtype=torch.bool), status=("none",) * 3)
    empty = replace(bracket, upper=torch.full((3,), torch.inf).double(), witness=nothing)
    assert verdicts(problem, empty)["counts"] == "warn"
    assert "counts" not in verdicts(problem.within(Ball(p=2, radius=1.0, low=-5, high=5)), empty)


def test_noise_that_beats_the_attack_is_found():
    problem, bracket = measured()
    weak = replace(bracket, upper=bracket.upper * 3, witness=replace(bracket.witness, size=bracket.witness.size * 3))
    assert verdicts(problem, weak)["noise_against_attack"] == "invalid"
    one = replace(bracket, upper=bracket.upper * torch.tensor([3.0, 1.0, 1.0]))
    assert verdicts(problem, one)["noise_against_attack"] == "warn"


def test_data_of_another_class_refute_both_ends():
    problem, bracket = measured()
    gap = float((problem.x[1] - problem.x[2]).norm())  # example 1 has the other class
    far = torch.tensor([0.1, 0.1, 1.001 * gap]).double()
    assert (
        verdicts(problem, replace(bracket, lower=far / 2, upper=torch.maximum(bracket.upper, far)))["nearest_other"]
        == "warn"
    )
    assert verdicts(problem, replace(bracket, lower=far, upper=far.clamp_min(2)))["nearest_other"] == "stop"
    near = torch.tensor([0.1, 0.1, 0.999 * gap]).double()
    assert "nearest_other" not in verdicts(problem, replace(bracket, lower=near / 2, upper=near))


def test_enough_examples_are_enough():
    from brittle.checks.sample_size import sample_size

    problem, bracket = measured()
    for count, consequence in [(3, "warn"), (12, "warn"), (20, "note"), (100, "note"), (500, "none")]:
        module, x, labels = zoo.affine()
        many = Problem(
            module,
            x[:1] + torch.arange(count)[:, None] * torch.tensor([[1e-3, 0.0]]),
            labels[:1].repeat(count),
            problem.region,
        )
        assert sample_size(many, bracket).consequence == consequence


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda c: c.name)
@pytest.mark.parametrize("question", [bt.radius, bt.margin, bt.accuracy])
def test_checks_afterwards_understand_every_answer(case, question):
    module, x, labels = case.make()
    problem = Problem(module, x, labels, region(case))
    findings = after(problem, question(problem, effort="quick"))
    assert not [f.note for f in findings if "could not run" in f.title]
    worst = {f.name: f.consequence for f in findings if f.consequence in ("invalid", "stop")}
    assert worst.keys() <= {"noise_against_attack"}  # an attack in a hurry may be beaten, and is then told so


def test_an_accuracy_no_better_than_a_constant_answer_says_so() -> None:
    model = nn.Linear(1, 1).eval()
    with torch.no_grad():
        model.weight.fill_(1.0), model.bias.fill_(0.0)
    x = torch.linspace(-1, 1, 16)[:, None]
    labels = torch.tensor([0, 1] * 8)
    found = {f.name: f for f in doctor(model, x, labels).findings}
    assert found["clean_accuracy"].note.endswith("these examples cannot tell the model from always answering it.")
    assert found["labels"].value.startswith("1 output, ")
