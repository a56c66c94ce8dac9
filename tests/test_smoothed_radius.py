"""Randomised smoothing: exact on half-spaces, sound where a truth is known, honest about whose radius it is."""

from math import comb, inf, log
from statistics import NormalDist

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.questions._smoothing import reach_of, votes_reach
from brittle.questions._votes import Votes
from brittle.questions.smoothed_radius import limits

NORMAL = NormalDist()
LINE = torch.tensor([[3.0, -4.0], [0.0, 0.0]])


def linear(weight: torch.Tensor = LINE) -> nn.Module:
    module = nn.Linear(weight.shape[1], len(weight), bias=False)
    _ = module.weight.data.copy_(weight)
    return module


def asked(p: float, law, x=((1.0, 0.0), (0.2, 0.0)), **options) -> bt.Bracket:
    x = torch.tensor(x)
    problem = bt.Problem(linear(), x, torch.zeros(len(x)).long(), bt.Ball(p, 1.0))
    return bt.smoothed_radius(problem, law, **options)


@pytest.mark.parametrize(
    "p, law, distance",
    [
        (2, bt.Gaussian(0.5), 3 / 5),
        (2, bt.Gaussian(0.5).clipped(-9, 9), 3 / 5),
        (inf, bt.Gaussian(0.5), 3 / 5 / 2**0.5),
        (1, bt.Gaussian(0.5), 3 / 5),
        (2, bt.Gaussian(covariance=torch.tensor([[0.25, 0.0], [0.0, 0.25]])), 3 / 5),
    ],
)
def test_half_spaces_under_normal_noise_give_the_distance(p, law, distance):
    """In other norms the distance of l2 over the best factor. The exact limit: 20,000 draws leave 3 % below."""
    answer = asked(p, law, draws=20_000, ends="lower")
    truth = distance * torch.tensor([1.0, 0.2], dtype=torch.float64)
    assert bool((answer.lower <= truth).all()) and bool((answer.lower >= truth - 0.03).all())
    assert answer.guarantee == ("statistical", "none") and answer.quantity == "radius of the smoothed model"


def test_an_upper_end_is_a_point_where_the_smoothed_model_changes_its_mind():
    answer = asked(2, bt.Gaussian(0.5), x=((1.0, 0.0), (0.2, 0.0), (-1.0, 0.0)))
    assert bool((answer.upper[:2] >= torch.tensor([0.6, 0.12])).all()) and float(answer.upper[0]) < 0.7
    assert answer.status[2] == "misclassified" and answer.upper[2] == 0 == answer.lower[2]
    point = answer.witness.point["x"][0]
    assert float(3 * point[0] - 4 * point[1]) < 0  # the half-space itself is left
    assert float((point - torch.tensor([1.0, 0.0])).norm()) == pytest.approx(float(answer.upper[0]), rel=1e-6)


