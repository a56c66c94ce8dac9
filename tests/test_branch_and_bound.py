"""Branch and bound: between CROWN and the exact optimum, closed where leaves suffice, and every leaf proved again by the checker."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle import discovery
from brittle._checker.tree import covers
from brittle._checker.walk import Model, rows_below
from brittle.bounds._ascent import Thin, ascend
from brittle.bounds._cuts import Cut
from brittle.bounds._extremes import extreme
from brittle.bounds._programs import settled
from brittle.bounds._tree import Items, Root, proved
from brittle.bounds._units import units_of
from brittle.bounds.branch_and_bound import branch_and_bound
from brittle.bounds.crown import crown, walked
from brittle.errors import NotCertified
from brittle.graph import graph_of
from brittle.problem import Problem
from brittle.region import Ball
from brittle.results import Certificate, Proof
from brittle.spec import matrix
from brittle.verifying.proofs import moving
from test_exact_optima import tiny

NORMS = [1, 2, inf]


def network(*widths: int, act: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), act or nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def problem(p: float, radius: float, act: nn.Module | None = None) -> Problem:
    """Two hidden layers whose CROWN bounds are negative at these radii, though the property holds."""
    module = network(4, 10, 8, 3, act=act)
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    return Problem(module, x, module(x).argmax(1), Ball(p=p, radius=radius, low=0, high=1))


def least_by_program(asked: Problem, i: int) -> float:
    """The exact least row over box and range: one mixed-integer program a row, big-M from interval arithmetic (p = inf, ReLU)."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    layers = [m for m in asked.network.double if isinstance(m, nn.Linear)]
    weights = [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in layers]
    coefficients, offsets = (v[:, i].numpy() for v in matrix(asked.spec, asked.labels, len(weights[-1][1])))
    x, radius = asked.x[i].double().numpy(), float(asked.radius("x")[i])
    low, high = np.maximum(x - radius, 0), np.minimum(x + radius, 1)
    hidden = sum(len(b) for _, b in weights[:-1])
    size, first = len(x) + 2 * hidden, len(x)  # variables: x, outputs of the units, their switches
    bottom, top, rows, ends = [*low], [*high], [], []
    source, down, up = 0, low, high
    for weight, bias in weights[:-1]:
        lows = np.clip(weight, 0, None) @ down + np.clip(weight, None, 0) @ up + bias
        highs = np.clip(weight, 0, None) @ up + np.clip(weight, None, 0) @ down + bias
        for j in range(len(bias)):
            z = np.zeros(size)
            z[source : source + weight.shape[1]] = weight[j]
            y, on = np.eye(size)[first + j], np.eye(size)[first + hidden + j]
            m, n = min(lows[j], 0.0), max(highs[j], 0.0)
            rows += [y - z, y - z - m * on, y - n * on]  # y >= z; y <= z - m (1 - on); y <= n on
            ends += [(bias[j], inf), (-inf, bias[j] - m), (-inf, 0.0)]
        bottom, top = [*bottom, *np.zeros(len(bias))], [*top, *np.maximum(highs, 0)]
        source, first = first, first + len(bias)
        down, up = np.maximum(lows, 0), np.maximum(highs, 0)
    box = Bounds(np.array([*bottom, *np.zeros(hidden)]), np.array([*top, *np.ones(hidden)]))
    whole = np.r_[np.zeros(len(x) + hidden), np.ones(hidden)]
    weight, bias = weights[-1]
    limits = LinearConstraint(np.array(rows), *np.array(ends).T)
    least = []
    for c, offset in zip(coefficients, offsets, strict=True):
        cost = np.zeros(size)
        cost[source : source + weight.shape[1]] = c @ weight
        found = milp(cost, constraints=limits, bounds=box, integrality=whole)
        assert found.success
        least.append(found.fun + c @ bias + offset)
    return min(least)


