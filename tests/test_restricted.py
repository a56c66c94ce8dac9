"""Restricted balls: changes inside a subspace or orthogonal to it, by the same attacks and bounds."""

from math import inf

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle import Ball, InputError, Problem, Subspace
from brittle.cures.surgery import surgery
from brittle.discovery import method

NO_BOUND = "not certified: a subspace together with a range or with p other than 2"


def linear():
    """margin x0 - 2 x1 + 2 x2 at (3, 0, 0): distance 3/3 in all, 3 along e0, 3 / sqrt 8 in its complement."""
    module = nn.Linear(3, 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 2.0], [0, 0, 0]])), module.bias.zero_()
    return module, torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64), torch.tensor([0])


AXIS = Subspace.given(torch.eye(3)[:1])


@pytest.mark.parametrize(
    ("restriction", "distance"), [({}, 1.0), ({"within": AXIS}, 3.0), ({"orthogonal_to": AXIS}, 3 / 8**0.5)]
)
def test_distances_of_a_linear_network_are_exact_from_both_sides(restriction, distance):
    found = bt.radius(Problem(*linear(), Ball(p=2, radius=1.0, **restriction)), effort="quick")
    assert float(found.upper) == pytest.approx(distance, rel=1e-6)
    assert distance * 0.98 < float(found.lower) <= distance * (1 + 1e-9)


def test_the_witness_is_a_change_in_the_subspace():
    module, x, labels = linear()
    problem = Problem(module, x, labels, Ball(p=2, radius=1.0, orthogonal_to=AXIS))
    assert problem.leaves == ("x.coordinates",)
    found = bt.radius(problem, effort="quick", ends="upper").witness
    change = found.point["x.coordinates"] @ problem.network.original.lift_input.T
    assert float(change[0, 0]) == 0 and module(x + change).argmax(1) != labels


def test_pythagoras_for_the_three_distances():
    """1 / full^2 = 1 / off^2 + 1 / on^2 inside one linear region."""
    torch.manual_seed(0)
    module, x = nn.Linear(8, 2).double(), torch.rand(4, 8, dtype=torch.float64)
    plane = Subspace.given(torch.randn(3, 8))
    size = lambda **how: (
        bt.radius(
            Problem(module, x, module(x).argmax(1), Ball(p=2, radius=1.0, **how)), effort="quick", ends="upper"
        ).upper
    )
    full, on, off = size(), size(within=plane), size(orthogonal_to=plane)
    assert torch.allclose(full**-2, on**-2 + off**-2, rtol=1e-5)


def test_nothing_off_the_subspace_breaks_a_cured_network():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    plane = Subspace.given(torch.randn(2, 6))
    x = torch.randn(3, 2) @ plane.basis.float()
    cured = surgery(module, plane)
    problem = Problem(cured, x, cured(x).argmax(1), Ball(p=2, radius=1.0, orthogonal_to=plane))
    margin = bt.margin(problem, effort="quick")
    assert torch.allclose(margin.lower, margin.upper, atol=1e-4) and bool((margin.lower > 0).all())


def test_keyword_inputs_and_parameters_can_move_beside_it():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, a, b):
            return self.fc(a) + b

    torch.manual_seed(0)
    module, x = Two(), {"a": torch.rand(2, 3), "b": torch.rand(2, 2)}
    labels = module(**x).argmax(1)
    problem = Problem(
        module, x, labels, {"x.a": Ball(p=2, radius=0.1, within=AXIS), "fc.weight": Ball(p=inf, radius=0.01)}
    )
    assert problem.leaves == ("x.a_coordinates", "param:module.fc.weight")
    found = bt.margin(problem, effort="quick")
    assert bool((found.lower <= found.upper).all()) and bool((found.upper < problem.margin()).all())


def shortest(b, a, gap, p):
    from scipy.optimize import linprog

    r, d = b.shape
    extra = np.ones((d, 1)) if p == inf else np.eye(d)
    above = np.vstack([np.hstack([b.T, -extra]), np.hstack([-b.T, -extra])])
    cost, equal = np.r_[np.zeros(r), np.ones(extra.shape[1])], np.r_[a, np.zeros(extra.shape[1])][None]
    return linprog(
        cost, above, np.zeros(2 * d), equal, [gap], bounds=[(None, None)] * r + [(0, None)] * len(extra[0])
    ).fun


