"""A batch too large for one pass is split by shapes alone: the same numbers, the same count of passes, less memory."""

import pytest
import torch

import brittle as bt
from brittle import meter
from brittle import problem as module_under_test
from zoo import CASES


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
@pytest.mark.parametrize("leaf", ["x", "parameter"])
def test_splitting_a_pass_changes_nothing(case, leaf, monkeypatch):
    module, x, labels = case.make()
    leaf = leaf if leaf == "x" else next(name for name, _ in module.named_parameters())
    problem = bt.Problem(module, x, labels, {leaf: bt.Ball(2, 1.0)})
    weights = torch.linspace(0.5, 2.0, len(problem))
    objective = lambda rows: (
        (rows * weights[:, None]).square().sum(1)
    )  # knows the whole batch, like the rival of each run
    answers = []
    for numbers in (2**21, 1):
        monkeypatch.setattr(module_under_test, "NUMBERS", numbers)
        with meter.measure() as passes:
            rows, gradient = problem.gradient(problem.centre, objective)
            _, margin_gradient = problem.gradient(problem.centre)
            with torch.no_grad():
                logits = problem.logits(problem.centre)
        answers.append((rows, gradient[leaf], margin_gradient[leaf], logits))
        assert (passes.forward, passes.backward) == (3 * len(problem), 2 * len(problem))
    for whole, split in zip(*answers):
        assert torch.allclose(whole, split, rtol=1e-5, atol=1e-6)


def test_no_pass_is_wider_than_its_limit(monkeypatch):
    seen = []

    def narrow(x):
        seen.append(len(x))
        return torch.stack([x.sum(1), -x.sum(1)], 1)

    problem = bt.Problem(narrow, torch.ones(10, 4), torch.zeros(10, dtype=torch.long), bt.Ball(2, 1.0))
    monkeypatch.setattr(module_under_test, "NUMBERS", 12)
    seen.clear()
    problem.gradient(problem.centre)
    problem.margin(problem.centre)
    assert seen == [3, 3, 3, 1] * 2


def test_construction_is_split_too(monkeypatch):
    monkeypatch.setattr(module_under_test, "NUMBERS", 1)
    module, x, labels = CASES[2].make()
    with meter.measure() as passes:
        problem = bt.Problem(module, x, labels)
    assert passes.forward == len(x) and problem.spec == bt.Untargeted()
