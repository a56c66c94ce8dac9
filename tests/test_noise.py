"""The conformance suite of the noise family, then the claims of each method where the slack is zero."""

import itertools
from math import inf, sqrt

import mpmath
import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle import tails
from brittle.digest import state_digest
from brittle.discovery import methods
from brittle.laws import Law
from brittle.noise.covering import covering
from brittle.noise.monte_carlo import monte_carlo
from half_spaces import LAWS, tail
from zoo import CASES

METHODS = methods("noise")
SMALL = {"draws": 40, "particles": 20, "moves": 3, "levels": 20}
each_method = pytest.mark.parametrize("method", METHODS, ids=[m.name for m in METHODS])
each_case = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])


def run(method, problem, laws, seed=0):
    import inspect

    accepted = inspect.signature(method.function).parameters
    return method(problem, laws, seed=seed, **{k: v for k, v in SMALL.items() if k in accepted})


def same(a, b):
    for one, two in ((a.lower, b.lower), (a.upper, b.upper)):
        assert torch.equal(one, two)
    assert a.kinds == b.kinds and a.status == b.status


# ---- conformance ---------------------------------------------------------------------------------------------------


@each_method
@each_case
def test_a_bracket_of_probabilities(method, case):
    problem = bt.Problem(*case.make())
    bracket = run(method, problem, {"x": bt.Gaussian(0.5)})
    assert bracket.quantity == "probability" and len(bracket) == len(problem)
    assert bool((bracket.lower >= 0).all()) and bool((bracket.upper <= 1).all())
    assert bool((bracket.lower <= bracket.upper).all())
    assert bracket.lower.dtype == bracket.upper.dtype == torch.float64
    for ends, blank in ((bracket.lower, 0.0), (bracket.upper, 1.0)):
        kinds = bracket.kinds.lower if blank == 0 else bracket.kinds.upper
        assert set(kinds) <= {"proved", "statistical", "none"}
        assert all(value == blank for value, kind in zip(ends.tolist(), kinds) if kind == "none")


@each_method
@each_case
def test_splitting_and_permuting_change_nothing(method, case):
    problem = bt.Problem(*case.make())
    laws = {"x": bt.UniformBall(0.8)}
    whole = run(method, problem, laws)
    same(whole, bt.Bracket.join([run(method, problem.take(torch.tensor([i])), laws) for i in range(len(problem))]))
    order = torch.arange(len(problem)).flip(0)
    same(whole.take(order), run(method, problem.take(order), laws))
    same(whole, run(method, problem, laws))


@each_method
@each_case
def test_the_module_is_not_touched(method, case):
    module, x, labels = case.make()
    module.train()
    before = state_digest(module)
    run(method, bt.Problem(module, x, labels), {"x": bt.Gaussian(0.5), next(iter(dict(module.named_parameters()))): bt.Gaussian(0.1)})  # fmt: skip
    assert state_digest(module) == before


@each_method
def test_the_region_is_not_looked_at(method):
    module, x, labels = CASES[2].make()
    laws = {"x": bt.Gaussian(0.5)}
    without = bt.Problem(module, x, labels)
    same(run(method, without, laws), run(method, without.within(bt.Ball(2, 0.1)).scaled(3.0), laws))


@each_method
def test_wrong_leaves_levels_and_ranges_are_refused(method):
    problem = bt.Problem(*CASES[0].make())
    for laws in ({"y": bt.Gaussian(1.0)}, {"x": bt.Gaussian(1.0).clipped(2, 3)}):
        with pytest.raises(bt.InputError):
            run(method, problem, laws)
    with pytest.raises(bt.InputError):
        method(problem, {"x": bt.Gaussian(1.0)}, level=1.0)


# ---- every law with every method -----------------------------------------------------------------------------------


def dim(x, g):
    return x * torch.rand((), generator=g, dtype=x.dtype)