def again(asked: Problem, proof: dict, i: int) -> np.ndarray:
    model = Model(graph_of(asked))
    coefficients, offsets = (v.numpy() for v in matrix(asked.spec, asked.labels, asked.clean_logits().shape[1]))
    arrays = {name: value[i].numpy() for name, value in proof.items()}
    return rows_below(model, {"x": moving(asked, "x", i, 1.0)}, {}, arrays, coefficients[:, i], offsets[:, i])


@pytest.mark.slow
def test_the_sign_is_that_of_the_exact_optimum() -> None:
    """A network whose labels change inside the ball, at radii on both sides of the exact one."""
    decided = set()
    asked, exact_radii = tiny(inf)
    for factor in (0.98, 1.05):
        one = asked.scaled(factor * exact_radii)
        below, plain = branch_and_bound(one).rows.amin(1), crown(one).rows.amin(1)
        for i in range(len(asked)):
            exact = least_by_program(one, i)
            assert plain[i] <= below[i] <= exact + 1e-7
            assert (below[i] > 0) == (exact > 0) == (factor < 1)
            decided.add((bool(plain[i] > 0), bool(below[i] > 0)))
    assert {(False, True), (False, False)} <= decided


def test_two_hidden_layers_against_a_mixed_integer_program() -> None:
    asked = problem(inf, 0.6)
    asked = asked.take(torch.tensor([0]))
    below, plain, exact = branch_and_bound(asked).rows.amin(1), crown(asked).rows.amin(1), least_by_program(asked, 0)
    assert plain[0] < 0 < below[0] <= exact + 1e-7


@pytest.mark.parametrize("p", NORMS)
def test_the_sign_is_right_to_a_millionth_of_the_radius(p: float) -> None:
    """Radii by enumeration of all patterns: on either side of them a proof, or a point that fails."""
    asked, exact = tiny(p)
    inside, outside = (asked.scaled(exact * (1 + side)) for side in (-1e-6, 1e-6))
    assert bool((branch_and_bound(inside).rows > 0).all()) and not bool((crown(inside).rows > 0).all())
    beyond = branch_and_bound(outside)
    assert bool((beyond.rows.amin(1) < 0).all())
    assert bool((outside.double().rows(beyond.points).amin(1) <= 0).all())  # type: ignore[arg-type]
    assert bool((outside.size(beyond.points) <= exact * (1 + 1.1e-6)).all())  # type: ignore[arg-type]


def test_the_radius_is_closed_from_both_sides_by_the_tree() -> None:
    """An attack that stops a tenth too far: the tree finds nearer points that fail, which are measured again as witnesses."""
    asked, exact = tiny(2)
    asked, exact = asked.take(torch.tensor([0, 2])), exact[[0, 2]]

    def short(problem: Problem, *, seed: int = 0) -> bt.Witness:
        found = discovery.method("attacks", "multistart")(problem, seed=seed)
        centre = problem.centre["x"]
        return problem.witness({"x": (centre + 1.1 * (found.point["x"] - centre)).clamp(0, 1)}, "short")

    answer = bt.radius(asked, attacks=[short], bounds=["branch_and_bound"], effort="thorough")
    assert bool((answer.lower <= exact * (1 + 1e-9)).all()) and bool((answer.upper >= exact * (1 - 1e-9)).all())
    assert bool((answer.upper <= answer.lower * 1.0011).all()) and "branch_and_bound" in answer.methods.upper
    assert answer.witness is not None and bool(answer.witness.found.all())


