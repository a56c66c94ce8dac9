"""alpha-CROWN with cuts: never below CROWN, at the optimum of the relaxation where that is known, below every point, and proved again by the checker."""

from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle import backward, intervals
from brittle._checker.affine import Unknown
from brittle._checker.walk import Model, rows_below
from brittle.bounds import _cuts, _slopes
from brittle.bounds.alpha_crown import alpha_crown
from brittle.bounds.crown import crown
from brittle.errors import InputError, NotCertified
from brittle.graph import graph_of
from brittle.planes import planes
from brittle.problem import Problem
from brittle.region import Ball
from brittle.verifying.proofs import moving
from test_branch_and_bound import again, least_by_program, network, problem
from test_exact_optima import tiny

NORMS = [1, 2, inf]
quick = partial(alpha_crown, steps=6, rounds=3)  # the same laws in a third of the time


@pytest.mark.parametrize("p", NORMS)
def test_never_below_crown_and_below_every_point(p: float) -> None:
    asked = problem(p, {1: 1.0, 2: 0.7, inf: 0.4}[p])
    plain, rows = crown(asked).rows, quick(asked).rows
    assert bool((rows >= plain).all()) and bool((rows > plain).any())
    double, generator = asked.double(), torch.Generator().manual_seed(2)
    for spread in (0.3, 3.0):
        for _ in range(20):
            change = spread * torch.randn(asked.x.shape, generator=generator, dtype=torch.float64)
            assert bool((double.rows(double.project({"x": double.x + change})) >= rows).all())


@pytest.mark.parametrize("p", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), inf])
def test_the_radius_is_below_the_exact_one_and_far_above_crown(p: float) -> None:
    """Networks small enough to enumerate their activation patterns; measured gains .11, .08 and .15 of the exact radius."""
    asked, exact = tiny(p, seed=1 if p == 1 else 5)  # where crown leaves something to gain
    found = {
        name: bt.radius(asked, bounds=names, ends="lower", effort="quick").lower
        for name, names in {"crown": ["crown"], "alpha": ["crown", quick]}.items()
    }
    assert bool((found["alpha"] <= exact * (1 + 1e-9)).all()) and bool((found["alpha"] >= found["crown"]).all())
    share = {name: float((value / exact).mean()) for name, value in found.items()}
    assert share["alpha"] > share["crown"] + 0.05, share


@pytest.mark.parametrize("p", NORMS)
def test_no_row_is_positive_where_it_fails(p: float) -> None:
    asked, exact = tiny(p)
    for factor in (1.002, 1.3) if p == inf else (1.002,):
        assert bool((quick(asked.scaled(factor * exact)).rows.amin(1) <= 0).all())


def test_cuts_prove_what_crown_does_not_and_never_more_than_a_mixed_integer_program() -> None:
    asked = problem(inf, 0.5)
    plain, rows = (bound(asked).rows.amin(1) for bound in (crown, quick))
    exact = [least_by_program(asked, i) for i in range(len(asked))]
    assert all(float(r) <= e + 1e-7 for r, e in zip(rows, exact, strict=True))
    assert bool(((plain <= 0) & (rows > 0)).any())


def relaxed_optimum(asked: Problem, i: int, row: np.ndarray) -> float:
    """One hidden layer, p = inf: the least value of a row over the triangles, a linear program."""
    from scipy.optimize import linprog

    first, _, last = list(asked.network.double)  # type: ignore[call-overload]
    w, b = first.weight.detach().numpy(), first.bias.detach().numpy()
    x, radius = asked.x[i].double().numpy(), float(asked.radius("x")[i])
    down, up = np.maximum(x - radius, 0), np.minimum(x + radius, 1)
    low = np.clip(w, 0, None) @ down + np.clip(w, None, 0) @ up + b
    high = np.clip(w, 0, None) @ up + np.clip(w, None, 0) @ down + b
    slope = np.where(high <= 0, 0.0, np.where(low >= 0, 1.0, high / np.where(high > low, high - low, 1.0)))
    height = np.where((low < 0) & (high > 0), -slope * low, 0.0)
    units = np.eye(len(b))
    above = np.hstack([-slope[:, None] * w, units]), slope * b + height  # y <= slope z + height
    below = np.hstack([w, -units]), -b  # y >= z
    box = [*zip(down, up, strict=True), *[(0.0, None)] * len(b)]
    cost = np.r_[np.zeros(len(x)), row @ last.weight.detach().numpy()]
    found = linprog(cost, np.vstack([above[0], below[0]]), np.r_[above[1], below[1]], bounds=box)
    return found.fun + row @ last.bias.detach().numpy()


