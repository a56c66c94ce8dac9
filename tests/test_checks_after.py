"""Checks A1 to A14 and S1 to S16 of a finished measurement: each fires on an attack, a model or a record broken for it, and not on healthy ones."""

import sys
from dataclasses import replace
from functools import cache, partial
from math import inf
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

import brittle as bt
import broken
import zoo
from brittle.attacks.apgd import apgd
from brittle.checks.counts import counts
from brittle.checks.discrete_inputs import discrete_inputs
from brittle.checks.nearest_other import nearest_other
from brittle.checks.other_attacks import chao, other_attacks
from brittle.checks.rejection import rejection
from brittle.checks.sample_size import sample_size
from brittle.checks.unfinished import unfinished
from brittle.health import after, doctor
from brittle.questions._rivals import rivals
from brittle.results import Bracket

L2 = bt.Ball(p=2, radius=1.0)


@cache
def plane() -> tuple[bt.Problem, Bracket]:
    """Twelve points of a plane in four dimensions, at their exact distances 0.3 to 2.5."""
    module = nn.Linear(4, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, -4.0, 0.0, 0.0], [0.0] * 4, [0.0, 0.0, 0.1, 0.0]]))
        module.bias.copy_(torch.tensor([0.0, 0.0, -9.0]))
    x = torch.outer(torch.linspace(0.3, 2.5, 12), torch.tensor([0.6, -0.8, 0.0, 0.0]))
    problem = bt.Problem(module, x, torch.zeros(12).long(), L2)
    return problem, bt.radius(problem, effort="quick", ends="upper")


def weakened(bracket: Bracket, factor: float = 3.0) -> Bracket:
    """The same measurement by an attack that stops so many times too far out."""
    assert bracket.witness is not None
    return replace(
        bracket, upper=factor * bracket.upper, witness=replace(bracket.witness, size=factor * bracket.witness.size)
    )


def free(bracket: Bracket) -> Bracket:
    """Of unknown cost, so that checks may spend what they need."""
    return replace(bracket, cost=type(bracket.cost)())


def sign_step(model, inputs, labels):
    """One step along the sign of the gradient, as broken as the gradient is."""
    inputs = inputs.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    return inputs + 0.4 * torch.autograd.grad(loss, inputs)[0].sign()


# ---- attacks that find more ------------------------------------------------------------------------------------------


def test_no_other_attack_beats_the_exact_distance():
    problem, bracket = plane()
    assert other_attacks(problem, free(bracket), rivals=rivals).consequence == "none"


@pytest.mark.parametrize(
    "name, consequence, sign",
    [
        ("single step", "invalid", "S1"),
        ("half the region", "invalid", "S2"),
        ("twice the steps", "warn", "A3"),
        ("short steps", "warn", "A5"),
        ("long steps", "warn", "A5"),
        ("random start 1", "warn", "A4"),
        ("square", "invalid", "S6"),
        ("boundary_walk", "invalid", "S6"),
    ],
)
def test_an_attack_that_stops_too_early_is_beaten(name, consequence, sign):
    problem, bracket = plane()
    found = other_attacks(problem, weakened(free(bracket)), rivals=lambda part: {name: rivals(part)[name]})
    assert found.consequence == consequence and sign in found.note and name in found.value
    two = weakened(free(bracket), 1.5)  # what half the size cannot break
    kept = other_attacks(problem, two, rivals=lambda part: {name: rivals(part)[name]})
    assert (kept.consequence == "none") == (name == "half the region")


def test_a_margin_that_an_attack_left_is_broken_by_others():
    """The gradient of a rounded input is zero, and its sign leads nowhere; blind attacks cross the step (S6)."""
    module = zoo.rounded()
    problem = bt.Problem(module, torch.full((4, 2), 0.3), torch.zeros(4).long(), bt.Ball(p=inf, radius=0.4))
    stuck = bt.margin(problem, attacks=[bt.foreign(sign_step, answers="margin")], ends="upper")
    assert bool((stuck.upper > 0).all())
    found = other_attacks(problem, free(stuck), rivals=rivals)
    assert found.consequence == "invalid" and "square" in found.value