def test_an_audit_of_it_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proofs go through records of several chunks; a wrong leaf is found."""
    from audited import REGIONS, audit, mlp
    from brittle.verifier import verify

    found = discovery.portfolio

    def with_it(family: str, *others: object) -> list:
        return found(family, *others) + ([discovery.method("bounds", family_member)] if family == "bounds" else [])  # type: ignore[arg-type]

    family_member = "branch_and_bound"
    monkeypatch.setattr("brittle.questions._methods.portfolio", with_it)
    audit(tmp_path / "run", regions={"linf": REGIONS["linf"]})
    module, x, labels = mlp()
    report = verify(tmp_path / "run", module, x, labels)
    assert report.passed and report.proofs >= 4 and not report.unchecked
    rows = bt_rows(tmp_path / "run")
    assert "branch_and_bound" in rows


def bt_rows(folder: Path) -> set[str]:
    from brittle.store import load_run

    return set(load_run(folder).samples["lower_method"].to_list())


leaky = lambda p, *marks: pytest.param(p, nn.LeakyReLU(0.1), marks=marks, id=f"leaky-{p}")


@pytest.mark.parametrize(
    ("p", "act"),
    [*[(p, nn.ReLU()) for p in NORMS], leaky(inf), leaky(1, pytest.mark.slow), leaky(2, pytest.mark.slow)],
)
def test_no_point_of_the_region_is_below_and_the_checker_proves_it_again(p: float, act: nn.Module) -> None:
    asked = problem(p, {1: 1.4, 2: 0.8, inf: 0.4}[p], act)
    certificate = branch_and_bound(asked)
    double, generator = asked.double(), torch.Generator().manual_seed(2)
    for _ in range(40):
        change = 2 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
        assert bool((double.rows(double.project({"x": double.inputs["x"] + change})) >= certificate.rows).all())
    for i in range(len(asked)):
        np.testing.assert_allclose(again(asked, certificate.proof, i), certificate.rows[i].numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("p", [pytest.param(1, marks=pytest.mark.slow), 2, inf])
def test_leaves_behind_cuts_are_proved_again(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tree made so small that every row needs cuts, and leaves behind them."""
    monkeypatch.setattr("brittle.bounds.branch_and_bound.SMALL", 1)
    asked = problem(p, {1: 2.2, 2: 1.1, inf: 0.6}[p])
    certificate = branch_and_bound(asked, rounds=1)
    proof, rows = dict(certificate.proof), certificate.rows
    i = int((proof["tree.rows"] > 0).sum(1).argmax())
    row = int(proof["tree.rows"][i, 0]) - 1
    assert proof["cuts.rounds"][i, row] > 0 and (rows[i] > 0).all()
    here, plain = again(asked, proof, i), crown(asked).rows
    np.testing.assert_allclose(here, rows[i].numpy(), rtol=0, atol=1e-11)
    assert plain[i, row] < 0
    without = {**proof, "tree.rows": torch.zeros_like(proof["tree.rows"])}
    assert again(asked, without, i)[row] < 0  # the rounds alone do not
    assert again(asked, {**proof, "tree.last": proof["tree.last"] * 0 + 9}, i)[row] < 0
    assert again(asked, {**proof, "tree.last": -1 - proof["tree.last"]}, i)[row] < 0
    double, generator = asked.double(), torch.Generator().manual_seed(2)
    for _ in range(50):
        change = 2 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
        assert bool((double.rows(double.project({"x": double.inputs["x"] + change})) >= rows).all())


def test_a_part_without_points_is_proved_by_its_conditions() -> None:
    """A unit that is at least its own other side: the least value over nothing is as large as one likes."""
    asked = problem(inf, 0.6)
    root, start = _root(asked)
    low, high = (side[0] for side in root.units.inputs(root.state))
    sign = torch.where(low + high > 0, 1.0, -1.0).float()[None]  # every unit on its larger side
    item = Items(torch.zeros(1, dtype=torch.long), sign, start[:1].float(), 0 * sign, 0 * sign + 1, torch.zeros(1))
    middle, (point,) = settled(root, item)
    attained = asked.double().take(torch.tensor([0])).rows({"x": next(iter(point.values()))})[0, 0]
    assert proved(root, middle) <= attained + 1e-6
    empty = None
    for u in _bent(root)[:10].tolist():
        other = Items(item.base, sign.clone(), item.slope, item.multiplier, item.size, item.last)
        other.sign[0, u] *= -1
        value = proved(root, settled(root, other)[0])
        empty = value if empty is None else torch.maximum(empty, value)
    assert empty is not None and empty > 0


