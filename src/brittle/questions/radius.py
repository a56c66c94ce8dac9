"""The largest scale of the region at which the property still holds, per example: certified from below, attacked from above."""

from functools import partial
from math import inf

import torch
from torch import Tensor

from brittle import meter
from brittle.errors import InputError, NotCertified
from brittle.problem import Problem
from brittle.questions._ends import Evidence, Methods, at_centre, attack, improved
from brittle.questions._methods import Choice, check_verb, chosen, reserve
from brittle.questions._rigid import noted
from brittle.questions._search import Search, closes, refines
from brittle.results import Bracket, Cost, Ends, Proof, Witness

TOLERANCE = {"quick": 0.05, "standard": 0.01, "thorough": 0.001}  # relative, of the certified end's own search


def radius(
    problem: Problem,
    *,
    effort: str = "standard",
    ends: str = "both",
    seed: int = 0,
    attacks: Choice = None,
    bounds: Choice = None,
) -> Bracket:
    """Bracket of the largest scale at which the property holds, one per example: for a ball of radius 1, the distance.

    For a ball of another radius it is a multiple of that radius: 0.7 under ``Ball(p=2, radius=0.02)`` is a distance of 0.014.

    ``sup {s: margin(v) > 0 for every v in s * region}``, where ``s * region`` multiplies every radius by s and leaves the
    valid ranges as they are. For one ball with p = 0 it is the smallest number of changes that breaks the property:
    k harmless changes proved give ``lower = k + 1``.

    Guarantee: the lower end is proved (a certificate holds on the whole region at ``proof.scale >= lower``), the upper end
    is witnessed (a stored, feasible point, wrong for the module as given and in float64). Where nothing was found
    ``upper = inf`` and ``witness.found`` is False; where a subspace and a range leave nothing to move, the status says so. An
    example that is already misclassified has [0, 0].

    Options and errors as for :func:`brittle.questions.margin.margin`. Examples on which the attacks of this effort find
    nothing are given to those of the next one. The certified end is searched by secant steps inside
    the bracket to a relative accuracy of 5 %, 1 % or 0.1 % (quick, standard, thorough); stopping early costs tightness only.
    At thorough a search tree closes the bracket on small ReLU networks; where it meets a point that fails nearer than the attacks did, that is the witness.

    >>> from brittle.region import Ball
    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> answer = radius(Problem(linear, torch.tensor([[2.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=1.0)))
    >>> float(answer.lower) <= 1.2 <= float(answer.upper), bool(answer.upper < 1.21)
    (True, True)
    """
    check_verb(problem, ends, "radius")
    moving = {leaf: ball for leaf, ball in problem.region.items() if ball.radius > 0}
    if not moving:
        raise InputError("radius", "a ball with a radius > 0", "radius 0", "use radius=1.0: the answer is the distance")
    problem = problem.within(moving)
    count = len(problem)
    zero, unknown = torch.zeros(count, dtype=torch.float64), torch.full((count,), inf, dtype=torch.float64)
    lower, upper, notes = zero, unknown, ("",) * count
    low_names, high_names = ("",) * count, ("",) * count
    proof: Proof | None = None
    with meter.measure() as passes:
        methods = chosen("attacks", attacks, problem, effort, "radius") if ends != "lower" else []
        spare = reserve("attacks", attacks, problem, effort, "radius") if methods else []
        witness, high_names = attack(problem, methods, seed, _smaller, spare)
        upper = torch.where(witness.found, witness.size, inf)
        witness = at_centre(
            problem, witness, ~witness.found & torch.tensor([s != "rounding-only" for s in witness.status])
        )
        right = (upper > 0).nonzero()[:, 0]
        if ends != "upper" and len(right):
            candidates = chosen("bounds", bounds, problem, effort, "margin")
            if (
                bounds is None
            ):  # those that refine what others leave open come last, trees before cuts alone, which trees start from
                candidates.sort(key=lambda entry: 2 * refines(entry[1]) - closes(entry[1]))
            part, evidence, reasons, met = _certify(
                problem.take(right), candidates, upper[right], TOLERANCE[effort], bounds is None
            )
            if met is not None and methods:
                known = met.found.nonzero()[:, 0]
                again = lambda _: met.take(known)
                witness, high_names = improved(
                    problem, witness, list(high_names), right[known], met.method, again, _smaller
                )
                upper = torch.where(witness.found, witness.size, inf)
            lower, low_names, notes = zero.clone(), list(low_names), list(notes)
            lower[right] = part
            for i, name, reason in zip(right.tolist(), evidence.methods, reasons, strict=True):
                low_names[i], notes[i] = name, reason
            proof = _spread(evidence.proof(), right, count)
    wrong = torch.tensor([s == "misclassified" for s in witness.status])
    silent = ends != "lower" and not methods
    status = tuple(_status(s, n, silent) for s, n in zip(witness.status, notes, strict=True))
    found = Bracket(
        "radius",
        lower,
        upper,
        Ends(_kinds((lower > 0) | wrong, "proved"), _kinds(upper.isfinite(), "witnessed")),
        status,
        Ends(
            tuple(low_names), tuple(n if f else "" for n, f in zip(high_names, upper.isfinite().tolist(), strict=True))
        ),
        witness=witness,
        proof=proof,
        cost=Cost(passes.forward / count, passes.backward / count, passes.seconds),
    )
    return noted(found, problem, upper.isinf()) if methods else found


