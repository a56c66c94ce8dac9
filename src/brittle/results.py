"""The answers: Bracket (proved below, witnessed above), Witness, Certificate, Finding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from brittle.errors import BracketError
from brittle.stats import union_confidence

STRENGTH = {"none": 0, "statistical": 1, "witnessed": 2, "proved": 2}


class Ends(NamedTuple):
    """One thing said of the lower end and of the upper end."""

    lower: object
    upper: object


@dataclass(frozen=True)
class Cost:
    """Passes per example, wherever they happened (copies, graphs, each row of a batched gradient), and seconds in all."""

    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward, self.seconds + other.seconds)


@dataclass(frozen=True, eq=False)
class Witness:
    """A concrete feasible point per example, with the margin re-measured on the stored, representable values.

    point   by leaf; (N, ...) each, always feasible. Where a question about the radius found nothing it is the clean point.
    margin  (N,) float64, of the module as given at that point (float64: of its exact float64 copy)
    found   (N,) bool: the property fails there, for the module as given *and* in float64
    size    (N,) float64: the smallest scale of the region that holds the point
    status  per example: "found", "none", "rounding-only" (fails in its own dtype alone), "misclassified" (at the clean point), "nan"
    """

    point: Mapping[str, Tensor]
    margin: Tensor
    found: Tensor
    size: Tensor
    status: tuple[str, ...]
    method: str = ""
    margin64: Tensor | None = None

    def take(self, indices: Tensor) -> "Witness":
        at = indices.cpu()
        return Witness(
            {k: v[indices.to(v.device)] for k, v in self.point.items()},
            self.margin[at],
            self.found[at],
            self.size[at],
            tuple(self.status[i] for i in at.tolist()),
            self.method,
            None if self.margin64 is None else self.margin64[at],
        )

    @staticmethod
    def join(parts: Sequence["Witness"]) -> "Witness":
        """Concatenate over examples."""
        first = parts[0]
        return Witness(
            {k: torch.cat([w.point[k] for w in parts]) for k in first.point},
            torch.cat([w.margin for w in parts]),
            torch.cat([w.found for w in parts]),
            torch.cat([w.size for w in parts]),
            tuple(s for w in parts for s in w.status),
            first.method,
            None if first.margin64 is None else torch.cat([w.margin64 for w in parts if w.margin64 is not None]),
        )


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a bound proves: lower bounds (N, R) on the rows of the specification, over the whole region.

    proof   arrays by name that let anyone re-evaluate the bound (first axis: the example); ``brittle verify`` reads them
    notes   per example, "" or "not certified: ..."
    """

    rows: Tensor
    method: str
    proof: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Proof:
    """The stored evidence behind the lower ends: per example the scale at which the certificate was evaluated, the method, its arrays."""

    scale: Tensor
    methods: tuple[str, ...]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def join(parts: Sequence["Proof"]) -> "Proof":
        names = set.intersection(*(set(p.arrays) for p in parts))
        return Proof(
            torch.cat([p.scale for p in parts]),
            tuple(m for p in parts for m in p.methods),
            {k: torch.cat([p.arrays[k] for p in parts]) for k in sorted(names)},
        )

    def take(self, indices: Tensor) -> "Proof":
        at = indices.cpu()
        return Proof(
            self.scale[at], tuple(self.methods[i] for i in at.tolist()), {k: v[at] for k, v in self.arrays.items()}
        )


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
    """

    quantity: str
    lower: Tensor
    upper: Tensor
    kinds: Ends
    status: tuple[str, ...]
    methods: Ends
    confidences: Ends = Ends(1.0, 1.0)
    witness: Witness | None = None
    proof: Proof | None = None
    cost: Cost = Cost()
    slack: float = 1e-9
    doubts: tuple[str, ...] = ()
    estimate: Tensor | None = None
    interval: Tensor | None = None
    level: float | None = None

    def __post_init__(self) -> None:
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
        note = f"statistical ends cross on {int(crossed.sum())} of {len(crossed)} examples"
        if note not in self.doubts:
            object.__setattr__(self, "doubts", (*self.doubts, note))

    @property
    def guarantee(self) -> Ends:
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
        low = other.lower > self.lower
        high = other.upper < self.upper
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
        )

    @staticmethod
    def join(parts: Sequence["Bracket"]) -> "Bracket":
        """Concatenate over examples; passes per example are averaged, seconds added, confidences united."""
        if len(parts) == 1:
            return parts[0]
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
            doubts=tuple(dict.fromkeys(d for b in parts for d in b.doubts)),
            estimate=cat([b.estimate for b in parts]),
            interval=cat([b.interval for b in parts]),
        )

    def __repr__(self) -> str:
        ends = ", ".join(
            f"[{lo:.4g}, {hi:.4g}]" for lo, hi in zip(self.lower[:6].tolist(), self.upper[:6].tolist(), strict=True)
        )
        more = f", ... {len(self)} in all" if len(self) > 6 else ""
        return f"Bracket({self.quantity}: {ends}{more}; {self.guarantee.lower} below, {self.guarantee.upper} above)"


@dataclass(frozen=True, eq=False)
class Finding:
    """An explanation as named columns, or a check with its verdict.

    name         the method that made it
    title        one line for a reader
    columns      name -> tensor or list, all of one length (empty for a bare verdict)
    axes         columns to draw against each other, first the abscissa
    unit         of the drawn values
    note         one plain sentence: what this says, or for a check what was measured
    doubt        None, or one plain sentence: why a measurement may not be believed, and what to do
    consequence  of a check: "none" (passed), "note", "warn", "invalid" or "stop"
    value, threshold  of a check, as text
    """

    name: str
    title: str
    columns: Mapping[str, Tensor | list] = field(default_factory=dict)
    axes: tuple[str, ...] = ()
    unit: str = ""
    note: str = ""
    doubt: str | None = None
    consequence: str = "none"
    value: str = ""
    threshold: str = ""

    def facts(self) -> dict[str, object]:
        """Plain values for a record."""
        plain = {k: v.tolist() if isinstance(v, Tensor) else list(v) for k, v in self.columns.items()}
        return {
            "name": self.name,
            "title": self.title,
            "columns": plain,
            "axes": list(self.axes),
            "unit": self.unit,
            "note": self.note,
            "doubt": self.doubt,
            "consequence": self.consequence,
            "value": self.value,
            "threshold": self.threshold,
        }

    @staticmethod
    def of(facts: Mapping) -> "Finding":
        """The Finding of a record."""
        return Finding(**{**facts, "axes": tuple(facts["axes"])})


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
