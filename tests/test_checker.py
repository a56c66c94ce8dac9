"""The NumPy checker: its support function, planes and rows against brute force, and against the bounds it judges."""

from fractions import Fraction
from math import inf

import numpy as np
import pytest
import torch
from torch import nn

from brittle._checker import planes
from brittle._checker.affine import Unknown
from brittle._checker.cuts import Cut
from brittle._checker.pooling import pool_intercepts
from brittle._checker.support import rooms, support
from brittle._checker.walk import Model, Moving, forward, rows_below
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.graph import graph_of
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import matrix
from zoo import CASES

rng = np.random.default_rng(0)
ACTIVATIONS = [("relu", ()), ("leaky_relu", (0.1,)), ("hardtanh", (0.0, 6.0)), ("tanh", ()), ("sigmoid", ())]


def pieces(case, ball):
    module, x, labels = case.make()
    problem = Problem(module, x, labels, ball)
    coefficients, offsets = (v.numpy() for v in matrix(problem.spec, problem.labels, problem.clean_logits().shape[1]))
    return problem, Model(graph_of(problem)), coefficients, offsets


def moving(problem, i, scale=1.0):
    ball = problem.region["x"]
    low, high = (-inf if ball.low is None else ball.low), (inf if ball.high is None else ball.high)
    return {"x": Moving(problem.x[i].double().numpy().reshape(-1), ball.p, ball.radius * scale, low, high)}


