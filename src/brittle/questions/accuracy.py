"""Accuracy in the worst case over the region: certified from below, attacked from above."""

from collections.abc import Callable

import torch

from brittle import meter
from brittle.problem import Problem
from brittle.questions._ends import attack, certify, clean_witness, scatter
from brittle.questions._methods import Choice, check_verb, chosen
from brittle.results import Bracket, Cost, Ends, Proof, Witness


def accuracy(
    problem: Problem,
    *,
    effort: str = "standard",
    ends: str = "both",
    seed: int = 0,
    attacks: Choice = None,
    bounds: Choice = None,
) -> Bracket:
    """Bracket of one number: the share of these examples whose property survives everywhere in the region.

    Guarantee: below, the share with a certified margin > 0; above, one minus the share for which a stored point breaks the
    property. It speaks of exactly these examples; for the population behind them add a binomial interval.
    Examples that a bound settles are not attacked; ``witness`` holds the clean point for them. Those that survive the attacks of fixed size are
    given to the minimum-norm attacks of this effort, which aim at every likely class and break more of them, unless ``attacks`` names
    its own. ``status`` is the number's own.

    Options and errors as for :func:`brittle.questions.margin.margin`.

    >>> from brittle.region import Ball
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> problem = Problem(linear, torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 0]), Ball(p=2, radius=1.0))
    >>> answer = accuracy(problem)
    >>> float(answer.lower), float(answer.upper)
    (0.5, 0.5)
    """
    check_verb(problem, ends, "accuracy")
    count = len(problem)
    certified = torch.zeros(count, dtype=torch.bool)
    broken = torch.zeros(count, dtype=torch.bool)
    witness: Witness | None = None
    proof: Proof | None = None
    low_names: tuple[str, ...] = ()
    high_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    with meter.measure() as passes:
        if ends != "upper":
            lower, low_names, notes, evidence = certify(problem, chosen("bounds", bounds, problem, effort, "margin"))
            certified, proof = lower > 0, evidence.proof()
        if ends != "lower":
            methods = chosen("attacks", attacks, problem, effort, "margin")
            nearest = chosen("attacks", None, problem, effort, "radius") if attacks is None else []
            spare = [(name, _inside(function)) for name, function in nearest]
            unsettled = (~certified).nonzero()[:, 0]
            if len(unsettled):
                found, high_names = attack(problem.take(unsettled), methods, seed, _newly_broken, spare)
                broken[unsettled] = found.found
                witness = scatter(clean_witness(problem), unsettled, found)
    value = lambda share: torch.tensor([share.double().mean().item()], dtype=torch.float64)
    reason = next((n for n in notes if n), "") if not bool(certified.any()) else ""
    return Bracket(
        "accuracy",
        value(certified),
        value(~broken),
        Ends(("proved" if ends != "upper" else "none",), ("witnessed" if ends != "lower" else "none",)),
        (reason or "ok",),
        Ends((_used(low_names),), (_used(high_names),)),
        witness=witness,
        proof=proof,
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
    )


def _inside(nearest: Callable[..., Witness]) -> Callable[..., Witness]:
    """A minimum-norm attack as one of fixed size: what it finds counts where it lies in the region."""

    def run(part: Problem, *, seed: int = 0) -> Witness:
        witness = nearest(part, seed=seed)
        inside = witness.found & (witness.size <= part.scale)
        return scatter(clean_witness(part), inside.nonzero()[:, 0], witness.take(inside.nonzero()[:, 0]))

    return run


def _newly_broken(new: Witness, best: Witness) -> torch.Tensor:
    return new.found & ~best.found


def _used(names: tuple[str, ...]) -> str:
    return " ".join(sorted({n for n in names if n and n != "clean"}))