@pytest.mark.parametrize("p", [1, inf])
@pytest.mark.parametrize("side", ["within", "orthogonal_to"])
def test_l1_and_linf_lengths_are_those_of_the_change(p, side):
    """A linear network: the distance inside the subspace is a linear program; nothing is certified, and the answer says so."""
    torch.manual_seed(3)
    module, x = nn.Linear(12, 2).double(), torch.rand(5, 12, dtype=torch.float64)
    labels, plane = module(x).argmax(1), Subspace.given(torch.randn(5, 12))
    problem = Problem(module, x, labels, Ball(p=p, radius=1.0, **{side: plane}))
    found = bt.radius(problem, effort="standard")
    basis = (plane if side == "within" else plane.complement()).basis
    change = found.witness.point["x.coordinates"] @ basis
    assert torch.allclose(change.abs().sum(1) if p == 1 else change.abs().amax(1), found.upper, rtol=1e-12)
    assert float((plane.off(change) if side == "within" else plane.on(change)).abs().max()) < 1e-12
    assert bool((module(x + change).argmax(1) != labels).all())
    row = (module.weight[0] - module.weight[1]).detach()
    row = torch.where((labels == 0)[:, None], row, -row) @ basis.T
    best = [shortest(basis.numpy(), a.numpy(), float(m), p) for a, m in zip(row, problem.margin(), strict=True)]
    ratio = found.upper / torch.tensor(best)
    assert bool((ratio > 1 - 1e-9).all()) and float(ratio.max()) < 1.02, ratio
    assert bool((found.lower == 0).all()) and set(found.kinds.lower) == {"none"}
    assert set(found.status) == {NO_BOUND} and found.proof is None or not any(found.proof.methods)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_ranges_of_restricted_balls_are_kept(p):
    torch.manual_seed(4)
    module, x = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)), 0.3 + 0.4 * torch.rand(4, 12)
    plane = Subspace.given(torch.randn(7, 12))
    free, ranged = (
        bt.radius(
            Problem(module, x, module(x).argmax(1), Ball(p=p, radius=1.0, within=plane, **limits)), effort="quick"
        )
        for limits in ({}, {"low": 0.0, "high": 1.0})
    )
    moved = x.double() + ranged.witness.point["x.coordinates"].double() @ plane.basis.float().double()
    assert float(moved[ranged.witness.found].min()) >= 0 and float(moved[ranged.witness.found].max()) <= 1
    assert bool(ranged.witness.found.any()) and bool((ranged.upper >= free.upper * 0.9).all())
    assert set(ranged.status) <= {NO_BOUND, "misclassified"}
    assert (free.lower > 0).any() == (p == 2), "without a range l2 stays certified"


def test_margins_and_named_bounds_are_refused_too():
    module, x, labels = linear()
    for ball in (Ball(p=inf, radius=0.5, within=AXIS), Ball(p=2, radius=0.5, within=AXIS, low=-9, high=9)):
        problem = Problem(module, x, labels, ball)
        for choice in (None, ["crown"], ["ibp"]):
            found = bt.margin(problem, effort="quick", bounds=choice)
            assert float(found.lower) == -inf and found.status == (NO_BOUND,)
        assert float(found.upper) == pytest.approx(2.5, rel=1e-5)
        for name in ("crown", "ibp"):
            with pytest.raises(bt.errors.NotCertified, match=NO_BOUND):
                method("bounds", name)(problem)


@pytest.mark.parametrize(
    ("name", "p"),
    [(n, p) for n in ("apgd", "fmn", "hlrf", "random_lines", "square") for p in (1, 2, inf)] + [("multistart", inf)],
)
def test_every_attack_keeps_length_and_range(name, p):
    torch.manual_seed(5)
    module, x = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(4, 10)
    plane = Subspace.given(torch.randn(4, 10))
    problem = Problem(module, x, module(x).argmax(1), Ball(p=p, radius=0.7, low=0.0, high=1.0, orthogonal_to=plane))
    answers = "margin" if name in ("apgd", "square") else "radius"
    small = {"multistart": {"restarts": 1, "steps": 5}, "fmn": {"steps": 15}, "apgd": {"steps": 15}, "hlrf": {}}
    witness = method("attacks", name)(problem, seed=1, **small.get(name, {"steps": 10}))
    change = witness.point["x.coordinates"].double() @ plane.complement().basis.float().double()
    length = {1: change.abs().sum(1), 2: change.norm(dim=1), inf: change.abs().amax(1)}[p]
    assert float((x + change).min()) >= 0 and float((x + change).max()) <= 1
    if answers == "margin":
        assert bool((length <= 0.7).all()) and bool((witness.margin <= problem.margin().double() + 1e-6).all())
    else:
        assert torch.allclose(length[witness.found] / 0.7, witness.size[witness.found], rtol=1e-9)


