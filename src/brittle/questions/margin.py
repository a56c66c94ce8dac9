"""The smallest margin in the region, per example: certified from below, attacked from above."""

from math import inf

import torch

from brittle import meter
from brittle.problem import Problem
from brittle.questions._ends import attack, certify
from brittle.questions._methods import VACUOUS, Choice, check_verb, chosen
from brittle.questions._rigid import noted
from brittle.results import Bracket, Cost, Ends, Proof, Witness


def margin(
    problem: Problem,
    *,
    effort: str = "standard",
    ends: str = "both",
    seed: int = 0,
    attacks: Choice = None,
    bounds: Choice = None,
) -> Bracket:
    """Bracket of ``min {margin(v): v in the region}``, one per example, in logit units.

    Guarantee: the lower end is proved for the real-arithmetic function of the stored weights (float64, outward rounding);
    the upper end is the float64 margin at a stored feasible point, ``witness.point``. The property holds on the whole
    region where ``lower > 0`` and fails somewhere in it where ``witness.found``.

    effort   "quick", "standard" or "thorough": which methods run by themselves
    ends     "both", "lower" or "upper"
    seed     of every random choice
    attacks, bounds   names or functions to use instead of the portfolio
    Errors: InputError without a region or for a shared change; an operation that no bound knows gives ``lower = -inf`` and
    the status "not certified: ...". Where no lower end is above 0 although some upper end is, a doubt says that no bound says anything at this
    radius: such lower ends are no sign of weakness.

    >>> import torch
    >>> from brittle.region import Ball
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> answer = margin(Problem(linear, torch.tensor([[2.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=1.0)))
    >>> round(float(answer.lower), 4), round(float(answer.upper), 4)
    (1.0, 1.0)
    """
    check_verb(problem, ends, "margin")
    count = len(problem)
    lower, upper = torch.full((count,), -inf, dtype=torch.float64), torch.full((count,), inf, dtype=torch.float64)
    low_names, high_names, notes = ("",) * count, ("",) * count, ("",) * count
    witness: Witness | None = None
    proof: Proof | None = None
    with meter.measure() as passes:
        if ends != "lower":
            methods = chosen("attacks", attacks, problem, effort, "margin")
            witness, high_names = attack(problem, methods, seed, lambda new, best: _exact(new) < _exact(best))
            upper = _exact(witness)
        if ends != "upper":
            lower, low_names, notes, evidence = certify(problem, chosen("bounds", bounds, problem, effort, "margin"))
            proof = evidence.proof()
    said = witness.status if witness is not None else ("ok",) * count
    status = tuple(
        s if s in ("misclassified", "rounding-only", "nan") else n or "ok" for s, n in zip(said, notes, strict=True)
    )
    found = Bracket(
        "margin",
        lower,
        upper,
        Ends(_kinds(lower, "proved"), _kinds(upper, "witnessed")),
        status,
        Ends(low_names, high_names),
        witness=witness,
        proof=proof,
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
        doubts=_vacuous(lower, upper, notes) if ends == "both" else (),
    )
    return noted(found, problem, upper > 0) if ends != "lower" else found


def _vacuous(lower: torch.Tensor, upper: torch.Tensor, notes: tuple[str, ...]) -> tuple[str, ...]:
    """Nothing to say where every status tells why no bound is there at all: a smaller radius would not help."""
    standing = int((upper > 0).sum())
    if not standing or bool((lower > 0).any()) or all(notes):
        return ()
    return (f"{VACUOUS}: {standing} of {len(upper)} examples are neither proved nor broken; ask about a smaller one",)


def _exact(witness: Witness) -> torch.Tensor:
    """The float64 margin at the point; nothing is claimed where it is not finite."""
    value = witness.margin if witness.margin64 is None else witness.margin64
    return torch.where(value.isfinite(), value, inf)


def _kinds(end: torch.Tensor, kind: str) -> tuple[str, ...]:
    return tuple(kind if finite else "none" for finite in end.isfinite().tolist())