def test_leaves_are_stored_and_any_damage_to_them_proves_nothing() -> None:
    asked = problem(inf, 0.6)
    certificate = branch_and_bound(asked)
    proof, rows = certificate.proof, certificate.rows
    i = int((proof["tree.rows"] > 0).sum(1).argmax())
    row = int(proof["tree.rows"][i, 0]) - 1
    assert crown(asked).rows[i, row] < 0 < rows[i, row] and again(asked, proof, i)[row] > 0

    def damaged(name: str, change: Callable) -> float:
        value = proof[name].clone()
        change(value[i])
        return float(again(asked, {**proof, name: value}, i)[row])

    assert damaged("tree.rows", lambda v: v[0].zero_()) < 0  # one leaf is missing
    assert damaged("tree.units", lambda v: v[0].neg_()) < 0  # the other half twice
    assert damaged("tree.multipliers", lambda v: v[0].neg_()) < 0 or not proof["tree.multipliers"][i, 0].any()
    assert damaged("tree.multipliers", lambda v: v[0].fill_(torch.nan)) < 0
    assert damaged("tree.multipliers", lambda v: v.fill_(9.0)) < 0
    assert damaged("tree.units", lambda v: v[0].copy_(v[0, :1].expand_as(v[0]))) < 0  # one unit again and again


