"""The diagnostic subspace: exact on linear networks, the frozen-noise law, and what it says of degenerate cases."""

from copy import deepcopy
from math import inf, sqrt

import pytest
import torch
from torch import nn

from brittle import Ball, InputError, Problem, Subspace, diagnose

AXIS = Subspace.given(torch.eye(3)[:1])


def linear():
    """margin x0 - 2 x1 + 2 x2; on the axis e0 the distance is 3, in all 1, off it 3 / sqrt 8."""
    module = nn.Linear(3, 2).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 2.0], [0, 0, 0]])), module.bias.zero_()
    return Problem(
        module, torch.tensor([[3.0, 0, 0], [6.0, 0, 0]]).double(), torch.tensor([0, 0]), Ball(p=2, radius=1.0)
    )


def test_every_column_of_a_linear_network_is_exact():
    found = diagnose(linear(), "subspace", subspace=AXIS).columns
    assert found["share"].tolist() == pytest.approx([8 / 9] * 2)
    assert found["chance"].tolist() == pytest.approx([2 / 3] * 2)
    assert found["removable_gain"].tolist() == pytest.approx([3.0, 3.0])
    assert found["on_radius"].tolist() == pytest.approx([3, 6], rel=1e-5)
    assert found["off_radius"].tolist() == pytest.approx([3 / sqrt(8), 6 / sqrt(8)], rel=1e-5)
    assert found["radius"].tolist() == pytest.approx([1, 2], rel=1e-5)
    assert found["universal"].tolist() == pytest.approx([3 / sqrt(8), 6 / sqrt(8)], rel=1e-3), (
        "one direction serves both"
    )
    assert found["status"] == ["ok", "ok"]


def frozen(seed, depth, scale, steps=60, points=60):
    """A network trained on data of an exact 4-dimensional subspace of R^40 by gradient descent, its first layer drawn at ``scale``."""
    torch.manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(40, 4, dtype=torch.float64)).Q.T
    x = torch.randn(points, 4, dtype=torch.float64) @ basis
    labels = (x @ basis[0] > 0).long()
    widths = [40, 50, *[30] * (depth - 2), 2]
    layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    module = nn.Sequential(*layers).double()
    with torch.no_grad():
        module[0].weight.normal_(0, scale / sqrt(40))
    before = module[0].weight.detach().clone()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x), labels).backward()
        optimiser.step()
    return module, x, labels, before


@pytest.mark.parametrize(("depth", "scale"), [(2, 1.0), (3, 3.0)])
def test_the_part_off_the_data_is_frozen_and_predicts_the_gradient(depth, scale):
    module, x, labels, before = frozen(depth, depth, scale)
    plane = Subspace.span(x)
    assert plane.dimension == 4
    change = module[0].weight.detach() - before
    assert float(plane.off(change).abs().max()) < 1e-12 < float(plane.on(change).abs().max())
    initial = deepcopy(module)
    with torch.no_grad():
        initial[0].weight.copy_(before)
    problem = Problem(module, x, labels, Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, initial=initial, attacked=8).columns
    # one vector of 36 numbers: chi-square, its length spreads by 1 / sqrt(72) = 12 %; three of them
    assert 0.65 < float(found["ratio"].nanmedian()) < 1.35
    assert float(found["share"].nanmedian()) < float(found["share_at_init"][0]) + 0.05


def test_the_chi_square_law_from_its_definition():
    """|(I - P) g|^2 / (s0 |dm/dh|)^2 over 40 small trainings, by autograd alone: chi-square with d - r = 36 degrees."""
    from scipy.stats import chi2, kstest

    values = []
    for seed in range(40):
        module, x, labels, before = frozen(seed, 2, 1.0, steps=12, points=16)
        plane = Subspace.span(x)
        at = x[:1].clone().requires_grad_()
        hidden = module[0](at)
        logits = module[1:](hidden)[0]
        margin = logits[labels[0]] - logits[1 - labels[0]]
        g, slope = torch.autograd.grad(margin, (at, hidden))
        spread = before.std(correction=0)
        values.append(float(plane.off(g).square().sum() / (spread * slope.norm()) ** 2))
    assert kstest(values, chi2(36).cdf).pvalue > 0.01
    assert sum(values) / 40 == pytest.approx(36, rel=4 * sqrt(2 / 36 / 40))


