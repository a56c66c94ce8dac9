"""Both ends of the radius beside exact optima: on affine networks certified <= exact <= attacked, and they meet."""

from math import inf

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle.discovery import method
from reference.exact_optima import affine
from reference.regions import radius

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


def specified() -> list:
    """Every specification in every norm with a range, and without one by turns; the others are slow."""
    slow = lambda i, j, bounded: [] if bounded or (i + j) % 4 == 0 else [pytest.mark.slow]
    return [
        pytest.param(kind, p, bounded, marks=slow(i, j, bounded))
        for i, kind in enumerate(SPECIFICATIONS)
        for j, p in enumerate((0, 1, 2, inf))
        for bounded in (True, False)
    ]


@pytest.mark.parametrize(("kind", "p", "bounded"), specified())
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


def tiny(p: float, seed: int = 5) -> tuple[bt.Problem, Tensor]:
    """A 3-4-3 ReLU network whose units all switch inside the range, and its exact radii over all 16 patterns."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight.copy_(draw(*layer.weight.shape))
        module[0].bias.copy_(0.3 * draw(4) - module[0].weight.sum(1) / 2)
        x = torch.rand(40, 3, generator=generator, dtype=torch.float64)
        module[2].bias.zero_().sub_(module(x).mean(0))
        x, labels = x[:3], module(x[:3]).argmax(1)
    exact = [radius(module, one, int(k), p, 0.0, 1.0) for one, k in zip(x, labels, strict=True)]
    return bt.Problem(module, x, labels, bt.Ball(p=p, radius=1.0, low=0, high=1)), torch.tensor(
        exact, dtype=torch.float64
    )


@pytest.mark.parametrize("effort", ["quick", pytest.param("standard", marks=pytest.mark.slow)])
@pytest.mark.parametrize("p", [1, 2, inf])
def test_tiny_relu_networks_by_enumeration(p: float, effort: str) -> None:
    problem, exact = tiny(p)
    answer = bt.radius(problem, effort=effort)
    assert bool((answer.lower <= exact * (1 + 1e-9)).all()), (answer.lower, exact)
    assert bool((answer.upper >= exact * (1 - 1e-9)).all()), (answer.upper, exact)
    assert bool((answer.lower > 0).all()) and bool(answer.upper.isfinite().all())
