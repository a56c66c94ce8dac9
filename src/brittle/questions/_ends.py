"""The two ends of a worst-case question, joined from all chosen methods: the best witness, the best certificate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.errors import NotCertified
from brittle.evidence import padded
from brittle.problem import Problem
from brittle.results import Certificate, Proof, Witness
from brittle.spec import margin

Methods = Sequence[tuple[str, Callable]]
HELD = (
    2**24
)  # numbers of parameters, one set for each example, that one attack holds at once: it keeps ten copies or so, 0.7 GB in float32


@dataclass
class Evidence:
    """The proofs gathered so far, one per example: the scale, the method, and the arrays that re-evaluate it."""

    scale: Tensor
    methods: list[str]
    arrays: dict[str, Tensor]

    @staticmethod
    def none(count: int) -> "Evidence":
        return Evidence(torch.zeros(count, dtype=torch.float64), [""] * count, {})

    def record(self, at: Tensor, scale: Tensor, certificate: Certificate, rows: Tensor) -> None:
        """Keep the proofs ``rows`` of a certificate as those of the examples ``at``."""
        self.scale[at] = scale
        for i in at.tolist():
            self.methods[i] = certificate.method
        for name, value in certificate.proof.items():
            kept = self.arrays.get(name, value.new_zeros((len(self.methods), *value.shape[1:])).cpu())
            shape = [max(sizes) for sizes in zip(kept.shape[1:], value.shape[1:], strict=True)]  # of trees: they differ
            self.arrays[name] = padded(kept, shape)
            self.arrays[name][at] = padded(value[rows.to(value.device)].cpu(), shape)

    def proof(self) -> Proof:
        return Proof(self.scale, tuple(self.methods), self.arrays)


def clean_witness(problem: Problem) -> Witness:
    """The clean point itself, judged like any witness; size 0 and status "misclassified" where the property already fails."""
    witness = problem.witness(problem.centre, "clean")
    status = tuple("misclassified" if s == "found" else s for s in witness.status)
    size = torch.where(witness.found, 0.0, inf).to(torch.float64)
    return Witness(witness.point, witness.margin, witness.found, size, status, "clean", witness.margin64)


def attack(
    problem: Problem,
    attacks: Methods,
    seed: int,
    better: Callable[[Witness, Witness], Tensor],
    spare: Methods = (),
) -> tuple[Witness, tuple[str, ...]]:
    """The best witness of all attacks, per example, starting from the clean point; and which method gave it.

    better   (new, best) -> (N,) bool, where the new witness replaces the best one.
    spare    attacks that see only the examples on which nothing has been found before them; none that refine

    An attack that refines (``About.refines``) runs after the others, from the best witness; where there is none, from its own start.
    Where parameters move, each example carries its own: so many examples are attacked at a time as fit (their shapes alone say how many,
    and no example knows of the others), and what stays is one set of parameters for each.
    """
    moved = sum(v[0].numel() for leaf, v in problem.centre.items() if leaf not in problem.inputs)
    turns = torch.arange(len(problem)).split(max(1, HELD // max(1, moved)))
    if len(turns) == 1:
        return _attack(problem, attacks, seed, better, spare)
    parts = [_attack(problem.take(at), attacks, seed, better, spare) for at in turns]
    return Witness.join([witness for witness, _ in parts]), tuple(name for _, names in parts for name in names)


def _attack(
    problem: Problem, attacks: Methods, seed: int, better: Callable[[Witness, Witness], Tensor], spare: Methods
) -> tuple[Witness, tuple[str, ...]]:
    best = clean_witness(problem)
    names = [best.method] * len(problem)
    wrong = ~best.found
    turns = [(*attack, wrong) for attack in attacks if not _refines(attack[1])]
    turns += [(*attack, None) for attack in spare if not _refines(attack[1])]
    for name, function, where in turns:
        at = (~best.found if where is None else where).nonzero()[:, 0]
        best, names = improved(problem, best, names, at, name, partial(function, seed=seed), better)
    for name, function in attacks:
        if not _refines(function):
            continue
        for at in ((wrong & best.found).nonzero()[:, 0], (wrong & ~best.found).nonzero()[:, 0]):
            start = {k: v[at.to(v.device)] for k, v in best.point.items()} if bool(best.found[at].any()) else None
            best, names = improved(problem, best, names, at, name, partial(function, seed=seed, start=start), better)
    return best, tuple(names)


def _refines(function: Callable) -> bool:
    """Whether an attack, or one with options bound, starts from the best witness of the others (``About.refines``)."""
    about = getattr(getattr(function, "func", function), "about", None)
    return about is not None and about.refines


def improved(
    problem: Problem,
    best: Witness,
    names: list[str],
    at: Tensor,
    name: str,
    function: Callable[[Problem], Witness],
    better: Callable[[Witness, Witness], Tensor],
) -> tuple[Witness, list[str]]:
    """The best witnesses and their methods after one more attack on the examples ``at``."""
    if not len(at):
        return best, names
    found = scatter(best, at, function(problem.take(at)))
    improved = better(found, best)
    names = [name if yes else old for yes, old in zip(improved.tolist(), names, strict=True)]
    merged = _merge(improved, found, best)
    lost = zip(merged.status, found.status, strict=True)  # a search that met NaN and came back with nothing says so
    return replace(merged, status=tuple("nan" if (a, b) == ("none", "nan") else a for a, b in lost)), names


def certify(problem: Problem, bounds: Methods) -> tuple[Tensor, tuple[str, ...], tuple[str, ...], Evidence]:
    """The best certified margin over all bounds at the problem's scale: values (N,), methods, notes and the proofs."""
    count = len(problem)
    best = torch.full((count,), -inf, dtype=torch.float64)
    names, notes, evidence = [""] * count, [""] * count, Evidence.none(count)
    everyone = torch.arange(count)
    for name, function in bounds:
        try:
            certificate = function(problem)
        except NotCertified as reason:
            notes = [note or str(reason) for note in notes]
            continue
        value = margin(certificate.rows.to(torch.float64), problem.spec.rank).cpu()
        improved = everyone[value > best]
        best = torch.maximum(best, value)
        evidence.record(improved, problem.scale[improved], certificate, improved)
        for i in improved.tolist():
            names[i] = name
        if certificate.notes:
            notes = [old or new for old, new in zip(notes, certificate.notes, strict=True)]
    said = tuple(n if v == -inf else "" for n, v in zip(notes, best.tolist(), strict=True))
    return best, tuple(names), said, evidence


