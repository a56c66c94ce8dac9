"""Noise laws: what they draw is what they say, scaled and supported as they say."""

from math import inf

import pytest
import torch

import brittle as bt
from brittle.laws import as_laws, from_facts
from brittle.norms import norm
from brittle.randomness import generator
from brittle.stats import clopper_pearson
from half_spaces import LAWS, tail

NAMES = [f"{type(law).__name__}-{getattr(law, 'p', '')}" for law in LAWS]
each_law = pytest.mark.parametrize("law", LAWS, ids=NAMES)


@each_law
@pytest.mark.parametrize("n", [1, 3, 20])
def test_half_spaces_have_their_exact_probability(law, n):
    """Intervals of level 1 - 1e-6: some 100 comparisons in all, wrong by chance once in 10,000 suites."""
    first = law.draws(20000, (n,), generator(0, "half-space", n))[:, 0]
    scale = 0.7 if isinstance(law, bt.Gaussian) else law.radius
    for share in (0.0, 0.3, 0.8):
        for values in (first, -first):
            exact = tail(law, share * scale, n) if n > 1 or not isinstance(law, bt.UniformSphere) else 0.5
            lower, upper = clopper_pearson((values > share * scale).sum()[None], len(first), 1 - 1e-6)
            assert float(lower) <= exact <= float(upper)


@pytest.mark.parametrize("law", [law for law in LAWS if getattr(law, "p", 2) == 2], ids=str)
def test_l2_laws_do_not_know_directions(law):
    n = 6
    direction = torch.linspace(-1, 2, n, dtype=torch.float64)
    along = law.draws(20000, (n,), generator(1, "direction")) @ (direction / direction.norm())
    lower, upper = clopper_pearson((along > 0.4).sum()[None], 20000, 1 - 1e-6)
    assert float(lower) <= tail(law, 0.4, n) <= float(upper)


@each_law
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3, 4)])
def test_support_holds_every_draw(law, shape):
    draws = law.draws(50, shape, generator(0, "support"))
    p, radius = law.support()
    assert draws.shape == (50, *shape) and draws.dtype == torch.float64
    assert bool((norm(draws, p) <= radius * (1 + 1e-14)).all())
    if isinstance(law, bt.UniformSphere):
        assert torch.allclose(norm(draws, p), torch.tensor(radius).double(), rtol=1e-14)


@each_law
def test_one_draw_is_the_first_of_one(law):
    assert torch.equal(law.draw((3, 2), generator(4)), law.draws(1, (3, 2), generator(4))[0])


@each_law
def test_scaling_a_law_scales_its_draws(law):
    twice = law.scaled(2.0)
    assert torch.equal(twice.draws(4, (3,), generator(2)), 2 * law.draws(4, (3,), generator(2)))
    assert twice.support() == (law.support()[0], 2 * law.support()[1])
    assert type(twice) is type(law)


@each_law
def test_clipping_changes_the_clip_alone(law):
    clipped = law.clipped(0, 1)
    assert clipped.clip == (0, 1) and law.clip is None
    assert torch.equal(clipped.draws(2, (3,), generator(2)), law.draws(2, (3,), generator(2)))
    assert clipped.scaled(3.0).clip == (0, 1)


@each_law
def test_facts_are_plain_and_tell_laws_apart(law):
    import json

    assert json.loads(json.dumps(law.facts()))["law"] == type(law).__name__
    assert len({json.dumps(other.facts()) for other in LAWS}) == len(LAWS)
    assert law.facts() != law.clipped(0, 1).facts() != law.scaled(2.0).facts()


def test_a_sphere_is_no_ball():
    assert not isinstance(bt.UniformSphere(1.0), bt.UniformBall)


# ---- Gaussians of any shape ------------------------------------------------------------------------------------------

SIGMAS = torch.tensor([0.1, 2.0, 0.5, 1.0]).double()
MIXED = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 2.0]]).double()
SHAPED = {"diagonal": (bt.Gaussian(SIGMAS), SIGMAS.diag() ** 2), "full": (bt.Gaussian(covariance=MIXED), MIXED)}
each_shaped = pytest.mark.parametrize("name", SHAPED)


@each_shaped
def test_gaussians_have_their_covariance(name):
    """Entries of the sample covariance of 40,000 draws have standard error sqrt((c_ii c_jj + c_ij^2) / 40,000): five of them."""
    law, covariance = SHAPED[name]
    draws = law.draws(40_000, (len(covariance),), generator(3, name))
    sizes = covariance.diagonal()
    error = ((sizes[:, None] * sizes + covariance.square()) / len(draws)).sqrt()
    assert bool(((draws.T @ draws / len(draws) - covariance).abs() <= 5 * error).all())
    assert bool((draws.mean(0).abs() <= 5 * (sizes / len(draws)).sqrt()).all())