MIXED = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NEW = {
    "cube": bt.UniformCube(0.2),
    "diagonal": bt.Gaussian(torch.linspace(0.05, 0.4, 6)),
    "full": bt.Gaussian(covariance=0.02 * (MIXED @ MIXED.T + torch.eye(6).double())),
    "l1 ball": bt.UniformBall(1.0, p=1),
    "cube surface": bt.UniformSphere(0.2, p=inf),
    "replace": bt.Replace(2),
    "sampler": bt.Sampler(dim),
}


@each_method
@pytest.mark.parametrize("name", NEW)
def test_every_law_gets_an_answer_or_a_reason(method, name):
    """Clipped laws too; and the same answer in every batch, up to near ties between budgets of a proof."""
    problem = bt.Problem(*CASES[2].make()).take(torch.tensor([4, 1]))
    whole, last = run(method, problem, {"x": NEW[name]}), problem.take(torch.tensor([1]))
    assert bool((whole.lower <= whole.upper).all()) and all(whole.status)
    assert all(run(method, last, {"x": NEW[name].clipped(0, 1)}).status)
    if name in ("full", "replace"):
        some = run(method, last, {"x": NEW[name]})
        assert torch.allclose(whole.upper[1:], some.upper, rtol=1e-3) and torch.equal(whole.lower[1:], some.lower)


@pytest.mark.parametrize("name", NEW)
def test_every_law_has_its_exact_interval_and_its_proofs_above_it(name):
    """At effort "standard" proved ends and exact intervals of 400 draws meet: a bracket whose ends crossed would raise or doubt."""
    problem, law = bt.Problem(*CASES[2].make()), NEW[name]
    answer = bt.probability(problem, law, draws=400)
    assert not any("contradict" in doubt for doubt in answer.doubts) and answer.guarantee.lower == "statistical"
    proved = {n for n, part in answer.parts if "proved" in part.kinds.upper}
    assert bool(proved) == (name != "sampler"), proved
    if name == "sampler":
        bounds = [part for n, part in answer.parts if n in ("covering", "cell", "probabilistic_crown")]
        assert all("not certified: no tail bound for the law Sampler" in part.status[0] for part in bounds) and bounds


@pytest.mark.parametrize("name", [name for name in NEW if name != "replace"])
def test_a_clip_disables_analytic_bounds_and_says_so(name):
    problem, law = bt.Problem(*CASES[2].make()), NEW[name].clipped(0, 1)
    answer = bt.probability(problem, law, draws=50)
    analytic = [part for n, part in answer.parts if n in ("cell", "probabilistic_crown")]
    assert analytic and all("clipped" in status and "not certified" in status for p in analytic for status in p.status)


# ---- parameters ----------------------------------------------------------------------------------------------------


