"""Every attack, found by discovery, on every network of the zoo and every kind of region. A new attack file joins by itself."""

import copy
import inspect
from functools import cache
from math import inf

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle import meter
from brittle.attacks import proximal
from brittle.digest import state_digest
from brittle.discovery import method, methods
from brittle.norms import dual
from brittle.results import Witness
from reference.regions import radius
from zoo import CASES

ATTACKS = [m.name for m in methods("attacks") if m.about.answers in ("radius", "margin")]  # each example by itself
RADIUS = [m.name for m in methods("attacks") if m.about.answers == "radius"]
MARGIN = [m.name for m in methods("attacks") if m.about.answers == "margin"]
QUERIES = ("boundary_walk", "random_lines", "square")  # no gradients: nearness takes them many passes
GUIDED = [name for name in ATTACKS if name not in QUERIES]
WIDE = [name for name in ATTACKS if 2 in method("attacks", name).about.norms]
DENSE = [name for name in RADIUS if name in GUIDED and name in WIDE]
NORMS = (0, 1, 2, inf)
RADII = {0: 2.0, 1: 1.0, 2: 0.5, inf: 0.1}


def run(name: str, problem: bt.Problem, **options: object) -> Witness:
    return method("attacks", name)(problem, **options)


def brief(name: str) -> dict[str, int]:
    """Few steps, for laws that hold whatever the effort: whichever of these options the attack has."""
    known = inspect.signature(method("attacks", name).function).parameters
    return {k: v for k, v in {"steps": 8, "polishing": 2, "restarts": 2 if name in MARGIN else 1}.items() if k in known}


@cache
def made(case: str) -> tuple[nn.Module, Tensor, Tensor, float | None, float | None]:
    chosen = next(c for c in CASES if c.name == case)
    return (*chosen.make(), chosen.low, chosen.high)


def problem_of(case: str, region: str) -> bt.Problem:
    module, x, labels, low, high = made(case)
    first = next(iter(dict(module.named_parameters())))
    weights = bt.Ball(p=2, radius=0.3)
    regions = {f"l{p}": bt.Ball(p=p, radius=r, low=low, high=high) for p, r in RADII.items()}
    regions["weights"] = {first: weights}
    regions["joint"] = {"x": bt.Ball(p=inf, radius=0.1, low=low, high=high), first: weights}
    return bt.Problem(module, x, labels, regions[region]).take(torch.tensor([1, 0]))


def check(problem: bt.Problem, witness: Witness, answers: str) -> None:
    """What holds for whatever an attack returns."""
    clean = problem.margin().double()
    for leaf, value in witness.point.items():
        assert value.dtype == problem.centre[leaf].dtype and value.shape == problem.centre[leaf].shape
    size = problem.size(witness.point)
    assert bool(size.isfinite().all())
    if answers == "margin":
        assert bool((size <= problem.scale).all()), "outside the region"
        assert bool((witness.margin <= clean).all()), "worse than doing nothing"
    replay = problem.margin(witness.point).double()
    rounding = (
        16 * torch.finfo(problem.logits().dtype).eps * float(problem.logits().abs().max())
    )  # another batch, another sum
    torch.testing.assert_close(witness.margin, replay, rtol=0, atol=rounding, msg="another margin than claimed")
    assert bool((replay[witness.found] <= 0).all()), "the failure does not replay"
    assert bool((witness.margin[witness.found] <= 0).all())
    assert witness.margin64 is not None and bool((witness.margin64[witness.found] <= 0).all())
    told = witness.found | torch.tensor([s == "rounding-only" for s in witness.status])
    assert torch.equal(witness.size[told], size[told])
    assert bool((witness.size[~told] == inf).all())
    if answers == "radius":
        for leaf, value in witness.point.items():
            assert torch.equal(value[~told], problem.centre[leaf][~told])


# moving weights cost a pass per example each: two networks, one of them without a hidden layer, are enough for these laws
COMBINATIONS = [(c.name, region) for c in CASES for region in ("l0", "l1", "l2", "linf")]
COMBINATIONS += [(case, region) for case in ("affine", "mlp") for region in ("weights", "joint")]


