"""S5: does random noise of the same size break what the attacks did not?"""

import torch
from torch import Tensor

from brittle import norms
from brittle.about import About
from brittle.checks._shared import failed, few, passed, share, survivors
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="S5: 200 random points per surviving example, at most as far as its witness, break nothing",
    reference="Carlini et al. 2019, checklist: random search must not beat gradients",
    answers="after",
    cost="200 forward passes on at most 16 examples",
)
TITLE = "random noise against the attacks (S5)"
DRAWS = 200
SHARE = 0.005


def noise_against_attack(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """Uniform points on the surface of the ball: of 0.95 times the witnessed radius, or of the region itself for survivors of a margin."""
    scale = survivors(problem, bracket)
    at = (scale > 0).nonzero()[:, 0][: len(few(problem, 16))]
    if bracket.witness is None or not len(at) or any(b.p == 0 for b in problem.region.values()):
        return passed("noise_against_attack", TITLE, "There is no surviving example, or no norm, to draw noise for.")
    tested = problem.take(at)
    tested = tested.scaled(scale[at] / tested.scale)
    broken = torch.cat([_broken(tested.take(torch.tensor([i])), seed) for i in range(len(at))])
    value = f"{int(broken.sum())} of {len(at)} examples"
    if not bool(broken.any()):
        note = f"{DRAWS} random points of the same size break none of {len(at)} examples."
        return passed("noise_against_attack", TITLE, note, value=value, threshold="0")
    return failed(
        "noise_against_attack",
        TITLE,
        "invalid" if int(broken.sum()) > 1 and share(broken) > SHARE else "warn",
        f"{DRAWS} random points break {value} that the attacks left, or closer than they did.",
        "Random noise finds points that the attacks missed, so the upper ends are too large; look at the gradient checks and attack "
        'with effort="thorough".',
        value=value,
        threshold=f"0 (invalid above {SHARE:.1%} and one example)",
    )


def _broken(one: Problem, seed: int) -> Tensor:
    """(1,) bool: a settled random point of one example breaks the property, in float64 too."""
    many = one.take(torch.zeros(DRAWS, dtype=torch.long))
    g = generator(seed, "noise_against_attack", int(one.index[0]))
    point = {}
    for leaf, value in many.centre.items():
        ball = one.region[leaf]
        draws = torch.stack([norms.uniform_sphere(tuple(value.shape[1:]), ball.p, g) for _ in range(DRAWS)])
        point[leaf] = value + norms.spread(many.radius(leaf), draws).to(value) * ball.stretched(draws.to(value))
    witness = many.witness(many.settle(many.project(point)))
    return witness.found.any()[None]