def one_layer(radius: float) -> Problem:
    module = network(5, 14, 3).double()
    x = torch.rand(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Problem(module, x, module(x).argmax(1), Ball(p=inf, radius=radius, low=0, high=1))


def test_optimised_slopes_reach_the_optimum_of_the_relaxation() -> None:
    """Behind one layer the bound is concave in the slopes: its top is the linear program over the triangles, by duality."""
    from brittle.spec import matrix

    asked = one_layer(0.5)
    plain, rows = crown(asked).rows, alpha_crown(asked, rounds=0, steps=120).rows
    coefficients, _ = matrix(asked.spec, asked.labels, 3)
    exact = torch.tensor([[relaxed_optimum(asked, i, c.numpy()) for c in coefficients[:, i]] for i in range(3)])
    open_ = plain < 0  # positive ones are not improved
    assert int(open_.sum()) >= 3 and bool((rows <= exact + 1e-9).all())
    assert bool((plain < exact - 0.02)[open_].any())
    torch.testing.assert_close(rows[open_], exact[open_], rtol=0, atol=2e-3)


def sketched(asked: Problem) -> tuple[_slopes.Sketch, torch.Tensor]:
    state = intervals.start(asked, graph_of(asked))
    from brittle.bounds.crown import _enclose

    relaxed = backward.relax(state, lambda *unit: _enclose(asked, *unit), lambda s, node, _: planes(s, node))
    seen = _slopes.sketch(asked, state, state.graph.output, relaxed)
    assert seen is not None
    return seen, backward.specification(asked, state)[0].float()


@pytest.mark.parametrize("p", NORMS)
def test_the_gradient_is_that_of_differences(p: float) -> None:
    seen, rows = sketched(problem(p, 0.5))
    slope = torch.rand(len(rows), *seen.start.shape, generator=torch.Generator().manual_seed(0))
    value, gradient = _slopes.bound(seen, rows, slope)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        way = torch.randn(slope.shape, generator=generator) * seen.bends
        ahead, back = (_slopes.bound(seen, rows, slope + h * way)[0] for h in (1e-3, -1e-3))
        expected = (gradient * way).sum(2)
        torch.testing.assert_close((ahead - back) / 2e-3, expected, rtol=2e-2, atol=2e-2)
    assert bool((gradient != 0).any())


def test_a_gradient_of_the_wrong_sign_is_seen(monkeypatch) -> None:
    right = _slopes.bound
    monkeypatch.setattr(_slopes, "bound", lambda *a: (right(*a)[0], -right(*a)[1]))
    with pytest.raises(AssertionError):
        test_the_gradient_is_that_of_differences(inf)


@pytest.mark.parametrize("p", NORMS)
def test_the_checker_proves_it_again(p: float) -> None:
    asked = problem(p, {1: 1.0, 2: 0.7, inf: 0.4}[p])
    plain, found = crown(asked), quick(asked)
    for i in range(len(asked)):
        below = again(asked, dict(found.proof), i)
        assert (below >= found.rows[i].numpy() - 1e-9).all()
        assert ((below > 0) == (found.rows[i] > 0).numpy()).all()
    assert bool((found.rows > plain.rows).any())


def test_the_checker_refuses_a_cut_that_is_none() -> None:
    asked = problem(inf, 0.4)
    proof = dict(quick(asked).proof)
    i = int(proof["cuts.rounds"].sum(1).argmax())
    proof["cuts.multipliers"] = proof["cuts.multipliers"] - 1
    with pytest.raises(Unknown, match="below 0"):
        again(asked, proof, i)
    proof["cuts.multipliers"] = proof["cuts.multipliers"][:, :, :, :1]
    with pytest.raises(Unknown, match="fit together"):
        again(asked, proof, i)


def test_no_multiplier_proves_what_is_false_of_units_that_read_the_input() -> None:
    """``.6 - relu(x)`` is -.4 at 1. The cut alone holds no input back: forged multipliers of its units are not looked at."""
    module = nn.Sequential(nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        module[1].weight.fill_(-1.0)
        module[1].bias.fill_(0.6)
    x, label = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1])
    asked = Problem(module, x, label, Ball(p=inf, radius=1.0), bt.Threshold(0.0))
    whole = torch.zeros(1, 1, 2, 1, dtype=torch.uint8)
    for ends in ((0.0, 100.0), (100.0, 0.0), (100.0, 100.0)):
        multipliers = torch.tensor(ends).reshape(2, 1).expand(1, 1, 2, 2, 1)
        forged = {"cuts.level": torch.tensor([0.05]).double(), "cuts.rounds": torch.tensor([[2]], dtype=torch.uint8)}
        forged |= {"cuts.planes": whole, "cuts.slopes": whole, "cuts.multipliers": multipliers}
        proof = {**crown(asked).proof, **forged, "cuts.last": torch.zeros(1, 1, 2)}
        assert again(asked, proof, 0)[0] <= -0.4
        for level in (
            -0.6,
            1.0,
        ):  # nor any level: behind a cut that leaves nothing the row is at most its level, or what crown knows
            proof |= {"cuts.level": torch.tensor([level]).double(), "cuts.last": torch.full((1, 1, 2), 100.0)}
            assert again(asked, proof, 0)[0] <= -0.4


