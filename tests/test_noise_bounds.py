"""Proved upper ends under noise: exact where their slack is zero, never below the draws, and every deliberate mistake is caught."""

import dataclasses
import importlib
from math import inf, log

import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle import tails
from brittle.bounds.crown import crown
from brittle.noise import _half_spaces, _walls
from brittle.noise._moving import moving
from brittle.noise.cell import cell, walls
from brittle.noise.probabilistic_crown import bounds_of, probabilistic_crown
from brittle.noise.proven import proven
from brittle.randomness import generator
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded
from brittle.spec import margin
from brittle.stats import clopper_pearson
from half_spaces import LAWS, tail
from zoo import CASES

likely_file = importlib.import_module("brittle.noise._likely")
BOUNDS = {"cell": cell, "proven": proven, "probabilistic_crown": probabilistic_crown}
ROUND = [law for law in LAWS if getattr(law, "p", 2) == 2]
each_bound = pytest.mark.parametrize("name", BOUNDS)


def half_space(distance, n, direction=None):
    """One logit ``<w, x> + distance`` with |w| = 1, at x = 0."""
    module = nn.Linear(n, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(n)[:1] if direction is None else direction / direction.norm())
        module.bias.fill_(distance)
    return bt.Problem(module, torch.zeros(1, n, dtype=torch.float64), torch.ones(1, dtype=torch.long))