def layered():
    """Three small layers, a problem on them, and the sub-network behind each layer's output."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3)).double()
    x = torch.rand(1, 8, dtype=torch.float64)
    with torch.no_grad():
        return net, bt.Problem(net, x, net(x).argmax(1))


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_noise_on_one_layer_is_noise_on_its_output(layer):
    """N(0, s^2) on weights and bias of a layer with input h is N(0, s^2 (|h|^2 + 1)) on its output: 30,000 draws of weights against
    100,000 of outputs, apart by at most three standard errors."""
    net, problem = layered()
    with torch.no_grad():
        h = net[:layer](problem.x)
        sigma = 0.25
        laws = {f"{layer}.weight": bt.Gaussian(sigma), f"{layer}.bias": bt.Gaussian(sigma)}
        weights = float(monte_carlo(problem, laws, draws=30_000).estimate)
        deviation = sigma * float(h.square().sum() + 1) ** 0.5
        noise = torch.randn(100_000, net[layer].out_features, generator=torch.Generator().manual_seed(0)).double()
        behind = nn.Sequential(*net[layer + 1 :])
        rows = problem.spec.rows(behind(net[layer](h) + deviation * noise), problem.labels.expand(len(noise)))
        outputs = float((rows.amin(1) <= 0).double().mean())
    assert 0.003 < outputs < 0.5
    assert abs(weights - outputs) < 3 * sqrt(outputs * (1 / 30_000 + 1 / 100_000))


ESTIMATORS = [m for m in METHODS if m.name in ("importance_sampling", "line_sampling", "splitting")]


@pytest.mark.parametrize("method", ESTIMATORS, ids=[m.name for m in ESTIMATORS])
@pytest.mark.parametrize("distance", [1.0, 4.0])
def test_rare_failures_of_weights_and_of_inputs_and_weights(method, distance):
    """A logit w.x + b with noise on w and b fails with probability Phi(-margin / sqrt(s^2 |x|^2 + t^2)) exactly."""
    module = nn.Linear(3, 1).double()
    x = torch.tensor([[1.0, 2.0, 0.5]]).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0.0, -1.0]]))
        module.bias.fill_(distance - 0.5)
    problem = bt.Problem(module, x, torch.tensor([1]))
    options = {"particles": 100} if method.name == "splitting" else {}
    answer = method(problem, {"weight": bt.Gaussian(0.4), "bias": bt.Gaussian(0.6)}, **options)
    exact = float(ndtr(-distance / sqrt(0.16 * 5.25 + 0.36)))
    assert float(answer.interval[0, 0]) < exact < float(answer.interval[0, 1]), (answer.estimate, exact)
    both = method(problem, {"x": bt.UniformCube(0.2), "bias": bt.Gaussian(0.6)}, **options)
    if method.name == "line_sampling":
        assert "does not handle UniformBall" in both.status[0]
        return
    grid = torch.linspace(-0.4, 0.4, 4001).double()
    density = (0.4 - grid.abs()) / 0.16  # the triangle law of u_0 - u_2
    exact = float((density * torch.tensor(ndtr(-(distance + grid).numpy() / 0.6))).sum() * 0.8 / 4000)
    assert float(both.interval[0, 0]) < exact < float(both.interval[0, 1]), (both.estimate, exact)


# ---- Monte Carlo ---------------------------------------------------------------------------------------------------


def half_space(distance, n=3, count=1):
    """One logit, x_0 + distance, at 0: fails where the first coordinate moves below -distance."""
    module = nn.Linear(n, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(n)[:1])
        module.bias.fill_(distance)
    return bt.Problem(module, torch.zeros(count, n, dtype=torch.float64), torch.ones(count, dtype=torch.long))


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_half_spaces_lie_in_the_interval(law):
    bracket = monte_carlo(half_space(0.5), {"x": law}, level=1 - 1e-6)
    exact = tail(law, 0.5, 3)
    assert float(bracket.lower) <= exact <= float(bracket.upper)
    assert float(bracket.estimate) == pytest.approx(exact, abs=0.06)  # five standard errors of 2,000 draws


def test_coverage_is_at_least_nominal():
    """1,000 independent repetitions, at 80 %: by exact binomial sums the method covers 86 % here."""
    law = bt.Gaussian(1.0)
    bracket = monte_carlo(half_space(1.0, 1, 1000), {"x": law}, level=0.8, draws=50)
    exact = tail(law, 1.0, 1)
    below, above = bracket.lower > exact, bracket.upper < exact
    assert float((below | above).double().mean()) <= 0.2
    assert float(below.double().mean()) <= 0.1 and float(above.double().mean()) <= 0.1
    assert bracket.confidence == pytest.approx(0.8)


def test_no_failure_and_nothing_but_failures():
    never = monte_carlo(half_space(100.0), {"x": bt.Gaussian(1.0)}, draws=100)
    always = monte_carlo(half_space(-100.0), {"x": bt.Gaussian(1.0)}, draws=100)
    assert float(never.lower) == 0 and float(never.upper) == pytest.approx(1 - 0.025 ** (1 / 100))
    assert float(always.upper) == 1 and float(always.lower) == pytest.approx(0.025 ** (1 / 100))
    assert never.estimate == 0 and always.estimate == 1
    assert never.interval.tolist() == [[float(never.lower), float(never.upper)]] and never.level == 0.95


def test_a_margin_of_zero_is_a_failure():
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.zero_(), module.bias.zero_()
    bracket = monte_carlo(bt.Problem(module, torch.zeros(1, 1), torch.tensor([1])), {"x": bt.Gaussian(1.0)}, draws=10)
    assert bracket.estimate == 1


def test_parameter_noise_equals_its_exact_law():
    """Noise on the weights and the bias of a logit w.x + b adds N(0, sigma^2 |x|^2 + tau^2)."""
    module = nn.Linear(3, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 0.0, -1.0]]))
        module.bias.fill_(0.5)
    x = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, -3.0, 2.0]])
    problem = bt.Problem(module, x, torch.tensor([1, 1, 0]))
    bracket = monte_carlo(problem, {"weight": bt.Gaussian(0.4), "bias": bt.Gaussian(0.6)}, level=1 - 1e-6)
    for i, label in enumerate((1, 1, 0)):
        mean = (2 * label - 1) * (float(x[i, 0] - x[i, 2]) + 0.5)
        exact = float(ndtr(-mean / sqrt(0.16 * float(x[i] @ x[i]) + 0.36)))
        assert float(bracket.lower[i]) <= exact <= float(bracket.upper[i])


def test_inputs_and_parameters_move_together_and_independently():
    """(w + a)(x + d) at w = x = 1 with signs only: cube noise of radius 2 on both; P(product <= 0) = 2 * 3/4 * 1/4."""
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    problem = bt.Problem(module, torch.ones(1, 1), torch.tensor([1]))
    laws = {"x": bt.UniformBall(2.0, inf), "weight": bt.UniformBall(2.0, inf)}
    bracket = monte_carlo(problem, laws, level=1 - 1e-6)
    assert float(bracket.lower) <= 0.375 <= float(bracket.upper)


def test_more_draws_continue_the_same_sequence():
    problem, laws = half_space(0.3), {"x": bt.Gaussian(1.0)}
    some, more = (float(monte_carlo(problem, laws, draws=n).estimate) * n for n in (300, 600))
    assert some <= more <= some + 300
    assert some != float(monte_carlo(problem, laws, draws=300, seed=1).estimate) * 300


def test_draws_belong_to_the_identity_of_the_example():
    estimates = monte_carlo(half_space(0.3, 2, 8), {"x": bt.Gaussian(1.0)}, draws=400).estimate
    assert len(set(estimates.tolist())) > 3


def test_clipping_moves_mass_to_the_edge():
    """At 0.5 with N(0, 1) clipped to [0, 1], x <= 0 happens exactly where the draw is <= -0.5, and x <= -0.01 never."""
    at_edge = half_space(0.0, 1)
    problem = at_edge.double()
    problem = bt.Problem(problem.module, torch.full((1, 1), 0.5).double(), torch.tensor([1]))
    laws = {"x": bt.Gaussian(1.0).clipped(0, 1)}
    edge = monte_carlo(problem, laws, level=1 - 1e-6)
    assert float(edge.lower) <= float(ndtr(-0.5)) <= float(edge.upper)
    assert any("more than 60 % of the noisy values of 'x'" in doubt for doubt in edge.doubts)  # 2 * 0.3085
    with torch.no_grad():
        problem.module.bias.fill_(0.01)
    beyond = bt.Problem(problem.module, problem.x, problem.labels)
    assert monte_carlo(beyond, laws).estimate == 0
    assert monte_carlo(beyond, {"x": bt.Gaussian(1.0)}).estimate > 0.2


class Broken(nn.Module):
    """NaN below 0."""

    def forward(self, x):
        return torch.stack([x[:, 0].sqrt() + 1, torch.zeros_like(x[:, 0])], 1)


def test_nan_logits_are_failures_and_are_said():
    problem = bt.Problem(Broken(), torch.full((2, 1), 0.25), torch.zeros(2, dtype=torch.long))
    bracket = monte_carlo(problem, {"x": bt.UniformBall(1.0, inf)}, level=1 - 1e-6)
    assert bool(((bracket.lower <= 0.375) & (0.375 <= bracket.upper)).all())
    assert bracket.status == ("nan", "nan") and "not finite on 2 of 2" in bracket.doubts[0]


class Greedy(nn.Module):
    """Runs out of memory on more than 50 rows."""

    def forward(self, x):
        if len(x) > 50:
            raise torch.OutOfMemoryError("out of memory")
        return torch.stack([x.sum(1), torch.zeros(len(x))], 1)


def test_out_of_memory_halves_the_batch_and_changes_nothing():
    x, labels = torch.ones(2, 3), torch.zeros(2, dtype=torch.long)
    tight = monte_carlo(bt.Problem(Greedy(), x, labels), {"x": bt.Gaussian(2.0)}, draws=700)
    roomy = lambda x: torch.stack([x.sum(1), torch.zeros(len(x))], 1)
    same(tight, monte_carlo(bt.Problem(roomy, x, labels), {"x": bt.Gaussian(2.0)}, draws=700))


def test_other_errors_of_the_module_are_not_swallowed():
    def fails(x):
        if len(x) > 1:
            raise RuntimeError("shape mismatch")
        return torch.stack([x.sum(1), torch.zeros(len(x))], 1)

    with pytest.raises(RuntimeError, match="shape mismatch"):
        monte_carlo(bt.Problem(fails, torch.ones(1, 3), torch.tensor([0])), {"x": bt.Gaussian(1.0)})


def test_one_pass_per_draw_is_counted():
    assert monte_carlo(half_space(1.0, 2, 3), {"x": bt.Gaussian(1.0)}, draws=300).cost.forward == 300


@pytest.mark.parametrize("draws", [0, -1, 2.5])
def test_draws_must_be_a_count(draws):
    with pytest.raises(bt.InputError):
        monte_carlo(half_space(1.0), {"x": bt.Gaussian(1.0)}, draws=draws)


# ---- covering ------------------------------------------------------------------------------------------------------


def exact_half_space(problem):
    """The smallest margin x_0 + b over any l_p ball and range, exactly."""
    ball = problem.region["x"]
    lowest = problem.x[:, 0] - problem.radius("x")
    if ball.low is not None:
        lowest = lowest.clamp_min(ball.low)
    return lowest + float(problem.module.bias.detach())


@pytest.mark.parametrize("law", [law for law in LAWS if law.support()[1] < inf], ids=str)
def test_bounded_noise_inside_a_certified_region_never_fails(law):
    inside, outside = half_space(law.radius + 1e-9), half_space(law.radius - 1e-9)
    assert covering(inside, {"x": law}, certify=exact_half_space).upper == 0
    assert covering(inside, {"x": law}, certify=exact_half_space).kinds.upper == ("proved",)
    not_proved = covering(outside, {"x": law}, certify=exact_half_space)
    assert not_proved.upper == 1 and not_proved.kinds.upper == ("none",) and "not certified" in not_proved.status[0]


@pytest.mark.parametrize("n", [1, 2, 30])
@pytest.mark.parametrize("distance", [0.5, 2.0, 6.0, 12.0])
def test_gaussian_noise_costs_the_tail_outside_the_largest_certified_cover(n, distance):
    law = bt.Gaussian(0.9)
    bracket = covering(half_space(distance, n), {"x": law}, certify=exact_half_space)
    assert tail(law, distance, n) <= float(bracket.upper)
    steps = (0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-9, 1e-12)
    certified = [
        t for t in steps for quantile in (tails.normal_norm_quantile, tails.normal_maximum_quantile)
        if law.sigma * quantile(t, n) < distance
    ]  # fmt: skip
    assert float(bracket.upper) == pytest.approx(min(certified, default=1.0), rel=1e-6)


def test_a_cover_of_several_leaves_pays_for_each():
    """Margin b + x_0: only the radius on x matters, but the tail of the bias leaf is paid too."""
    certify = lambda p: float(p.module.bias.detach()) - p.radius("bias") - p.radius("x")
    laws = {"x": bt.Gaussian(1.0), "bias": bt.Gaussian(1e-6)}
    both = covering(half_space(4.0, 1), laws, certify=certify, steps=(1e-2,))
    assert float(both.upper) == pytest.approx(1e-2, rel=1e-6)
    mixed = covering(half_space(4.0, 1), {"x": bt.Gaussian(1.0), "bias": bt.UniformBall(0.1)}, certify=certify, steps=(1e-3,))  # fmt: skip
    assert float(mixed.upper) == pytest.approx(1e-3, rel=1e-6)


def test_a_clip_bounds_the_cover():
    """Noise of radius 10 that is clipped to [-0.5, 1] cannot pass -0.6."""
    law = bt.UniformBall(10.0, inf)
    assert covering(half_space(0.6), {"x": law.clipped(-0.5, 1)}, certify=exact_half_space).upper == 0
    assert covering(half_space(0.4), {"x": law.clipped(-0.5, 1)}, certify=exact_half_space).upper == 1
    assert covering(half_space(0.6), {"x": law}, certify=exact_half_space).upper == 1


@pytest.mark.parametrize("value", [float("nan"), 0.0, -1.0])
def test_only_a_positive_certificate_counts(value):
    certify = lambda p: torch.full((len(p),), value, dtype=torch.float64)
    assert covering(half_space(1.0), {"x": bt.UniformBall(1.0)}, certify=certify).upper == 1


def test_each_example_stays_in_the_race_as_long_as_it_is_certified():
    problem = bt.Problem(half_space(0.0, 1).module, torch.tensor([[0.1], [3.0], [9.0]]).double(), torch.ones(3).long())
    upper = covering(problem, {"x": bt.Gaussian(1.0)}, certify=exact_half_space).upper.tolist()
    assert upper[0] == 1 and upper[1] == pytest.approx(1e-2, rel=1e-6) and upper[2] == pytest.approx(1e-12, rel=1e-3)


def test_out_of_reach_is_a_status():
    def refuses(problem):
        raise bt.NotCertified("no row for sort")

    assert covering(half_space(1.0), {"x": bt.Gaussian(0.1)}, certify=refuses).status == (
        "not certified: no row for sort",
    )

    class Unbounded(Law):
        clip = None
        support = lambda self: (2, inf)

    status = covering(half_space(1.0), {"x": Unbounded()}, certify=exact_half_space).status
    assert "no tail bound for the law Unbounded" in status[0]


# ---- tails ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, tail_", itertools.product((1, 2, 64, 3072, 150528), (0.9, 1e-3, 1e-12, 1e-300)))
def test_tails_are_never_below_the_exact_value_and_hardly_above(n, tail_):
    with mpmath.workdps(40):
        t = tails.normal_norm_quantile(tail_, n)
        exact = mpmath.gammainc(mpmath.mpf(n) / 2, mpmath.mpf(t) ** 2 / 2, mpmath.inf, regularized=True)
        assert exact <= tails.normal_norm(t, n) <= exact * (1 + 2e-9) + tails.TINY
        t = tails.normal_maximum_quantile(tail_, n)
        exact = 1 - mpmath.erf(mpmath.mpf(t) / mpmath.sqrt(2)) ** n if tail_ > 1e-30 else 0
        assert exact <= tails.normal_maximum(t, n)
        assert tails.normal_maximum(t, n) == pytest.approx(tail_, rel=1e-6)


def test_tails_at_the_ends():
    assert tails.normal_norm(0.0, 5) == tails.normal_maximum(0.0, 5) == 1.0
    assert 0 < tails.normal_norm(100.0, 2) < 1e-300 and 0 < tails.normal_maximum(100.0, 2) < 1e-300
