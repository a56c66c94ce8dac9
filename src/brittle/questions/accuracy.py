"""Accuracy in the worst case over the region: certified from below, attacked from above."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf

import torch

from brittle import meter
from brittle.attacks.apgd import apgd
from brittle.errors import BracketError, NotCertified
from brittle.problem import Problem
from brittle.questions._ends import Evidence, Methods, attack, certify, clean_witness, scatter
from brittle.questions._methods import VACUOUS, Choice, check_verb, chosen
from brittle.questions._shared import attack_together, each_its_own, is_shared
from brittle.results import Bracket, Cost, Ends, Proof, Witness
from brittle.spec import margin

SLACK = 1e-9  # what rounding may explain, as in Bracket
SCOUT = 10  # steps of the attack that goes first: it breaks most of what can be broken (measured on the benchmark's networks)
CHEAP = 100  # passes an example: a bound that takes no more goes before the attacks, a dearer one after them (about what they cost)


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
    Each end saves the other work: a short attack goes first, what it breaks is not certified; cheap bounds (at most 100 passes an example,
    counted on one of them) come before the other attacks, dearer ones after them, each on what nothing has settled yet. Examples that a bound settles
    are not attacked again; ``witness`` holds the clean point for those never broken. Those that survive the attacks of fixed size are
    given to the minimum-norm attacks of this effort, which aim at every likely class and break more of them, unless ``attacks`` names
    its own. ``status`` is the number's own; ``"vacuous: ..."`` where nothing is certified although something was not broken: that 0 is
    nothing known, not no robustness.

    Where a ball is ``shared``, below stand the certificates for a change of each example's own, which hold for a common one too; above stands one
    common change (:func:`brittle.attacks.shared_descent.shared_descent`), held once and re-measured on all examples: the share that it leaves
    right.

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
    lower = torch.full((count,), -inf, dtype=torch.float64)
    certified = torch.zeros(count, dtype=torch.bool)
    broken = torch.zeros(count, dtype=torch.bool)
    witness: Witness | None = None
    proof: Proof | None = None
    low_names: tuple[str, ...] = ()
    high_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    with meter.measure() as passes:
        if is_shared(problem):
            if ends != "upper":
                own = each_its_own(problem)
                lower, low_names, notes, evidence = certify(own, chosen("bounds", bounds, own, effort, "margin"))
                certified, proof = lower > 0, evidence.proof()
            if ends != "lower":
                methods = chosen("attacks", attacks, problem, effort, "accuracy")
                witness, used = attack_together(problem, methods, seed)
                broken, high_names = witness.found, (used,)
                _agree(lower, low_names, witness, used)
        else:
            proofs = _Proofs(problem)
            cheap, dear = (
                proofs.by_cost(chosen("bounds", bounds, problem, effort, "margin")) if ends != "upper" else ([], [])
            )
            if ends != "lower":
                witness, high_names = _scouted(problem, seed, attacks)
                broken = witness.found
            proofs.extend(cheap, ~broken)
            left = ~proofs.certified & ~broken
            if ends != "lower" and bool(left.any()):
                assert witness is not None
                witness, names = _attack_each(problem, witness, left, effort, seed, attacks)
                high_names, broken = (*high_names, *names), witness.found
            proofs.extend(dear, ~broken)
            certified, low_names, notes = proofs.certified, proofs.names, proofs.notes
            proof = proofs.evidence.proof() if ends != "upper" else None
    value = lambda share: torch.tensor([share.double().mean().item()], dtype=torch.float64)
    reason = ""
    if ends != "upper" and not bool(certified.any()):
        standing = ~broken if ends == "both" else (problem.margin() > 0).cpu()
        reason = next((n for n in notes if n), VACUOUS if bool(standing.any()) else "")
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


def _agree(lower: torch.Tensor, bounds: tuple[str, ...], witness: Witness, attack: str) -> None:
    """A common change is measured on certified examples too. Two shares can agree where example by example they contradict each other."""
    margin = witness.margin if witness.margin64 is None else witness.margin64
    crossed = witness.found & (lower > 0) & (lower > margin + SLACK * (1 + margin.abs()))
    for i in crossed.nonzero()[:1, 0].tolist():
        raise BracketError(
            f"accuracy: the proved margin {float(lower[i]):.9g} of example {i} ({bounds[i]}) lies above the witnessed {float(margin[i]):.9g} "
            f"({attack}); one of the two has a bug, please report it together with the model"
        )


@dataclass
class _Proofs:
    """What bounds have proved so far, each asked only about what nothing has settled."""

    problem: Problem
    lower: torch.Tensor = field(init=False)
    evidence: Evidence = field(init=False)
    said: list[str] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.problem)
        self.lower = torch.full((count,), -inf, dtype=torch.float64)
        self.evidence, self.said = Evidence.none(count), [""] * count

    @property
    def certified(self) -> torch.Tensor:
        return self.lower > 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.evidence.methods)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(n if v == -inf else "" for n, v in zip(self.said, self.lower.tolist(), strict=True))

    def by_cost(self, bounds: Methods) -> tuple[Methods, Methods]:
        """The bounds that come before the attacks and those that come after them, cheapest first; passes counted on the first example."""
        counted = []
        for name, function in bounds:
            with meter.measure() as passes:
                try:
                    function(self.problem.take(torch.arange(1)))
                except NotCertified as reason:
                    self.said = [old or str(reason) for old in self.said]
                    continue
            counted.append((passes.forward + passes.backward, name, function))
        counted.sort(key=lambda entry: entry[0])
        split = lambda before: [(name, function) for cost, name, function in counted if (cost <= CHEAP) == before]
        return split(True), split(False)

    def extend(self, bounds: Methods, where: torch.Tensor) -> None:
        """Ask each bound in turn about the examples ``where`` (N,) bool that the ones before it did not prove."""
        for _, function in bounds:
            at = (where & ~self.certified).nonzero()[:, 0]
            if not len(at):
                return
            try:
                certificate = function(self.problem.take(at))
            except NotCertified as reason:
                self.said = [old or str(reason) for old in self.said]
                continue
            value = margin(certificate.rows.to(torch.float64), self.problem.spec.rank).cpu()
            better = (value > self.lower[at]).nonzero()[:, 0]
            self.lower[at] = torch.maximum(self.lower[at], value)
            self.evidence.record(at[better], self.problem.scale[at[better]], certificate, better)
            for i, note in zip(at.tolist(), certificate.notes or ("",) * len(at), strict=True):
                self.said[i] = self.said[i] or note


def _scouted(problem: Problem, seed: int, attacks: Choice) -> tuple[Witness, tuple[str, ...]]:
    """A short attack on every example; without one where the caller names the attacks: the clean point."""
    scout = [("apgd", partial(apgd, steps=SCOUT, restarts=1))] if attacks is None else []
    return attack(problem, scout, seed, _newly_broken)


def _attack_each(
    problem: Problem, before: Witness, unsettled: torch.Tensor, effort: str, seed: int, attacks: Choice
) -> tuple[Witness, tuple[str, ...]]:
    """Attack the examples ``unsettled`` (N,) bool, each by itself; the others keep what they had."""
    methods = chosen("attacks", attacks, problem, effort, "margin")
    nearest = chosen("attacks", None, problem, effort, "radius") if attacks is None else []
    spare = [(name, _inside(function)) for name, function in nearest]
    at = unsettled.nonzero()[:, 0]
    found, names = attack(problem.take(at), [], seed, _newly_broken, [*methods, *spare])
    return scatter(before, at, found), names


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
