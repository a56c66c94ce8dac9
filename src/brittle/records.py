"""What a run folder says: the plan, its parts, the columns of the samples. Plain values only, importable without torch."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from math import isinf, isnan

from brittle.errors import InputError

# 1: first layout: run.json, samples, points, proofs, timings, checks.json, findings
# 2: besides, regions with one change common to all examples: rows of the question "accuracy", and a unit MODEL@REGION for the change
# 3: besides, radii of smoothed models: rows of the question "smoothed", votes among the proofs
SCHEMA = 3
READABLE = (1, 2, 3)

# One row per (model, region or law, example). Missing is null; upper = inf where no witness was found; never NaN.
COLUMNS = {
    "model": "String",
    # "radius", "probability", "smoothed" (radius of the model with noise on top) or "accuracy" (one change for all: ends are margins, see COMMON)
    "question": "String",
    "name": "String",  # of the region or the law
    "example": "Int64",
    "label": "Int64",
    "predicted": "Int64",
    "clean_margin": "Float64",
    "lower": "Float64",
    "lower_kind": "String",
    "lower_method": "String",
    "upper": "Float64",
    "upper_kind": "String",
    "upper_method": "String",
    "status": "String",
    "found": "Boolean",
    "witness_margin": "Float64",
    "witness_margin64": "Float64",
    "estimate": "Float64",
    "interval_lower": "Float64",
    "interval_upper": "Float64",
    "forward": "Float64",
    "backward": "Float64",
}
# What the unit of a common change adds to the rows of "accuracy", whose certificates the chunks have left there.
# lower: the certified margin for a change of that example's own; upper: its margin under the one common change; in logit units.
COMMON = ("upper", "upper_kind", "upper_method", "status", "found", "witness_margin", "witness_margin64")


@dataclass(frozen=True)
class Part:
    """One unit of work: the examples ``start`` to ``stop`` of one model."""

    model: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.number:05d}"


@dataclass(frozen=True)
class Common:
    """Another unit of work: the one change common to all examples that breaks most of them, of one model and one region.

    No model and no region has "@" in its name, so this name is no other unit's.
    """

    model: str
    region: str

    @property
    def name(self) -> str:
        return f"{self.model}@{self.region}"


@dataclass(frozen=True)
class Explanation:
    """Another unit of work: one diagnostic on one model."""

    model: str
    method: str

    @property
    def name(self) -> str:
        return f"{self.model}-{self.method}"


@dataclass(frozen=True)
class Plan:
    """Everything that can change a number of a run; its digest is the key of the run folder.

    models         name -> class, digest of the weights, digest of the code and settings
    data           count, device, and per input leaf shape, dtype and digest; digest of the labels
    regions, laws  name -> leaf -> facts of the ball or law
    smoothed       name -> {"laws", "region": facts by leaf, "level", "draws", "selection"}: radii of smoothed models; left out where there are none
    specification  facts, or {"specification": "default"}: the label keeps winning (one logit: stays on its side of 0)
    chunk          examples per part; level: of the intervals
    methods        family, name, least effort, source package and digest of the file of every method that may run
    diagnostics    names; checks: whether health checks run
    """

    models: Mapping[str, Mapping]
    data: Mapping[str, object]
    regions: Mapping[str, Mapping]
    laws: Mapping[str, Mapping]
    specification: Mapping[str, object]
    effort: str
    seed: int
    chunk: int
    level: float
    methods: tuple[Mapping[str, str], ...]
    diagnostics: tuple[str, ...]
    checks: bool
    brittle: str
    torch: str
    schema: int = SCHEMA
    smoothed: Mapping[str, Mapping] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 over all facts, keys in sorted order."""
        return digest(self.facts())

    @property
    def count(self) -> int:
        """Examples in all."""
        return int(self.data["count"])  # type: ignore[call-overload]

    def facts(self) -> dict[str, object]:
        """Plain values for run.json."""
        told = [
            f.name for f in fields(self) if f.name != "smoothed" or self.smoothed
        ]  # older records have no such field
        return plain({name: getattr(self, name) for name in told})  # type: ignore[return-value]

    @staticmethod
    def of(facts: Mapping) -> "Plan":
        """The plan of a record."""
        return Plan(**{**facts, "methods": tuple(facts["methods"]), "diagnostics": tuple(facts["diagnostics"])})

    def parts(self) -> Iterator[Part]:
        """The units of work, model by model."""
        for model in self.models:
            for number, start in enumerate(range(0, self.count, self.chunk)):
                yield Part(model, number, start, min(start + self.chunk, self.count))

    def commons(self) -> Iterator[Common]:
        """The common changes to be found, model by model."""
        for model in self.models:
            for question, name in self.questions():
                if question == "accuracy":
                    yield Common(model, name)

    def stored(self) -> list[Part | Common]:
        """The units of work that leave samples, points and proofs."""
        return [*self.parts(), *self.commons()]

    def explanations(self) -> Iterator[Explanation]:
        """The diagnostics, model by model."""
        for model in self.models:
            for name in self.diagnostics:
                yield Explanation(model, name)

    def questions(self) -> list[tuple[str, str]]:
        """(question, name of its region or law), in the order of the rows."""
        shared = lambda leaves: any(ball.get("shared") for ball in leaves.values())
        asked = [("accuracy" if shared(leaves) else "radius", name) for name, leaves in self.regions.items()]
        noise = [("probability", name) for name in self.laws]
        return [*asked, *noise, *(("smoothed", name) for name in self.smoothed)]

    def differences(self, other: "Plan") -> list[str]:
        """Where two plans part, as "path (here, there)".

        >>> sorted(_leaves({"data": {"count": 3}}).items())
        [('data.count', 3)]
        """
        mine, theirs = dict(_leaves(self.facts())), dict(_leaves(other.facts()))
        paths = [p for p in dict.fromkeys([*mine, *theirs]) if mine.get(p) != theirs.get(p)]
        return [f"{p} ({_short(mine.get(p))}, not {_short(theirs.get(p))})" for p in paths]


def check_name(what: str, name: object) -> str:
    """A name that is safe in file names and tensor keys on every system."""
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", name):
        return name
    raise InputError(what, "1 to 64 letters, digits, or . _ + -", repr(name), "rename it")


def digest(facts: object) -> str:
    """SHA-256 of plain values, keys in sorted order.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def plain(value: object) -> object:
    """Values that JSON can hold: tuples become lists, infinities "inf" and "-inf", NaN null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and (isnan(value) or isinf(value)):
        return None if isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    scalar = getattr(value, "item", None)  # of NumPy and torch
    return str(value) if scalar is None else plain(scalar())


def number(value: object) -> object:
    """Undo what :func:`plain` did to infinities, in columns of numbers.

    >>> [number(v) for v in (1.5, "inf", None)]
    [1.5, inf, None]
    """
    return float(value) if value in ("inf", "-inf") else value  # type: ignore[arg-type]


def _leaves(facts: object, path: str = "") -> dict[str, object]:
    if isinstance(facts, Mapping):
        items = [(str(k), v) for k, v in facts.items()]
    elif isinstance(facts, list):
        items = [(":".join(map(str, list(v.values())[:2])) if isinstance(v, Mapping) else str(v), v) for v in facts]
    else:
        return {path: facts}
    return {k: v for name, inner in items for k, v in _leaves(inner, f"{path}.{name}" if path else name).items()}


def _short(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else text[:8] + "..."
