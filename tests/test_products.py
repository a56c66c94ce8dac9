"""Products of two varying values and the curves beside them: planes hold, touch, and are derived a second time by the checker."""

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from brittle import ops, products
from brittle._checker import planes as checked
from brittle._checker.products import product_intercepts
from brittle._checker.walk import Model, Moving, forward, rows_below
from brittle.bounds.crown import crown
from brittle.bounds.crown_ibp import crown_ibp
from brittle.bounds.ibp import ibp
from brittle.graph import graph_of
from brittle.planes import intercepts, least_area
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import matrix

POSITIVE = ("log", "reciprocal", "sqrt", "rsqrt")
CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "square": torch.square, "log": torch.log, "reciprocal": torch.reciprocal, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt,
}  # fmt: skip


def boxes(count: int = 3000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Intervals of both factors at every place, of every width, and slopes."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(count, 2, generator=generator, dtype=torch.float64)
    centre, width = 8 * draw() - 4, 10 ** (4 * draw() - 3)
    return centre - width / 2, centre + width / 2, 4 * draw() - 2


def inside(low: Tensor, high: Tensor) -> Tensor:
    """Points of every box, corners among them, (k, count, 2)."""
    share = torch.rand(40, *low.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    share = torch.cat([share, ends[:, None].expand(-1, len(low), -1)])
    return torch.minimum(torch.maximum(low + (high - low) * share, low), high)


def gaps(slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    points = inside(low, high)
    return points.prod(-1) - (slope * points).sum(-1)


def test_planes_of_any_slope_hold_and_touch_at_a_corner() -> None:
    low, high, drawn = boxes()
    for slope in (drawn, *products.slopes(low, high)):
        least, most = products.intercepts(slope, low, high)
        gap = gaps(slope, low, high)
        assert (gap >= least).all() and (gap <= most).all()
        assert torch.allclose(gap.amin(0), least, atol=1e-10) and torch.allclose(gap.amax(0), most, atol=1e-10)


def test_planes_of_mccormick_are_exact_at_three_corners() -> None:
    """Every corner but the one opposite to that of the slopes."""
    low, high, _ = boxes()
    corners = inside(low, high)[-4:]
    for side, slope in enumerate(products.slopes(low, high)):
        intercept = products.intercepts(slope, low, high)[side]
        off = (corners.prod(-1) - (slope * corners).sum(-1) - intercept).abs().sort(0).values
        assert off[2].max() < 1e-10
        assert torch.allclose(off[3], (high - low).prod(-1), atol=1e-9)


def test_a_factor_that_stands_still_leaves_a_line() -> None:
    low, high, _ = boxes()
    high[:, 1] = low[:, 1]
    below, above = products.slopes(low, high)
    difference = (products.intercepts(above, low, high)[1] + (above * low).sum(-1)) - (
        products.intercepts(below, low, high)[0] + (below * low).sum(-1)
    )
    assert difference.abs().max() < 1e-10 and torch.equal(below[:, 0], low[:, 1])


def test_the_image_is_attained() -> None:
    low, high, _ = boxes()
    least, most = products.image(low, high)
    values = inside(low, high).prod(-1)
    assert (values >= least).all() and (values <= most).all()
    assert torch.allclose(values.amin(0), least) and torch.allclose(values.amax(0), most)


def test_the_checker_derives_the_same_intercepts() -> None:
    low, high, slope = boxes(seed=3)
    ours = products.intercepts(slope, low, high)
    theirs = product_intercepts(*(v.T.numpy() for v in (slope, low, high)))
    gap = gaps(slope, low, high).numpy()
    assert (gap >= theirs[0]).all() and (gap <= theirs[1]).all()
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a.numpy() - b).max() < 1e-10


@pytest.mark.parametrize("name", CURVES)
def test_curves_hold_touch_and_are_known_to_the_checker(name: str) -> None:
    low, high, slope = (v[:, 0] for v in boxes(seed=4))
    if name in POSITIVE:
        low, high = low.abs().clamp_min(1e-3), low.abs().clamp_min(1e-3) + (high - low)
    function, second = ops.ACTIVATIONS[name]({}), checked.activation(name, ())
    assert second is not None
    share = torch.linspace(0, 1, 129, dtype=torch.float64)[:, None]
    z = torch.minimum(torch.maximum(low + (high - low) * share, low), high)
    for s in (slope, *least_area(function, low, high)):
        gap = CURVES[name](z) - s * z
        scale = 1 + CURVES[name](z).abs().amax(0) + (s * z).abs().amax(0)
        for least, most in (
            intercepts(function, s, low, high),
            [torch.from_numpy(v) for v in checked.intercepts(second, s.numpy(), low.numpy(), high.numpy())],
        ):
            assert (gap >= least).all() and (gap <= most).all()
            assert (gap.amin(0) - least <= 0.02 * scale).all() and (most - gap.amax(0) <= 0.02 * scale).all()


@pytest.mark.parametrize("name", POSITIVE)
def test_an_interval_that_leaves_the_domain_proves_nothing(name: str) -> None:
    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return CURVES[name](x)

    x = torch.tensor([[3.0, 2.0], [0.1, 0.2]], dtype=torch.float64)
    for bound in (ibp, crown_ibp, crown):
        found = bound(Problem(Part(), x, torch.tensor([0, 0]), Ball(inf, 0.5)))
        assert found.rows[0].isfinite().all() and (found.rows[1] == -inf).all()
        assert found.notes[1] and not found.notes[0]


class Gated(nn.Module):
    """A softmax gates values, a quotient scales them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.softmax(self.a(x), 1)
        return torch.log_softmax(self.c(gate * self.b(x) / (1 + self.b(x) ** 2)), -1)


def gated(radius: float) -> Problem:
    module = Gated().double()
    x = torch.rand(3, 5, dtype=torch.float64)
    return Problem(module, x, module(x).argmax(1), Ball(inf, radius))


def worst(problem: Problem, steps: int = 20) -> Tensor:
    """Rows (N, R) at the worst points a sign descent of each row finds, vertices and random points."""
    radius = problem.region["x"].radius
    found = problem.rows().detach()
    for row in range(found.shape[1]):
        x = problem.x.clone()
        for _ in range(steps):
            x.requires_grad_()
            values = rows_at(problem, x)
            (slope,) = torch.autograd.grad(values[:, row].sum(), x)
            x = problem.x + (x.detach() - problem.x - 0.2 * radius * slope.sign()).clamp(-radius, radius)
            found = torch.minimum(found, rows_at(problem, x).detach())
    return found


def rows_at(problem: Problem, x: Tensor) -> Tensor:
    return problem.spec.rows(problem.module(x), problem.labels)


def test_no_attack_goes_below_the_bounds_and_they_close_in() -> None:
    whole = gated(0.3)
    for radius in (0.3, 0.03, 0.003):
        problem = whole.within(Ball(inf, radius))
        reached = worst(problem)
        drop = problem.rows().detach() - reached
        for bound, factor in ((ibp, 25.0), (crown_ibp, 5.0), (crown, 2.0)):
            rows = bound(problem).rows
            assert (rows <= reached).all()
            assert radius > 0.1 or (problem.rows() - rows <= factor * drop + 1e-9).all(), (bound.__name__, radius)
    assert ((problem.rows() - crown(problem).rows) <= 1.03 * drop).all()  # second order in the radius


def replayed(problem: Problem, i: int = 0) -> tuple[Tensor, np.ndarray]:
    """(rows of crown, rows that the checker proves from its slopes) of one example."""
    found, model = crown(problem), Model(graph_of(problem))
    rows, offsets = matrix(problem.spec, problem.labels, model.graph.by_name[model.graph.output].shape[0])
    proof = {name: value[i].numpy() for name, value in found.proof.items()}
    ball = Moving(problem.x[i].reshape(-1).numpy(), inf, problem.region["x"].radius)
    return found.rows[i], rows_below(model, {"x": ball}, {}, proof, rows[:, i].numpy(), offsets[:, i].numpy())


def test_the_checker_evaluates_the_function_and_the_proof() -> None:
    problem = gated(0.05)
    model = Model(graph_of(problem))
    assert np.allclose(forward(model, {"x": problem.x[0].numpy()}), problem.module(problem.x)[0].detach().numpy())
    ours, theirs = replayed(problem)
    assert np.allclose(ours.numpy(), theirs, atol=1e-6)


RIGHT = products.intercepts
MUTANTS = {
    "sign of the product": lambda slope, low, high: tuple(-v for v in RIGHT(-slope, low, high)[::-1]),
    "sign of a slope": lambda slope, low, high: RIGHT(slope * torch.tensor([1.0, -1.0]), low, high),
    "slopes exchanged": lambda slope, low, high: RIGHT(slope.flip(1), low, high),
    "planes swapped": lambda slope, low, high: RIGHT(slope, low, high)[::-1],
    "two corners": lambda slope, low, high: RIGHT(slope, (low + high) / 2, high),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_plane_is_seen(mutant: str) -> None:
    low, high, slope = boxes(300)
    least, most = MUTANTS[mutant](slope, low, high)
    gap = gaps(slope, low, high)
    assert not ((gap >= least).all() and (gap <= most).all())


@pytest.mark.parametrize("mutant", ["planes swapped", "two corners"])
def test_a_wrong_plane_is_seen_by_the_checker(mutant: str, monkeypatch) -> None:
    problem = gated(0.05)
    monkeypatch.setattr(products, "intercepts", lambda slope, low, high: MUTANTS[mutant](slope, low, high))
    ours, theirs = replayed(problem)
    assert not (ours.numpy() <= theirs + 1e-6).all()
