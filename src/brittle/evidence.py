"""What stands behind an answer: the cost, the witness of an upper end, the proof of a lower end, a finding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


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
        """Concatenate over examples. All methods are named; ``margin64`` is kept where all parts have it."""
        first = parts[0]
        methods = dict.fromkeys(name for w in parts for name in w.method.split())
        doubles = [w.margin64 for w in parts if w.margin64 is not None]
        return Witness(
            {k: torch.cat([w.point[k] for w in parts]) for k in first.point},
            torch.cat([w.margin for w in parts]),
            torch.cat([w.found for w in parts]),
            torch.cat([w.size for w in parts]),
            tuple(s for w in parts for s in w.status),
            " ".join(methods),
            torch.cat(doubles) if len(doubles) == len(parts) else None,
        )


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a bound proves: lower bounds (N, R) on the rows of the specification, over the whole region.

    proof   arrays by name that let anyone re-evaluate the bound (first axis: the example); ``brittle verify`` reads them
    notes   per example, "" or "not certified: ..."
    points  by leaf, (N, ...): where the bound came across a point that seems to fail; the clean point elsewhere. Whoever asked measures it again
    """

    rows: Tensor
    method: str
    proof: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    points: Mapping[str, Tensor] = field(default_factory=dict)

    def worst_cross_entropy(self) -> Tensor:
        """(N,) float64: the cross-entropy of the label is at most this everywhere in the region, for the default specification.

        ``log(1 + sum over other classes of exp(-lower row))``: the loss falls in every margin, so their lower bounds bound it,
        though no one point may attain them all. Exact where the region is a point. Several certificates of one problem: take
        the largest of each row first, which is at least as good as the least of these. Infinite where nothing is certified.

        >>> import torch
        >>> round(float(Certificate(torch.zeros(1, 3), "by hand").worst_cross_entropy()), 4)  # four classes, all margins 0: log 4
        1.3863
        """
        rows = self.rows.double()
        loss = torch.cat([torch.zeros_like(rows[:, :1]), -rows], 1).logsumexp(1)
        # rounding: a relative error x u in exp(-x) is at most u / e absolute; sums and logarithms a few u
        return loss + (rows.shape[1] + 16) * 2.0**-52 * (1 + loss.abs())


@dataclass(frozen=True, eq=False)
class Proof:
    """The stored evidence behind the lower ends: per example the scale at which the certificate was evaluated, the method, its arrays."""

    scale: Tensor
    methods: tuple[str, ...]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def join(parts: Sequence["Proof"]) -> "Proof":
        """Concatenate over examples; what a part does not have, or has shorter, is zero there (``methods`` says whose arrays count)."""
        names = sorted({k for p in parts for k in p.arrays})
        return Proof(
            torch.cat([p.scale for p in parts]),
            tuple(m for p in parts for m in p.methods),
            {k: joined([p.arrays.get(k) for p in parts], [len(p.scale) for p in parts]) for k in names},
        )

    def take(self, indices: Tensor) -> "Proof":
        at = indices.cpu()
        return Proof(
            self.scale[at], tuple(self.methods[i] for i in at.tolist()), {k: v[at] for k, v in self.arrays.items()}
        )


def joined(parts: Sequence[Tensor | None], counts: Sequence[int]) -> Tensor:
    """Concatenate on axis 0; the other axes are filled with zeros up to the longest, a part that is None altogether."""
    first = next(part for part in parts if part is not None)
    known = [part for part in parts if part is not None]
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in known), strict=True)]
    return torch.cat(
        [
            first.new_zeros(n, *shape) if part is None else padded(part, shape)
            for part, n in zip(parts, counts, strict=True)
        ]
    )


def padded(value: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros at the end of every axis after the first, up to ``shape``."""
    short = [wanted - now for wanted, now in zip(shape, value.shape[1:], strict=True)]
    return (
        torch.nn.functional.pad(value, [n for missing in reversed(short) for n in (0, missing)])
        if any(short)
        else value
    )


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

    def __repr__(self) -> str:
        lines = [f"{self.title or self.name}: {self.note or self.value or self.consequence}"]
        lines += [self.value] if self.note and self.value else []
        lines += [self.doubt] if self.doubt else []
        if self.columns:
            rows = len(next(iter(self.columns.values())))
            lines += [f"columns ({rows} {'row' if rows == 1 else 'rows'} each): {', '.join(self.columns)}"]
        return "\n".join(lines)

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
        """The Finding of a record: the inverse of :meth:`facts`, columns as lists."""
        return Finding(**{**facts, "axes": tuple(facts["axes"])})
