"""The answer: Bracket, a truth enclosed between a lower and an upper end that say what they are worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from brittle.errors import BracketError
from brittle.evidence import Certificate, Cost, Finding, Proof, Witness
from brittle.stats import union_confidence

__all__ = ["STRENGTH", "Bracket", "Certificate", "Cost", "Ends", "Finding", "Proof", "Witness", "bracket_of"]
CROSSING = "statistical ends cross on"
STRENGTH = {"none": 0, "statistical": 1, "witnessed": 2, "proved": 2}

T = TypeVar("T")


class Ends(NamedTuple, Generic[T]):
    """One thing said of the lower end and of the upper end."""

    lower: T
    upper: T


@dataclass(frozen=True, eq=False)
class Bracket:
    """lower <= truth <= upper, one value per example, each end with the kind of guarantee it carries.

    quantity     "margin", "radius", "accuracy" or "probability"
    lower, upper (N,) float64 on the CPU
    kinds        per end, per example: "proved", "statistical", "witnessed" or "none"
    confidences  of each end; a proof and a witness have 1
    status       per example: "ok", "misclassified", "rounding-only", "not certified: ...", "not attacked", "nan"
    methods      per end, per example: which method gave the end
    witness      the evidence behind the upper end (for "probability": None)
    proof        the evidence behind the lower end
    cost         passes per example, seconds in all
    slack        absolute crossing that rounding may explain; beyond it a proved end past a witnessed one raises
    doubts       plain sentences on why an end may not be believed
    estimate, interval, level  of a probability: (N,), (N, 2), approximate at ``level``; NaN where the estimator refuses
    diagnostics  (N, ...) figures of the estimator by name: effective sample size, largest share of a weight, ...
    parts        (name, bracket) of every method that this bracket was joined from; ``dict(bracket.parts)["monte_carlo"]``
    """

    quantity: str
    lower: Tensor
    upper: Tensor
    kinds: Ends[tuple[str, ...]]
    status: tuple[str, ...]
    methods: Ends[tuple[str, ...]]
    confidences: Ends[float] = Ends(1.0, 1.0)
    witness: Witness | None = None
    proof: Proof | None = None
    cost: Cost = Cost()
    slack: float = 1e-9
    doubts: tuple[str, ...] = ()
    estimate: Tensor | None = None
    interval: Tensor | None = None
    level: float | None = None
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)
    parts: tuple[tuple[str, "Bracket"], ...] = ()

    def __post_init__(self) -> None:
        self._check_numbers()
        crossed = self.lower > self.upper + self.slack * (1 + self.upper.abs().nan_to_num(posinf=0.0, neginf=0.0))
        if not bool(crossed.any()):
            return
        for i in crossed.nonzero()[:, 0].tolist():
            low_kind, high_kind = self.kinds.lower[i], self.kinds.upper[i]
            if "statistical" not in (low_kind, high_kind):
                raise BracketError(
                    f"{self.quantity} of example {i}: the {low_kind} lower end {float(self.lower[i]):.9g} ({self.methods.lower[i]}) lies "
                    f"above the {high_kind} upper end {float(self.upper[i]):.9g} ({self.methods.upper[i]}); one of the two has a bug, "
                    "please report it together with the model"
                )
        note = f"{CROSSING} {int(crossed.sum())} of {len(crossed)} examples"
        earlier = tuple(d for d in self.doubts if not d.startswith(CROSSING))
        object.__setattr__(self, "doubts", (*earlier, note))

    def _check_numbers(self) -> None:
        """An end that is not a number is a failure that nobody reported."""
        if bool((self.lower.isnan() | self.upper.isnan()).any()):
            bad = (self.lower.isnan() | self.upper.isnan()).nonzero()[:, 0].tolist()
            raise BracketError(
                f"{self.quantity}: expected numbers, got NaN for examples {bad[:5]}; an end that says nothing is infinite, "
                "and the status says why"
            )

    @property
    def guarantee(self) -> Ends[str]:
        """The weakest guarantee of each end over the examples for which that end says something."""
        return Ends(*(_weakest(kinds) for kinds in self.kinds))

    @property
    def confidence(self) -> float:
        """The confidence that both ends hold together, by the union bound."""
        return union_confidence(self.confidences.lower, self.confidences.upper)

    def __len__(self) -> int:
        return len(self.lower)

    def __and__(self, other: "Bracket") -> "Bracket":
        """The intersection: larger lower end, smaller upper end; raises where a proof and a witness contradict."""
        if (self.quantity, len(self)) != (other.quantity, len(other)):
            raise BracketError(
                f"cannot intersect {self.quantity} of {len(self)} examples with {other.quantity} of {len(other)}"
            )
        low = _prefer(other.lower > self.lower, other.lower == self.lower, other.kinds.lower, self.kinds.lower)
        high = _prefer(other.upper < self.upper, other.upper == self.upper, other.kinds.upper, self.kinds.upper)
        witness = self.witness if self.witness is not None else other.witness
        if self.witness is not None and other.witness is not None:
            witness = _select(high, other.witness, self.witness)
        proof = self.proof if other.proof is None else other.proof if self.proof is None else None
        if self.proof is not None and other.proof is not None:
            proof = _select_proof(low, other.proof, self.proof)
        return Bracket(
            self.quantity,
            torch.maximum(self.lower, other.lower),
            torch.minimum(self.upper, other.upper),
            Ends(_choose(low, other.kinds.lower, self.kinds.lower), _choose(high, other.kinds.upper, self.kinds.upper)),
            tuple(b if a == "ok" else a for a, b in zip(self.status, other.status, strict=True)),
            Ends(
                _choose(low, other.methods.lower, self.methods.lower),
                _choose(high, other.methods.upper, self.methods.upper),
            ),
            Ends(
                union_confidence(self.confidences.lower, other.confidences.lower),
                union_confidence(self.confidences.upper, other.confidences.upper),
            ),
            witness,
            proof,
            self.cost + other.cost,
            max(self.slack, other.slack),
            tuple(dict.fromkeys((*self.doubts, *other.doubts))),
            self.estimate if self.estimate is not None else other.estimate,
            self.interval if self.interval is not None else other.interval,
            self.level if self.level is not None else other.level,
            {**other.diagnostics, **self.diagnostics},
            (*self.parts, *other.parts),
        )

    def over(self, other: "Bracket") -> "Bracket":
        """The quotient of two quantities that are not negative, example by example: ``[lower / other.upper, upper / other.lower]``.

        An end is as well founded as the weaker of the two that make it, and unknown (0 or inf) where one of them is. ``estimate`` is divided by
        the other's estimate where it has one, else by its upper end, which for a radius is the attack's. Status "misclassified" where either says so;
        there 0 / 0 leaves both ends open.

        >>> one = lambda low, high: Bracket("radius", torch.tensor([low]).double(), torch.tensor([high]).double(),
        ...     Ends(("proved",), ("witnessed",)), ("ok",), Ends(("a",), ("b",)))
        >>> one(2.0, 3.0).over(one(0.5, 1.0))
        Bracket(radius over radius: [2, 6]; proved below, proved above)
        """
        if len(self) != len(other):
            raise BracketError(f"cannot divide brackets of {len(self)} examples by brackets of {len(other)}")
        ends, kinds = [], []
        pairs = ((self.lower, other.upper, self.kinds.lower, other.kinds.upper, 0.0),
                 (self.upper, other.lower, self.kinds.upper, other.kinds.lower, inf))  # fmt: skip
        for above, below, mine, its, open_ in pairs:
            value = above / below
            known = value.isfinite() & torch.tensor(["none" not in pair for pair in zip(mine, its, strict=True)])
            ends.append(torch.where(known, value * (1 - 2**-50 if open_ == 0 else 1 + 2**-50), open_))
            weak = ["statistical" if "statistical" in pair else "proved" for pair in zip(mine, its, strict=True)]
            kinds.append(tuple(w if k else "none" for w, k in zip(weak, known.tolist(), strict=True)))
        wrong = ["misclassified" in pair for pair in zip(self.status, other.status, strict=True)]
        said = zip(wrong, self.status, other.status, strict=True)
        under = other.upper if other.estimate is None else other.estimate
        named = lambda a, b: tuple(" over ".join(pair) for pair in zip(a, b, strict=True))
        return Bracket(
            f"{self.quantity} over {other.quantity}",
            ends[0],
            ends[1],
            Ends(kinds[0], kinds[1]),
            tuple("misclassified" if w else b if a == "ok" else a for w, a, b in said),
            Ends(named(self.methods.lower, other.methods.upper), named(self.methods.upper, other.methods.lower)),
            Ends(
                union_confidence(self.confidences.lower, other.confidences.upper),
                union_confidence(self.confidences.upper, other.confidences.lower),
            ),
            cost=self.cost + other.cost,
            doubts=tuple(dict.fromkeys((*self.doubts, *other.doubts))),
            estimate=None if self.estimate is None else self.estimate / under,
            level=self.level,
        )

    def take(self, indices: Tensor) -> "Bracket":
        """The bracket of some of the examples."""
        at = indices.cpu()
        pick = lambda values: tuple(values[i] for i in at.tolist())
        part = lambda value: None if value is None else value[at]
        return replace(
            self,
            lower=self.lower[at],
            upper=self.upper[at],
            kinds=Ends(*map(pick, self.kinds)),
            status=pick(self.status),
            methods=Ends(*map(pick, self.methods)),
            witness=None if self.witness is None else self.witness.take(at),
            proof=None if self.proof is None else self.proof.take(at),
            estimate=part(self.estimate),
            interval=part(self.interval),
            diagnostics={name: value[at] for name, value in self.diagnostics.items()},
            parts=tuple((name, bracket.take(indices)) for name, bracket in self.parts),
        )

    @staticmethod
    def join(parts: Sequence["Bracket"]) -> "Bracket":
        """Concatenate over examples; passes per example are averaged, seconds added. A confidence speaks of each example, so the
        least one holds for all. Diagnostics and parts that not all have are left out."""
        if len(parts) == 1:
            return parts[0]
        if len({b.quantity for b in parts}) != 1:
            names = sorted({b.quantity for b in parts})
            raise BracketError(
                f"cannot join different quantities: expected one, got {', '.join(names)}; join like with like"
            )
        total = sum(len(b) for b in parts)
        cost = Cost(
            sum(b.cost.forward * len(b) for b in parts) / total,
            sum(b.cost.backward * len(b) for b in parts) / total,
            sum(b.cost.seconds for b in parts),
        )
        cat = lambda values: None if any(v is None for v in values) else torch.cat(values)
        link = lambda values: tuple(v for part in values for v in part)
        witnesses = [b.witness for b in parts if b.witness is not None]
        proofs = [b.proof for b in parts if b.proof is not None]
        shared = lambda names: [n for n in names[0] if all(n in other for other in names)]
        figures = shared([list(b.diagnostics) for b in parts])
        methods = shared([[name for name, _ in b.parts] for b in parts])
        return replace(
            parts[0],
            lower=torch.cat([b.lower for b in parts]),
            upper=torch.cat([b.upper for b in parts]),
            kinds=Ends(link([b.kinds.lower for b in parts]), link([b.kinds.upper for b in parts])),
            status=link([b.status for b in parts]),
            methods=Ends(link([b.methods.lower for b in parts]), link([b.methods.upper for b in parts])),
            confidences=Ends(min(b.confidences.lower for b in parts), min(b.confidences.upper for b in parts)),
            witness=Witness.join(witnesses) if len(witnesses) == len(parts) else None,
            proof=Proof.join(proofs) if len(proofs) == len(parts) else None,
            cost=cost,
            slack=max(b.slack for b in parts),
            doubts=tuple(dict.fromkeys(d for b in parts for d in b.doubts)),
            estimate=cat([b.estimate for b in parts]),
            interval=cat([b.interval for b in parts]),
            diagnostics={name: torch.cat([b.diagnostics[name] for b in parts]) for name in figures},
            parts=tuple((name, Bracket.join([dict(b.parts)[name] for b in parts])) for name in methods),
        )

    def __repr__(self) -> str:
        ends = ", ".join(
            f"[{lo:.4g}, {hi:.4g}]" for lo, hi in zip(self.lower[:6].tolist(), self.upper[:6].tolist(), strict=True)
        )
        more = f", ... {len(self)} in all" if len(self) > 6 else ""
        below, above = self.guarantee
        said = (f" ({s})" for s in self.status if below == "none" and s.startswith("not certified"))
        return f"Bracket({self.quantity}: {ends}{more}; {below} below{next(said, '')}, {above} above)"


def bracket_of(quantity: str, count: int, lower: Tensor | None = None, upper: Tensor | None = None) -> Bracket:
    """The bracket that knows nothing yet, or one end only given as bare values without a guarantee."""
    empty = {"margin": (-inf, inf), "radius": (0.0, inf), "accuracy": (0.0, 1.0), "probability": (0.0, 1.0)}[quantity]
    nothing = ("none",) * count
    blank = ("",) * count
    return Bracket(
        quantity,
        torch.full((count,), empty[0], dtype=torch.float64) if lower is None else lower,
        torch.full((count,), empty[1], dtype=torch.float64) if upper is None else upper,
        Ends(nothing, nothing),
        ("ok",) * count,
        Ends(blank, blank),
    )


def _weakest(kinds: Sequence[str]) -> str:
    said = [k for k in kinds if k != "none"]
    return min(said, key=STRENGTH.__getitem__) if said else "none"


def _prefer(tighter: Tensor, equal: Tensor, other: Sequence[str], mine: Sequence[str]) -> Tensor:
    """Where the other end is taken: where it is tighter, or as tight and better founded."""
    stronger = [STRENGTH[b] > STRENGTH[a] for b, a in zip(other, mine, strict=True)]
    return tighter | (equal & torch.tensor(stronger, dtype=torch.bool))


def _choose(take_other: Tensor, other: Sequence[str], mine: Sequence[str]) -> tuple[str, ...]:
    return tuple(b if t else a for t, b, a in zip(take_other.tolist(), other, mine, strict=True))


def _select(take_other: Tensor, other: Witness, mine: Witness) -> Witness:
    both = Witness.join([mine, other])
    count = len(mine.margin)
    return both.take(torch.arange(count) + count * take_other.long())


def _select_proof(take_other: Tensor, other: Proof, mine: Proof) -> Proof:
    both = Proof.join([mine, other])
    count = len(mine.scale)
    return both.take(torch.arange(count) + count * take_other.long())
