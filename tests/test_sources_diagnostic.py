"""bt.diagnose(problem, "sources"): drops of the margin by leaf, against exact gradients, closed forms and attacks; and its panel."""

from functools import partial
from math import inf

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle import discovery, meter, norms
from brittle.attacks.apgd import apgd
from brittle.bounds.ibp import ibp
from brittle.diagnostics import _slopes, _tangent
from brittle.diagnostics._slopes import first_order
from brittle.diagnostics.sources import _worst
from brittle.digest import state_digest
from brittle.discovery import method
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded
from brittle.spec import margin
from brittle.training import train
from fixtures_run import Sketch, finding, write_run

torch.manual_seed(0)


def mlp(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(5, 7, bias), nn.ReLU(inplace=True), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()


def asked(module: nn.Module, shape: tuple[int, ...], region: dict[str, bt.Ball], count: int = 6) -> bt.Problem:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    return bt.Problem(module, x, torch.arange(count) % 3, region)


def weights(module: nn.Module) -> list[str]:
    return [name for name, value in module.named_parameters() if value.dim() > 1]


def one_by_one(problem: bt.Problem) -> dict[str, Tensor]:
    """The slow twin: an ordinary backward pass for every example, and <-g, v> at the best v coordinate by coordinate (p = inf) or by duality."""
    module, out = problem.network.quiet, {leaf: [] for leaf in problem.leaves}
    parameters = dict(module.named_parameters())
    for i in range(len(problem)):
        part = problem.take(torch.tensor([i]))
        x = {k: v.clone().requires_grad_() for k, v in part.inputs.items()}
        moved = {leaf: x[leaf] if leaf in x else parameters[leaf].clone().requires_grad_() for leaf in problem.leaves}
        given = {leaf: v for leaf, v in moved.items() if leaf not in x}
        rows = problem.spec.rows(torch.func.functional_call(module, given, (x["x"],)), part.labels)
        slopes = torch.autograd.grad(margin(rows, 1).sum(), list(moved.values()))
        for (leaf, value), g in zip(moved.items(), slopes, strict=True):
            ball, radius = problem.region[leaf], float(problem.radius(leaf)[i])
            told = g * torch.as_tensor(1.0 if ball.unit is None else ball.unit)
            if ball.low is None and ball.high is None:
                out[leaf].append(radius * norms.norm(told.flatten()[None], norms.dual(ball.p))[0])
                continue
            step = (-told.sign() * radius).flatten() * torch.as_tensor(1.0 if ball.unit is None else ball.unit).expand(
                value.shape
            ).flatten()
            low, high = ball.exact_range(value)
            stopped = (value.flatten() + step).clamp(float(low), float(high)) - value.flatten()
            out[leaf].append(-(g.flatten() @ stopped))
    return {leaf: torch.stack(v) for leaf, v in out.items()}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Twice(nn.Module):
    """One weight read as a layer and again by itself, one layer called twice, one on sequences: gradients that are no single products."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.steps = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x)) @ self.first.weight
        h = torch.tanh(self.again(torch.tanh(self.again(h))))
        return self.last(h + self.steps(torch.stack([h, x], 1)).mean(1))


BALLS = {
    "inf": bt.Ball(p=inf, radius=0.03), "l2": bt.Ball(p=2, radius=0.1), "l1": bt.Ball(p=1, radius=0.3),
    "element": bt.Ball(p=inf, radius=0.05, relative="element"), "rms": bt.Ball(p=2, radius=0.2, relative="rms"),
    "element-l2": bt.Ball(p=2, radius=0.05, relative="element"), "range": bt.Ball(p=inf, radius=0.2, low=-0.6, high=0.6),
}  # fmt: skip


@pytest.mark.parametrize("kind", BALLS)
def test_products_of_norms_are_the_exact_gradients(kind):
    module = mlp()
    problem = asked(
        module,
        (5,),
        {"x": bt.Ball(p=inf, radius=0.3, low=0.0, high=1.0), **{n: BALLS[kind] for n, _ in module.named_parameters()}},
    )
    _, drops = first_order(problem)
    for leaf, value in one_by_one(problem).items():
        torch.testing.assert_close(drops[leaf], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make, shape", [
    (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)), (1, 6, 6)),
    (Recurrent, (4, 3)), (Twice, (4,)),
])  # fmt: skip
def test_other_layers_get_exact_gradients(make, shape, monkeypatch):
    torch.manual_seed(2)
    module = make().double().eval()
    ball = bt.Ball(p=inf, radius=0.02)
    problem = asked(module, shape, {"x": bt.Ball(p=2, radius=0.3), **{name: ball for name in weights(module)}}, count=4)
    _, drops = first_order(problem)
    for leaf, value in one_by_one(problem).items():
        torch.testing.assert_close(drops[leaf], value, rtol=1e-9, atol=1e-12, msg=leaf)
    monkeypatch.setattr(_slopes, "NUMBERS", 1)  # too large for copies of the weights: one example after the other
    for leaf, value in first_order(problem)[1].items():
        torch.testing.assert_close(value, drops[leaf], rtol=1e-9, atol=1e-12, msg=leaf)


def test_one_backward_pass_serves_the_batch_and_nothing_is_left_behind():
    module = mlp()
    problem = asked(
        module, (5,), {"x": bt.Ball(p=inf, radius=0.1), **{n: bt.Ball(p=inf, radius=0.01) for n in weights(module)}}
    )
    before, quiet = state_digest(module), state_digest(problem.network.quiet)
    with meter.measure() as passes:
        first_order(problem)
    assert (passes.forward, passes.backward) == (6, 6)
    with meter.measure() as passes:
        bt.diagnose(problem, "sources")
    assert (passes.forward, passes.backward) == (13, 12), "the two nearest rivals, and one example to count the rows"
    assert state_digest(module) == before and state_digest(problem.network.quiet) == quiet
    assert all(p.grad is None for p in [*module.parameters(), *problem.network.quiet.parameters()])  # type: ignore[union-attr]
    assert not any(m._forward_hooks for m in problem.network.quiet.modules())  # type: ignore[union-attr]


def test_it_is_exact_where_one_layer_of_a_linear_rule_moves():
    """Only the last layer: the drop is 2 radius |z|_1, what the interval bound certifies; the input of a linear rule: radius |w|_1 less what the range blocks."""
    module = mlp()
    problem = asked(module, (5,), {"4.weight": bt.Ball(p=inf, radius=0.07)})
    found = bt.diagnose(problem, "sources")
    torch.testing.assert_close(found.columns["predicted"], margin(ibp(problem).rows, 1), rtol=0, atol=1e-10)
    with torch.no_grad():
        z = module[:4](problem.x)
    torch.testing.assert_close(found.columns["drop 4.weight"], 0.14 * z.abs().sum(1), rtol=0, atol=1e-12)
    linear = nn.Linear(2, 2).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
        linear.bias.copy_(torch.tensor([1.0, 0.0]))
    x = torch.tensor([[0.05, 0.5], [0.5, 1.0]], dtype=torch.float64)
    corner = bt.Problem(linear, x, torch.tensor([0, 1]), bt.Ball(p=inf, radius=0.2, low=0, high=1))
    # example 0: 0.05 down (the rest is blocked) and 0.2 up; example 1 (label 1, slopes -3 and 4): 0.2 up, 0.2 down
    _, drops = first_order(corner)
    assert drops["x"].tolist() == pytest.approx([3 * 0.05 + 4 * 0.2, 1.4])
    assert first_order(corner.scaled(0.1))[1]["x"].tolist() == pytest.approx([0.14, 0.14])


def test_the_rival_that_ends_lowest_is_told():
    """Rows 1.0 and 1.1; the second is three times as steep: it is the one that wins."""
    linear = nn.Linear(2, 3).double()
    with torch.no_grad():
        _ = (
            linear.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])),
            linear.bias.copy_(torch.tensor([0.0, -1.0, -1.1])),
        )
    ball, x = bt.Ball(p=inf, radius=0.2), torch.zeros(1, 2).double()

    def told(label: int, rivals: int) -> list[float]:
        margins, drops = _worst(bt.Problem(linear, x, torch.tensor([label]), ball), rivals)
        return [float(margins[0]), float(drops["x"][0])]

    assert told(0, 2) == pytest.approx([1.1, 0.6]) and told(0, 1) == pytest.approx([1.0, 0.2])
    assert told(0, 9) == told(0, 2)
    assert told(1, 2) == pytest.approx([-1.0, 0.2]), "wrong already: the row that is"


def test_two_linearisations_are_exact_where_the_worst_corner_stays():
    """Rows (w_0 - w_1) x; least at x - e sign(d) and W - r: m = sum (d_i - 2 r sign(x')) x'_i, where |d_i| > 2 r and x' > 0. One linearisation misses 2 r e sum sign(d)."""
    linear = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -1.0, 2.0], [1.0, 1.0, 0.5]]))
    x, e, r = torch.tensor([[1.0, 0.5, 0.8], [0.6, 0.2, 0.9]]).double(), 0.1, 0.05
    region = {"x": bt.Ball(p=inf, radius=e), "weight": bt.Ball(p=inf, radius=r)}
    problem = bt.Problem(linear, x, torch.tensor([0, 0]), region)
    difference = torch.tensor([2.0, -2.0, 1.5]).double()
    least = ((x - e * difference.sign()) * (difference - 2 * r)).sum(1)
    once, twice = (bt.diagnose(problem, "sources", linearisations=k) for k in (1, 2))
    torch.testing.assert_close(twice.columns["predicted"], least, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        least - once.columns["predicted"], torch.full((2,), 2 * r * e, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert torch.equal(once.columns["share x"], twice.columns["share x"])


def test_two_linearisations_predict_digits_under_attack(monkeypatch):
    """Attacked margins of the embedded network at input .02 and weights .004: the tangent at the corner is at least three times as close; in parts of one example the same."""
    data = digits("test")
    module = embedded("mlp")
    region = {"x": bt.Ball(p=inf, radius=0.02, low=0, high=1), "*.weight": bt.Ball(p=inf, radius=0.004)}
    problem = bt.Problem(module, data.x[:20], data.labels[:20], region)
    attacked = bt.margin(problem, ends="upper", attacks=[partial(apgd, steps=30, restarts=1)]).upper
    right = (problem.margin() > 0).cpu()
    once, twice = (
        torch.as_tensor(bt.diagnose(problem, "sources", linearisations=k).columns["predicted"]) for k in (1, 2)
    )
    off = lambda told: float((told - attacked)[right].abs().median())
    assert 3 * off(twice) < off(once)
    monkeypatch.setattr(_tangent, "NUMBERS", 1)
    some = bt.diagnose(problem.take(torch.arange(3)), "sources", linearisations=2).columns["predicted"]
    torch.testing.assert_close(some, twice[:3], rtol=1e-4, atol=1e-5)


def test_a_count_has_no_second_linearisation():
    region = {"x": bt.Ball(p=0, radius=1, low=0, high=1), "0.weight": bt.Ball(p=inf, radius=0.1)}
    problem = asked(mlp(), (5,), region)
    with pytest.raises(bt.InputError, match="p=0 for 'x'"):
        bt.diagnose(problem, "sources", linearisations=2)
    with pytest.raises(bt.InputError, match="linearisations of 1 or 2"):
        bt.diagnose(problem, "sources", linearisations=3)


def test_shares_and_sizes_add_up():
    module = mlp()
    region = {
        "x": bt.Ball(p=inf, radius=0.02),
        "0.weight": bt.Ball(p=inf, radius=0.01),
        "2.bias": bt.Ball(p=2, radius=0.5),
    }
    found = bt.diagnose(asked(module, (5,), region), "sources")
    columns = {k: torch.as_tensor(v).double() for k, v in found.columns.items()}
    torch.testing.assert_close(sum(columns[f"share {leaf}"] for leaf in region), torch.ones(6).double())
    torch.testing.assert_close(
        sum(columns[f"drop {leaf}"] for leaf in region), columns["margin"] - columns["predicted"]
    )
    right = columns["margin"] > 0
    for leaf, ball in region.items():
        size = columns[f"size {leaf}"]
        torch.testing.assert_close((size * columns[f"drop {leaf}"] / ball.radius)[right], columns["margin"][right])
        assert bool((size[~right] == 0).all())
    expected = float((columns["predicted"] > 0).double().mean())
    assert f"predicted accuracy {expected:.1%}" in found.value and "x by 0.02 in l-inf" in found.threshold


def test_without_a_parameter_the_layers_are_asked_about_in_relative_terms():
    module = mlp()
    base = bt.diagnose(asked(module, (5,), {"x": bt.Ball(p=2, radius=1.0)}), "sources")
    assert [n for n in base.columns if n.startswith("share")] == ["share 0.weight", "share 2.weight", "share 4.weight"]
    assert "assumed: every weight by 0.01 of itself" in base.threshold and "Weakest layer" in base.note
    doubled = bt.diagnose(asked(module, (5,), {"x": bt.Ball(p=2, radius=1.0)}), "sources", relative=0.02)
    for name in ("share 0.weight", "size 2.weight"):
        torch.testing.assert_close(doubled.columns[name], base.columns[name])
    first, last = nn.Linear(5, 7), nn.Linear(7, 3)
    relu = nn.Sequential(first, nn.ReLU(), last).double()
    before = bt.diagnose(asked(relu, (5,), {"x": bt.Ball(p=2, radius=1.0)}), "sources").columns
    with torch.no_grad():  # the same function: one layer up, the next one down
        _ = first.weight.mul_(8), first.bias.mul_(8), last.weight.div_(8)
    after = bt.diagnose(asked(relu, (5,), {"x": bt.Ball(p=2, radius=1.0)}), "sources").columns
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-9, atol=1e-12, equal_nan=True)
    with pytest.raises(bt.errors.InputError, match="relative"):
        bt.diagnose(asked(relu, (5,), {"x": bt.Ball(p=2, radius=1.0)}), "sources", relative=0.0)


def test_a_callable_tells_of_its_input_and_counted_features_may_do_anything():
    fixed = lambda x: torch.stack([x[:, 0], x[:, 1]], 1)
    found = bt.diagnose(
        bt.Problem(fixed, torch.tensor([[2.0, 1.0]]), torch.tensor([0]), bt.Ball(p=inf, radius=0.1)), "sources"
    )
    assert float(found.columns["drop x"][0]) == pytest.approx(0.2)
    module = mlp()
    counted = bt.diagnose(
        asked(module, (5,), {"x": bt.Ball(p=0, radius=2.0), "0.weight": bt.Ball(p=inf, radius=0.01)}), "sources"
    )
    assert bool(torch.as_tensor(counted.columns["drop x"]).isinf().all()) and bool(
        torch.as_tensor(counted.columns["share x"]).isnan().all()
    )
    with pytest.raises(bt.errors.InputError, match="neither"):
        bt.diagnose(bt.Problem(fixed, torch.zeros(1, 2), torch.tensor([0])), "sources")


ANCHORS = [(0.01, 0.0), (0.0, 0.002), (0.01, 0.002), (0.02, 0.005), (0.05, 0.01)]


@pytest.mark.slow
def test_it_predicts_attacked_joint_accuracy_within_three_points():
    """The anchor table: digits, 64-32-32-10, weights of every example its own."""
    x, labels = digits("train")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    module = train(module, x, labels, epochs=80, rate=3e-3).module
    test, truth = digits("test")
    assert isinstance(test, Tensor)
    for eps_x, eps_w in ANCHORS:
        region = {
            "x": bt.Ball(p=inf, radius=eps_x, low=0, high=1),
            **{n: bt.Ball(p=inf, radius=eps_w) for n in weights(module)},
        }
        problem = bt.Problem(module, test[:150], truth[:150], region)
        predicted = torch.as_tensor(bt.diagnose(problem, "sources").columns["predicted"])
        attacked = method("attacks", "apgd")(problem, steps=30)
        gap = float((predicted > 0).double().mean() - (~attacked.found).double().mean())
        assert abs(gap) <= 0.03, (eps_x, eps_w, gap)


# ---- the panel -------------------------------------------------------------------------------------------------------

COLUMNS = {
    "example": [0, 1], "margin": [2.0, -1.0], "predicted": [1.0, -2.0], "drop x": [0.4, 0.5], "share x": [0.4, 0.5], "size x": [0.05, 0.0],
    "drop fc<1>.weight": [0.6, 0.5], "share fc<1>.weight": [0.6, 0.5], "size fc<1>.weight": [0.0123, 0.0],
}  # fmt: skip


def drawn(tmp_path, columns: dict, models: tuple[str, ...] = ("plain",)) -> str:
    sketch = Sketch(models, ("l2",), (), count=2, findings=(finding("sources", columns, note="It is <blamed>."),))
    return str(discovery.method("panels", "sources")(write_run(tmp_path / "run", sketch)))


def test_the_panel_draws_a_bar_per_leaf_of_the_correct_examples(tmp_path):
    html = drawn(tmp_path, COLUMNS)
    assert html.count("<rect") == 2 and "40 %" in html and "60 %" in html and "0.012" in html
    assert "It is &lt;blamed&gt;." in html and "fc&lt;1&gt;.weight" in html and "fc<1>" not in html
    assert drawn(tmp_path / "two", COLUMNS, ("plain", "cured")).count("<rect") == 4


def test_the_panel_is_silent_without_the_finding_and_honest_about_a_refusal(tmp_path):
    assert (
        str(
            discovery.method("panels", "sources")(write_run(tmp_path / "run", Sketch(("plain",), ("l2",), (), count=2)))
        )
        == ""
    )
    html = drawn(tmp_path / "none", {})
    assert "It is &lt;blamed&gt;." in html and "<svg" not in html
    wrong = {**COLUMNS, "margin": [-1.0, -1.0]}
    assert "<svg" not in drawn(tmp_path / "wrong", wrong)
