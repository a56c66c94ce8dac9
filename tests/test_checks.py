"""Every health check passes on healthy models and fires on the models broken for it."""

import io
import random
import sys
import time
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
from brittle.health import CONSEQUENCES, Health, doctor
from brittle.problem import Problem
from brittle.region import Ball
from brittle.results import Finding

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
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x[:1200]), y[:1200]).backward()
        optimiser.step()
    return module.eval(), x[1200:], y[1200:]


def assert_well_formed(finding: Finding) -> None:
    assert finding.consequence in CONSEQUENCES
    assert (finding.doubt is not None) == (finding.consequence in ("warn", "invalid", "stop"))
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


def test_digits_raise_no_alarm_and_the_control_of_the_broken_zoo_neither():
    module, x, labels = digits()
    for ball in (Ball(p=2, radius=1.0, low=0, high=1), {"0.weight": Ball(p=torch.inf, radius=0.01)}, None):
        assert doctor(module, x, labels, region=ball).verdict == "ok"
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
    assert check.about.cost and check.about.reference and check.about.promise.startswith("H")


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
