"""How does the probability of failure grow with the noise? Estimates, every bound and the paper's, over a range of noise levels."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from brittle.about import About
from brittle.diagnostics._noise_length import the_law, typical_length
from brittle.errors import InputError
from brittle.laws import Law
from brittle.problem import Problem
from brittle.region import Ball
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="per noise level and example: estimate, interval, exact ends, and the upper end of every method, the paper's bound among them",
    reference="V. Kurkova, arXiv 2602.18674, for the bound that the others are compared with",
    answers="probability",
    cost="about 2,500 forward and 60 backward per level and example, and the bounds",
    effort="thorough",
)
LEVELS = (
    0.003,
    0.01,
    0.03,
    0.1,
    0.2,
    0.35,
    0.6,
    1.0,
    2.0,
)  # multiples of the law: two decades for weak bounds, closer for p
DRAWS = 500  # per level: the rare ones are estimated by importance sampling


def noise_levels(
    problem: Problem,
    *,
    probability: Callable[..., Bracket],
    paper_bound: Callable[..., Bracket],
    radius: Callable[[Problem], Bracket],
    laws: Mapping[str, Law] | None = None,
    levels: Sequence[float] = LEVELS,
    examples: int = 3,
    seed: int = 0,
) -> Finding:
    """``P(margin(v + level * noise) <= 0)`` over noise levels, for the first few correctly classified examples.

    Columns, one row per example and level: ``example``, ``level`` (multiple of the law), ``estimate``, ``interval_lower``, ``interval_upper``
    (approximate), ``lower``, ``upper`` (exact or proved ends of the joined bracket), ``paper`` (the closed form of arXiv 2602.18674), one
    column per method that proves upper ends, under its name (1: it says nothing), and ``certified`` and ``attacked``: the levels at which
    a typical draw is as long as the certified and the attacked worst-case radius (None where lengths cannot be compared). Left of the
    first, noise on a sphere or in a ball cannot fail; Gaussian noise is longer than typical now and then.

    probability, paper_bound, radius   verbs of the other families; ``bt.diagnose`` gives them
    laws       one unclipped law on one leaf; an audit passes its first
    levels     multiples of the law, rising; examples: how many
    Errors: InputError without a law, for several leaves or a clip, and for levels that are not positive.

    >>> import torch
    >>> import brittle as bt
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> problem = bt.Problem(linear, torch.tensor([[2.0, 0.0]]), torch.tensor([0]))  # 1.2 from the boundary
    >>> found = bt.diagnose(problem, "noise_levels", laws={"x": bt.Gaussian(1.0)}, levels=(0.4, 1.2))
    >>> [round(v, 3) for v in found.columns["cell"]]  # Phi(-3), Phi(-1)
    [0.001, 0.159]
    """
    leaf, law = the_law("noise_levels", laws)
    if not levels or not all(0 < level < inf for level in levels):
        raise InputError("levels", "positive numbers", levels, "leave levels out")
    some = problem.take((problem.margin() > 0).nonzero()[:examples, 0])
    if not len(some):
        raise InputError("noise_levels", "a correctly classified example", "none", "ask about other examples")
    sizes = _sizes(some, leaf, law, radius)
    columns: dict[str, list] = {}
    for level in levels:
        scaled = {leaf: law.scaled(level)}
        answer = probability(some, scaled, draws=DRAWS, seed=seed)
        rows = {"example": some.index.tolist(), "level": [float(level)] * len(some), **_ends(answer)}
        rows |= {"paper": paper_bound(some, scaled).upper.tolist(), **_uppers(answer), **sizes}
        before = len(columns.get("example", ()))  # a method that is not asked at every level leaves None
        for name in dict.fromkeys([*columns, *rows]):
            known = columns.setdefault(name, [None] * before)
            known.extend(rows.get(name, [None] * len(some)))
    order = sorted(range(len(columns["example"])), key=lambda k: (columns["example"][k], columns["level"][k]))
    columns = {name: [values[k] for k in order] for name, values in columns.items()}
    return Finding("noise_levels", "Probability of failure over the noise level", columns, note=_sentence(columns))


def _ends(answer: Bracket) -> dict[str, list]:
    assert answer.estimate is not None and answer.interval is not None
    known = lambda values: [None if v != v else v for v in values.tolist()]
    return {
        "estimate": known(answer.estimate),
        "interval_lower": known(answer.interval[:, 0]),
        "interval_upper": known(answer.interval[:, 1]),
        "lower": answer.lower.tolist(),
        "upper": answer.upper.tolist(),
    }


def _uppers(answer: Bracket) -> dict[str, list]:
    """Upper ends by method: those that prove one, or hold one with confidence beyond what draws alone can tell."""
    return {name: part.upper.tolist() for name, part in answer.parts if part.estimate is None}


def _sizes(some: Problem, leaf: str, law: Law, radius: Callable[[Problem], Bracket]) -> dict[str, list]:
    """The worst-case radii of the examples, as levels of the law."""
    typical = typical_length(some, leaf, law)
    if typical is None:
        return {"certified": [None] * len(some), "attacked": [None] * len(some)}
    p, length = typical
    found = radius(some.within({leaf: Ball(p=p, radius=1.0)}))
    finite = lambda ends: [v / length if 0 < v < inf else None for v in ends.tolist()]
    return {"certified": finite(found.lower), "attacked": finite(found.upper)}


def _sentence(columns: Mapping[str, list]) -> str:
    """How far the paper's bound, the best proof and the estimate reach at one in a thousand, for the first example."""
    first = [k for k, e in enumerate(columns["example"]) if e == columns["example"][0]]
    reach = lambda name: max(
        (columns["level"][k] for k in first if columns[name][k] is not None and columns[name][k] <= 1e-3), default=0.0
    )
    said = f"Example {columns['example'][0]} fails less than once in a thousand up to {reach('estimate'):g} times the law (estimated)"
    said += (
        f", an upper end says so up to {reach('upper'):g}"
        if reach("upper")
        else ", which no upper end says at any level asked"
    )
    weak = f"says so up to {reach('paper'):g}" if reach("paper") else "never says so"
    return f"{said}; the bound from dimension and number of units {weak}."
