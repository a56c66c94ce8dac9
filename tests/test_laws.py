"""Noise laws: what they draw is what they say, scaled and supported as they say."""

from math import inf

import pytest
import torch

import brittle as bt
from brittle.laws import as_laws
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


@pytest.mark.parametrize(
    "wrong",
    [
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