@each_shaped
def test_directions_of_gaussians_are_exactly_normal(name):
    """Kolmogorov-Smirnov, 4,000 draws, wrong by chance once in 1e6."""
    from scipy.stats import kstest

    law, covariance = SHAPED[name]
    w = torch.arange(1.0, len(covariance) + 1).double()
    along = law.draws(4000, (len(covariance),), generator(4, name)) @ w
    assert kstest((along / (w @ covariance @ w).sqrt()).numpy(), "norm").pvalue > 1e-6
    assert torch.allclose(law.gathered(w[None]).norm(), (w @ covariance @ w).sqrt(), rtol=1e-14)


@each_shaped
def test_the_largest_deviations_are_those_of_the_covariance(name):
    law, covariance = SHAPED[name]
    widest, feature = law.largest
    assert widest >= float(torch.linalg.eigvalsh(covariance)[-1].sqrt()) and widest == pytest.approx(widest)
    assert feature == pytest.approx(float(covariance.diagonal().max().sqrt()), rel=1e-9)
    assert feature <= widest * (1 + 1e-9) and not law.isotropic() and bt.Gaussian(1.0).isotropic()


@each_shaped
def test_shaped_gaussians_scale_clip_compare_and_are_recorded(name):
    import json

    law, covariance = SHAPED[name]
    n = len(covariance)
    twice = law.scaled(2.0)
    assert torch.allclose(twice.draws(3, (n,), generator(1)), 2 * law.draws(3, (n,), generator(1)), rtol=1e-12)
    assert law.clipped(0, 1).clip == (0, 1) and law.clipped(0, 1) != law != twice
    assert law == law.scaled(1.0) and hash(law) == hash(law.scaled(1.0)) and law != bt.Gaussian(1.0)
    again = from_facts(json.loads(json.dumps(law.clipped(0, 1).facts())))
    assert again == law.clipped(0, 1)
    assert torch.equal(again.draws(3, (n,), generator(1)), law.draws(3, (n,), generator(1)))


def test_a_sigma_of_equal_entries_draws_what_a_number_draws():
    each = bt.Gaussian(torch.full((2, 3), 0.3, dtype=torch.float64))
    assert torch.equal(each.draws(5, (2, 3), generator(1)), bt.Gaussian(0.3).draws(5, (2, 3), generator(1)))
    full = bt.Gaussian(covariance=0.09 * torch.eye(6).double())
    assert torch.allclose(full.draws(5, (2, 3), generator(1)), bt.Gaussian(0.3).draws(5, (2, 3), generator(1)))
    assert bt.Gaussian(torch.tensor(0.5)) == bt.Gaussian(0.5)


def test_large_tensors_are_recorded_by_their_digest():
    law = bt.Gaussian(torch.linspace(1, 2, 2000))
    assert "values" not in law.facts()["sigma"] and from_facts(law.facts()) is None
    assert law.facts() != bt.Gaussian(torch.linspace(1, 3, 2000)).facts()


# ---- laws that depend on the clean input -----------------------------------------------------------------------------


@each_law
def test_perturbed_points_are_the_clean_point_and_a_draw(law):
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    expected = x.double() + law.draws(4, (2, 3), generator(5))
    assert torch.equal(law.perturb(x, 4, generator(5)), expected)


def test_a_cube_is_a_ball_of_the_largest_coordinate():
    assert bt.UniformCube(0.3) == bt.UniformBall(0.3, p=inf)
    assert bt.UniformCube(0.3, clip=(0, 1)) == bt.UniformCube(0.3).clipped(0, 1)


def test_replaced_coordinates_are_k_uniform_ones():
    """Every coordinate equally often (five standard errors), values uniform (Kolmogorov-Smirnov), the others untouched."""
    from scipy.stats import kstest

    law, x, count = bt.Replace(3, low=-1.0, high=2.0), torch.full((2, 4), 7.0), 8000
    points = law.perturb(x, count, generator(6))
    changed = points != 7.0
    assert points.shape == (count, 2, 4) and points.dtype == torch.float64
    assert bool((changed.flatten(1).sum(1) == 3).all()) and law.support() == (0, 3)
    share = changed.double().mean(0)
    assert bool(((share - 3 / 8).abs() <= 5 * (3 / 8 * 5 / 8 / count) ** 0.5).all())
    values = points[changed]
    assert float(values.min()) >= -1 and float(values.max()) <= 2
    assert kstest(((values[::3] + 1) / 3).numpy(), "uniform").pvalue > 1e-6
    pairs = changed.flatten(1).double()
    joint = pairs.T @ pairs / count  # without replacement: 3 * 2 / (8 * 7) for each pair
    off = joint[~torch.eye(8, dtype=torch.bool)]
    assert bool(((off - 6 / 56).abs() <= 5 * (6 / 56 / count) ** 0.5).all())


def test_replacing_everything_is_uniform_noise_around_the_middle():
    x = torch.tensor([0.1, 0.9])
    points = bt.Replace(2).perturb(x, 2000, generator(0))
    assert bool((points != x.double()).all()) and bool(((points.mean(0) - 0.5).abs() < 5 / (12 * 2000) ** 0.5).all())


