"""Ends of the noise family where an outward rounding is an inward one, where floats overflow, and where a law or a module is odd."""

from importlib import import_module
from math import inf, pi, sqrt

import mpmath
import pytest
import torch
from torch import nn

from brittle import tails
from brittle.graph import graph_of
from brittle.laws import Gaussian, UniformBall, UniformSphere
from brittle.lipschitz import everywhere, lipschitz
from brittle.noise import _first_layer
from brittle.noise._moving import moving
from brittle.noise.envelope import envelope
from brittle.noise.isoperimetry import isoperimetry
from brittle.noise.one_layer import one_layer
from brittle.noise.probabilistic_crown import probabilistic_crown
from brittle.problem import Problem
from brittle.questions import tolerated_noise as question
from brittle.questions.probability import probability
from brittle.spec import TopK
from brittle.stats import binomial_lower, binomial_upper

envelope_file = import_module("brittle.noise.envelope")
isoperimetry_file = import_module("brittle.noise.isoperimetry")
ONE = torch.tensor([1])


def linear(weight: list[float], bias: float = 0.0) -> nn.Linear:
    row = torch.tensor([weight], dtype=torch.float64)
    layer = nn.Linear(len(weight), 1).double()
    layer.weight.data.copy_(row)
    layer.bias.data.fill_(bias)
    return layer


def at(module: nn.Module, *x: float) -> Problem:
    return Problem(module, torch.tensor([x], dtype=torch.float64), ONE)


def below(answer, truth) -> bool:
    """A proved lower end that is there, and not above the truth."""
    return answer.kinds.lower == ("proved",) and 0 < mpmath.mpf(float(answer.lower)) <= truth


def phi(t):
    return mpmath.ncdf(t)


# ---- proved lower ends are rounded downwards -------------------------------------------------------------------------


def test_a_lower_end_survives_a_variance_that_cancels() -> None:
    covariance = torch.tensor([[1.0, 1 - 1e-9], [1 - 1e-9, 1.0]], dtype=torch.float64)
    with mpmath.workdps(40):
        deviation = mpmath.sqrt(2 * (1 - mpmath.mpf(float(covariance[0, 1]))))
        bias = float(5 * deviation)
        answer = probabilistic_crown(at(linear([1.0, -1.0], bias), 0, 0), {"x": Gaussian(covariance=covariance)})
        truth = phi(-mpmath.mpf(bias) / deviation)
        assert below(answer, truth) and float(answer.upper) >= truth
        assert float(answer.lower) > 0.999 * truth


def test_a_lower_end_survives_weights_whose_squares_underflow() -> None:
    answer = probabilistic_crown(at(linear([1e-145, 0.0], 2e-145), 0, 0), {"x": Gaussian(1.0)})
    assert below(answer, phi(-2)) and float(answer.lower) > 0.022


def test_a_lower_end_is_not_made_of_the_bounds_of_a_tail_that_underflows() -> None:
    n, height = 400, 0.9833
    answer = probabilistic_crown(at(linear([1.0, *[0.0] * (n - 1)], height), *[0.0] * n), {"x": UniformSphere(1.0)})
    with mpmath.workdps(60):
        truth = mpmath.betainc((n - 1) / mpmath.mpf(2), 0.5, 0, 1 - mpmath.mpf(height) ** 2, regularized=True) / 2
        assert float(mpmath.log10(truth)) < -290
        assert float(answer.lower) <= truth <= float(answer.upper)


def test_a_lower_end_survives_deviations_that_were_widened() -> None:
    answer = one_layer(at(linear([1.0], 2.0), 3.0), {"weight": Gaussian(1 / 3)})
    with mpmath.workdps(40):
        truth = phi(-5 / (3 * mpmath.mpf(1 / 3)))
        assert below(answer, truth) and float(answer.upper) >= truth
        assert float(answer.lower) > (1 - 1e-6) * truth