class Two(nn.Module):
    """Units of each branch read one input alone, a cut of the row reads both."""

    def __init__(self) -> None:
        super().__init__()
        branch = lambda: nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
        self.one, self.two = branch(), branch()
        self.last = nn.Linear(8, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.one(a), self.two(b)], 1))


def test_a_cut_speaks_of_every_input() -> None:
    """Forgotten for units that read one input only, its part on the other would prove -.01 where .12 less is true of the relaxation."""
    from brittle.spec import matrix

    torch.manual_seed(9)
    module = Two().double()
    x = {name: torch.randn(1, 2, dtype=torch.float64) for name in ("a", "b")}
    ball = Ball(p=inf, radius=1.6)
    asked = Problem(module, x, module(**x).argmax(1), {"x.a": ball, "x.b": ball})
    found = alpha_crown(asked, steps=6, rounds=4)
    assert int(found.proof["cuts.rounds"].max()) > 1
    coefficients, offsets = (v[:, 0].numpy() for v in matrix(asked.spec, asked.labels, 2))
    leaves = {leaf: moving(asked, leaf, 0, 1.0) for leaf in asked.leaves}
    proof = {name: value[0].numpy() for name, value in found.proof.items()}
    below = rows_below(Model(graph_of(asked)), leaves, {}, proof, coefficients, offsets)
    assert (below >= found.rows[0].numpy() - 1e-9).all()


def test_weights_beyond_single_precision_are_certified() -> None:
    """The search for multipliers runs in float32: where a cut overflows there, crown is what remains."""
    module = network(2, 4, 4, 2).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1e14)
    x = torch.rand(2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    asked = Problem(module, x, module(x).argmax(1), Ball(p=inf, radius=0.5))
    plain = crown(asked).rows
    assert bool((plain < -1e39).any()) and bool((quick(asked).rows >= plain).all())


@pytest.mark.parametrize("mutant", ["too far", "multiplier"])
def test_mutants_of_the_cut_are_seen(mutant, monkeypatch) -> None:
    """A cut that cuts off points where the row fails, and one whose offset is forgotten: both prove what is false."""
    right = _cuts._cut

    def wrong(state, pulled, extra):
        cut = right(state, pulled, extra)
        return _cuts.Cut(cut.a, cut.c + (0.5 if mutant == "too far" else -cut.c))

    monkeypatch.setattr(_cuts, "_cut", wrong)
    with pytest.raises(AssertionError):
        test_no_row_is_positive_where_it_fails(inf)


def test_other_nonlinear_operations_keep_their_planes() -> None:
    torch.manual_seed(3)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 9),
        nn.LeakyReLU(0.1),
        nn.Linear(9, 4),
    )
    x = torch.rand(2, 1, 6, 6)
    asked = Problem(module, x, module(x).argmax(1), Ball(p=2, radius=1.0, low=0, high=1))
    plain, found = crown(asked).rows, quick(asked)
    assert bool((found.rows >= plain).all()) and bool((found.rows > plain).any())
    for i in range(2):
        assert (again(asked, dict(found.proof), i) >= found.rows[i].numpy() - 1e-9).all()


def test_no_answer_depends_on_the_batch() -> None:
    asked = problem(inf, 0.4)
    whole = quick(asked).rows
    for i in range(len(asked)):
        torch.testing.assert_close(quick(asked.take(torch.tensor([i]))).rows, whole[i : i + 1], rtol=0, atol=1e-9)


def test_a_spent_budget_leaves_a_proof() -> None:
    asked = problem(inf, 0.4)
    found = alpha_crown(asked, seconds=0.0)
    assert bool((found.rows >= crown(asked).rows).all()) and found.rows.isfinite().all()


def test_what_is_refused() -> None:
    asked = problem(inf, 0.1)
    with pytest.raises(NotCertified, match="use crown"):
        alpha_crown(asked.within({"0.weight": Ball(p=inf, radius=0.01)}))
    for options in ({"steps": 0}, {"rounds": -1}):
        with pytest.raises(InputError, match="whole number"):
            alpha_crown(asked, **options)