def test_more_coordinates_than_there_are_is_refused_when_applied():
    law, problem = bt.Replace(4), bt.Problem(torch.nn.Linear(3, 2), torch.zeros(1, 3), torch.tensor([0]))
    assert bt.Replace(3).perturb(torch.zeros(3), 1, generator(0)).shape == (1, 3)
    with pytest.raises(bt.InputError, match="k <= 3, its coordinates, got 4"):
        law.perturb(torch.zeros(3), 1, generator(0))
    with pytest.raises(bt.InputError, match="k <= 3, its coordinates, got 4"):
        bt.probability(problem, law)


def test_laws_that_do_not_fit_their_leaf_are_refused():
    problem = bt.Problem(torch.nn.Linear(3, 2), torch.zeros(1, 3), torch.tensor([0]))
    for law, words in ((bt.Gaussian(torch.ones(2)), "shape"), (bt.Gaussian(covariance=torch.eye(2)), "3 rows")):
        with pytest.raises(bt.InputError, match=words):
            bt.probability(problem, law)


def dim(x, g):
    return x * torch.rand((), generator=g, dtype=x.dtype)


def test_a_sampler_is_asked_once_for_every_draw():
    law = bt.Sampler(dim)
    points = law.perturb(torch.tensor([1.0, 2.0]), 50, generator(0))
    assert bool((points[:, 1] == 2 * points[:, 0]).all()) and len(points[:, 0].unique()) == 50
    assert torch.equal(points, law.perturb(torch.tensor([1.0, 2.0]), 50, generator(0)))
    assert law.name == "dim" and bt.Sampler(dim, name="fog").name == "fog" and law.clipped(0, 1).clip == (0, 1)


def test_a_sampler_cannot_change_what_it_was_given():
    x = torch.ones(2, dtype=torch.float64)
    bt.Sampler(lambda v, g: v.mul_(3)).perturb(x, 2, generator(0))
    assert x.tolist() == [1, 1]


@pytest.mark.parametrize(
    "function, words",
    [(lambda x, g: x[:1], r"shape \(2,\)"), (lambda x, g: None, "NoneType"), (lambda x, g: x / 0, "NaN")],
)
def test_what_a_sampler_may_not_return(function, words):
    with pytest.raises(bt.InputError, match=words):
        bt.Sampler(function).perturb(torch.ones(2), 1, generator(0))


def test_records_of_laws_of_the_input():
    import json

    replace, sampler = bt.Replace(2, clip=(0, 1)), bt.Sampler(dim)
    assert from_facts(json.loads(json.dumps(replace.facts()))) == replace
    assert json.loads(json.dumps(sampler.facts()))["name"] == "dim" and from_facts(sampler.facts()) is None
    assert sampler.facts()["code"] != bt.Sampler(lambda x, g: x, name="dim").facts()["code"]


@pytest.mark.parametrize("law", [bt.Replace(2), bt.Sampler(dim)], ids=["Replace", "Sampler"])
def test_laws_of_the_input_have_no_changes_of_their_own_and_no_scale(law):
    for wrong in (lambda: law.draws(1, (3,), generator(0)), lambda: law.scaled(2.0)):
        with pytest.raises(bt.InputError):
            wrong()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("law", LAWS, ids=NAMES)
def test_laws_survive_their_record(law, size):
    assert from_facts(law.facts()) == law and from_facts(law.clipped(0, size).facts()) == law.clipped(0, size)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: bt.Gaussian(),
        lambda: bt.Gaussian(1.0, covariance=torch.eye(2)),
        lambda: bt.Gaussian(torch.tensor([1.0, 0.0])),
        lambda: bt.Gaussian(torch.tensor([1.0, inf])),
        lambda: bt.Gaussian(covariance=torch.ones(2)),
        lambda: bt.Gaussian(covariance=torch.tensor([[1.0, 0.0], [0.5, 1.0]])),
        lambda: bt.Gaussian(covariance=torch.tensor([[1.0, inf], [inf, 1.0]])),
        lambda: bt.Replace(0),
        lambda: bt.Replace(1.5),
        lambda: bt.Replace(1, low=1.0, high=1.0),
        lambda: bt.Sampler("blur"),
        lambda: bt.Gaussian(0.0),
        lambda: bt.Gaussian(-1.0),
        lambda: bt.Gaussian(inf),
        lambda: bt.UniformBall(1.0, p=3),
        lambda: bt.UniformSphere(1.0, p=0),
        lambda: bt.UniformSphere(float("nan")),
        lambda: bt.Gaussian(1.0).clipped(1, 0),
        lambda: as_laws({}),
        lambda: as_laws({"x": 0.1}),
        lambda: as_laws(bt.Ball(p=2, radius=1.0)),
    ],
)
def test_a_law_that_is_none_is_refused(wrong):
    with pytest.raises(bt.InputError):
        wrong()


def test_a_covariance_that_is_not_definite_is_told_its_smallest_eigenvalue():
    with pytest.raises(bt.InputError, match="smallest eigenvalue -1"):
        bt.Gaussian(covariance=torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