@pytest.mark.parametrize("case, region", COMBINATIONS)
@pytest.mark.parametrize("name", ATTACKS)
def test_conformance(name: str, case: str, region: str) -> None:
    problem = problem_of(case, region)
    if not {b.p for b in problem.region.values()} <= set(method("attacks", name).about.norms):
        pytest.skip("a norm that the attack does not claim")
    before = state_digest(problem.module)
    witness = run(name, problem, **brief(name))
    check(problem, witness, method("attacks", name).about.answers)
    assert state_digest(problem.module) == before
    assert witness.method == name


def halfspace(gradient: list[float], p: float, binding: bool) -> tuple[bt.Problem, float]:
    """margin = <g, x> + 1 at x = 0.5: the distance in closed form, with and without a range that binds."""
    g = torch.tensor(gradient)
    module = nn.Linear(len(gradient), 2)
    with torch.no_grad():
        module.weight.copy_(torch.stack([g, torch.zeros_like(g)]))
        module.bias.copy_(torch.tensor([1.0 - 0.5 * float(g.sum()), 0.0]))
    x = torch.full((1, len(gradient)), 0.5)
    ball = bt.Ball(p=p, radius=1.0, low=0.3 if binding else None, high=0.7 if binding else None)
    if not binding:
        return bt.Problem(module, x, torch.tensor([0]), ball), 1 / float(torch.linalg.vector_norm(g, dual(p)))
    # brute force over the level of the water filling: every optimum fills coordinates up to a common level
    levels = torch.linspace(0, 1, 2_000_001, dtype=torch.float64)
    a = g.double().abs()
    if p == 1:
        left, spent = 1.0, 0.0
        for slope in sorted(a.tolist(), reverse=True):
            step = min(0.2, left / slope)
            left, spent = left - slope * step, spent + step
        return bt.Problem(module, x, torch.tensor([0]), ball), spent
    v = [torch.clamp(levels * (float(s) if p == 2 else 1.0), max=0.2) for s in a]
    at = int((sum(float(s) * w for s, w in zip(a, v, strict=True)) >= 1).nonzero()[0, 0])
    return bt.Problem(module, x, torch.tensor([0]), ball), float(
        torch.linalg.vector_norm(torch.tensor([float(w[at]) for w in v]), p)
    )


@pytest.mark.parametrize("binding", [False, True])
@pytest.mark.parametrize(
    "name, p", [(n, p) for n in RADIUS if n in GUIDED for p in (1, 2, inf) if p in method("attacks", n).about.norms]
)
def test_exact_distance_to_a_half_space(name: str, p: float, binding: bool) -> None:
    problem, distance = halfspace([4.0, -3.0, 1.5, 0.25], p, binding)
    size = float(run(name, problem).size)
    assert distance * (1 - 2e-5) <= size <= distance * 1.003


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("name", [n for n in MARGIN if n in GUIDED])
def test_exact_margin_over_a_half_space(name: str, p: float) -> None:
    problem, distance = halfspace([4.0, -3.0, 1.5, 0.25], p, False)
    margin = float(run(name, problem.scaled(0.5 * distance)).margin)
    assert 0.5 - 1e-5 <= margin <= 0.5 + 0.005


@pytest.mark.parametrize("name", [n for n in RADIUS if n in GUIDED])
def test_fewest_features_of_a_half_space(name: str) -> None:
    module = nn.Linear(5, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[5.0, 4.0, 3.0, 0.1, 0.1], [0.0] * 5]))
        module.bias.zero_()
    problem = bt.Problem(module, torch.ones(1, 5), torch.tensor([0]), bt.Ball(p=0, radius=1, low=0, high=1))
    # margin 12.2: the three largest leave 0.2, and the fourth 0.1
    assert float(run(name, problem).size) == 5
    module.bias.data[1] = 8.0  # margin 4.2: the largest alone is enough
    problem = bt.Problem(module, torch.ones(1, 5), torch.tensor([0]), bt.Ball(p=0, radius=1, low=0, high=1))
    assert float(run(name, problem).size) == 1