def test_cover() -> None:
    assert covers([{}]) and covers([{2: 1}, {2: -1}]) and not covers([]) and not covers([{2: 1}])
    assert covers([{0: 1, 1: 1}, {0: 1, 1: -1}, {0: -1, 2: 1}, {0: -1, 2: -1}])
    assert not covers([{0: 1}, {1: -1}]) and not covers([{0: 1, 1: 1}, {0: -1, 1: -1}])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_leaf_is_sound_on_its_part_for_any_multipliers(sign: float) -> None:
    """The form with multipliers against points with the sign of the leaf; with the sign turned it would fail."""
    asked = problem(inf, 0.6).double()
    root, start = _root(asked)
    unit = torch.tensor([int(i) for i in _bent(root)[:4]])
    signs = torch.zeros(4, root.units.total)
    signs[torch.arange(4), unit] = sign
    zero = torch.zeros(4, dtype=torch.long)
    items = Items(zero, signs, start[zero].float(), signs.abs() * 0.05, signs.abs() + 1, torch.full((4,), 0.3))
    a = torch.tensor([[1.0, -2.0, 0.5, 1.0]], dtype=torch.float64).expand(len(asked), -1)
    c = -(a[0] * asked.x[0]).sum().expand(1, len(asked)) + 0.1  # a cut through the region
    root = replace(root, cut=Cut({next(iter(root.state.graph.inputs.values())): a}, c))
    values = proved(root, items)
    points = root.problem.take(zero[:1].expand(400))
    noise = torch.rand(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = points.project({"x": points.inputs["x"] + 1.2 * (noise - 0.5)})
    layers = asked.network.double
    first = layers[0](point["x"])  # type: ignore[index]
    second = layers[2](first.relu())  # type: ignore[index]
    inside = torch.cat([first, second], 1)
    rows = points.rows(point)[:, 0]
    met = 0
    for value, u in zip(values, unit, strict=True):
        here = (inside[:, u] * sign >= 0) & (point["x"] @ a[0] + c[0, 0] <= 0)
        assert bool((rows[here] >= value).all())
        met = met + int(here.sum())
    assert met > 100
    better, sight = ascend(Thin.of(root), items, 10, torch.full((4,), inf))
    assert bool((sight.value >= values - 1e-5).all())
    torch.testing.assert_close(
        proved(root, better).float(), sight.value, atol=0.02, rtol=0
    )  # slopes are stored in 1 / 255


def _root(asked: Problem) -> tuple[Root, torch.Tensor]:
    """The first row of every example, and its slopes."""
    _, state, relaxed, rows, extra = walked(asked, "adaptive")
    units, count = units_of(state.graph), torch.arange(len(asked))
    slopes = torch.cat([relaxed[node.name].lower_slope.flatten(1) for node in units.nodes], 1)
    form = rows[0].expand(len(asked), -1)
    return Root(count, 0 * count, asked, state, units, form, extra[0], torch.zeros(len(asked)).double()), slopes


def _bent(root: Root) -> torch.Tensor:
    low, high = root.units.inputs(root.state)
    return ((low < 0) & (high > 0))[0].nonzero()[:, 0]


@pytest.mark.parametrize("p", NORMS)
def test_the_extreme_point_is_feasible_and_attains_the_support(p: float) -> None:
    from brittle import norms

    g = torch.Generator().manual_seed(0)
    a = torch.randn(20, 6, generator=g, dtype=torch.float64)
    down, up = torch.rand(2, 20, 6, generator=g, dtype=torch.float64)
    radius = torch.full((20,), 0.6, dtype=torch.float64)
    v = extreme(a, p, radius, down, up)
    assert bool((torch.linalg.vector_norm(v, p, dim=1) <= radius * (1 + 1e-9)).all())
    assert bool(((v <= up + 1e-12) & (v >= -down - 1e-12)).all())
    torch.testing.assert_close((a * v).sum(1), norms.support(a[None], p, radius, down, up)[0], rtol=1e-6, atol=1e-9)


def test_the_bracket_closes_and_an_audit_of_it_would_hold() -> None:
    asked = problem(inf, 1.0).take(torch.tensor([0, 1]))
    answer = bt.radius(
        asked.within({"x": Ball(p=inf, radius=1.0)}), bounds=["crown", "branch_and_bound"], effort="thorough"
    )
    assert bool((answer.lower <= answer.upper).all()) and bool((answer.upper <= answer.lower * 1.0011).all())
    assert answer.proof is not None and set(answer.proof.methods) == {"branch_and_bound"}
    assert np.isfinite(answer.lower.numpy()).all()


def test_the_budget_ends_the_search_and_leaves_what_crown_proves() -> None:
    asked = problem(inf, 0.6)
    torch.testing.assert_close(branch_and_bound(asked, leaves=1, steps=1).rows, crown(asked).rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(branch_and_bound(asked, seconds=0.0).rows, crown(asked).rows, rtol=0, atol=1e-12)


def test_proofs_of_different_depth_are_joined() -> None:
    parts = [branch_and_bound(problem(inf, radius)) for radius in (0.3, 0.6)]
    assert parts[0].proof["tree.units"].shape != parts[1].proof["tree.units"].shape
    as_proof = lambda c: Proof(torch.ones(len(c.rows)), (c.method,) * len(c.rows), c.proof)
    joined = Proof.join([as_proof(c) for c in parts])
    asked = problem(inf, 0.6)
    for i in range(len(asked)):
        arrays = {name: value[3 + i : 4 + i].expand(3, *value.shape[1:]) for name, value in joined.arrays.items()}
        np.testing.assert_allclose(again(asked, arrays, i), parts[1].rows[i].numpy(), rtol=0, atol=1e-11)
    assert isinstance(parts[0], Certificate)


def test_what_it_does_not_split_is_refused() -> None:
    with pytest.raises(NotCertified, match="tanh is not split"):
        branch_and_bound(problem(inf, 0.1, nn.Tanh()))
    with pytest.raises(NotCertified, match="use crown"):
        branch_and_bound(problem(inf, 0.1).within({"0.weight": Ball(p=inf, radius=0.01)}))