def samples(ball: Moving, count=400):
    """Points of the region: many at its surface, single coordinates first."""
    v = rng.normal(size=(count, len(ball.centre))) ** 3
    v[: count // 2] *= rng.random((count // 2, len(ball.centre))) < 1.5 / len(ball.centre)
    length = np.maximum(np.linalg.norm(v, ball.p, axis=1), 1e-12)
    return np.clip(ball.centre + v * (ball.radius / length)[:, None], ball.low, ball.high)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_support_is_tight_on_balls_and_never_below_any_point(p):
    for _ in range(20):
        a, radius = rng.normal(size=(3, 4)), rng.random() * 2
        free = support(a, p, radius, np.full(4, inf), np.full(4, inf))
        dual = {1: inf, 2: 2, inf: 1}[p]
        assert np.allclose(free, radius * np.linalg.norm(a, dual, axis=1), rtol=1e-13)
        ball = Moving(rng.random(4), p, radius, 0.0, 1.0)
        cut = support(a, p, radius, *rooms(ball.centre, 0.0, 1.0))
        values = (samples(ball, 2000) - ball.centre) @ a.T
        assert (values <= cut).all() and (cut <= free * (1 + 1e-13)).all()


def test_support_with_a_range_by_hand():
    a, down, up = np.array([[3.0, 4.0]]), np.ones(2), np.array([1.0, 0.6])
    assert support(a, 2, 1.0, down, up)[0] == pytest.approx(3 * 0.8 + 4 * 0.6, rel=1e-12)
    assert support(a, 1, 1.0, down, up)[0] == pytest.approx(4 * 0.6 + 3 * 0.4, rel=1e-12)
    assert support(a, inf, 0.7, down, up)[0] == pytest.approx(3 * 0.7 + 4 * 0.6, rel=1e-12)
    assert support(a, 0, 1.0, down, up)[0] == pytest.approx(3.0, rel=1e-12)
    assert support(a, 0, 2.0, down, up)[0] == pytest.approx(5.4, rel=1e-12)
    assert support(np.array([[1.0, 2.0, 3.0, 4.0]]), 0, 1.0, np.ones(4), np.ones(4), channels=2)[0] == pytest.approx(
        6.0
    )


@pytest.mark.parametrize(("op", "parameters"), ACTIVATIONS)
def test_intercepts_are_the_extremes_over_the_interval(op, parameters):
    f = planes.activation(op, parameters)
    low = rng.normal(size=200) * 4
    high = low + rng.random(200) * 6
    slope = np.concatenate(
        [rng.normal(size=100), rng.random(50) * 0.25, rng.random(40), [0, 0, 1, 1, 0.25, 0.1, 1e-300, -1, 2, 0.5]]
    )
    least, most = planes.intercepts(f, slope, low, high)
    grid = low + (high - low) * np.linspace(0, 1, 4001)[:, None]
    gap = f.value(grid) - slope * grid
    assert (least <= gap.min(0)).all() and (most >= gap.max(0)).all()
    assert (least >= gap.min(0) - 5e-3).all() and (most <= gap.max(0) + 5e-3).all()


@pytest.mark.parametrize(("op", "point"), [("tanh", 0.7), ("sigmoid", -1.3)])
def test_a_tangent_touches_between_the_ends(op, point):
    """At the touching point the slack is zero: leaving it out, or solving for another slope, breaks this."""
    f = planes.activation(op, ())
    value = f.value(np.array([point]))
    slope = 1 - value**2 if op == "tanh" else value * (1 - value)
    side = np.array([0.0, 2.0]) if point > 0 else np.array([-2.0, 0.0])
    least, most = planes.intercepts(f, slope, side[:1], side[1:])
    touch = (value - slope * point).item()
    assert (most if point > 0 else least).item() == pytest.approx(touch, abs=1e-13)


@pytest.mark.parametrize("change", ["no touching points", "no kinks", "one end"])
def test_a_broken_intercept_is_caught(change, monkeypatch):
    """Mutants of the intercept: the law above must see each of them."""
    honest = planes.intercepts

    def broken(f, slope, low, high):
        if change == "one end":
            return honest(f, slope, low, low)
        gone = planes.Activation(
            f.value, () if change == "no kinks" else f.kinks, (lambda s: []) if "touch" in change else f.touching
        )
        return honest(gone, slope, low, high)

    monkeypatch.setattr(planes, "intercepts", broken)
    with pytest.raises(AssertionError):
        for op, parameters in ACTIVATIONS:
            test_intercepts_are_the_extremes_over_the_interval(op, parameters)


def test_pool_planes_hold_for_any_slopes():
    low = rng.normal(size=(50, 4))
    high = low + rng.random((50, 4)) * 3
    lower, upper = rng.normal(size=(2, 50, 4)) * 0.7
    least, most = pool_intercepts(lower, upper, low, high)
    corners = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T
    x = low[None] + (high - low)[None] * np.concatenate([corners[:, None].repeat(50, 1), rng.random((200, 50, 4))])
    top = x.max(2)
    assert (top >= (lower * x).sum(2) + least).all() and (top <= (upper * x).sum(2) + most).all()
    assert ((upper * x).sum(2) + most - top).min(0).max() < 1e-12  # exact: some corner touches


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_the_checker_computes_the_function_of_the_module(case):
    problem, model, _, _ = pieces(case, Ball(p=2, radius=0.1))
    own = np.stack([forward(model, {"x": x.double().numpy()}) for x in problem.x])
    assert np.allclose(own, problem.double().clean_logits().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_rows_agree_with_the_bounds_and_hold_at_every_sample(case, p):
    problem, model, coefficients, offsets = pieces(case, Ball(p=p, radius=0.1, low=case.low, high=case.high))
    for bound in (crown, ibp):
        certificate = bound(problem)
        for i in range(min(2, len(problem))):
            proof = {k: v[i].numpy() for k, v in certificate.proof.items()}
            leaves = moving(problem, i)
            own = rows_below(model, leaves, {}, proof, coefficients[:, i], offsets[:, i])
            stated = certificate.rows[i].numpy()
            assert (own >= stated - 1e-9 * (1 + abs(stated))).all()
            if bound is crown:
                assert np.allclose(own, stated, rtol=1e-9, atol=1e-10)
            for point in samples(leaves["x"], 60):
                value = coefficients[:, i] @ forward(model, {"x": point}) + offsets[:, i]
                assert (value >= own).all()


@pytest.mark.parametrize("case", CASES[1:], ids=lambda c: c.name)
def test_wild_slopes_may_lose_a_proof_and_never_make_a_false_one(case):
    problem, model, coefficients, offsets = pieces(case, Ball(p=inf, radius=0.2, low=case.low, high=case.high))
    for _ in range(3):
        proof = {k: rng.normal(size=v[0].shape) * 1.5 for k, v in crown(problem).proof.items()}
        leaves = moving(problem, 0)
        own = rows_below(model, leaves, {}, proof, coefficients[:, 0], offsets[:, 0])
        values = [
            coefficients[:, 0] @ forward(model, {"x": point}) + offsets[:, 0] for point in samples(leaves["x"], 60)
        ]
        assert (np.min(values, 0) >= own).all()


def hinge() -> tuple[Model, dict[str, Moving], np.ndarray, np.ndarray]:
    """Rows ``1 - relu(2 y) / 10`` and ``1 - 10 relu(2 x)`` on the box of radius 1 / 2: .9, and -9 at its worst."""
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3)).double()
    with torch.no_grad():
        module[0].weight.copy_(2 * torch.eye(2))
        module[0].bias.zero_()
        module[2].weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.1], [10.0, 0.0]]))
        module[2].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    asked = Problem(module, torch.zeros(1, 2).double(), torch.tensor([0]), Ball(p=inf, radius=0.5))
    coefficients, offsets = (v[:, 0].numpy() for v in matrix(asked.spec, asked.labels, 3))
    return Model(graph_of(asked)), moving(asked, 0), coefficients, offsets


@pytest.mark.parametrize("slope", [1e307, 1e308, -1e308, 1.7e308])
def test_a_row_that_overflows_is_not_passed_over(slope: float) -> None:
    """Not a number sorts last: it must not leave the other row as the least one."""
    model, leaves, coefficients, offsets = hinge()
    proof = {f"relu.{side}_slope": np.array([slope, 0.5]) for side in ("lower", "upper")}
    below = rows_below(model, leaves, {}, proof, coefficients, offsets)
    assert not np.isnan(below).any() and np.sort(below)[0] <= -9