@pytest.mark.slow
def test_the_off_gradient_follows_its_chi_square_law():
    """As the diagnostic tells it, over 300 independent trainings: distribution (Kolmogorov-Smirnov), mean, variance, and no value below half the mean."""
    from scipy.stats import chi2, kstest

    values = []
    for seed in range(300):
        module, x, labels, before = frozen(seed, 2, 1.0)
        initial = deepcopy(module)
        with torch.no_grad():
            initial[0].weight.copy_(before)
        problem = Problem(module, x[:1], labels[:1], Ball(p=2, radius=1.0))
        found = diagnose(problem, "subspace", subspace=Subspace.span(x), initial=initial, attacked=0).columns
        values.append(36 * float(found["ratio"][0]) ** 2)
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    print(
        f"mean {mean:.2f} of 36, variance {variance:.1f} of 72, p {kstest(values, chi2(36).cdf).pvalue:.3f}, least {min(values):.1f}"
    )
    assert kstest(values, chi2(36).cdf).pvalue > 0.01
    assert mean == pytest.approx(36, rel=3 * sqrt(2 / 36 / 300))
    assert variance == pytest.approx(72, rel=3 * sqrt((2 + 12 / 36) / 300))  # kurtosis of chi-square: 12 / degrees
    assert min(values) > 18 * 0.8  # P(chi2_36 < 18) is 0.5 %: one or two of 300 lie below, none far


def test_shares_at_initialisation_are_chance():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 5))
    x = torch.randn(64, 30)
    problem = Problem(module, x, module(x).argmax(1), Ball(p=2, radius=1.0))
    plane = Subspace.given(torch.randn(6, 30))
    found = diagnose(problem, "subspace", subspace=plane, attacked=0)
    assert found.columns["share"].mean() == pytest.approx(24 / 30, abs=0.04)
    assert found.columns["share_at_init"][0] == pytest.approx(24 / 30, abs=0.04)
    assert bool(found.columns["radius"].isnan().all()), "no attack was asked for"
    assert "at most" in found.note and "dimension 6: share" in found.value


def test_pythagoras_holds_nearly_on_a_trained_network():
    module, x, labels, _ = frozen(0, 2, 1.0)
    found = diagnose(
        Problem(module, x, labels, Ball(p=2, radius=1.0)), "subspace", subspace=Subspace.span(x), attacked=12
    )
    on, off, full = (found.columns[n][:12] for n in ("on_radius", "off_radius", "radius"))
    keep = full > 0
    assert bool((full[keep] <= torch.minimum(on, off)[keep] * (1 + 1e-3)).all())
    ratio = (on[keep] ** -2 + off[keep] ** -2) * full[keep] ** 2
    assert float(ratio.median()) == pytest.approx(1, abs=0.1)


def test_degenerate_subspaces_are_said_in_words():
    problem = linear()
    whole = diagnose(problem, "subspace", subspace=Subspace.given(torch.eye(3)))
    assert "nothing is off it" in whole.note and whole.columns["off_radius"].tolist() == [inf, inf]
    assert whole.columns["removable_gain"].tolist() == [1, 1]
    local = diagnose(problem, "subspace", subspace=Subspace.local(torch.rand(9, 3), neighbours=4, dimension=1))
    assert bool(local.columns["radius"].isfinite().all() | local.columns["radius"].isnan().all())
    with pytest.raises(InputError, match="features"):
        diagnose(problem, "subspace", subspace=Subspace.given(torch.eye(4)[:2]))
    flat = nn.Linear(3, 2).double()
    torch.nn.init.zeros_(flat.weight)
    constant = diagnose(Problem(flat, problem.x, flat(problem.x).argmax(1)), "subspace", subspace=AXIS)
    assert constant.columns["status"] == ["the gradient of the margin is zero"] * 2 and bool(
        constant.columns["share"].isnan().all()
    )


