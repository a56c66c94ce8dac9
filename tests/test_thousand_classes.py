"""Both ends of the radius on a model of 1000 classes, beside closed forms; one-logit and two-class models are in test_exact_optima."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle.spec import matrix

CLASSES = 1000


def problem_of(p: float, spec: object = None) -> bt.Problem:
    g = torch.Generator().manual_seed(1)
    module = nn.Linear(8, CLASSES).double()
    with torch.no_grad():
        module.weight.copy_(torch.randn(CLASSES, 8, generator=g))
        module.bias.copy_(0.1 * torch.randn(CLASSES, generator=g) - module.weight.sum(1) / 2)
        x = torch.rand(2, 8, generator=g, dtype=torch.float64)
    low, high = (0, 1) if p == 0 else (None, None)
    return bt.Problem(module, x, module(x).argmax(1), bt.Ball(p=p, radius=1.0, low=low, high=high), spec)  # type: ignore[arg-type]


def exact(problem: bt.Problem) -> Tensor:
    """The nearest of 999 half-spaces: margin over dual norm; for p = 0 the fewest largest gains that reach the margin."""
    module, x, p = problem.network.double, problem.x.double(), problem.region["x"].p
    weight, logits = module.weight.detach(), module(x).detach()  # type: ignore[union-attr]
    own = nn.functional.one_hot(problem.labels, CLASSES).bool()
    slope = weight[problem.labels][:, None] - weight
    margin = (logits[own][:, None] - logits).masked_fill(own, inf)
    if p:
        dual = {1: inf, 2: 2, inf: 1}[p]
        return (margin / slope.norm(p=dual, dim=-1).masked_fill(own, 1)).amin(1)
    gains = (slope.abs() * torch.where(slope > 0, x[:, None], 1 - x[:, None])).sort(-1, descending=True).values
    return ((gains.cumsum(-1) < margin[..., None]).sum(-1) + 1).amin(1).double()


@pytest.mark.parametrize("p", [0, 1, 2, inf])
def test_nearest_of_999_rivals(p: float) -> None:
    problem = problem_of(p)
    answer, best = bt.radius(problem, effort="quick"), exact(problem)
    assert bool((answer.lower <= best * (1 + 1e-9)).all() and (answer.lower >= 0.9 * best).all()), answer.lower / best
    assert bool((answer.upper >= best * (1 - 1e-9)).all() and (answer.upper <= 1.01 * best).all()), answer.upper / best


def test_a_thousand_classes_behind_relu_units() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, CLASSES))
    x = torch.rand(2, 16)
    problem = bt.Problem(module, x, module(x).argmax(1), bt.Ball(p=inf, radius=1.0, low=0, high=1))
    answer = bt.radius(problem, effort="quick")
    assert bool((0 < answer.lower).all() and (answer.lower <= answer.upper).all() and answer.witness.found.all())  # type: ignore[union-attr]
    assert bool((answer.upper / answer.lower < 1.5).all()), answer


@pytest.mark.parametrize("spec", [bt.TopK(2), bt.Targeted(torch.tensor([7, 999])), None])
def test_the_matrix_of_a_thousand_classes_is_read_off_in_pieces(spec: object, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(2, spec)
    whole, offsets = matrix(problem.spec, problem.labels, CLASSES)
    logits = torch.randn(2, CLASSES, dtype=torch.float64)
    torch.testing.assert_close((whole * logits).sum(-1) + offsets, problem.spec.rows(logits, problem.labels).T)
    monkeypatch.setattr("brittle.spec.PIECE", 2 * CLASSES * 300)
    assert torch.equal(matrix(problem.spec, problem.labels, CLASSES)[0], whole)
