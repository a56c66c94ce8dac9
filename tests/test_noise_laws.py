"""Proved upper ends under Gaussians of any covariance and replaced coordinates: exact where their slack is zero, never below the draws."""

import dataclasses

import pytest
import torch
from scipy.special import ndtr
from torch import nn

import brittle as bt
from brittle import tails
from brittle.noise import _half_spaces, _walls
from brittle.noise.cell import cell
from brittle.noise.probabilistic_crown import probabilistic_crown
from brittle.noise.proven import proven
from brittle.randomness import generator
from brittle.spec import margin
from brittle.stats import clopper_pearson
from zoo import CASES

BOUNDS = {"cell": cell, "proven": proven, "probabilistic_crown": probabilistic_crown}
LEVELS = {"mlp": 0.12, "smooth": 0.4, "cnn": 0.12, "residual": 0.02}
each_bound = pytest.mark.parametrize("name", BOUNDS)
OPTIONS = {"cell": {}, "probabilistic_crown": {"budgets": (1e-2,)}, "proven": {"outside": (1e-2,)}}
slow = {"cnn": pytest.mark.slow, "smooth": pytest.mark.slow}
each_net = pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=slow.get(c.name, ())) for c in CASES if c.name in LEVELS]
)


def half_space(distance, n, direction=None):
    """One logit ``<w, x> + distance`` with |w| = 1, at x = 0."""
    module = nn.Linear(n, 1).double()
    with torch.no_grad():
        module.weight.copy_(torch.eye(n)[:1] if direction is None else direction / direction.norm())
        module.bias.fill_(distance)
    return bt.Problem(module, torch.zeros(1, n, dtype=torch.float64), torch.ones(1, dtype=torch.long))