def test_a_thousand_examples_cost_under_five_passes_each():
    from brittle import meter

    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)), torch.rand(1000, 20)
    problem, plane = Problem(module, x, module(x).argmax(1), Ball(p=2, radius=1.0)), Subspace.pca(x, dimension=5)
    with meter.measure() as alone:
        diagnose(problem, "subspace", subspace=plane, attacked=0)
    assert (alone.forward, alone.backward) == (3000, 2000)
    with meter.measure() as passes:
        diagnose(problem, "subspace", subspace=plane)
    assert (passes.forward + passes.backward) / 2 < 5 * 1000


def bad(name):
    """(data, subspace) for each line of what may be wrong with data or a basis."""
    draw = torch.Generator().manual_seed(3)
    plain = torch.randn(40, 6, generator=draw, dtype=torch.float64)
    return {
        "fewer examples than features": (plain[:4], Subspace.pca(plain[:4], energy=1.0)),
        "rank-deficient data": (plain[:, :2] @ plain[:2], Subspace.span(plain[:, :2] @ plain[:2])),
        "constant pixels": (plain * torch.tensor([1, 1, 0, 0, 1, 0]) + 0.5, Subspace.pca(plain * torch.tensor([1, 1, 0, 0, 1, 0]) + 0.5, energy=1.0)),
        "a basis that is not orthonormal": (plain, Subspace.given(torch.tensor([[1.0, 0, 0, 0, 0, 0], [5.0, 1, 0, 0, 0, 0]]))),
        "the whole space": (plain, Subspace.span(plain)),
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dimension"),
    [("fewer examples than features", 3), ("rank-deficient data", 2), ("constant pixels", 3), ("a basis that is not orthonormal", 2), ("the whole space", 6)],
)  # fmt: skip
def test_bad_data_and_bases_give_numbers_or_words_everywhere(name, dimension):
    import brittle as bt

    data, plane = bad(name)
    assert plane.dimension == dimension
    assert torch.allclose(plane.basis @ plane.basis.T, torch.eye(dimension, dtype=torch.float64), atol=1e-12)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    problem = Problem(module, data[:4], module(data[:4]).argmax(1), Ball(p=2, radius=1.0))
    found = diagnose(problem, "subspace", subspace=plane, attacked=2)
    share, gain = found.columns["share"], found.columns["removable_gain"]
    assert bool(share.isfinite().all()) and bool((gain >= 1).all()) and found.columns["status"] == ["ok"] * 4
    cut = bt.surgery(module, plane)
    if name != "a basis that is not orthonormal":
        assert torch.allclose(cut(data), module(data), atol=1e-10)
    off = Ball(p=2, radius=1.0, orthogonal_to=plane)
    if name == "the whole space":
        assert (
            share.abs().max() == 0
            and gain.tolist() == [1] * 4
            and found.columns["off_radius"][:2].tolist() == [inf, inf]
        )
        assert found.note == "The subspace is the whole space: nothing is off it."
        with pytest.raises(InputError, match="nothing can move in it"):
            Problem(module, problem.x, problem.labels, off)
    else:
        assert bool(bt.radius(Problem(cut, data[:4], cut(data[:4]).argmax(1), off), effort="quick").upper.isinf().all())


def test_more_dimensions_than_the_data_have_are_refused():
    for wrong in (
        lambda: Subspace.pca(torch.rand(4, 6), dimension=5),
        lambda: Subspace.pca(torch.rand(4, 6)).with_dimension(5),
    ):
        with pytest.raises(InputError, match="0 to 4"):
            wrong()
