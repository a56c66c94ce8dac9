"""Regions of parameters: relative balls, patterns over names, tied weights, refusals; every ball kind against its closed form."""

from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.discovery import method
from brittle.errors import InputError
from brittle.norms import dual
from zoo import mlp

KINDS = [None, "element", "rms", "unit"]


def linear() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Two classes in float64 with one weight of 0: the margin is <W, (x, -x)>, linear in the weights."""
    module = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, -4.0, 0.0], [0.5, 1.0, -2.0]]))
    return module, torch.tensor([[1.0, -0.5, 0.25], [2.0, 0.25, 1.0]]).double(), torch.tensor([0, 0])


def ball(kind: str | None, p: float, radius: float) -> bt.Ball:
    unit = torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, 1.0]]) if kind == "unit" else None
    return bt.Ball(p=p, radius=radius, relative=kind if kind != "unit" else None, unit=unit)


def units(kind: str | None, weight: torch.Tensor) -> torch.Tensor:
    return {
        None: torch.ones_like(weight),
        "element": weight.abs(),
        "rms": weight.square().mean().sqrt().expand_as(weight),
        "unit": torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, 1.0]]).to(weight),
    }[kind]


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_whose_weights_move_has_its_closed_form(kind, p):
    """min <W + dW, G> over |dW / unit|_p <= r is <W, G> - r |unit G|_q, and the distance <W, G> / |unit G|_q."""
    module, x, labels = linear()
    slope = torch.stack([x, -x], 1) * units(kind, module.weight.detach())
    clean = (module(x)[:, 0] - module(x)[:, 1]).detach()
    length = torch.linalg.vector_norm(slope.flatten(1), dual(p), dim=1)
    margin = bt.margin(bt.Problem(module, x, labels, {"weight": ball(kind, p, 0.1)}))
    assert bool((margin.lower <= clean - 0.1 * length).all())
    # a witness is pulled inwards by up to 2^-20 of its change where it would lie outside by rounding
    torch.testing.assert_close(margin.upper, clean - 0.1 * length, rtol=1e-6, atol=0)
    if p == inf:
        torch.testing.assert_close(margin.lower, clean - 0.1 * length, rtol=1e-12, atol=1e-12)
    radius = bt.radius(bt.Problem(module, x, labels, {"weight": ball(kind, p, 0.5)}), attacks=["hlrf"], ends="upper")
    torch.testing.assert_close(radius.upper, 2 * clean / length, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [1, 2, inf])
def test_a_ball_with_units_projects_into_itself_keeps_what_is_inside_and_never_moves_an_entry_of_unit_zero(kind, p):
    torch.manual_seed(0)
    weight = linear()[0].weight.detach()
    made = ball(kind, p, 1.0).at(weight)
    change, radius = torch.randn(6, 2, 3).double(), torch.linspace(0.1, 2, 6).double()
    inside = made.project(change, radius)
    assert bool((made.size(inside) <= radius * (1 + 1e-12)).all())
    assert torch.equal(made.project(inside * 0.5, radius), inside * 0.5)
    still = units(kind, weight) == 0
    assert bool((inside[:, still] == 0).all())
    if still.any():
        assert bool((made.size(change) == inf).all())
    slope = torch.randn(6, 2, 3).double()
    best = made.steepest(slope)
    length = torch.linalg.vector_norm((slope * units(kind, weight)).flatten(1), dual(p), dim=1)
    assert torch.allclose((best * slope).flatten(1).sum(1), length) and torch.allclose(
        made.size(best), torch.ones(6).double()
    )


def rescaled(module: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function: the first layer ``factor`` times as large, the last one as much smaller."""
    import copy

    twin = copy.deepcopy(module)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            value.mul_({"0.weight": factor, "0.bias": factor, "2.bias": factor, "4.weight": 1 / factor}.get(name, 1.0))
    return twin


@pytest.mark.parametrize("kind", [None, "element", "rms"])
def test_a_rescaled_twin_has_the_same_relative_answers_and_other_absolute_ones(kind):
    """A power of two, so that the twin's arithmetic is the same to the last bit."""
    module, x, labels = mlp()
    region = {"x": bt.Ball(p=inf, radius=0.01, low=0, high=1), "*.weight": bt.Ball(p=inf, radius=0.02, relative=kind)}
    answers = [
        bt.margin(bt.Problem(m, x, labels, region), effort="quick", attacks=["apgd"])
        for m in (module, rescaled(module, 4.0))
    ]
    same = [torch.equal(getattr(answers[0], end), getattr(answers[1], end)) for end in ("lower", "upper")]
    assert same == ([False, False] if kind is None else [True, True])


def test_patterns_expand_to_one_ball_for_each_parameter_and_names_go_before_them():
    module, x, labels = mlp()
    wide, narrow = bt.Ball(p=inf, radius=0.2), bt.Ball(p=2, radius=0.1)
    problem = bt.Problem(module, x, labels, {"*.weight": wide, "x": narrow, "2.weight": narrow})
    assert problem.leaves == ("0.weight", "4.weight", "x", "2.weight")
    assert problem.region["2.weight"].p == 2 and problem.region["0.weight"].radius == 0.2
    assert bt.Problem(module, x, labels, {"param:[02].*": wide}).leaves == tuple(
        f"param:{k}.{what}" for k in (0, 2) for what in ("weight", "bias")
    )
    assert problem.within({"0.*": wide}).leaves == ("0.weight", "0.bias")
    with pytest.raises(InputError, match="one ball for each parameter"):
        bt.Problem(module, x, labels, {"*.weight": wide, "0.*": narrow})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("steps", torch.zeros(1, dtype=torch.long))
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.second(torch.relu(self.first(x))))