def waking(sign, offset, n):
    """A network ``1 - 1e6 relu(sign x_0 + offset)``: fails just beyond where the unit wakes."""
    module = nn.Sequential(nn.Linear(n, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        module[0].weight.copy_(sign * torch.eye(n)[:1])
        for tensor, value in ((module[0].bias, offset), (module[2].weight, -1e6), (module[2].bias, 1.0)):
            tensor.fill_(value)
    return module


def never_below_the_draws(problem, laws, draws=600):
    """How many bounds below 1 there were; none of them below the lower limit of the draws, at 99.9 % each."""
    told = 0
    for law in laws:
        failures = []
        for i in range(len(problem)):
            with torch.no_grad():
                logits = problem.network.double(law.perturb(problem.x[i], draws, generator(0, "soundness", i)))
            rows = problem.spec.rows(logits, problem.labels[i].expand(draws))
            failures.append((margin(rows, problem.spec.rank) <= 0).sum())
        lower, _ = clopper_pearson(torch.stack(failures), draws, 0.998)
        for name, bound in BOUNDS.items():
            upper = bound(problem, {"x": law}, **OPTIONS[name]).upper
            assert bool((upper >= lower).all()), (name, law, upper, lower)
            told += int((upper < 1).sum())
    return told


SIGMAS = torch.linspace(0.1, 1.2, 7).double()
FACTOR = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SHAPED = {
    "diagonal": (bt.Gaussian(SIGMAS), SIGMAS.square().diag()),
    "full": (bt.Gaussian(covariance=FACTOR @ FACTOR.T / 7), FACTOR @ FACTOR.T / 7),
}


def shaped_half_spaces(name, shape):
    """Phi(-distance / sqrt(w^T C w)), whatever the covariance and the direction."""
    law, covariance = SHAPED[shape]
    for direction in (
        torch.arange(1.0, 8).double(),
        torch.eye(7).double()[2],
        torch.tensor([1.0, -1, 0, 0, 2, -5, 1]).double(),
    ):
        w = direction / direction.norm()
        deviation = float((w @ covariance @ w).sqrt())
        for beta in (0.5, 5.0):
            options = OPTIONS[name] if name == "proven" else {}
            upper = float(BOUNDS[name](half_space(beta * deviation, 7, direction), {"x": law}, **options).upper)
            exact = float(ndtr(-beta))
            if name == "proven":  # pays for its cover
                assert exact * (1 - 1e-9) <= upper
            else:
                assert exact * (1 - 1e-9) <= upper <= exact * (1 + 1e-6) + 1e-29, (beta, exact, upper)


@each_bound
@pytest.mark.parametrize("shape", SHAPED)
def test_half_spaces_are_reproduced_under_gaussians_of_any_covariance(name, shape):
    shaped_half_spaces(name, shape)


@pytest.mark.parametrize("shape", SHAPED)
def test_the_cell_that_is_nearest_pays_for_the_widest_direction(shape):
    law, covariance = SHAPED[shape]
    widest = float(torch.linalg.eigvalsh(covariance)[-1].sqrt())
    upper = float(cell(half_space(3 * widest, 7), {"x": law}, distances="nearest").upper)
    assert upper == pytest.approx(float(ndtr(-3.0)), rel=1e-6)


def test_a_unit_under_a_gaussian_of_any_covariance_costs_what_leaving_its_piece_costs():
    law, covariance = SHAPED["full"]
    distance = 3 * float(covariance[0, 0].sqrt())
    problem = bt.Problem(waking(-1.0, -distance, 7), torch.zeros(1, 7).double(), torch.ones(1, dtype=torch.long))
    for bound in (cell, probabilistic_crown):
        upper = float(bound(problem, {"x": law}).upper)
        assert float(ndtr(-3.0)) * (1 - 1e-4) <= upper <= float(ndtr(-3.0)) * (1 + 1e-3), bound


def test_an_isotropic_covariance_gives_what_a_number_gives():
    problem = bt.Problem(*CASES[2].make())
    plain = {name: bound(problem, {"x": bt.Gaussian(0.1)}, **OPTIONS[name]).upper for name, bound in BOUNDS.items()}
    each, full = (
        bt.Gaussian(torch.full((6,), 0.1, dtype=torch.float64)),
        bt.Gaussian(covariance=0.01 * torch.eye(6).double()),
    )
    for name, bound in BOUNDS.items():
        for law in (each, full):
            assert torch.allclose(bound(problem, {"x": law}, **OPTIONS[name]).upper, plain[name], rtol=1e-3), (
                name,
                law,
            )


def replaced_coordinate(bound):
    """Margin x_0 - 0.2 at x = (1, 1, 1, 1): one of four coordinates is replaced, P = 0.2 / 4; with 1e-6 added, the worst new value is 0."""
    x, laws = torch.ones(1, 4).double(), {"x": bt.Replace(1)}
    at = lambda offset: bt.Problem(half_space(offset, 4).module, x, torch.ones(1, dtype=torch.long))
    upper = [float(bound(at(offset), laws).upper) for offset in (-0.2, 1e-6)]
    assert 0.05 <= upper[0] <= 0.35 and upper[1] == 0, upper


@each_bound
def test_a_replaced_coordinate_is_bounded_by_hand_and_its_worst_value_is_the_end(name):
    replaced_coordinate(BOUNDS[name])


@pytest.mark.parametrize("k", [1, 3])
@each_net
def test_no_bound_is_below_replaced_draws_on_the_zoo(case, k):
    """New values anywhere, and near the middle, where more can be proved."""
    problem = bt.Problem(*case.make())
    laws = [bt.Replace(k), bt.Replace(k, 0.4, 0.6)]
    assert never_below_the_draws(problem, laws) > 0


@pytest.mark.parametrize("shape", ["diagonal", "full"])
@each_net
def test_no_bound_is_below_the_draws_of_shaped_gaussians(case, shape):
    problem = bt.Problem(*case.make())
    n = problem.x[0].numel()
    factor = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / n**0.5
    sigma = torch.linspace(0.2, 1.8, n).double().reshape(problem.x[0].shape)
    law = bt.Gaussian(sigma) if shape == "diagonal" else bt.Gaussian(covariance=factor @ factor.T + 1e-6 * torch.eye(n))
    fit = LEVELS[case.name]
    assert never_below_the_draws(problem, [law.scaled(fit * s) for s in (0.3, 1.0)]) > 0


# ---- deliberate mistakes ---------------------------------------------------------------------------------------------

CLEAN, CLEAN_DEVIATIONS = _half_spaces.half_spaces, tails.deviations


def a_unit_under_replacement():
    """1 - 1e6 relu(0.01 - x_0) at x = (1, 1, 1, 1): the unit wakes, and the property fails, with probability 0.01 / 4; upwards it never does."""
    x, laws = torch.ones(1, 4).double(), {"x": bt.Replace(1)}
    for sign, offset, least, most in ((-1.0, 0.01, 0.0025 - 1e-6, 0.3), (1.0, -1.0 - 1e-9, 0.0, 0.0)):
        problem = bt.Problem(waking(sign, offset, 4), x, torch.ones(1, dtype=torch.long))
        for bound, options in ((cell, {}), (probabilistic_crown, {"budgets": (0.5,)})):
            upper = float(bound(problem, laws, **options).upper)
            assert least <= upper <= most + 1e-29, (bound, sign, upper)


def test_units_know_which_way_replacement_moves_them():
    a_unit_under_replacement()


def turned_around(problem, laws):
    law = CLEAN(problem, laws)
    read, along = (lambda w: law.read(-w)), (lambda t, w: law.along(t, -w))
    return dataclasses.replace(law, read=read, along=along, taken=None)


MUTANTS = {
    "the direction turned around": (_walls, "half_spaces", turned_around, a_unit_under_replacement),
    "variances for deviations": (
        tails, "deviations", lambda w, c: CLEAN_DEVIATIONS(w, c).square(), lambda: shaped_half_spaces("probabilistic_crown", "full"),
    ),
    "the diagonal of the covariance alone": (
        tails, "deviations", lambda w, c: CLEAN_DEVIATIONS(w, c.diagonal().diag()), lambda: shaped_half_spaces("probabilistic_crown", "full"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_laws_kill(name, monkeypatch):
    where, attribute, mutant, law = MUTANTS[name]
    monkeypatch.setattr(where, attribute, mutant)
    with pytest.raises(AssertionError):
        law()