@pytest.mark.parametrize("loss", ["margin", "cross-entropy", "ratio"])
def test_every_loss_of_apgd_reaches_the_corner_of_an_affine_network_by_itself(loss: str) -> None:
    """A loss of the wrong sign would leave the clean point, which no other law notices."""
    problem = problem_of("affine", "linf")
    witness = run("apgd", problem, losses=(loss,), restarts=1, steps=10)
    assert witness.margin.tolist() == pytest.approx((problem.margin() - 0.1 * 7).tolist(), abs=1e-5)


@pytest.mark.parametrize("name", DENSE)
def test_one_unit(name: str) -> None:
    module, x, labels, _, _ = made("one_unit")
    witness = run(name, bt.Problem(module, x, labels, bt.Ball(p=2, radius=1.0)))
    assert witness.size.tolist() == pytest.approx([2.0, 0.5], rel=1e-3)
    assert witness.size[0] >= 2 and witness.size[1] >= 0.5


@pytest.mark.parametrize("name", DENSE)
def test_scale_is_shared_by_input_and_weights(name: str) -> None:
    """margin = w x + b at x = 1, w = 1: with both moving by t it is (1 - t)^2 - 0.25, zero at t = 0.5."""
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(1.0)
        module.bias.fill_(-0.25)
    region = {"x": bt.Ball(p=inf, radius=1.0), "weight": bt.Ball(p=inf, radius=1.0)}
    witness = run(name, bt.Problem(module, torch.ones(1, 1), torch.tensor([1]), region))
    assert float(witness.size) == pytest.approx(0.5, rel=3e-3)
    region = {"x": bt.Ball(p=inf, radius=0.5), "weight": bt.Ball(p=inf, radius=0.0)}
    witness = run(name, bt.Problem(module, torch.ones(1, 1), torch.tensor([1]), region))
    assert float(witness.size) == pytest.approx(1.5, rel=3e-3)  # x alone: 0.75 of 0.5
    assert torch.equal(witness.point["weight"][0], module.weight)


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("case", [c.name for c in CASES])
@pytest.mark.parametrize("effort", ["quick", "standard"])
def test_random_points_do_not_beat_the_portfolio(effort: str, case: str, p: float) -> None:
    """The check S5, which an audit makes of its own measurement, raises no alarm on any network of the zoo."""
    module, x, labels, low, high = made(case)
    problem = bt.Problem(module, x, labels, bt.Ball(p=p, radius=1.0, low=low, high=high))
    answer = bt.radius(problem, effort=effort, ends="upper")
    if bool(answer.upper.isfinite().all()):  # where nothing was found the next effort's attacks were asked too
        assert answer.cost.forward + answer.cost.backward <= {"quick": 160, "standard": 500}[effort]
    finding = method("checks", "noise_against_attack")(problem, answer)
    assert not finding.doubt, finding.note


def test_hlrf_walks_on_where_every_prediction_falls_short() -> None:
    """margin = 1 - x0 + thin triangle waves in 64 other features: slopes that no step of this length can use. x0 = 1 fails."""
    wave = lambda v: 0.15 * (v - 0.01 * (v / 0.01).round()).abs().sum(1)
    module = lambda x: torch.stack([1 - x[:, 0] + wave(x[:, 1:]), 0 * x[:, 0]], 1)
    x = torch.cat([torch.zeros(1, 1), torch.rand(1, 64, generator=torch.Generator().manual_seed(0))], 1)
    witness = run("hlrf", bt.Problem(module, x, torch.tensor([0]), bt.Ball(p=2, radius=1.0)), probes=0)
    assert bool(witness.found) and 1 <= float(witness.size) <= 1.6


def test_a_kink_does_not_send_hlrf_from_side_to_side() -> None:
    """margin = 1 - x0 + 0.7 |x1| at (0, 0.1): nearest failure (1, 0), on a kink. Every linearisation alone points elsewhere."""
    module = lambda x: torch.stack([torch.maximum(0.7 * x[:, 1], -0.7 * x[:, 1]) - x[:, 0] + 1, 0 * x[:, 0]], 1)
    problem = bt.Problem(module, torch.tensor([[0.0, 0.1]]), torch.tensor([0]), bt.Ball(p=2, radius=1.0))
    witness = run("hlrf", problem, probes=0)
    assert bool(witness.found) and 1.01**0.5 <= float(witness.size) <= 1.08
    problem = problem.double()
    assert float(run("multistart", problem).size) == pytest.approx(1.01**0.5, rel=1e-9)


