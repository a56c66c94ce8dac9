"""How long the noise of a law is, in the norm in which a worst case can be compared with it."""

from collections.abc import Mapping
from math import sqrt

from brittle.errors import InputError
from brittle.laws import Gaussian, Law, UniformBall, UniformSphere
from brittle.problem import Problem
from brittle.region import Ball


def the_law(name: str, laws: Mapping[str, Law] | None) -> tuple[str, Law]:
    """The one leaf that moves and its law. Errors: InputError, which an audit records as "not applicable"."""
    if not laws:
        raise InputError(name, "a noise law", "none", 'pass laws={"x": bt.Gaussian(0.1)}, or audit with --noise')
    if len(laws) > 1:
        raise InputError(name, "noise on one leaf", f"on {', '.join(laws)}", "ask about one leaf at a time")
    ((leaf, law),) = laws.items()
    if getattr(law, "clip", None) is not None:
        raise InputError(name, "unclipped noise", law, "a clip does not stretch with the noise level; leave it out")
    return leaf, law


def typical_length(problem: Problem, leaf: str, law: Law) -> tuple[float, float] | None:
    """(p, length): the norm of a worst case that compares with the noise, and the length of a typical draw; None where there is none.

    Gaussian noise in n dimensions has l2 length ``sigma sqrt(n)`` up to about 1 / sqrt(2 n) of itself; a draw on a sphere has its radius,
    and one from a ball nearly so.
    """
    if type(law) is Gaussian and isinstance(law.sigma, float | int):
        return 2.0, float(law.sigma) * sqrt(features(problem, leaf))
    if isinstance(law, (UniformBall, UniformSphere)):
        return float(law.p), law.radius
    return None


def features(problem: Problem, leaf: str) -> int:
    """How many numbers of one example move."""
    return problem.within({leaf: Ball(p=2, radius=0.0)}).centre[leaf][0].numel()
