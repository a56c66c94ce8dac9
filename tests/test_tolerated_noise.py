"""bt.tolerated_noise: the scale at which p reaches a target, on half-spaces where it is known."""

from math import inf

import pytest
import torch
from scipy.special import ndtri
from torch import nn

import brittle as bt
from brittle.questions.tolerated_noise import tolerated_noise
from brittle.results import Ends


def line(distances):
    module = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        module.weight.fill_(1.0)
    return bt.Problem(module, torch.tensor(distances).double()[:, None], torch.ones(len(distances)).long())


@pytest.mark.parametrize("target", [1e-6])
def test_half_spaces(target):
    exact = torch.tensor([1.0, 4.0], dtype=torch.float64) / -float(ndtri(target))
    answer = tolerated_noise(line([1.0, 4.0, -1.0]), bt.Gaussian(1.0), target=target)
    assert bool((answer.lower[:2] <= exact).all()) and bool((exact <= answer.upper[:2]).all())
    assert (answer.estimate[:2] / exact).tolist() == pytest.approx([1.0, 1.0], abs=0.1)
    assert bool((answer.lower[:2] > 0.5 * exact).all()) and bool((answer.upper[:2] < 3 * exact).all())
    assert answer.kinds.lower[:2] == ("proved",) * 2 and answer.kinds.upper[:2] == ("statistical",) * 2
    assert (
        answer.status[2] == "misclassified" and answer.lower[2] == answer.upper[2] == 0 and answer.estimate[2].isnan()
    )


def test_bounded_noise_inside_the_margin_is_proved_at_every_scale_below():
    answer = tolerated_noise(line([2.0]), bt.UniformBall(1.0, inf), target=1e-3, effort="quick")
    assert 1.8 < float(answer.lower) <= 2.005 and float(answer.upper) > 2.0  # the first failures are at scale 2


def test_what_is_never_reached_stays_open():
    answer = tolerated_noise(line([1e4]), bt.Gaussian(1.0), target=1e-3, effort="quick", reach=4.0, points=16)
    assert float(answer.lower) == pytest.approx(4.0) and answer.upper == inf and answer.estimate.isnan()
    assert answer.kinds.upper == ("none",)


def test_each_example_has_its_own_search():
    problem = line([1.0, 3.0])
    ask = lambda p: tolerated_noise(p, bt.Gaussian(1.0), target=1e-2, effort="quick", points=32)
    whole = ask(problem)
    for i in (0, 1):
        alone = ask(problem.take(torch.tensor([i])))
        assert alone.lower == whole.lower[i] and alone.upper == whole.upper[i] and alone.estimate == whole.estimate[i]


def test_random_noise_over_the_worst_change():
    """A half-space at distance d in n dimensions: noise of length s reaches it at sqrt(n) d / s standard deviations, so s / d = sqrt(n) / beta."""
    n, target = 50, 1e-6
    module = nn.Linear(n, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.ones(1, n)), module.bias.fill_(0.0)
    x = torch.tensor([[0.2], [0.4], [-0.1]]).double().expand(3, n)
    problem = bt.Problem(module, x, torch.ones(3).long(), bt.Ball(p=2, radius=1.0))
    noise = tolerated_noise(problem, bt.Gaussian(n**-0.5), target=target, reach=16.0, points=40)
    ratio = noise.over(bt.radius(problem))
    exact = n**0.5 / -float(ndtri(target))
    assert bool((ratio.lower[:2] <= exact).all()) and bool((exact <= ratio.upper[:2]).all())
    assert (
        ratio.estimate[:2].tolist() == pytest.approx([exact] * 2, rel=0.1)
        and ratio.quantity == "noise scale over radius"
    )
    assert ratio.kinds.lower[:2] == ("proved",) * 2 and ratio.kinds.upper[:2] == ("statistical",) * 2
    assert ratio.methods.lower[0].startswith("probability over ") and ratio.confidence == noise.confidence
    assert ratio.status == ("ok", "ok", "misclassified") and ratio.upper[2] == inf and ratio.lower[2] == 0
    with pytest.raises(bt.BracketError):
        noise.over(bt.radius(problem.take(torch.tensor([0]))))


def test_a_quotient_of_loose_brackets_is_as_well_founded_as_the_weaker_end():
    def loose(low, high, kinds):
        ends = torch.tensor([[low], [high]], dtype=torch.float64)
        return bt.Bracket("radius", *ends, Ends(*((k,) for k in kinds)), ("ok",), Ends(("a",), ("b",)), Ends(1.0, 0.98))

    ratio = loose(2.0, 3.0, ("proved", "statistical")).over(loose(0.5, 1.0, ("proved", "witnessed")))
    assert (float(ratio.lower), float(ratio.upper)) == pytest.approx((2.0, 6.0))
    assert ratio.kinds == (("proved",), ("statistical",)) and ratio.confidences == pytest.approx((0.98, 0.98))
    open_ = loose(2.0, 3.0, ("proved", "none")).over(loose(0.5, 1.0, ("none", "none")))
    assert open_.lower == 0 and open_.upper == inf and open_.kinds == (("none",), ("none",))


def test_an_open_end_stays_open_in_a_quotient():
    problem = line([1e4])
    noise = tolerated_noise(problem, bt.Gaussian(1.0), target=1e-3, effort="quick", reach=4.0, points=16)
    ratio = noise.over(bt.radius(problem.within(bt.Ball(p=2, radius=1.0)), effort="quick"))
    assert ratio.upper == inf and ratio.kinds.upper == ("none",) and 0 < float(ratio.lower) <= 4e-4


def test_a_network_that_no_bound_knows_says_so():
    stairs = bt.Problem(lambda x: 4.0 + (4 * x).floor() / 4, torch.zeros(1, 1).double(), torch.tensor([1]))
    answer = tolerated_noise(stairs, bt.Gaussian(1.0), target=1e-2, effort="quick", points=32)
    assert answer.status[0].startswith("not certified: ") and answer.lower == 0 and answer.kinds.lower == ("none",)
    assert 1.2 < float(answer.estimate) < float(answer.upper) < inf  # P(g < -3.75 / s) = 1e-2 at 1.61


@pytest.mark.parametrize(
    "options, law",
    [
        ({"target": 0.7}, bt.Gaussian(1.0)),
        ({"reach": 0.5}, bt.Gaussian(1.0)),
        ({"points": 1000}, bt.Gaussian(1.0)),
        ({"effort": "heroic"}, bt.Gaussian(1.0)),
        ({}, bt.Gaussian(1.0).clipped(0, 3)),
        ({}, bt.Replace(1)),
        ({}, bt.Sampler(lambda x, g: x)),
    ],
)
def test_bad_questions_are_refused(options, law):
    with pytest.raises(bt.InputError):
        tolerated_noise(line([1.0]), law, **options)
