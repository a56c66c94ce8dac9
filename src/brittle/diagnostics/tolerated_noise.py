"""How much longer must random noise be than the worst change? Tolerated noise over the worst-case radius, example by example."""

from collections.abc import Callable, Mapping
from math import inf, sqrt

import torch

from brittle.about import About
from brittle.diagnostics._noise_length import features, the_law, typical_length
from brittle.errors import InputError
from brittle.laws import Law
from brittle.problem import Problem
from brittle.region import Ball
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="per example: the noise level that fails once in a thousand draws as a bracket, the worst-case radius, and their ratio",
    reference="A. Fawzi, S. Moosavi-Dezfooli, P. Frossard, NeurIPS 2016, arXiv 1608.08967: the ratio is of order sqrt(n)",
    answers="probability",
    cost="about 24 questions of bt.probability per example",
    effort="thorough",
)


def tolerated_noise(
    problem: Problem,
    *,
    tolerated: Callable[..., Bracket],
    radius: Callable[[Problem], Bracket],
    laws: Mapping[str, Law] | None = None,
    target: float = 1e-3,
    examples: int = 16,
    seed: int = 0,
) -> Finding:
    """The scale of a law at which failures reach ``target``, beside the worst-case radius of the same examples.

    Columns, one row per correctly classified example: ``example``; ``lower`` (proved), ``estimate``, ``upper`` (exact) ends of the tolerated
    length of noise, that is scale times typical length; ``certified``, ``attacked``: the worst-case radius in the same norm; ``ratio`` =
    estimate / attacked; ``half_space``: the ratio of a half-space in as many dimensions, ``sqrt(n) / beta`` with Phi(-beta) = target, for
    Gaussian noise (None for other laws); ``sqrt_n``. None where an end says nothing.

    tolerated, radius   verbs of the other families; ``bt.diagnose`` gives them
    laws      one unclipped law on one leaf, whose draws have a typical length in l1, l2 or l-inf; an audit passes its first
    target    a probability in (0, 0.5); examples: at most so many, the first that are classified correctly
    Errors: InputError without such a law.

    >>> import brittle as bt
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> problem = bt.Problem(linear, torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    >>> found = bt.diagnose(problem, "tolerated_noise", laws={"x": bt.Gaussian(1.0)}, target=0.01)
    >>> [bool(abs(r / h - 1) < 0.15) for r, h in zip(found.columns["ratio"], found.columns["half_space"])]
    [True]
    """
    leaf, law = the_law("tolerated_noise", laws)
    typical = typical_length(problem, leaf, law)
    if typical is None:
        raise InputError("tolerated_noise", "a law whose draws have a typical length", law, "use bt.Gaussian(0.1)")
    some = problem.take((problem.margin() > 0).nonzero()[:examples, 0])
    if not len(some):
        raise InputError("tolerated_noise", "a correctly classified example", "none", "ask about other examples")
    p, length = typical
    noise = tolerated(some, {leaf: law}, target=target, seed=seed)
    worst = radius(some.within({leaf: Ball(p=p, radius=1.0)}))
    assert noise.estimate is not None
    said = lambda values, factor=1.0: [factor * v if 0 < v < inf else None for v in values.tolist()]
    estimate, attacked = said(noise.estimate, length), said(worst.upper)
    size = features(some, leaf)
    columns = {
        "example": some.index.tolist(),
        "lower": said(noise.lower, length),
        "estimate": estimate,
        "upper": said(noise.upper, length),
        "certified": said(worst.lower),
        "attacked": attacked,
        "ratio": [None if e is None or a is None else e / a for e, a in zip(estimate, attacked, strict=True)],
        "half_space": [_half_space(size, target) if p == 2 else None] * len(some),
        "sqrt_n": [sqrt(size)] * len(some),
    }
    return Finding("tolerated_noise", f"Tolerated noise (p = {target:g})", columns, note=_sentence(columns, target))


def _half_space(size: int, target: float) -> float:
    return sqrt(size) / -float(torch.special.ndtri(torch.tensor(target, dtype=torch.float64)))


def _sentence(columns: Mapping[str, list], target: float) -> str:
    ratios = sorted(r for r in columns["ratio"] if r is not None)
    if not ratios:
        return f"No example has both a tolerated noise at p = {target:g} and a worst-case failure that was found."
    plane = columns["half_space"][0]
    beside = f"; a half-space in as many dimensions has {plane:.3g}" if plane else ""
    middle = ratios[(len(ratios) - 1) // 2]
    return f"Noise that fails with probability {target:g} is {middle:.3g} times as long as the worst change (median){beside}."