def test_a_section_moves_beside_weights():
    torch.manual_seed(6)
    module, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), torch.rand(3, 8)
    plane = Subspace.given(torch.randn(3, 8))
    balls = {"x": Ball(p=inf, radius=0.1, within=plane), "2.weight": Ball(p=inf, radius=0.02)}
    joint = bt.radius(Problem(module, x, module(x).argmax(1), balls), effort="quick", ends="upper")
    alone = bt.radius(Problem(module, x, module(x).argmax(1), balls["x"]), effort="quick", ends="upper")
    assert bool(joint.witness.found.all()) and bool((joint.upper < alone.upper).all())


def test_what_cannot_be_restricted_is_refused():
    module, x, labels = linear()
    for ball, words in (
        (lambda: Ball(p=0, radius=1.0, within=AXIS), "p of 1, 2 or inf, got p=0; ask with p=1"),
        (lambda: Ball(p=2, radius=1.0, low=-1, high=1, within=AXIS), "values inside low=-1"),
        (lambda: Ball(p=2, radius=1.0, within=AXIS, orthogonal_to=AXIS), "both"),
        (lambda: Ball(p=2, radius=1.0, within=Subspace.given(torch.eye(4)[:1])), "3 features"),
        (lambda: Ball(p=2, radius=1.0, orthogonal_to=Subspace.given(torch.eye(3))), "at least one dimension"),
    ):
        with pytest.raises(InputError, match=words):
            Problem(module, x, labels, ball())
    with pytest.raises(InputError, match="tangent spaces"):
        local = Subspace.local(torch.rand(9, 3), neighbours=4, dimension=1)
        bt.audit(module, x, labels, {"a": Ball(p=2, radius=1.0, within=local)}, out="never", progress=False)


def test_an_audit_of_restricted_balls_is_recorded_reported_and_verified(tmp_path):
    torch.manual_seed(7)
    module, x = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), 0.3 + 0.4 * torch.rand(6, 8)
    labels, plane = module(x).argmax(1), Subspace.pca(torch.randn(30, 8), dimension=3)
    regions = {
        "on": Ball(p=2, radius=1.0, within=plane),
        "off": Ball(p=inf, radius=0.5, low=0.0, high=1.0, orthogonal_to=plane),
        "l2": Ball(p=2, radius=1.0),
    }
    options = {"out": tmp_path / "run", "effort": "quick", "diagnostics": ["compression"], "progress": False}
    run = bt.audit(module, x, labels, regions, **options)
    rows = {name: run.brackets("model", name) for name in regions}
    assert bool((rows["on"]["lower"] > 0).all()) and set(rows["on"]["lower_kind"]) == {"proved"}
    assert bool((rows["off"]["lower"] == 0).all()) and set(rows["off"]["status"]) == {NO_BOUND}
    assert bool((rows["on"]["upper"] >= rows["l2"]["upper"] * 0.999).all())
    assert run.points("model")["radius/on/x.coordinates"].shape == (6, 3)
    assert run.plan.regions["off"]["x"]["orthogonal_to"]["dimension"] == 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "inside a subspace of 3 of 8 dimensions" in page and "orthogonal to a subspace of 3 of 8 dimensions" in page
    found = bt.verify(run.folder, module, x, labels, regions=regions)
    assert (
        found.passed
        and found.witnesses == sum(int((r["upper"] < inf).sum()) for r in rows.values())
        and found.proofs == 12
    )
    silent = bt.verify(run.folder, module, x, labels)
    assert not silent.passed and not silent.failures and "pass regions=" in silent.unchecked[0]
    other = {**regions, "on": Ball(p=2, radius=1.0, within=Subspace.pca(torch.randn(30, 8), dimension=3))}
    assert "not the one recorded" in bt.verify(run.folder, module, x, labels, regions=other).unchecked[0]
    again = bt.audit(module, x, labels, regions, **options)
    assert again.complete, "a finished folder is only read"
    with pytest.raises(InputError, match="another plan"):
        bt.audit(module, x, labels, other, **options)


def test_verify_believes_no_lower_end_of_a_section_and_no_point_outside_its_range():
    from brittle.verifying.proofs import prove
    from brittle.verifying.report import Report
    from brittle.verifying.witnesses import size_of

    module, x, labels = linear()
    problem = Problem(module, x, labels, Ball(p=inf, radius=1.0, low=-4, high=4, orthogonal_to=AXIS))
    report = Report()
    prove(
        problem, [{"example": 0, "lower": 0.1, "lower_kind": "proved", "lower_method": "crown"}], {}, "here", {}, report
    )
    assert "nothing certifies" in report.failures[0]
    at = lambda c: size_of(problem, "x.coordinates", torch.tensor(c, dtype=torch.float64), 0)
    assert at([3.0, -4.0]) == pytest.approx(4.0) and at([0.0, 4.1]) == inf
