"""bt.probability: estimates and proofs joined into one bracket, each end with its own kind of guarantee."""

from functools import partial
from math import inf

import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle.discovery import portfolio
from brittle.results import Certificate


def line(distances, dtype=torch.float64):
    """One logit, x itself, at the given distances from 0; label 1."""
    module = nn.Linear(1, 1, bias=False).to(dtype)
    with torch.no_grad():
        module.weight.fill_(1.0)
    return bt.Problem(module, torch.tensor(distances, dtype=dtype)[:, None], torch.ones(len(distances)).long())


def exact(problem):
    return Certificate((problem.x - problem.radius("x")[:, None]).double(), "exact")


def lying(problem):
    return Certificate(torch.ones(len(problem), 1, dtype=torch.float64), "lying")


def silent(problem):
    raise bt.NotCertified("no row for sort")


def test_a_proof_beats_an_estimate_where_it_reaches():
    answer = bt.probability(line([0.5, 2.0]), bt.UniformBall(1.0), effort="quick", bounds=[exact])
    assert answer.kinds.upper == ("statistical", "proved") and answer.methods.upper == ("monte_carlo", "covering")
    assert float(answer.lower[0]) < 0.25 < float(answer.upper[0])
    assert answer.lower[1] == 0 and answer.upper[1] == 0
    assert answer.estimate[1] == 0 and float(answer.interval[1, 1]) > 0
    assert answer.level == 0.95 and answer.confidence == pytest.approx(0.95) and not answer.doubts


def test_zero_failures_are_not_zero_probability():
    answer = bt.probability(line([50.0]), bt.Gaussian(1.0), draws=2000, effort="quick", bounds=[])
    assert float(answer.upper) == pytest.approx(1 - 0.025 ** (1 / 2000))
    proved = bt.probability(line([50.0]), bt.Gaussian(1.0), bounds=[exact])
    covered = dict(proved.parts)["covering"]
    assert 0 < float(covered.upper) < 1.1e-12 and covered.guarantee.upper == "proved"
    assert 0 < float(proved.upper) <= float(covered.upper)


def test_an_example_already_misclassified_fails_nearly_always():
    answer = bt.probability(line([-3.0]), bt.Gaussian(1.0), effort="quick", bounds=[exact])
    assert float(answer.lower) > 0.98 and float(answer.lower) <= float(ndtr(3.0)) <= float(answer.upper)
    mixed = bt.probability(line([2.0, -3.0, 6.0]), bt.Gaussian(1.0))
    assert mixed.status == ("ok", "misclassified", "ok")  # its own status, and not p = 1 silently


def test_a_bound_that_the_draws_refute_is_a_doubt():
    answer = bt.probability(line([0.5]), bt.UniformBall(1.0), effort="quick", bounds=[lying])
    assert any("analytic bound contradicts Monte Carlo on 1 of 1" in doubt for doubt in answer.doubts)


def test_a_module_out_of_reach_keeps_its_estimate_and_says_why():
    answer = bt.probability(line([0.5]), bt.UniformBall(1.0), effort="quick", bounds=[silent])
    assert answer.status == ("not certified: no row for sort",) and answer.guarantee.upper == "statistical"
    both = bt.probability(line([2.0]), bt.UniformBall(1.0), effort="quick", bounds=[silent, exact])
    assert both.upper == 0


def test_what_is_not_estimated_does_not_hide_what_is_not_certified():
    """Stairs: no gradient leads to a failure, and no bound knows them."""
    stairs = bt.Problem(lambda x: 4.0 + (4 * x).floor() / 4, torch.zeros(1, 1).double(), torch.tensor([1]))
    answer = bt.probability(stairs, bt.Gaussian(1.0))
    first, second = answer.status[0].split("; ")
    assert first.startswith("not certified: ") and second.startswith("not estimated: no direction")
    assert answer.estimate == 0 and 0 < float(answer.upper) < 0.01  # no failure seen: the exact end, and not 0
    only = bt.probability(stairs, bt.Gaussian(1.0), ends="lower")
    assert only.status[0].startswith("not estimated")  # no proof was sought


def test_what_a_search_may_miss_is_said_once_and_only_where_it_matters():
    said = lambda distances, **options: [
        d for d in bt.probability(line(distances), bt.Gaussian(1.0), bounds=[], **options).doubts if "can miss" in d
    ]
    assert len(said([6.0, 6.5, 2.0])) == 1 and "estimators=" in said([6.0])[0]
    assert not said([1.0, 2.0]) and not said([6.0], effort="quick")
    assert not said([6.0], estimators=["splitting"])
    assert not said([1.0], estimators=["monte_carlo", "importance_sampling"])  # asked, but the plain draws speak