def test_lengths_inwards_are_below_lengths_outwards_by_rounding_alone() -> None:
    rows = torch.randn(50, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([1e-145, 1.0, 1e145], dtype=torch.float64)[:, None, None]
    inwards = tails.shortest(rows * scales) / scales[..., 0]
    exact = torch.tensor(
        [float(mpmath.sqrt(sum(mpmath.mpf(v) ** 2 for v in row))) for row in rows.tolist()], dtype=torch.float64
    )
    assert bool((inwards <= exact).all()) and bool((inwards > exact * (1 - 1e-7)).all())
    assert tails.shortest(torch.zeros(1, 3, dtype=torch.float64)).tolist() == [0.0]
    identity = torch.eye(7, dtype=torch.float64)
    assert bool((tails.least_deviations(rows, identity) < tails.deviations(rows, identity)).all())
    assert (
        float(tails.least_deviations(torch.ones(1, 2).double() * torch.tensor([1.0, -1.0]), torch.ones(2, 2).double()))
        == 0
    )


# ---- odd laws, overflow ----------------------------------------------------------------------------------------------


def test_the_sphere_of_one_coordinate_is_two_points() -> None:
    answer = envelope(at(linear([1.0]), 1.0), {"x": UniformSphere(2.0)})
    assert float(answer.lower) < 0.5 <= float(answer.upper)
    assert float(answer.lower) > 0.49


def test_rows_that_are_no_numbers_are_failures_in_half_spaces_too(monkeypatch) -> None:
    real = Problem.rows
    broken = lambda self, point=None: real(self, point).masked_fill(real(self, point) <= 0, torch.nan)
    problem = at(linear([1.0]), 1.0)
    monkeypatch.setattr(Problem, "rows", broken)
    answer = envelope(problem, {"x": Gaussian(1.0)})
    assert float(answer.lower) < phi(-1) < float(answer.upper)


@pytest.mark.parametrize("law", [UniformSphere(1.0), UniformBall(1.0), Gaussian(1.0), UniformBall(1.0, p=float("inf"))])
def test_a_constant_that_overflows_proves_nothing(law) -> None:
    answer = isoperimetry(at(linear([1e200, 1e200, 0.0], 0.5e200), 0, 0, 0), {"x": law}, draws=200)
    assert float(answer.upper) > 0.1


# ---- Lipschitz constants of convolutions with dilation ---------------------------------------------------------------


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (2, 2), (4, 2), (3, 3), (2, 3)])
def test_a_dilated_and_strided_convolution_is_no_shorter_than_its_matrix(stride: int, dilation: int) -> None:
    conv = nn.Conv1d(1, 1, 3, stride=stride, dilation=dilation, bias=False).double()
    nn.init.ones_(conv.weight)
    net = nn.Sequential(nn.Unflatten(1, (1, 30 * stride)), conv, nn.Flatten())
    x = torch.zeros(1, 30 * stride, dtype=torch.float64)
    matrix = torch.func.jacrev(lambda v: net(v[None])[0])(x[0]).detach()
    left, size, _ = torch.linalg.svd(matrix)
    problem = Problem(net, x, torch.tensor([0]))
    state = everywhere(problem, graph_of(problem))
    found = float(lipschitz(state, left[:, 0].reshape(1, 1, -1), "x", max_units=-1))
    assert size[0] <= found <= 1.4 * size[0]


# ---- noise too weak for any kink -------------------------------------------------------------------------------------


def test_a_misclassified_example_that_crosses_no_kink_fails_for_sure() -> None:
    net = nn.Sequential(linear([1.0], 1.0), nn.ReLU(), linear([1.0], -2.0))
    answer = probabilistic_crown(at(net, 0.0), {"x": Gaussian(1e-6)})
    assert answer.status == ("misclassified",) and float(answer.upper) == 1 and float(answer.lower) > 0.999


# ---- one layer -------------------------------------------------------------------------------------------------------


def test_a_layer_that_is_given_zeros_does_not_move() -> None:
    net = nn.Sequential(linear([1.0, 1.0], 2.0), nn.ReLU(), linear([1.0], -1.0))
    answer = one_layer(at(net, 0, 0), {"0.weight": Gaussian(5.0)})
    assert float(answer.upper) < 1e-12 and answer.kinds.upper == ("proved",)
    wrong = one_layer(
        at(nn.Sequential(linear([1.0, 1.0], 0.5), nn.ReLU(), linear([1.0], -1.0)), 0, 0), {"0.weight": Gaussian(5.0)}
    )
    assert float(wrong.upper) == 1


def test_noise_enters_before_hooks_that_change_what_a_layer_gave() -> None:
    layer = linear([1.0], 1.0)
    layer.register_forward_hook(lambda module, given, output: 3 * output - 2)
    answer = one_layer(at(layer, 1.0), {"bias": Gaussian(1.0)})  # margin 4, deviation 3
    assert float(answer.upper) == pytest.approx(float(phi(-mpmath.mpf(4) / 3)), rel=1e-6)
    assert float(answer.upper) >= phi(-mpmath.mpf(4) / 3)


def test_a_layer_may_be_called_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear([1.0], 0.0)

        def forward(self, x):
            return self.fc(input=x)

    answer = one_layer(at(Named(), 3.0), {"fc.weight": Gaussian(1 / 3)})
    assert float(answer.upper) == pytest.approx(float(phi(-3)), rel=1e-6)