def scalar(inner, outer, n=1, act=nn.ReLU):
    """One logit ``outer[0] act(inner[0] x_0 + inner[1]) + outer[1]`` at x = 0."""
    module = nn.Sequential(nn.Linear(n, 1), act(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        module[0].weight.copy_(inner[0] * torch.eye(n)[:1])
        for tensor, value in ((module[0].bias, inner[1]), (module[2].weight, outer[0]), (module[2].bias, outer[1])):
            tensor.fill_(value)
    return bt.Problem(module, torch.zeros(1, n, dtype=torch.float64), torch.ones(1, dtype=torch.long))


# ---- where the slack is zero -----------------------------------------------------------------------------------------


@each_bound
@pytest.mark.parametrize("law", ROUND, ids=str)
@pytest.mark.parametrize("n", [2, 5, 64])
def test_half_spaces_are_reproduced_under_round_laws(name, law, n):
    direction = torch.arange(1.0, n + 1).double()
    for distance in (0.2, 0.7, 1.2):
        exact = tail(law, distance, n)
        if name == "proven" and isinstance(law, bt.Gaussian) or exact < 1e-18:
            continue
        upper = float(BOUNDS[name](half_space(distance, n, direction), {"x": law}).upper)
        assert exact * (1 - 1e-9) <= upper <= exact * (1 + 1e-6) + 1e-29, (distance, exact, upper)


@each_bound
@pytest.mark.parametrize("law", LAWS, ids=str)
def test_half_spaces_are_covered_under_every_law(name, law):
    for n in (1, 3, 20):
        for distance in (0.1, 0.5, 1.0, 1.4999):
            upper = float(BOUNDS[name](half_space(distance, n), {"x": law}).upper)
            assert tail(law, distance, n) <= upper * (1 + 1e-9)


@each_bound
@pytest.mark.parametrize("law", [law for law in LAWS if law.support()[1] < inf], ids=str)
def test_noise_that_cannot_reach_a_half_space_never_fails(name, law):
    assert BOUNDS[name](half_space(1.5001, 4), {"x": law}).upper == 0


@pytest.mark.parametrize("law", ROUND, ids=str)
def test_a_unit_declared_stable_costs_what_leaving_its_piece_costs(law):
    """1 - 1e6 relu(-x - a): fails just beyond a, and nowhere else. Everything is in the cost, nothing in the last step."""
    distance, n = 0.9, 8
    problem = scalar((-1.0, -distance), (-1e6, 1.0), n)
    truth = tail(law, distance + 1e-6, n)
    for bound in (cell, probabilistic_crown):
        upper = float(bound(problem, {"x": law}).upper)
        assert truth <= upper <= truth * (1 + 1e-3), bound
    paid = float(probabilistic_crown(problem, {"x": law}, budgets=(0.9,)).upper)
    assert truth <= paid <= truth + 0.9 * 4e-6


def planes_alone(problem, law, budget):
    """The bound of planes over the inputs, without the mean of the first layer."""
    laws = {"x": law}
    question = moving(problem, laws)
    tried = torch.tensor([[log(budget)]], dtype=torch.float64)
    _, upper = bounds_of(question, _walls.half_spaces(question, laws), tried, torch.tensor([[False]]))
    return float(upper)


def one_unstable_unit():
    """t - relu(x): the truth is Phi(-t); on [-q, q] the bound is eta + Phi(-(2 t - q)) with Phi(-q) = eta / 2."""
    for t, budget in ((4.0, 1e-12), (3.0, 0.05)):
        problem = scalar((1.0, 0.0), (-1.0, t))
        upper = planes_alone(problem, bt.Gaussian(1.0), budget)
        q = float(tails.quantile(tails.log_normal, torch.tensor(log(budget / 2)).double(), 60.0))
        assert float(ndtr(-t)) <= upper
        assert upper == pytest.approx(budget + float(ndtr(q - 2 * t)), rel=1e-5)


def test_an_unstable_unit_by_hand():
    one_unstable_unit()


def test_smooth_units_get_intervals():
    """0.9 - tanh(x): fails beyond atanh 0.9 = 1.47; the bound is above, and below what the whole line would give."""
    upper = float(probabilistic_crown(scalar((1.0, 0.0), (-1.0, 0.9), act=nn.Tanh), {"x": bt.Gaussian(0.3)}).upper)
    assert float(ndtr(-1.4722 / 0.3)) <= upper < 1e-2


def gradients(problem, values):
    """(K, N) l2 norms of the gradients of flat values (N, K) by x."""
    rows = [
        torch.autograd.grad(values[:, k].sum(), problem, retain_graph=True)[0].flatten(1)
        for k in range(values.shape[1])
    ]
    return torch.stack([row.norm(dim=1) for row in rows])


def test_walls_of_a_cell_are_where_autograd_says():
    module, x, labels = CASES[2].make()
    module = module.double()
    x = x.double().requires_grad_()
    seen, hidden = x, []
    for layer in module:
        hidden += [seen] if isinstance(layer, nn.ReLU) else []
        seen = layer(seen)
    values = torch.cat(hidden, 1)
    distances = (values.T.abs() / gradients(x, values)).detach()
    problem = bt.Problem(module, x.detach(), labels)
    laws = {"x": bt.Gaussian(0.1)}
    question = moving(problem, laws)
    law = _half_spaces.half_spaces(question, laws)
    found, _ = walls(question, law)
    assert torch.allclose(found.units.sort(0).values.clamp_max(1), torch.cat([distances, torch.full((len(found.units) - len(distances), len(x)), inf)]).sort(0).values.clamp_max(1), rtol=1e-9)  # fmt: skip
    rows = problem.spec.rows(seen, labels)
    faces = (rows.T.abs() / gradients(x, rows)).detach()
    assert torch.allclose(found.faces, faces, rtol=1e-9)
    own = cell(problem, laws).upper
    total = sum(torch.tensor(ndtr(-d.numpy() / 0.1)).sum(0) for d in (distances, faces))
    assert torch.allclose(own, total.clamp_max(1), rtol=1e-6)
    nearest = torch.cat([distances, faces]).amin(0)
    paper = cell(problem, {"x": bt.Gaussian(0.004)}, distances="nearest").upper
    assert torch.allclose(paper, (31 * torch.tensor(ndtr(-nearest.numpy() / 0.004))).clamp_max(1), rtol=1e-6)


def test_the_closed_form_is_below_the_paper_and_above_each_units_own_distance():
    module, x, labels = CASES[2].make()
    problem = bt.Problem(module, x, labels)
    for radius in (0.002, 0.01, 0.05):
        laws = {"x": bt.UniformSphere(radius)}
        question = moving(problem, laws)
        found, _ = walls(question, _half_spaces.half_spaces(question, laws))
        nearest = torch.cat([found.units, found.faces]).amin(0)
        paper = 31 * torch.exp(-6 * nearest**2 / (2 * radius**2))
        closed, own = cell(problem, laws, distances="nearest").upper, cell(problem, laws).upper
        assert bool((own <= closed * (1 + 1e-6)).all()) and bool((closed <= paper.clamp_max(1) * (1 + 1e-6)).all())


def test_a_window_changes_hands_at_a_wall():
    """max(x_0, x_1) with x = (1, 0): the pixels swap at distance 1 / sqrt 2."""
    module = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2), nn.Flatten()).double()
    problem = bt.Problem(module, torch.tensor([[1.0, 0.0]]).double(), torch.tensor([1]))
    laws = {"x": bt.Gaussian(0.2)}
    question = moving(problem, laws)
    found, _ = walls(question, _half_spaces.half_spaces(question, laws))
    assert found.units.amin() == pytest.approx(0.5**0.5, rel=1e-9) and found.faces.item() == pytest.approx(1, rel=1e-9)
    assert float(cell(problem, laws).upper) == pytest.approx(float(ndtr(-(0.5**0.5) / 0.2) + ndtr(-5.0)), rel=1e-6)