def test_a_threshold_stops_as_soon_as_it_is_decided():
    problem, asked = bt.Problem(lambda x: x + 0 * x.floor(), line([0.1, 3.2, 40.0, 2.32]).x, torch.ones(4).long()), []

    def proof(some):
        asked.append(len(some))
        return exact(some)

    answer = bt.probability(problem, bt.Gaussian(1.0), threshold=1e-2, draws=2000, bounds=[proof])
    assert dict(answer.parts)["sequential"].diagnostics["decision"].tolist() == [1, -1, -1, 0]
    assert float(answer.lower[0]) > 1e-2 > float(answer.upper[1:3].max())
    assert answer.status[3].endswith("undecided after 2000 draws") and set(answer.status[:3]) == {"ok"}
    assert max(asked) == 1 and answer.cost.forward < 1000  # proofs were sought for the last example alone
    tiny = bt.probability(line([40.0]), bt.Gaussian(1.0), threshold=1e-9, draws=500, bounds=[exact])
    assert (
        float(tiny.upper) < 1e-9 and tiny.kinds.upper == ("proved",) and tiny.status == ("ok",)
    )  # where draws cannot decide, proofs can
    with pytest.raises(bt.InputError):
        bt.probability(problem, bt.Gaussian(1.0), threshold=0.1, estimators=["monte_carlo"])


@pytest.mark.parametrize("ends, blank", [("lower", "upper"), ("upper", "lower")])
def test_the_end_not_asked_for_stays_open(ends, blank):
    answer = bt.probability(line([0.1]), bt.UniformBall(1.0), ends=ends, effort="quick", bounds=[exact])
    assert getattr(answer.guarantee, blank) == "none" and getattr(answer.guarantee, ends) == "statistical"
    assert (float(answer.lower), float(answer.upper))[blank == "upper"] in (0.0, 1.0)
    assert answer.estimate is not None


def test_no_certificate_is_sought_for_the_lower_end():
    asked = []

    def asks(problem):
        asked.append(1)
        return exact(problem)

    bt.probability(line([0.1]), bt.UniformBall(1.0), ends="lower", effort="quick", bounds=[asks])
    assert not asked


def test_effort_and_draws_set_the_number_of_passes():
    problem, law = line([1.0, 2.0, 3.0]), bt.Gaussian(1.0)
    passes = lambda **options: bt.probability(problem, law, bounds=[], **options).cost.forward
    assert passes(effort="quick") == 501 and passes(effort="quick", draws=37) == 38  # one for the clean point
    assert bt.probability(problem, law, draws=37, effort="quick", bounds=[]).cost.seconds > 0
    plain = dict(bt.probability(problem, law, bounds=[]).parts)["monte_carlo"]
    assert plain.cost.forward == 2000


def test_rare_failures_are_estimated_by_importance_sampling():
    """Twenty failures in 2,000 draws speak for themselves; one in 10^9 is seen only by draws that lean towards it."""
    answer = bt.probability(line([2.0, 6.0, -1.0]), bt.Gaussian(1.0), bounds=[])
    parts = dict(answer.parts)
    plain, leaning = parts["monte_carlo"], parts["importance_sampling"]
    assert torch.equal(answer.estimate[[0, 2]], plain.estimate[[0, 2]]) and bool(leaning.estimate[[0, 2]].isnan().all())
    assert answer.estimate[1] == leaning.estimate[1] and torch.equal(answer.interval[1], leaning.interval[1])
    assert float(answer.estimate[1]) == pytest.approx(float(ndtr(-6.0)), rel=0.3)
    assert plain.estimate[1] == 0 and leaning.kinds.upper == ("none",) * 3
    assert any("can miss" in doubt for doubt in answer.doubts)
    assert leaning.cost.forward < 600  # two examples of three were not asked again
    quick = bt.probability(line([6.0]), bt.Gaussian(1.0), effort="quick", bounds=[])
    assert quick.estimate == 0 and "importance_sampling" not in dict(quick.parts)


def test_parts_are_taken_and_joined_with_the_examples():
    problem = line([2.0, 6.0])
    whole = bt.probability(problem, bt.Gaussian(1.0), bounds=[])
    split = [bt.probability(problem.take(torch.tensor([i])), bt.Gaussian(1.0), bounds=[]) for i in (0, 1)]
    joined = bt.Bracket.join(split)
    assert torch.equal(joined.estimate, whole.estimate) and torch.equal(joined.interval, whole.interval)
    assert torch.equal(whole.take(torch.tensor([1])).estimate, split[1].estimate)
    assert {name for name, _ in whole.parts} > {name for name, _ in joined.parts}  # one half did not ask all methods
    assert torch.equal(dict(joined.parts)["monte_carlo"].upper, dict(whole.parts)["monte_carlo"].upper)


