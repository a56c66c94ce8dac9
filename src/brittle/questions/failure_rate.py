"""How often a random model fails at a point: new draws, counted, whatever draws found the point."""

from dataclasses import replace

import torch

from brittle import meter
from brittle.averaging import Averaged, redrawn
from brittle.errors import InputError
from brittle.noise._moving import check_level
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.results import Bracket, Cost, Ends, Witness
from brittle.spec import margin
from brittle.stats import clopper_pearson


def failure_rate(
    problem: Problem, witness: Witness | None = None, *, draws: int = 1000, seed: int = 1, level: float = 0.95
) -> Bracket:
    """Bracket of ``P(margin(point; omega) <= 0)`` over the draws omega of a random model, one per example.

    An attack on :func:`brittle.averaged` finds points that fail on the mean over a few fixed draws. Whether they fail under other draws, and how
    often one draw of the deployed model does, is measured here, with draws that no search has seen.

    Guarantee: statistical. Clopper-Pearson limits, each missing with probability at most ``(1 - level) / 2``, for each example on its own: draws
    are shared by all examples, so examples do not err independently. It speaks of the points alone, never of the region around them.

    problem  about ``bt.averaged(module)``, whose module is asked one draw at a time
    witness  its points (of a bracket: ``bracket.witness``); default the clean points
    draws    forward passes per example; seed: folded apart from that of the averaged draws, so equal seeds are other draws
    Logits that are not finite count as failures.
    Errors: InputError where the model is not averaged, for a witness of other leaves or examples, draws below 1, a level outside (0, 1).
    Reference: Clopper and Pearson, Biometrika 26 (1934).

    >>> from torch import nn
    >>> from brittle.averaging import averaged
    >>> coin = nn.Sequential(nn.Dropout(0.25), nn.Linear(1, 1, bias=False))
    >>> _ = coin[1].weight.data.fill_(1.0)
    >>> problem = Problem(averaged(coin), torch.ones(1, 1), torch.tensor([1]))  # the logit is 0 where the input is dropped
    >>> answer = failure_rate(problem)
    >>> bool(answer.lower < 0.25 < answer.upper)
    True
    """
    check_level(level)
    if not isinstance(problem.network.quiet, Averaged):
        do = "wrap the model: bt.Problem(bt.averaged(model), ...); for noise on inputs or weights ask bt.probability"
        raise InputError("problem", "one about bt.averaged(module)", type(problem.network.original).__name__, do)
    if not (isinstance(draws, int) and draws >= 1):
        raise InputError("draws", "a whole number >= 1", draws, "write for example draws=1000")
    point, count = ({} if witness is None else witness.point), len(problem)
    if any(leaf not in problem.leaves or len(v) not in (1, count) for leaf, v in point.items()):
        do = "pass the witness that was found for this very problem"
        raise InputError("witness", f"{count} points of {', '.join(problem.leaves)}", ", ".join(point), do)
    failures, broken = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
    with meter.measure() as passes, torch.no_grad():
        for number in range(draws):
            one = replace(problem, network=redrawn(problem.network, 1, fold(seed, "failure rate", number)))
            logits = one.logits(point)
            bad = ~logits.isfinite().all(1)
            fails = (margin(one.spec.rows(logits, one.labels), one.spec.rank) <= 0) | bad
            failures, broken = failures + fails.cpu(), broken | bad.cpu()
    lower, upper = clopper_pearson(failures, draws, level)
    ends, method, tail = ("statistical",) * count, ("fresh draws",) * count, (1 - level) / 2
    return Bracket(
        "probability",
        lower,
        upper,
        Ends(ends, ends),
        tuple("nan" if bad else "ok" for bad in broken.tolist()),
        Ends(method, method),
        Ends(1 - tail, 1 - tail),
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        estimate=failures / draws,
        interval=torch.stack([lower, upper], 1),
        level=level,
        diagnostics={"failures": failures},
    )
