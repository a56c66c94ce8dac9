"""Both ends of the radius beside exact optima: on affine networks certified <= exact <= attacked, and they meet."""

from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.discovery import method
from reference.exact_optima import affine

SPECIFICATIONS = {
    "untargeted": (4, None),
    "targeted": (4, bt.Targeted(1)),
    "top-2": (4, bt.TopK(2)),
    "two-class": (2, None),
    "one-logit": (1, None),
}


def problem_of(kind: str, p: float, bounded: bool) -> bt.Problem:
    outputs, spec = SPECIFICATIONS[kind]
    generator = torch.Generator().manual_seed(3)
    module = nn.Linear(5, outputs).double()
    with torch.no_grad():
        module.weight.copy_(torch.randn(outputs, 5, generator=generator))
        x = torch.rand(4, 5, generator=generator, dtype=torch.float64)
        module.bias.copy_(0.1 * torch.randn(outputs, generator=generator) - module.weight.sum(1) / 2)
        logits = module(x)
    labels = (logits[:, 0] > 0).long() if outputs == 1 else logits.argmax(1)
    right = labels != 1 if kind == "targeted" else torch.ones(4, dtype=torch.bool)
    ball = bt.Ball(p=p, radius=1.0, low=0 if bounded else None, high=1 if bounded else None)
    return bt.Problem(module, x[right], labels[right], ball, spec)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("p", [0, 1, 2, inf])
@pytest.mark.parametrize("kind", SPECIFICATIONS)
def test_affine_networks_in_closed_form(kind: str, p: float, bounded: bool) -> None:
    """Both ends at quick. Its attack aims a little beyond the boundary and shortens along the ray: beside the optimum where a range binds."""
    problem = problem_of(kind, p, bounded)
    exact = torch.tensor(affine(problem), dtype=torch.float64)
    answer = bt.radius(problem, effort="quick")
    assert bool((answer.lower <= exact * (1 + 1e-9)).all()), (answer.lower, exact)
    assert bool((answer.upper >= exact * (1 - 1e-9)).all()), (answer.upper, exact)
    if (
        kind == "top-2"
    ):  # several rows fail together: the row that is followed changes, and the certificate takes each row by itself
        return
    same = exact.isfinite()
    torch.testing.assert_close(answer.upper[same], exact[same], rtol=1e-3, atol=0)  # 2.4e-4 measured
    assert p == 0 or bool((answer.lower >= 0.95 * exact)[same].all())
    polished = method("attacks", "multistart")(problem, restarts=0, steps=1, polishing=2).size
    torch.testing.assert_close(polished[same], exact[same], rtol=1e-9, atol=0)