def test_the_cube_is_exact_along_a_coordinate():
    """x0 > 0 at distance .3 under a cube of half-width 1: P = .65, and a (2 p - 1) is the distance."""
    module = linear(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    problem = bt.Problem(module, torch.tensor([[0.3, 0.0]]), torch.tensor([0]), bt.Ball(1, 1.0))
    answer = bt.smoothed_radius(problem, bt.UniformCube(1.0), draws=40_000, ends="lower")
    assert 0.28 < float(answer.lower) <= 0.3


def test_laplace_noise_is_sound_and_meets_its_formula():
    """One coordinate: P(wrong) = exp(-d / b) / 2, and -b log(2 (1 - p)) is d."""
    module = linear(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    problem = bt.Problem(module, torch.tensor([[0.6, 0.0]]), torch.tensor([0]), bt.Ball(1, 1.0))
    answer = bt.smoothed_radius(problem, bt.Laplace(0.3), draws=40_000, ends="lower")
    assert 0.56 < float(answer.lower) <= 0.6
    one = lambda v: torch.tensor([v], dtype=torch.float64)
    assert float(votes_reach("laplace", one(0.6), one(0.1))) == pytest.approx(max(log(6) / 2, -log(0.5)))


def test_replaced_coordinates_count_changes_exactly():
    """n = 12, k = 10 replaced: r changes are seen with probability 1 - C(12 - r, 10 - r) / C(12, 10), by enumeration."""
    x = torch.zeros(1, 12)
    problem = bt.Problem(linear(torch.ones(2, 12)), x, torch.tensor([0]), bt.Ball(0, 1.0, 0, 1))
    reach = reach_of(problem, {"x": bt.Replace(10)})
    for p in (0.55, 0.6, 0.7, 0.8, 0.95):
        share = torch.tensor([p], dtype=torch.float64)
        hidden = [comb(12 - r, 10 - r) / comb(12, 10) for r in range(11)]
        harmless = max(r for r in range(11) if 1 - hidden[r] < p - 0.5)
        assert float(reach.scale(share, 1 - share)) == harmless + 1


def test_counted_changes_under_normal_noise_use_the_valid_range():
    """k pixels of a unit range move at most sqrt(k): reach 1.5 allows 2 of them, so that the third may break it."""
    problem = bt.Problem(linear(torch.ones(2, 4)), torch.zeros(1, 4), torch.tensor([0]), bt.Ball(0, 1.0, 0, 1))
    share = torch.tensor([NORMAL.cdf(1.5)], dtype=torch.float64)
    assert float(reach_of(problem, {"x": bt.Gaussian(1.0)}).scale(share, 1 - share)) == 3


def test_weights_are_smoothed_like_inputs():
    """(w . x) with x = (1, 0): the distance in weight space of row 0 less row 1 of a 2 x 2 weight is 3 / sqrt(2)."""
    problem = bt.Problem(linear(), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), {"weight": bt.Ball(2, 1.0)})
    answer = bt.smoothed_radius(problem, {"weight": bt.Gaussian(1.5)}, draws=4000)
    assert 1.8 < float(answer.lower) <= 3 / 2**0.5 <= float(answer.upper) < 2.7


def test_several_leaves_add_in_squares():
    region = {"x": bt.Ball(2, 3.0), "weight": bt.Ball(2, 4.0)}
    problem = bt.Problem(linear(), torch.tensor([[1.0, 0.0]]), torch.tensor([0]), region)
    reach = reach_of(problem, {"x": bt.Gaussian(1.0), "weight": bt.Gaussian(1.0)})
    assert reach.cost == pytest.approx(5.0)


def test_rivals_of_their_own_reach_further_where_many_share_the_votes():
    """Ten classes, label 40 %, rivals 60/9 % each: 1 - p abstains, the two-sided bound does not."""
    votes = Votes(4000, torch.full((9,), 667.0).double(), 10_000)
    label, rival = limits(votes, 1e-3, True)
    assert float(votes_reach("gaussian", label, rival)) > 0.5
    assert float(votes_reach("gaussian", *limits(votes, 1e-3, False))) < 0


@pytest.mark.parametrize("draws", [10, 300])
def test_no_radius_exceeds_its_cap(draws):
    """All votes for the label: exactly sigma Phi^-1(alpha^(1 / n)) with all of the error on one limit."""
    answer = asked(2, bt.Gaussian(0.5), x=((1000.0, 0.0),), draws=draws, ends="lower", level=0.999)
    assert float(answer.lower) == pytest.approx(0.5 * NORMAL.inv_cdf(0.001 ** (1 / draws)), rel=1e-6)


def test_too_few_draws_abstain_and_say_so():
    answer = asked(2, bt.Gaussian(0.5), x=((0.01, 0.0),), draws=50, ends="lower")
    assert answer.status[0].startswith("abstained") and float(answer.lower) == 0 and answer.kinds.lower == ("none",)


def test_answers_depend_on_the_seed_and_the_example_alone():
    x = torch.tensor([[1.0, 0.0], [0.2, 0.0]])
    problem = bt.Problem(linear(), x, torch.zeros(2).long(), bt.Ball(2, 1.0))
    both = bt.smoothed_radius(problem, bt.Gaussian(0.5), draws=700)
    again = bt.smoothed_radius(problem.take(torch.tensor([1])), bt.Gaussian(0.5), draws=700)
    other = bt.smoothed_radius(problem, bt.Gaussian(0.5), draws=700, seed=1)
    assert float(both.lower[1]) == float(again.lower[0]) and float(both.upper[1]) == float(again.upper[0])
    assert float(both.lower[1]) != float(other.lower[1])


def test_certificates_above_the_truth_are_as_rare_as_promised():
    """Level .9 on a half-space, 400 seeds by the binomial law of the votes: at most 10 % may lie above, and 4 % do at least."""
    truth = NORMAL.cdf(0.6)
    votes = torch.distributions.Binomial(200, torch.tensor(truth))
    torch.manual_seed(0)
    shares = [
        limits(Votes(k, torch.tensor([200 - k]).double(), 200), 0.1, False)[0] for k in votes.sample((400,)).tolist()
    ]
    above = torch.cat(shares) > truth
    assert 0.04 <= float(above.double().mean()) <= 0.145  # 0.1 + 3 standard deviations


@pytest.mark.slow
def test_coverage_of_both_ends_through_the_verb():
    x = torch.tensor([[0.3, 0.0]]).expand(300, 2).contiguous()
    problem = bt.Problem(linear(), x, torch.zeros(300).long(), bt.Ball(2, 1.0))
    answer = bt.smoothed_radius(problem, bt.Gaussian(0.5), draws=300, level=0.9)
    missed = ((answer.lower > 0.18) | (answer.upper < 0.18)).double().mean()
    assert float(missed) <= 0.1 + 3 * (0.09 / 300) ** 0.5


@pytest.mark.parametrize(
    "region, law",
    [
        (bt.Ball(2, 1.0), bt.UniformSphere(1.0)),
        (bt.Ball(2, 1.0), bt.Replace(1)),
        (bt.Ball(0, 1.0), bt.Gaussian(1.0)),
        ({"x": bt.Ball(2, 1.0), "weight": bt.Ball(2, 1.0)}, bt.Gaussian(1.0)),
        (bt.Ball(2, 1.0, shared=True), bt.Gaussian(1.0)),
    ],
)
def test_what_no_theorem_covers_is_refused(region, law):
    with pytest.raises(bt.InputError):
        bt.smoothed_radius(bt.Problem(linear(), torch.zeros(1, 2), torch.tensor([0]), region), law)


def test_a_smoothed_radius_never_joins_a_radius():
    problem = bt.Problem(linear(), torch.tensor([[1.0, 0.0], [0.2, 0.0]]), torch.zeros(2).long(), bt.Ball(2, 1.0))
    given, smoothed = (
        bt.radius(problem, ends="lower", effort="quick"),
        asked(2, bt.Gaussian(0.5), draws=50, ends="lower"),
    )
    with pytest.raises(bt.BracketError):
        _ = smoothed & given


def test_specifications_of_several_classes_ask_for_half_of_the_draws():
    problem = bt.Problem(nn.Linear(2, 4), torch.zeros(1, 2), torch.tensor([0]), bt.Ball(2, 1.0), bt.TopK(3))
    votes = bt.smoothed_radius(problem, bt.Gaussian(0.1), draws=100).diagnostics
    assert float(votes["votes of the label"] + votes["votes of a rival"]) == 100