def _smaller(new: Witness, best: Witness) -> Tensor:
    """A verified witness beats none and a longer one; without any, a rounding-only one is kept for the record."""
    rounding = torch.tensor([s == "rounding-only" for s in new.status]) & ~best.found & (new.size < best.size)
    return (new.found & (~best.found | (new.size < best.size))) | rounding


def _certify(
    problem: Problem, bounds: Methods, upper: Tensor, tolerance: float, sparing: bool = False
) -> tuple[Tensor, Evidence, list[str], Witness | None]:
    """The largest certified scale, the proofs at it, per example why nothing could be certified, and witnesses that a bound came across.

    Every bound searches inside the bracket that the ones before it left, so a weaker bound costs one evaluation.

    sparing  leave out bounds by cuts alone after trees, which grow behind the same cuts
    """
    count = len(problem)
    evidence, reasons = (
        Evidence.none(count),
        ["not certified: no bound for this region"] * (not bounds) * count or [""] * count,
    )
    clean = problem.double().margin().to(torch.float64).cpu()
    search = Search(problem, clean, upper, evidence, reasons)
    counting = len(problem.region) == 1 and next(iter(problem.region.values())).p == 0
    lower, grown = torch.zeros_like(clean), False
    for _, bound in bounds:
        if sparing and grown and refines(bound):
            continue
        try:
            find = (
                search.count
                if counting
                else partial(search.decide if refines(bound) else search.scale, tolerance=tolerance)
            )
            lower = find(bound, lower)
            grown = grown or (closes(bound) and not counting)
        except NotCertified as reason:
            search.explain(str(reason))
    said = [r if low == 0 else "" for r, low in zip(reasons, lower.tolist(), strict=True)]
    return lower, evidence, said, search.found


def _spread(proof: Proof, at: Tensor, count: int) -> Proof:
    """Proofs of some examples as proofs of all: scale 0 and no method elsewhere."""
    scale, methods = torch.zeros(count, dtype=torch.float64), [""] * count
    scale[at] = proof.scale
    for i, name in zip(at.tolist(), proof.methods, strict=True):
        methods[i] = name
    arrays = {k: v.new_zeros((count, *v.shape[1:])).index_copy(0, at, v) for k, v in proof.arrays.items()}
    return Proof(scale, tuple(methods), arrays)


def _status(said: str, note: str, silent: bool) -> str:
    if said in ("misclassified", "rounding-only", "nan"):
        return said
    return note or ("not attacked: no attack for this region" if silent else "ok")


def _kinds(says: Tensor, kind: str) -> tuple[str, ...]:
    return tuple(kind if yes else "none" for yes in says.tolist())