def scatter(whole: Witness, at: Tensor, part: Witness) -> Witness:
    """``part`` written over the examples ``at`` of ``whole``."""
    if len(at) == len(whole.margin) and bool((at[1:] > at[:-1]).all()):
        return part
    status = list(whole.status)
    for i, said in zip(at.tolist(), part.status, strict=True):
        status[i] = said
    return Witness(
        {leaf: _written(value, at, part.point[leaf]) for leaf, value in whole.point.items()},
        _written(whole.margin, at, part.margin),
        _written(whole.found, at, part.found),
        _written(whole.size, at, part.size),
        tuple(status),
        " ".join(dict.fromkeys([*part.method.split(), *whole.method.split()])),
        _written(whole.margin64, at, part.margin64)
        if whole.margin64 is not None and part.margin64 is not None
        else None,
    )


def _written(whole: Tensor, at: Tensor, part: Tensor) -> Tensor:
    """One copy in all: parameters of each example's own are large."""
    copy = whole.clone(memory_format=torch.contiguous_format)
    copy[at.to(whole.device)] = part.to(whole.device)
    return copy


def _merge(take_new: Tensor, new: Witness, old: Witness) -> Witness:
    count = len(old.margin)
    return Witness.join([old, new]).take(torch.arange(count) + count * take_new.long())


def at_centre(problem: Problem, witness: Witness, where: Tensor) -> Witness:
    """The witness with the clean point put back for the examples ``where`` (N,) bool: nothing was found there."""
    here = where.to(problem.device)
    point = {k: torch.where(norms.spread(here, v), problem.centre[k], v) for k, v in witness.point.items()}
    return Witness(point, witness.margin, witness.found, witness.size, witness.status, witness.method, witness.margin64)