class TwoSided(nn.Module):
    """Margin 3 - x, but -1 below -1.9, where no gradient leads."""

    def forward(self, x):
        return torch.minimum(3 - x, torch.where(x < -1.9, -1.0, 3.0))


def test_a_mode_that_gradients_miss_is_seen_by_the_plain_draws_and_said():
    problem = bt.Problem(TwoSided(), torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1]))
    answer = bt.probability(problem, bt.Gaussian(0.8), bounds=[], draws=1000)  # P(x < -1.9) = 0.0088, P(x > 3) = 9e-5
    parts = dict(answer.parts)
    if float(parts["monte_carlo"].diagnostics["failures"]) < 10:
        assert answer.estimate == parts["monte_carlo"].estimate and any("contradict" in d for d in answer.doubts)
    assert float(answer.interval[0, 0]) <= 0.0088 <= float(answer.interval[0, 1])


def test_thorough_falls_back_on_splitting():
    """A staircase: no gradient anywhere; splitting walks down its steps."""
    stairs = lambda x: 4.0 + (4 * x).floor() / 4
    problem = bt.Problem(stairs, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1]))  # fails where x < -3.75
    answer = bt.probability(problem, bt.Gaussian(0.9), effort="thorough", draws=500, bounds=[])
    exact = float(ndtr(-3.75 / 0.9))
    assert dict(answer.parts)["importance_sampling"].status[0].startswith("not estimated")
    assert float(answer.interval[0, 0]) < exact < float(answer.interval[0, 1]) < 100 * exact
    assert not answer.status[0].startswith("not estimated")


def test_estimators_by_name_or_function():
    from brittle.noise.monte_carlo import monte_carlo

    problem, law = line([0.5]), bt.UniformBall(1.0)
    named = bt.probability(problem, law, effort="quick", estimators=["monte_carlo"])
    bound = bt.probability(problem, law, effort="quick", estimators=[partial(monte_carlo, draws=123)], draws=500)
    assert named.guarantee.upper == "statistical" and named.cost.forward == 501 and bound.cost.forward == 124
    only = bt.probability(problem, law, estimators=["covering"], bounds=[exact])
    assert only.estimate is None and only.guarantee.lower == "none"


def test_results_depend_on_seed_and_example_alone():
    problem, law = line([0.2, 0.4, 0.6, 0.8]), bt.UniformBall(1.0)
    ask = lambda p, seed=0: bt.probability(p, law, effort="quick", seed=seed, bounds=[exact])
    whole = ask(problem)
    parts = [ask(problem.take(torch.tensor(at))) for at in ([3, 1], [0, 2])]
    assert torch.equal(bt.Bracket.join(parts).estimate, whole.estimate[[3, 1, 0, 2]])
    assert torch.equal(ask(problem).upper, whole.upper)
    assert not torch.equal(ask(problem, 1).estimate, whole.estimate)


def test_laws_by_leaf_move_parameters():
    problem = line([1.0, 2.0], torch.float32)
    answer = bt.probability(problem, {"weight": bt.Gaussian(1.0)}, level=1 - 1e-6, bounds=[])
    assert bool(((answer.lower <= ndtr(-1.0)) & (ndtr(-1.0) <= answer.upper)).all())


@pytest.mark.skipif(not portfolio("bounds", "quick", "margin"), reason="no bound is installed")
def test_real_bounds_prove_a_linear_network():
    """Whatever bounds are installed: margins on a linear layer are exact, so noise just inside never fails."""
    problem = line([1.0])
    answer = bt.probability(problem, bt.UniformSphere(0.99, p=inf), effort="quick")
    assert answer.upper == 0 and answer.guarantee.upper == "proved"
    assert bt.probability(problem, bt.UniformSphere(1.01, p=inf), effort="quick").guarantee.upper == "statistical"


@pytest.mark.parametrize(
    "options, law",
    [
        ({"ends": "left"}, bt.Gaussian(1.0)),
        ({"effort": "heroic"}, bt.Gaussian(1.0)),
        ({"level": 2.0}, bt.Gaussian(1.0)),
        ({"estimators": []}, bt.Gaussian(1.0)),
        ({"estimators": ["montecarlo"]}, bt.Gaussian(1.0)),
        ({}, 0.1),
        ({}, {"nose": bt.Gaussian(1.0)}),
    ],
)
def test_bad_questions_are_refused(options, law):
    with pytest.raises(bt.InputError):
        bt.probability(line([1.0]), law, **options)