def test_tied_weights_are_one_leaf_under_any_of_their_names():
    torch.manual_seed(0)
    module, x = Tied().eval(), torch.rand(4, 3)
    labels = module(x).argmax(1)
    region = bt.Ball(p=inf, radius=0.3)
    problems = [
        bt.Problem(module, x, labels, {name: region}) for name in ("second.weight", "first.weight", "second.w*")
    ]
    assert {p.leaves for p in problems} == {("first.weight",)}
    moved = problems[0].centre["first.weight"] + 0.1
    with torch.no_grad():
        module.first.weight.add_(0.1)
        torch.testing.assert_close(problems[0].logits({"first.weight": moved}), module(x))
    with pytest.raises(InputError, match="one ball for each parameter"):
        bt.Problem(module, x, labels, {"first.weight": region, "second.weight": region})


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        ("frist.weight", "did you mean 'first.weight'"),
        ("frist.*", "did you mean 'first."),
        ("norm.running_mean", r"the buffer norm.running_mean \(float32\): no training sets it"),
        ("*running_var", r"the buffer norm.running_var"),
        ("steps", r"the buffer steps \(int64\): an integer has no small change"),
        ("X", "did you mean 'x'"),
        ("zzz", "use one of these names"),
    ],
)
def test_a_leaf_that_cannot_move_is_refused_with_the_nearest_names_or_the_reason(leaf, said):
    with pytest.raises(InputError, match=said):
        bt.Problem(Tied().eval(), torch.rand(2, 3), torch.tensor([0, 1]), {leaf: bt.Ball(p=2, radius=1.0)})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"p": 0, "radius": 1, "relative": "rms"}, "p of 1, 2 or inf"),
        ({"p": 2, "radius": 1, "relative": "layer"}, "element"),
        ({"p": 2, "radius": 1, "unit": -1.0}, "numbers >= 0"),
    ],
)
def test_balls_that_mean_nothing_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        bt.Ball(**given)


def test_units_are_of_parameters_and_of_their_shape():
    module, x, labels = mlp()
    with pytest.raises(InputError, match="parameters only"):
        bt.Problem(module, x, labels, bt.Ball(p=2, radius=1.0, relative="rms"))
    with pytest.raises(InputError, match="broadcasts"):
        bt.Problem(module, x, labels, {"0.weight": bt.Ball(p=2, radius=1.0, unit=torch.ones(5))})


def test_a_relative_ball_says_so_in_repr_and_facts_and_is_told_its_own_weight_again():
    made = bt.Ball(p=inf, radius=0.05, relative="element")
    assert repr(made) == "Ball(p=inf, radius=0.05, relative='element')"
    assert made.facts() == made.at(torch.ones(2)).facts() and made.facts()["relative"] == "element"
    assert "relative" not in bt.Ball(p=2, radius=1.0).facts()
    first, other = (mlp()[0] for _ in range(2))
    with torch.no_grad():
        other[0].weight.mul_(3)
    _, x, labels = mlp()
    region = bt.Problem(first, x, labels, {"0.weight": made}).region
    again = bt.Problem(other, x, labels, region).region["0.weight"]
    torch.testing.assert_close(again.unit, other[0].weight.detach().double().abs())


def test_an_audit_of_a_pattern_of_relative_balls_is_verified(tmp_path):
    module, x, labels = mlp()
    region = {
        "x": bt.Ball(p=inf, radius=0.02, low=0, high=1),
        "*.weight": bt.Ball(p=inf, radius=0.05, relative="element"),
    }
    options = {"effort": "quick", "checks": False, "diagnostics": [], "progress": False, "report": None}
    bt.audit(module, x[:3], labels[:3], {"joint": region}, out=tmp_path / "run", **options)
    found = bt.verify(tmp_path / "run", module, x[:3], labels[:3])
    assert found.passed and found.witnesses == 3 and found.proofs == 3, found


def test_every_attack_stays_inside_relative_balls():
    module, x, labels = mlp()
    region = {"x": bt.Ball(p=inf, radius=0.02, low=0, high=1), "0.weight": bt.Ball(p=2, radius=0.5, relative="element")}
    problem = bt.Problem(module, x, labels, {**region, "2.weight": bt.Ball(p=1, radius=2.0, relative="rms")}).take(
        torch.arange(2)
    )
    for name in ("apgd", "square"):
        witness = method("attacks", name)(problem, steps=10)
        assert bool((problem.size(witness.point) <= 1).all()) and bool((witness.margin < problem.margin()).all())
    for name in ("hlrf", "fmn", "random_lines"):
        witness = method("attacks", name)(problem)
        assert bool((problem.size(witness.point)[witness.found] == witness.size[witness.found]).all())


@pytest.mark.parametrize("other", ["*.weight", "0.weight"])
def test_an_audit_says_that_one_region_is_not_a_mapping_of_regions(other, tmp_path):
    """Two balls under the names of leaves would be read as two regions of the input."""
    module = nn.Sequential(nn.Linear(3, 2))
    regions = {"x": bt.Ball(2, 0.1), other: bt.Ball(2, 0.1)}
    with pytest.raises(bt.InputError, match='give the region a name: {"joint"'):
        bt.audit(module, torch.rand(2, 3), torch.tensor([0, 1]), regions, out=tmp_path / "run")