@pytest.mark.parametrize("p", [1, 2, inf])
def test_multistart_is_exact_on_tiny_networks(p: float) -> None:
    """Against the enumeration of all activation patterns, in float64: nearest points inside regions and on their borders."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        module[0].weight.mul_(3)
        module[0].bias.copy_(0.3 * torch.randn(4) - module[0].weight.sum(1) / 2)
        x = torch.rand(40, 3, dtype=torch.float64)
        module[2].bias.sub_(module(x).mean(0))
        x, labels = x[:3], module(x[:3]).argmax(1)
    exact = [radius(module, one, int(k), p, 0.0, 1.0) for one, k in zip(x, labels, strict=True)]
    exact = torch.tensor(exact, dtype=torch.float64)
    found = run("multistart", bt.Problem(module, x, labels, bt.Ball(p=p, radius=1.0, low=0, high=1))).size
    assert bool((found >= exact * (1 - 1e-9)).all()), "shorter than the shortest: the reference is wrong"
    # l1 and l-inf optima lie on several kinks at once, where two cuts end a little beside them
    torch.testing.assert_close(found, exact, rtol=1e-8 if p == 2 else 1e-3, atol=0)


class Named(nn.Module):
    def forward(self, image: Tensor, context: Tensor) -> Tensor:
        return torch.cat([image.sum(1, keepdim=True), context.sum(1, keepdim=True)], 1)


@pytest.mark.parametrize("name", WIDE)
def test_keyword_inputs(name: str) -> None:
    x = {"image": torch.tensor([[1.0, 1.0]]), "context": torch.tensor([[0.5, 0.5]])}
    region = {"x.image": bt.Ball(p=inf, radius=0.5), "x.context": bt.Ball(p=inf, radius=0.5)}
    problem = bt.Problem(Named(), x, torch.tensor([0]), region)
    witness = run(name, problem, **brief(name))
    check(problem, witness, method("attacks", name).about.answers)
    if name in GUIDED:  # 2 (1 - t) - 2 (0.5 + t) = 0 at t = 0.25, half the radius
        assert bool(witness.found)
        assert name in MARGIN or float(witness.size) == pytest.approx(0.5, rel=3e-3)


@pytest.mark.parametrize("kind", ["targeted", "top2", "threshold", "two"])
@pytest.mark.parametrize("name", WIDE)
def test_specifications(name: str, kind: str) -> None:
    """Logits are (x0, x1, x2), or fewer, so that every distance is plain."""
    x = torch.tensor([[1.0, 0.6, 0.2]])
    spec, columns, distance = {
        "targeted": (bt.Targeted(2), 3, 0.8 / 2),
        "top2": (bt.TopK(2), 3, 0.8 / 2),  # both rivals must pass: x0 - 0.4 against x2 + 0.4
        "threshold": (bt.Threshold(0.25), 1, 0.75),
        "two": (None, 2, 0.4 / 2),
    }[kind]
    label = torch.tensor([1 if kind == "threshold" else 0])
    problem = bt.Problem(lambda v: v[:, :columns], x, label, bt.Ball(p=inf, radius=1.0), spec=spec)
    witness = run(name, problem)
    check(problem, witness, method("attacks", name).about.answers)
    assert bool(witness.found) or name not in GUIDED
    if name in RADIUS and name in GUIDED:
        assert distance * (1 - 1e-5) <= float(witness.size) <= distance * (1.03 if kind == "top2" else 1.002)


@pytest.mark.parametrize("name", ATTACKS)
def test_depends_on_seed_and_example_alone(name: str) -> None:
    module, x, labels, low, high = made("residual")
    problem = bt.Problem(module, x, labels, bt.Ball(p=2, radius=0.5, low=low, high=high))
    order, value = torch.tensor([3, 0, 2]), "size" if name in RADIUS else "margin"
    whole, part, again = (
        run(name, q, seed=3, **brief(name)) for q in (problem, problem.take(order), problem.take(order))
    )
    assert torch.equal(part.point["x"], again.point["x"])
    torch.testing.assert_close(getattr(part, value), getattr(whole, value)[order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", WIDE)
def test_types_of_leaves(name: str, dtype: torch.dtype) -> None:
    module, x, _, low, high = made("residual")
    module = copy.deepcopy(module).to(dtype)
    x = x.to(dtype)
    problem = bt.Problem(module, x, module(x).argmax(1), bt.Ball(p=2, radius=1.0, low=low, high=high))
    witness = run(name, problem)
    check(problem, witness, method("attacks", name).about.answers)
    if name in RADIUS and name in GUIDED:
        assert bool(witness.found.all())


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_to_find_is_said(name: str) -> None:
    constant = lambda x: torch.stack([1 + 0 * x[:, 0], 0 * x[:, 0]], 1)
    problem = bt.Problem(constant, torch.rand(2, 3), torch.tensor([0, 0]), bt.Ball(p=2, radius=1.0, low=0, high=1))
    witness = run(name, problem, **brief(name))
    assert witness.found.tolist() == [False, False] and witness.status == ("none", "none")
    assert witness.size.tolist() == [inf, inf] and witness.margin.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ATTACKS)
def test_misclassified_examples_have_size_zero(name: str) -> None:
    module, x, labels, low, high = made("mlp")
    wrong = labels.clone()
    wrong[1] = (wrong[1] + 1) % 4
    problem = bt.Problem(module, x, wrong, bt.Ball(p=2, radius=0.5, low=low, high=high))
    witness = run(name, problem, **brief(name))
    assert witness.status[1] == "misclassified" and bool(witness.found[1])
    assert "misclassified" not in (witness.status[0], *witness.status[2:])
    if name in RADIUS:
        assert float(witness.size[1]) == 0 and torch.equal(witness.point["x"][1], x[1])


@pytest.mark.parametrize("name", [n for n in ATTACKS if n not in GUIDED])
def test_zero_gradients_do_not_look_robust(name: str) -> None:
    stairs = lambda x: torch.stack([(8 * x).round().sum(1), 4 + 0 * x[:, 0]], 1)
    problem = bt.Problem(stairs, torch.full((2, 2), 0.5), torch.tensor([0, 0]), bt.Ball(p=inf, radius=0.4))
    assert bool(run(name, problem).found.all())


@pytest.mark.parametrize("name", ATTACKS)
def test_not_a_number_freezes_the_example_alone(name: str) -> None:
    """sqrt has an infinite gradient at 0 and no value below: example 0 breaks down, example 1 does not."""
    module = lambda x: torch.stack([1 + x[:, 0].sqrt() + 4 * x[:, 1], 2 + 0 * x[:, 1]], 1)
    x = torch.tensor([[0.0, 0.5], [0.25, 0.5]])
    problem = bt.Problem(module, x, torch.tensor([0, 0]), bt.Ball(p=inf, radius=0.5))
    witness = run(name, problem, **brief(name))
    check(problem, witness, method("attacks", name).about.answers)
    assert bool(witness.margin.isfinite().all())
    assert bool(witness.found[0]) or witness.status[0] == "nan"


class Reader(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.cell = kind(2, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
@pytest.mark.parametrize("leaf", ["x", "cell.weight_hh_l0", "head.weight"])
@pytest.mark.parametrize("name", ["apgd", "hlrf"])
def test_recurrent_modules(name: str, leaf: str, kind: type[nn.RNNBase]) -> None:
    module = Reader(kind).eval()
    x = torch.rand(2, 3, 2)
    before = state_digest(module)
    problem = bt.Problem(module, x, module(x).argmax(1), {leaf: bt.Ball(p=2, radius=1.0)})
    options = {"steps": 6} if name == "apgd" else {"stages": ((2, 4),)}
    check(problem, run(name, problem, **options), method("attacks", name).about.answers)
    assert state_digest(module) == before


@pytest.mark.parametrize("name", ["fmn", "square", "random_lines"])
def test_more_steps_are_never_worse(name: str) -> None:
    problem = problem_of("residual", "l2")
    value = "size" if name in RADIUS else "margin"
    few, many = (getattr(run(name, problem, steps=steps), value) for steps in (8, 64))
    assert bool((many <= few * (1 + 1e-3)).all())


def test_the_proximal_step_is_a_soft_threshold_inside_the_range() -> None:
    """Scale is |change|_1 / 2, so weight 0.2 takes 0.1 off every change; 0.05 goes to zero, 0.7 ends at the range."""
    ball = bt.Ball(p=1, radius=2.0, low=0, high=1)
    problem = bt.Problem(lambda x: x[:, :2], torch.full((1, 4), 0.5), torch.tensor([0]), ball)
    moved = 0.5 + torch.tensor([[0.4, -0.3, 0.05, 0.7]])
    point = proximal._threshold(problem, "x", moved, torch.full((1, 4), 0.2))
    torch.testing.assert_close(point, torch.tensor([[0.8, 0.3, 0.5, 1.0]]))


def test_apgd_takes_the_best_of_its_restarts() -> None:
    problem = problem_of("cnn", "linf")
    one, two = (run("apgd", problem, restarts=r).margin for r in (1, 3))
    assert bool((two <= one).all())


@pytest.mark.parametrize("name", ATTACKS)
def test_a_start_is_used(name: str) -> None:
    """A cave that no descent finds: only the given start lies in it."""
    cave = lambda x: torch.stack([((x - 0.7).abs().amax(1) > 0.01).float(), 0.5 + 0 * x[:, 0]], 1)
    problem = bt.Problem(cave, torch.full((1, 6), 0.5), torch.tensor([0]), bt.Ball(p=inf, radius=0.3))
    witness = run(name, problem, start={"x": torch.full((1, 6), 0.7)})
    assert bool(witness.found)


def test_costs_are_counted() -> None:
    problem = problem_of("mlp", "linf")
    with meter.measure() as passes:
        run("apgd", problem, steps=5, restarts=1)
    assert passes.backward == 5 * len(problem)
    assert passes.forward == (5 + 1 + 3) * len(problem)  # the last point in both types; the clean margin


def test_the_proximal_step_in_l2_shortens_by_the_weight_over_the_length() -> None:
    """(3, 4) has length 5: at weight 5 in a ball of radius 2 it is divided by 1 + (5 / 2) / 5."""
    problem = bt.Problem(nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0]), bt.Ball(p=2, radius=2.0))
    point = proximal._threshold(problem, "x", torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 5.0))
    assert point.tolist() == [pytest.approx([2.0, 8 / 3])]


def test_growing_features_fails_where_one_linearisation_promises_too_little() -> None:
    """margin = 6 - sum sqrt(v): the slope at 1e-4 promises that one feature is enough; eleven of size .25 are."""
    features = 64
    module = lambda x: torch.stack([6 - (x + 1e-4).sqrt().sum(1), 0 * x[:, 0]], 1)
    problem = bt.Problem(module, torch.zeros(2, features), torch.tensor([0, 0]), bt.Ball(0, 1.0, 0, 0.25))
    grown = method("attacks", "feature_growth")(problem)
    assert bool(grown.found.all())
    assert grown.size.tolist() == [11.0, 11.0]  # 53 features at .01 and 11 at .5001: 6.03; with 10: 5.54


def test_growing_features_takes_the_least_useful_back() -> None:
    """1, 2, 3, 4, then 6 features are changed; only the five best of these reach 29.5."""
    weight = torch.tensor([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 0.1, 0.1])
    module = lambda x: torch.stack([29.5 - x @ weight, 0 * x[:, 0]], 1)
    problem = bt.Problem(module, torch.zeros(1, 8), torch.tensor([0]), bt.Ball(0, 1.0, 0, 1))
    grown = method("attacks", "feature_growth")(problem)
    assert grown.point["x"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]


def test_growing_features_counts_positions_of_all_channels() -> None:
    weight = torch.tensor([3.0, 0.1, 2.0, 0.1]).reshape(1, 1, 2, 2).expand(1, 3, 2, 2)
    module = lambda x: torch.stack([4 - (weight * x).flatten(1).sum(1), 0 * x[:, 0, 0, 0]], 1)
    problem = bt.Problem(module, torch.zeros(1, 3, 2, 2), torch.tensor([0]), bt.Ball(0, 1.0, 0, 1, groups="channels"))
    grown = method("attacks", "feature_growth")(problem)
    assert grown.size.tolist() == [1.0] and int((grown.point["x"] != 0).sum()) == 3