# ---- questions -------------------------------------------------------------------------------------------------------


def test_scales_that_were_chosen_by_draws_are_judged_by_others(monkeypatch) -> None:
    seeds: dict[float, set[int]] = {}
    real = question.probability

    def watched(some, laws, **options):
        if options.get("ends") == "lower" and "level" in options:
            seeds.setdefault(laws["x"].sigma, set()).add(options["seed"])
            assert options["level"] == 1 - (1 - 0.95) / question.STEPS  # one share of the error for every visit
        return real(some, laws, **options)

    monkeypatch.setattr(question, "probability", watched)
    answer = question.tolerated_noise(at(linear([1.0]), 1.0), Gaussian(1.0), target=0.05, effort="quick", points=16)
    assert len(seeds) > 2 and len(set.union(*seeds.values())) == len(seeds)
    assert float(answer.upper) > 1 / 1.6449


# ---- the mean of the first layer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("along", [[1.0], [0.6, 0.8], [1 / 3, 2 / 3, 2 / 3]])
def test_parallel_units_are_bounded_as_one_number_whatever_cancels(along: list[float]) -> None:
    first = nn.Linear(len(along), 4).double()
    first.weight.data = torch.outer(torch.tensor([1.0, -1.0, 2.0, -1.5]), torch.tensor(along)).double()
    first.bias.data = torch.tensor([1.0, -0.3, 0.2, 0.9]).double()
    last = nn.Linear(4, 1).double()
    last.weight.data = torch.tensor([[-0.7, 0.5, -0.4, -0.3]]).double()
    last.bias.data.fill_(6.0)
    answer = probabilistic_crown(at(nn.Sequential(first, nn.ReLU(), last), *[0.0] * len(along)), {"x": Gaussian(1.0)})
    assert 2.507e-4 < float(answer.upper) < 3.6e-4  # by quadrature 2.507e-4; the planes over the inputs say 1.7e-3


def test_what_is_left_of_parallel_directions_is_rounded_upwards(monkeypatch) -> None:
    seen = []
    real = _first_layer._least_means
    monkeypatch.setattr(_first_layer, "_least_means", lambda *given: seen.append(given) or real(*given))
    direction = torch.tensor([[1 / 3, 2 / 3, 2 / 3], [1 / 3 + 1e-9, 2 / 3, 2 / 3]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    weight = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    _first_layer._tail(5 * one, torch.zeros(1, 3, dtype=torch.float64), weight, torch.zeros(1, 2).double(), direction)
    with mpmath.workdps(50):
        rows = [mpmath.matrix(row) for row in direction.tolist()]
        unit = (rows[0] + rows[1]) / mpmath.norm(rows[0] + rows[1])
        exact = [mpmath.norm(row - unit * (row.T * unit)[0]) for row in rows]
        assert all(mine >= truth for mine, truth in zip(seen[0][4][0].tolist(), exact, strict=True))


# ---- what every end is made of ---------------------------------------------------------------------------------------


def test_an_event_is_paid_for_twice_in_the_bound_and_in_the_quantile() -> None:
    number = lambda *values: torch.tensor(values, dtype=torch.float64)
    found = isoperimetry_file._joined(
        number(3.0, 3.0).reshape(1, 2, 1),
        number(0.1),
        number(2.0).reshape(1, 1),
        number(0.01),
        isoperimetry_file._normal_spread,
        1,
    )
    with mpmath.workdps(30):
        moved = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(0.11) - 1) - 1.5
        truth = mpmath.mpf(0.01) + phi(moved)
    assert float(found) >= truth and float(found) == pytest.approx(float(truth), rel=1e-6)


def test_quantiles_share_the_error_of_all_rows_and_ranks() -> None:
    problem = moving(at(linear([1.0]), 3.0), {"x": Gaussian(1.0)})
    quantiles, below = isoperimetry_file._quantiles(problem, "x", Gaussian(1.0), 0, 200, (0.5, 0.05), 0.01)
    assert quantiles.shape == (1, 2, 2)  # one row and the margin, two ranks: four statements
    expected = binomial_upper(torch.tensor([99, 9]), 200, 0.01 / 4)
    assert below.tolist() == expected.tolist()


def test_the_three_limits_of_an_envelope_share_the_error(monkeypatch) -> None:
    monkeypatch.setattr(envelope_file, "_accepted", lambda *given: 7)
    one = torch.ones(1, dtype=torch.float64)
    union = envelope_file._Union(one[None], 3 * one, (1e-3 * one).log())
    given = (at(linear([1.0]), 3.0), Gaussian(1.0), "x", 0)
    ends, shares = envelope_file._drawn(*given, union, 2e-5, None, 0, 200, 0.06)
    seven = torch.tensor([7])
    assert float(ends[0]) == pytest.approx(1e-3 * float(binomial_lower(seven, 100, 0.02)), rel=1e-6)
    assert float(ends[1]) == pytest.approx(1e-3 * float(binomial_upper(seven, 100, 0.02)) + 2e-5, rel=1e-6)
    low, _ = envelope_file._drawn(*given, None, 2e-5, union, 0, 200, 0.06)
    assert float(low[0]) == float(ends[0]) and float(low[1]) == 1.0  # design points bound from below alone
    assert float(shares[0]) == 0.07


@pytest.mark.parametrize(("shift", "least"), [(-2.0, 0.95), (0.5, 0.0)])
def test_two_rows_that_must_fail_together_are_no_likelier_than_both(shift: float, least: float) -> None:
    net = nn.Linear(2, 3).double()
    net.weight.data = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]).double()
    net.bias.data = torch.tensor([0.0, -shift, -shift]).double()
    problem = Problem(net, torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0]), spec=TopK(2))
    answer = probabilistic_crown(problem, {"x": Gaussian(1.0)})
    truth = float(phi(-shift)) ** 2  # both of two independent numbers
    assert least <= float(answer.lower) <= truth <= float(answer.upper)