def test_points_of_a_smoothed_copy_transfer_where_gradients_vanish():
    module, x, labels = zoo.saturated()
    problem = bt.Problem(module, x, labels, bt.Ball(p=inf, radius=0.5))
    stuck = bt.margin(problem, attacks=[partial(apgd, steps=10, restarts=1)], ends="upper")
    assert bool((stuck.upper > 0).any())
    only = lambda part: {"smoothed copy": rivals(part)["smoothed copy"]}
    found = other_attacks(problem, free(stuck), rivals=only)
    assert found.consequence == "warn" and "S7" in found.note
    problem, bracket = plane()  # without kinks there is nothing to smooth
    assert other_attacks(problem, weakened(free(bracket)), rivals=only).consequence == "none"


def test_an_attack_inside_a_certified_ball_stops_everything():
    problem, bracket = plane()
    short = weakened(free(bracket))
    assert other_attacks(problem, replace(short, lower=1.5 * bracket.upper), rivals=rivals).consequence == "stop"
    with pytest.raises(
        bt.BracketError
    ):  # S10, S11: a witness and a proof that contradict each other never form a bracket
        replace(bracket, lower=1.001 * bracket.upper)


def test_a_few_radii_that_are_somewhat_long_are_a_warning():
    problem, bracket = plane()
    factor = torch.tensor([3.0] * 2 + [1.0] * 10)
    one = replace(weakened(free(bracket)), upper=factor * bracket.upper)
    some = lambda part: {"square": rivals(part)["square"]}
    grade = lambda rows: other_attacks(problem.take(rows), one.take(rows), rivals=some).consequence
    assert grade(torch.arange(8)) == "warn" and grade(torch.arange(6)) == "invalid"


def test_other_attacks_cost_at_most_a_share_of_the_answer():
    problem, bracket = plane()
    calls = []
    spy = lambda part: calls.append(len(part)) or {}
    for passes, few in ((0, 8), (500, 1), (1_000, 2), (40, None)):
        cost = replace(bracket, cost=type(bracket.cost)(forward=passes))
        other_attacks(problem, cost, rivals=spy)
        assert (calls.pop() if few else calls) == (few or [])


def test_chao_estimates_what_no_run_has_found():
    g = torch.Generator().manual_seed(0)
    chance = torch.rand(4000, generator=g)
    runs = torch.rand(3, 4000, generator=g) < 0.2 + 0.3 * chance
    unseen = int((~runs.any(0)).sum())
    assert 0.6 * unseen < chao(runs) <= 1.05 * unseen  # a lower estimate, which unequal chances pull down
    assert chao(torch.zeros(3, 5).bool()) == chao(torch.ones(3, 5).bool()) == 0


@pytest.mark.parametrize("step, consequence", [(2.0, "none"), (0.004, "warn")])
def test_a_descent_that_runs_out_of_steps_is_unfinished(step, consequence):
    problem, bracket = plane()
    found = unfinished(problem, free(bracket), attack=partial(apgd, step=step, losses=("margin",)))
    assert found.consequence == consequence
    assert unfinished(problem, bracket).value == "not judged"


def test_audits_attack_again_from_the_standard_effort_on():
    problem, bracket = plane()
    names = lambda effort: {f.name for f in after(problem, bracket, 0, effort)}
    assert names("standard") - names("quick") == {"other_attacks", "unfinished"}


# ---- inside the search ---------------------------------------------------------------------------------------------


def there_and_back(model, inputs, labels):
    """Crosses the boundary on its way and returns to where it came from."""
    far = inputs - torch.tensor([0.6, -0.8, 0.0, 0.0]) * 3
    model(far)
    return inputs


def test_a_failing_point_on_the_way_is_not_lost():  # A1
    problem, bracket = plane()
    found = bt.radius(problem, attacks=[bt.foreign(there_and_back)], ends="upper")
    assert bool((found.upper <= 1.01 * bracket.upper).all())