def test_several_rows_must_fail_where_the_rank_says_so():
    """Both rivals of a linear network at their own distance: TopK(2) fails only where both win."""
    module = nn.Linear(2, 3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        module.bias.copy_(torch.tensor([0.0, -1.0, -2.0]))
    x, labels, laws = torch.zeros(1, 2).double(), torch.tensor([0]), {"x": bt.Gaussian(1.0)}
    first = probabilistic_crown(bt.Problem(module, x, labels), laws)
    both = probabilistic_crown(bt.Problem(module, x, labels, spec=bt.TopK(2)), laws)
    assert float(first.upper) == pytest.approx(float(ndtr(-1.0) + ndtr(-2.0)), rel=1e-6)
    assert float(both.upper) == pytest.approx(float(ndtr(-2.0)), rel=1e-6)


# ---- against draws ---------------------------------------------------------------------------------------------------


def failures(problem, law, draws):
    """(N,) failing draws, each example with its own generator."""
    counts = []
    for i in range(len(problem)):
        noise = law.draws(draws, tuple(problem.x.shape[1:]), generator(0, "soundness", i))
        with torch.no_grad():
            logits = problem.network.double(problem.x[i].double() + noise)
        rows = problem.spec.rows(logits, problem.labels[i].expand(draws))
        counts.append((margin(rows, problem.spec.rank) <= 0).sum())
    return torch.stack(counts)


def never_below_the_draws(problem, laws, draws=1000, budgets=(0.3, 1e-2, 1e-4)):
    told = 0
    for law in laws:
        lower, _ = clopper_pearson(failures(problem, law, draws), draws, 0.998)  # one end at 99.9 %
        for name, bound in BOUNDS.items():
            options = {"probabilistic_crown": {"budgets": budgets}, "proven": {"outside": budgets}}.get(name, {})
            upper = bound(problem, {"x": law}, **options).upper
            assert bool((upper >= lower).all()), (name, law, upper, lower)
            told += int((upper < 1).sum())
    return told


LEVELS = {"mlp": 0.3, "smooth": 1.0, "cnn": 0.3, "residual": 0.05}


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("case", [c for c in CASES if c.name in LEVELS], ids=lambda c: c.name)
def test_no_bound_is_below_the_draws_on_the_zoo(case, law):
    """18 inputs, 7 laws, 3 levels, 3 bounds: 1,134 comparisons."""
    problem = bt.Problem(*case.make())
    fit = LEVELS[case.name] * problem.x[0].numel() ** {1: 0.5, 2: 0.0, inf: -0.5}[law.support()[0]]
    told = never_below_the_draws(problem, [law.scaled(fit * s) for s in (0.2, 0.7, 2.0)])
    assert told > 0  # or the comparison is empty


@pytest.mark.parametrize(
    "law", [bt.Gaussian(0.07), bt.UniformSphere(0.6), bt.UniformBall(0.12, inf), bt.UniformBall(3.0, 1)], ids=str
)
def test_no_bound_is_below_the_draws_on_trained_digits(law):
    data = digits("test")
    problem = bt.Problem(embedded("mlp"), data.x[:6], data.labels[:6])
    assert never_below_the_draws(problem, [law, law.scaled(1.8)]) >= 6


def test_nothing_fails_inside_the_certified_ball():
    data = digits("test")
    problem = bt.Problem(embedded("mlp"), data.x[:4], data.labels[:4], bt.Ball(2, 0.15))
    certified = crown(problem).rows.amin(1) > 0
    for law in (bt.UniformSphere(0.1499), bt.UniformBall(0.1499)):
        assert bool(certified.any())
        for bound in (proven, probabilistic_crown):
            assert bool((bound(problem, {"x": law}).upper[certified] == 0).all())


# ---- what is refused -------------------------------------------------------------------------------------------------


@each_bound
@pytest.mark.parametrize(
    "laws, words",
    [
        ({"x": bt.Gaussian(0.1).clipped(-9, 9)}, "clip"),
        ({"0.weight": bt.Gaussian(0.1)}, "parameter"),
        ({"x": bt.Gaussian(0.1), "0.bias": bt.Gaussian(0.1)}, "several leaves"),
    ],
)
def test_laws_out_of_reach_are_a_status(name, laws, words):
    bracket = BOUNDS[name](bt.Problem(*CASES[2].make()), laws)
    assert all("not certified" in s and words in s for s in bracket.status) and bracket.guarantee.upper == "none"


def test_smooth_networks_have_no_cells():
    assert "tanh is not piecewise linear" in cell(bt.Problem(*CASES[3].make()), {"x": bt.Gaussian(0.1)}).status[0]


@each_bound
def test_too_many_units_are_a_status(name):
    bracket = BOUNDS[name](bt.Problem(*CASES[2].make()), {"x": bt.Gaussian(0.1)}, max_units=20)
    assert "28 nonlinear units are more than max_units=20: raise max_units" in bracket.status[0]


@each_bound
def test_a_misclassified_example_says_so(name):
    bracket = BOUNDS[name](half_space(-0.5, 2), {"x": bt.Gaussian(0.1)})
    assert bracket.status == ("misclassified",) and bracket.upper == 1 and bracket.guarantee.upper == "none"


@pytest.mark.parametrize("options", [{"budgets": ()}, {"budgets": (2.0,)}, {"slopes": ("steep",)}])
def test_bad_options_are_refused(options):
    with pytest.raises(bt.InputError):
        probabilistic_crown(half_space(1.0, 2), {"x": bt.Gaussian(1.0)}, **options)
    with pytest.raises(bt.InputError):
        cell(half_space(1.0, 2), {"x": bt.Gaussian(1.0)}, distances="far")
    with pytest.raises(bt.InputError):
        proven(half_space(1.0, 2), {"x": bt.Gaussian(1.0)}, outside=(0.0,))


def test_the_question_takes_the_smallest_proved_end():
    problem = half_space(5.0, 3)
    answer = bt.probability(problem, bt.Gaussian(1.0))
    assert answer.guarantee.upper == "proved" and float(answer.upper) == pytest.approx(float(ndtr(-5.0)), rel=1e-6)
    assert {"cell", "probabilistic_crown"} <= set(dict(answer.parts))
    assert bt.probability(problem, bt.Gaussian(1.0), ends="lower").guarantee.upper == "none"


# ---- deliberate mistakes ---------------------------------------------------------------------------------------------

CLEAN = {"half_spaces": _half_spaces.half_spaces, "pulled_rows": _walls.pulled_rows, "log_sphere": tails.log_sphere}


def half_the_quantile(problem, laws):
    law = CLEAN["half_spaces"](problem, laws)
    return dataclasses.replace(law, quantile=lambda target, lengths: law.quantile(target, lengths) / 2)


def other_length(rows):
    return tails.Lengths(rows.abs().sum(-1), rows.abs().sum(-1), rows.abs().amax(-1))


def free_stability(t, lengths, law):
    return torch.full_like(law.tail(t, lengths), -inf)


def stable_for_nothing(problem, laws):
    law = CLEAN["half_spaces"](problem, laws)
    return dataclasses.replace(law, tail=lambda t, lengths: free_stability(t, lengths, law))


def round_law():
    test_half_spaces_are_reproduced_under_round_laws("probabilistic_crown", bt.UniformSphere(1.5), 64)


MUTANTS = {
    "q halved": (_walls, "half_spaces", half_the_quantile, one_unstable_unit),
    "cost of a unit dropped": (
        likely_file, "_enclose", lambda *a: (*(full := crown_enclose(*a))[:2], 0 * full[2]), one_unstable_unit,
    ),
    "declared stable for nothing": (
        _walls, "half_spaces", stable_for_nothing,
        lambda: test_a_unit_declared_stable_costs_what_leaving_its_piece_costs(bt.Gaussian(0.7)),
    ),
    "two dimensions more": (tails, "log_sphere", lambda t, n: CLEAN["log_sphere"](t, n + 2), round_law),
    "two dimensions fewer": (tails, "log_sphere", lambda t, n: CLEAN["log_sphere"](t, n - 2), round_law),
    "l1 length for l2": (tails, "lengths", other_length, round_law),
    "half the last threshold": (
        _walls, "specified", lambda *a: [(b / 2, s) for b, s in [CLEAN_SPECIFIED(*a)]][0], round_law,
    ),
    "twice the last threshold": (
        _walls, "specified", lambda *a: [(b * 2, s) for b, s in [CLEAN_SPECIFIED(*a)]][0], round_law,
    ),
}  # fmt: skip
crown_enclose, CLEAN_SPECIFIED = likely_file._enclose, _walls.specified


@pytest.mark.parametrize("name", MUTANTS)
def test_the_laws_kill(name, monkeypatch):
    where, attribute, mutant, law = MUTANTS[name]
    monkeypatch.setattr(where, attribute, mutant)
    with pytest.raises(AssertionError):
        law()


def test_what_one_bound_cannot_prove_is_not_said_where_another_proves():
    """At 3.9 deviations the chi cover of 40 dimensions proves nothing, the half-space nearly everything."""
    answer = bt.probability(half_space(3.9, 40), bt.Gaussian(1.0), estimators=["covering", "probabilistic_crown"])
    assert answer.status == ("ok",) and answer.methods.upper != ("covering",)


def test_every_third_budget_and_its_neighbours_lose_little():
    data = digits("test")
    problem = bt.Problem(embedded("mlp"), data.x[:2], data.labels[:2])
    laws = {"x": bt.Gaussian(0.07)}
    grid = [probabilistic_crown(problem, laws, budgets=(10.0**-k,)).upper for k in range(2, 10)]
    full, searched = torch.stack(grid).amin(0), probabilistic_crown(problem, laws).upper
    assert bool((searched <= 1.5 * full).all())
