"""Plain Monte Carlo: the share of random draws that break the property, with an exact interval."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from brittle import meter
from brittle.about import About
from brittle.errors import InputError
from brittle.laws import Law
from brittle.noise._moving import check_level, moving
from brittle.problem import Problem
from brittle.randomness import generator
from brittle.results import Bracket, Cost, Ends
from brittle.spec import margin
from brittle.stats import clopper_pearson

ABOUT = About(
    promise="the failure probability of each example lies in the interval with the stated confidence, whatever the network",
    reference="Clopper and Pearson, Biometrika 26 (1934)",
    answers="probability",
    cost="one forward pass per draw",
    effort="quick",
)
NUMBERS = 2**22  # numbers drawn at once: 32 MiB in float64 (folklore)
ROWS = 256  # draws per forward pass at most: past this the batch gains little on a CPU (folklore)


def monte_carlo(
    problem: Problem, laws: Mapping[str, Law], *, seed: int = 0, level: float = 0.95, draws: int = 2000
) -> Bracket:
    """Bracket of ``P(margin(v + noise) <= 0)``, one per example, from ``draws`` independent perturbations each.

    Guarantee: with k failures in n draws the ends are the Clopper-Pearson limits, each missing with probability at most
    ``(1 - level) / 2``, so that both hold together with confidence at least ``level`` for each example on its own (not for
    all examples at once). Zero failures give the upper end ``1 - ((1 - level) / 2)^(1 / n)``, about 3.7 / n at 95 %, never 0.
    The function judged is the module in its own dtype, the clean point plus noise rounded to the dtype of the leaf.

    problem  its region is not looked at, and may be absent
    laws     by leaf: inputs, parameters (one draw per example and draw), or both, moved independently of each other
    seed     of the draws; they depend on it, the leaf and the identity of the example alone
    draws    per example

    A law with a clip has the perturbed leaf clipped; the answer is that of the clipped law. Logits that are not finite
    count as failures and are noted; the status is then "nan".
    Memory: ``draws`` are made in blocks of at most 256 or 32 MiB; a block that does not fit is halved when evaluated.
    Errors: InputError for an unknown leaf, a clean point outside the clip, ``draws`` below 1, a level outside (0, 1).

    >>> from brittle.laws import Gaussian
    >>> linear = torch.nn.Linear(1, 1, bias=False)
    >>> _ = linear.weight.data.fill_(1.0)
    >>> answer = monte_carlo(Problem(linear, torch.ones(1, 1), torch.tensor([1])), {"x": Gaussian(1.0)})
    >>> bool(answer.lower < 0.15866 < answer.upper)  # P(1 + g <= 0) = 0.15866
    True
    """
    check_level(level)
    if not (isinstance(draws, int) and draws >= 1):
        raise InputError("draws", "a whole number >= 1", draws, "write for example draws=2000")
    question, count = moving(problem, laws), len(problem)
    clipped = dict.fromkeys(laws, 0.0)
    failures, broken = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    with meter.measure() as passes, torch.no_grad():
        for i in range(count):
            for point in _points(question, i, laws, seed, draws, clipped):
                failed, bad = _judge(question, i, point)
                failures[i] += failed
                broken[i] += bad
    lower, upper = clopper_pearson(failures, draws, level)
    ends = ("statistical",) * count
    tail = (1 - level) / 2
    return Bracket(
        "probability",
        lower,
        upper,
        Ends(ends, ends),
        tuple("nan" if bad else "ok" for bad in broken.tolist()),
        Ends(("monte_carlo",) * count, ("monte_carlo",) * count),
        Ends(1 - tail, 1 - tail),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        doubts=_doubts(broken, {leaf: amount / (count * draws) for leaf, amount in clipped.items()}, laws),
        estimate=failures / draws,
        interval=torch.stack([lower, upper], 1),
        level=level,
        diagnostics={"failures": failures},
    )


def _points(
    question: Problem, i: int, laws: Mapping[str, Law], seed: int, draws: int, clipped: dict[str, float]
) -> Iterator[dict[str, Tensor]]:
    """The perturbed points of example i in blocks of a size that depends on shapes only.

    Every block has a generator of its own, so that neither the batch nor memory decides what is drawn. ``clipped`` gathers
    by leaf the share of clipped coordinates, summed over draws.
    """
    one = question.take(torch.tensor([i]))
    whole = {**one.inputs, **one.centre}
    rows = max(1, min(ROWS, NUMBERS // max(1, sum(v[0].numel() for v in whole.values()))))
    for start in range(0, draws, rows):
        wanted = min(rows, draws - start)
        point = {}
        for leaf, law in laws.items():
            source = generator(seed, "monte_carlo", leaf, int(one.index[0]), start)
            centre = one.centre[leaf]
            moved = law.perturb(centre[0], rows, source)[:wanted].to(centre)
            low, high = question.region[leaf].range(centre)
            inside = torch.minimum(torch.maximum(moved, low), high)
            clipped[leaf] += float((inside != moved).double().mean()) * wanted
            point[leaf] = inside
        yield point


def _judge(question: Problem, i: int, point: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many of the points fail, and how many of these have logits that are not finite; halves what does not fit."""
    rows = len(next(iter(point.values())))
    try:
        repeated = question.take(torch.full((rows,), i))
        logits = repeated.logits(point)
    except (RuntimeError, MemoryError) as reason:
        if rows == 1 or not _out_of_memory(reason):
            raise
        halves = [{k: part for k, part in zip(point, parts)} for parts in zip(*(v.chunk(2) for v in point.values()))]
        counts = [_judge(question, i, half) for half in halves]
        return sum(c[0] for c in counts), sum(c[1] for c in counts)
    broken = ~logits.isfinite().all(1)
    value = margin(repeated.spec.rows(logits, repeated.labels), repeated.spec.rank)
    return int(((value <= 0) | broken).sum()), int(broken.sum())


def _out_of_memory(reason: Exception) -> bool:
    return isinstance(reason, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(reason)


def _doubts(broken: Tensor, clipped: Mapping[str, float], laws: Mapping[str, Law]) -> tuple[str, ...]:
    doubts = []
    if bool((broken > 0).any()):
        doubts.append(
            f"logits under noise were not finite on {int((broken > 0).sum())} of {len(broken)} examples; "
            "such draws count as failures: check the range that the model can take"
        )
    for leaf, share in clipped.items():
        tenths = int(10 * share)  # in tenths, so that the sentence does not change from chunk to chunk
        if tenths:
            doubts.append(
                f"clipping to {laws[leaf].clip} changed more than {10 * tenths} % of the noisy values of {leaf!r}: "
                "the probability is that of the clipped law, not of the law named"
            )
    return tuple(doubts)