def test_an_attack_that_goes_nowhere_is_told():  # A10
    problem, _ = plane()
    nothing = bt.radius(problem, attacks=[bt.foreign(lambda model, inputs, labels: inputs)], ends="upper")
    assert counts(problem, nothing).consequence == "warn" and counts(*plane()).consequence == "none"


def test_nan_on_the_way_freezes_the_example_and_says_so():  # A9
    class Holes(nn.Module):
        def forward(self, x):
            return torch.stack([1 + 0 * x[:, 0], torch.where(x[:, 0] > 0.5, torch.nan, x[:, 0])], 1)

    problem = bt.Problem(Holes(), torch.tensor([[0.2], [0.4]]), torch.zeros(2).long(), L2)
    found = bt.radius(problem, effort="quick", ends="upper")
    assert found.status == ("nan", "nan") and found.upper.tolist() == [inf, inf]
    assert bool(found.witness.point["x"].isfinite().all())
    assert "nan" not in bt.radius(plane()[0], effort="quick", ends="upper").status


def test_misclassified_examples_are_no_success_of_an_attack():  # A8
    problem, _ = plane()
    wrong = bt.Problem(problem.module, problem.x, torch.tensor([1] + [0] * 11), L2)
    found = bt.radius(wrong, effort="quick")
    assert found.status[0] == "misclassified" and found.upper[0] == found.lower[0] == 0
    assert "1 of 12 examples are misclassified" in counts(wrong, found).note


def test_the_portfolio_visits_more_than_one_target():  # A12
    """Class 1 has the smallest margin and a boundary 8 away, class 2 the nearest boundary, 0.5 away."""
    module = nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0, 0.0], [0.125, 0.0], [0.0, 10.0]]))
        module.bias.copy_(torch.tensor([0.0, -1.0, -5.0]))
    x, labels = torch.zeros(3, 2), torch.zeros(3).long()
    problem = bt.Problem(module, x, labels, L2)
    found = bt.radius(problem, effort="quick", ends="upper")
    assert float(found.upper.max()) == pytest.approx(0.5, rel=1e-3)
    one = bt.radius(bt.Problem(module, x, labels, L2, bt.Targeted(1)), effort="quick", ends="upper")
    assert float(one.upper.min()) == pytest.approx(8, rel=1e-3)
    assert other_attacks(problem, free(one), rivals=rivals).consequence == "invalid"


# ---- consistent with the data --------------------------------------------------------------------------------------


def classes() -> bt.Problem:
    """Both classes of a plane, in a box."""
    x = torch.cat([torch.linspace(0.6, 0.9, 8), torch.linspace(0.1, 0.4, 8)])[:, None] * torch.ones(1, 2)
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        module.bias.copy_(torch.tensor([-1.0, 1.0]))
    return bt.Problem(module, x, (torch.arange(16) >= 8).long(), bt.Ball(p=inf, radius=1.0, low=0, high=1))


def idle(model, inputs, labels):
    return inputs


def test_data_of_the_other_class_in_the_box_refute_an_attack_that_finds_nothing():  # S4
    problem = classes()
    assert nearest_other(problem, bt.radius(problem, effort="quick")).consequence == "none"
    nothing = bt.radius(problem, attacks=[bt.foreign(idle)], ends="upper")
    found = nearest_other(problem, nothing)
    assert found.consequence == "invalid" and "found nothing at all" in found.note
    constant = bt.Problem(lambda x: x.new_tensor([[1.0, 0.0]]) + 0 * x, problem.x, problem.labels * 0, problem.region)
    assert nearest_other(constant, bt.radius(constant, effort="quick", ends="upper")).consequence == "none"