@pytest.mark.parametrize("c", [-1.2, 0.0, 1.0, 5.0])
def test_what_a_mean_over_a_constant_says_is_rounded_upwards(c: float) -> None:
    with mpmath.workdps(30):
        psi = mpmath.npdf(c) - c * phi(-c)
        found = float(_first_layer._beyond_mean(torch.tensor([float(c + psi)], dtype=torch.float64)))
        assert phi(-c) <= found <= (1 + 1e-4) * phi(-c)


def test_strips_have_the_largest_share_of_any_scale() -> None:
    edges = torch.linspace(-3, 3, 61, dtype=torch.float64)
    scale = torch.linspace(0.02, 1, 400, dtype=torch.float64)[:, None]
    shares = torch.special.ndtr(edges[1:] / scale) - torch.special.ndtr(edges[:-1] / scale)
    found, most = _first_layer._largest_shares(edges), shares.amax(0)
    assert bool((found >= most).all()) and bool(
        (found[edges[1:].abs() > 0.45] <= 1.3 * most[edges[1:].abs() > 0.45]).all()
    )


def test_a_mean_of_kinks_is_no_larger_than_it_is() -> None:
    row = lambda *values: torch.tensor([values], dtype=torch.float64)
    given = (row(0.0, 0.0), row(0.0, 0.0), row(1.0, 1.0), row(-1.0, 1.0)[0])
    concave = float(_first_layer._least_means(row(0.0)[0], row(-1.0, 0.0), *given))  # -E max(0, x)
    convex = float(_first_layer._least_means(row(0.0)[0], row(1.0, 0.0), *given))  # at the mean
    assert concave == pytest.approx(-1 / sqrt(2 * pi), rel=1e-12) and 0 <= convex < 1e-290


def test_the_cube_spreads_like_normal_numbers_through_their_steepest_point() -> None:
    spread, share, distance = (
        isoperimetry_file._spread(UniformBall(1.5, p=inf), 9),
        torch.tensor([0.3]),
        torch.tensor([2.0]),
    )
    expected = isoperimetry_file._normal_spread(share.double(), distance.double() / (1.5 * sqrt(2 / pi)))
    assert float(spread(share.double(), distance.double())) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("law", "ambient"), [(UniformSphere(1.5), 4), (UniformBall(1.5), 6)])
def test_caps_are_those_of_the_sphere_whose_shadow_the_law_is(law, ambient: int) -> None:
    share, distance = torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    found = float(isoperimetry_file._spread(law, 4)(share, distance))
    with mpmath.workdps(30):
        cap = lambda angle: mpmath.betainc((ambient - 1) / 2, 0.5, 0, mpmath.sin(angle) ** 2, regularized=True) / 2
        start = mpmath.findroot(lambda angle: cap(angle) - 0.3, 1.3)
        truth = cap(start - 2 * mpmath.asin(mpmath.mpf(0.4) / 3))
    assert truth <= found <= (1 + 1e-6) * truth


def test_all_ends_from_draws_hold_together_at_the_level_asked_for() -> None:
    methods = ["monte_carlo", "isoperimetry", "envelope"]
    answer = probability(at(linear([1.0]), 3.0), Gaussian(1.0), estimators=methods, draws=200, level=0.9)
    assert len(answer.parts) == 3 and answer.confidence == pytest.approx(0.9, abs=1e-12)