def test_a_leaf_that_overflows_is_not_passed_over() -> None:
    model, leaves, coefficients, offsets = hinge()
    for size in (0.0, 1e307, 1.7e308):
        tree = {
            "tree.rows": np.array([2, 2]),
            "tree.units": np.array([[-1], [1]]),
            "tree.multipliers": np.array([[0.0], [size]]),
            "tree.last": np.zeros(2),
            "tree.slopes": np.zeros((2, 2), dtype=np.uint8),
        }
        assert rows_below(model, leaves, {}, tree, coefficients, offsets)[1] <= -9


def test_one_unit_is_exact_where_the_slack_is_zero():
    """relu(x) - 1 at x = 3: the distance is 2. A ball a thousandth larger is not provable, by any slope."""
    problem, model, coefficients, offsets = pieces(CASES[1], Ball(p=2, radius=2.0))
    proof = {k: v[0].numpy() for k, v in crown(problem).proof.items()}
    assert rows_below(model, moving(problem, 0, 1 - 1e-12), {}, proof, coefficients[:, 0], offsets[:, 0]).min() > 0
    for slope in (-1.0, 0.0, 0.5, 1.0, 1.5, 7.0):
        wild = {k: np.full_like(v, slope) for k, v in proof.items()}
        assert rows_below(model, moving(problem, 0, 1.001), {}, wild, coefficients[:, 0], offsets[:, 0]).min() <= 0


@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_moving_weights_are_bounded_at_the_corners(layer):
    torch.manual_seed(0)
    first = nn.Linear(4, 3) if layer == "linear" else nn.Conv1d(1, 1, 2, stride=1)
    module = nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.Linear(3, 2)).double()
    x = (
        torch.rand(1, 4 if layer == "linear" else 1, dtype=torch.float64)
        if layer == "linear"
        else torch.rand(1, 1, 4, dtype=torch.float64)
    )
    labels = module(x).argmax(1)
    problem = Problem(module, x, labels, {"x": Ball(p=inf, radius=0.1), "0.weight": Ball(p=inf, radius=0.05)})
    model = Model(graph_of(problem), frozenset(["0.weight"]))
    coefficients, offsets = (v.numpy() for v in matrix(problem.spec, labels, 2))
    leaves = {
        k: Moving(v[0].detach().double().numpy().reshape(-1), inf, problem.region[k].radius)
        for k, v in problem.centre.items()
    }
    own = rows_below(model, leaves, {}, {}, coefficients[:, 0], offsets[:, 0])
    worst = inf
    for _ in range(300):
        point = {k: v + problem.region[k].radius * torch.randint(-1, 2, v.shape) for k, v in problem.centre.items()}
        worst = min(worst, problem.margin(point).item())
    assert own.min() <= worst and own.min() > worst - 0.5


def test_an_unknown_operation_is_named():
    class Waves(nn.Module):
        def forward(self, x):
            return torch.sin(x)

    problem = Problem(Waves(), torch.rand(2, 3), torch.tensor([0, 1]), Ball(p=2, radius=0.1))
    with pytest.raises(Unknown, match="sin"):
        Model(graph_of(problem))


def test_slopes_of_another_shape_or_not_finite_are_refused():
    problem, model, coefficients, offsets = pieces(CASES[2], Ball(p=2, radius=0.1))
    proof = {k: v[0].numpy() for k, v in crown(problem).proof.items()}
    name = next(iter(proof))
    for bad in (proof[name][:-1], np.full_like(proof[name], np.nan)):
        with pytest.raises(Unknown, match="slopes"):
            rows_below(model, moving(problem, 0), {}, {**proof, name: bad}, coefficients[:, 0], offsets[:, 0])


@pytest.mark.parametrize(
    "options", [{"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2, "padding": 2}, {"stride": 3, "bias": False}]
)
def test_convolutions_are_those_of_torch(options):
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3, **options), nn.MaxPool2d(2, padding=1), nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten()
    ).double()
    problem = Problem(module, torch.rand(2, 2, 7, 8, dtype=torch.float64), torch.tensor([0, 1]), Ball(p=2, radius=0.1))
    model = Model(graph_of(problem))
    own = np.stack([forward(model, {"x": x.numpy()}) for x in problem.x])
    assert np.allclose(own, problem.clean_logits().detach().numpy(), rtol=1e-12, atol=1e-13)


def test_a_multiple_of_a_cut_is_never_rounded_up() -> None:
    """g (<a, x> + c) in rationals, at corners where the coefficients' rounding is worst."""
    source = np.random.default_rng(0)
    for _ in range(50):
        a, x, g = source.normal(size=5), source.normal(size=5), np.abs(source.normal(size=3))
        cut = Cut({"x": a}, float(source.normal()), {"x": np.abs(x)})
        rows, offsets = cut.times(g)
        for k in range(3):
            exact = Fraction(g[k]) * (
                sum(Fraction(u) * Fraction(v) for u, v in zip(a, x, strict=True)) + Fraction(cut.c)
            )
            told = sum(Fraction(u) * Fraction(v) for u, v in zip(rows["x"][k], x, strict=True)) + Fraction(offsets[k])
            assert told <= exact