def test_a_region_that_reaches_the_other_class_must_be_broken():  # S3
    problem = classes()
    assert nearest_other(problem, bt.margin(problem, effort="quick", ends="upper")).consequence == "none"
    left = bt.margin(problem, attacks=[bt.foreign(idle, answers="margin")], ends="upper")
    assert nearest_other(problem, left).consequence == "invalid"
    assert nearest_other(problem, replace(left, lower=left.upper / 2)).consequence == "stop"
    small = problem.within(bt.Ball(p=inf, radius=0.05, low=0, high=1))
    kept = bt.margin(small, attacks=[bt.foreign(idle, answers="margin")], ends="upper")
    assert nearest_other(small, kept).consequence == "none"


def test_the_smallest_radius_of_all_attacks_counts():  # S9
    _, bracket = plane()
    worse = weakened(bracket)
    assert torch.equal((bracket & worse).upper, bracket.upper) and torch.equal((worse & bracket).upper, bracket.upper)


# ---- what is asked, and of how many ---------------------------------------------------------------------------------


def pixels(step: float) -> tuple[bt.Problem, Bracket]:
    """Points at whole steps, 10.2 steps from a plane across the first coordinate."""
    module = nn.Linear(8, 2)
    with torch.no_grad():
        module.weight.zero_()[0, 0] = 1.0
        module.bias.copy_(torch.tensor([-99.8 * step, 0.0]))
    x = (torch.arange(16).reshape(2, 8) + 110) * step
    x[:, 0] = 110 * step
    problem = bt.Problem(module, x, torch.zeros(2).long(), bt.Ball(p=2, radius=1.0, low=0, high=1))
    return problem, bt.radius(problem, effort="quick", ends="upper")


def test_points_are_judged_again_on_the_grid_of_the_inputs():  # A14
    found = discrete_inputs(*pixels(1 / 255))
    assert found.columns["valid after rounding"] == [True, True] and "steps of 1/255" in found.note
    assert found.columns["size"] == pytest.approx([11 / 255] * 2)  # 10.2 steps are none, and 10 are too few
    problem, bracket = pixels(1 / 255)
    between = bt.margin(problem.within(bt.Ball(p=2, radius=10.6 / 255, low=0, high=1)), effort="quick", ends="upper")
    assert bool(between.witness.found.all())  # and no grid point inside that region breaks the property
    lost = discrete_inputs(problem.within(bt.Ball(p=2, radius=10.6 / 255, low=0, high=1)), between)
    assert lost.columns["valid after rounding"] == [False, False] and lost.consequence == "note"
    assert discrete_inputs(*pixels(0.00377)).columns == discrete_inputs(*plane()).columns == {}


@pytest.mark.parametrize("count, consequence", [(40, "note"), (120, "warn")])
def test_an_output_that_is_the_label_of_nothing_is_asked_about(count, consequence):  # A13
    module, x = broken.body(), broken.data(count)
    with torch.no_grad():
        labels = module(x)[:, :3].argmax(1)
    assert rejection(bt.Problem(module, x, labels)).consequence == consequence
    assert rejection(bt.Problem(module, x, module(x).argmax(1))).consequence == "none"


def test_a_second_head_with_a_score_is_asked_about():  # A13
    for answer in (lambda z: (z, z[:, :1]), lambda z: {"score": z[:, 0], "logits": z}):
        module, x, labels = broken.labelled(broken.Through(broken.body(), after=answer), plain=broken.body())
        assert {f.name: f.consequence for f in doctor(module, x, labels).findings}["rejection"] == "warn"
    module, x, labels = broken.tuple_output()
    assert rejection(bt.Problem(module, x, labels)).consequence == "none"


def test_repeats_and_clusters_are_no_further_examples():  # S12, S13
    problem, bracket = plane()
    assert "12 independent" not in sample_size(problem, bracket).value
    many = problem.take(torch.arange(12).repeat(10))
    assert "120 examples, 12 independent" in sample_size(many, bracket).value
    apart = bt.Problem(problem.module, many.x + torch.arange(120)[:, None] * 1e-6, many.labels, L2)
    assert "independent" not in sample_size(apart, bracket).value
    uneven = torch.cat([torch.zeros(60), torch.arange(60)]).long()  # Kish: 120^2 / (61^2 + 59)
    assert "120 examples, 3 independent" in sample_size(apart, bracket, clusters=uneven).value
    assert sample_size(apart, bracket, clusters=uneven).consequence == "warn"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same audit with another seed, and one of other data."""
    problem, _ = plane()
    folder = tmp_path_factory.mktemp("runs")
    options = {"effort": "quick", "diagnostics": [], "checks": False, "progress": False, "report": None, "laws": {}}
    for name, move, seed in (("one", 0.0, 0), ("other", 0.0, 1), ("elsewhere", 0.1, 0)):
        regions = {"l2": L2, "near": bt.Ball(p=2, radius=0.1)}
        x = problem.x[::3] + move
        bt.audit(problem.module, x, problem.labels[::3], regions=regions, out=folder / name, seed=seed, **options)
    return folder


def said(capsys, *arguments) -> tuple[int, str]:
    from brittle.cli.main import main

    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_compare_refuses_other_data_and_names_what_differs(runs, capsys):  # S16
    code, text = said(capsys, "compare", runs / "one", runs / "elsewhere")
    assert code != 0 and "same data" in text
    code, text = said(capsys, "compare", runs / "one", runs / "other")
    assert code == 0 and "differ in seed" in text
    assert "differ" not in said(capsys, "compare", runs / "one", runs / "one")[1]


def test_a_gate_of_many_conditions_says_so(runs, capsys):  # S14
    near = ("gate", runs / "one", "--accuracy", "near=0.9")
    code, text = said(capsys, *near, "--accuracy", "l2=0.5")
    assert code == 0 and "2 conditions" in text and "Holm" in text
    assert "conditions" not in said(capsys, *near)[1]


def test_accuracy_never_rises_with_the_radius(runs):  # S2: shares of smallest radii
    run = bt.load_run(runs / "one")
    for end in run.accuracy(run.models[0], "l2", torch.linspace(0, 4, 30).tolist()):
        assert end == sorted(end, reverse=True) and end[0] == 1 and end[-1] == 0


def test_the_card_of_the_threat_is_complete(runs):  # S15
    from brittle.panels.threat import threat

    page = threat(bt.load_run(runs / "one"))
    for fact in ("the label keeps winning", "knows the model", ">4<", "unbounded", "radius", "l2", "labels", "near"):
        assert fact in page, fact
    with pytest.raises(bt.InputError):
        bt.radius(bt.Problem(plane()[0].module, plane()[0].x, plane()[0].labels))
    with pytest.raises(TypeError):
        bt.Ball(p=2)  # no radius goes without saying


# ---- the zoo of peers' pitfalls --------------------------------------------------------------------------------------

PITFALLS = (
    "zero_gradient rounding winner_takes_all large_logits small_logits dropout_left_on nan_at_the_clean_point detached "
    "input_dependent_shift single_logit purification batch_statistics softmax_output normalisation_forgotten normalised_twice"
).split()


def test_every_pitfall_is_in_the_zoo_and_flagged():
    flagged = {case.name: set(case.expected.values()) - {"none"} for case in broken.BROKEN}
    assert all(flagged.get(name) for name in PITFALLS)


@pytest.mark.parametrize(
    "make, flags",
    [
        (broken.zero_gradient, {"other_attacks": "invalid", "noise_against_attack": "invalid"}),
        (broken.dropout_left_on, {"replay": "invalid"}),
        (broken.healthy, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_broken_model_does_to_its_radii_is_seen_afterwards(make, flags):
    module, x, labels = make()
    problem = bt.Problem(module, x[:6], labels[:6], L2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        findings = after(problem, free(bt.radius(problem, effort="quick", ends="upper")))
    assert not [f.note for f in findings if "could not run" in f.title]
    assert {f.name: f.consequence for f in findings if f.name in flags} == flags
    if not flags:
        assert {f.name for f in findings if f.consequence in ("warn", "invalid", "stop")} <= {"sample_size"}
