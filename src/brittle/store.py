"""The run folder: parts that prove themselves whole, and :class:`Run`, which reads them.

Nothing here needs torch: tables are Parquet, tensors safetensors, everything else JSON. No file is ever changed in place.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from brittle.errors import InputError
from brittle.files import read_json, write_bytes, write_json
from brittle.records import COLUMNS, COMMON, READABLE, Common, Part, Plan, digest, number

if TYPE_CHECKING:
    import numpy
    import polars


# ---- parts -------------------------------------------------------------------------------------------------------


def write_part(
    folder: Path, part: Part | Common, rows: Mapping[str, Sequence], points: Mapping, proofs: Mapping, timings: Mapping
) -> None:
    """Write one unit of work. The samples come last and carry the digests of all three: they mark the part as complete."""
    import polars

    frame = polars.DataFrame(
        dict(rows), schema={name: getattr(polars, kind) for name, kind in COLUMNS.items()}, strict=True
    )
    marks = {
        "points": _write_tensors(folder / "points" / f"{part.name}.safetensors", points),
        "proofs": _write_tensors(folder / "proofs" / f"{part.name}.safetensors", proofs),
        "rows": _rows_digest(frame),
    }
    write_json(folder / "timings" / f"{part.name}.json", timings)
    data = io.BytesIO()
    frame.write_parquet(data, metadata=marks)
    write_bytes(_samples(folder, part), data.getvalue())


def damage(folder: Path, part: Part | Common) -> str:
    """Why a part cannot be used: "" where it is whole, else "absent" or what is wrong. Reads all three files."""
    try:
        frame, marks = _read_samples(_samples(folder, part))
    except FileNotFoundError:
        return "absent"
    except Exception as reason:  # polars raises many kinds on a broken file
        return f"samples unreadable ({type(reason).__name__})"
    if _rows_digest(frame) != marks.get("rows"):
        return "samples altered"
    for kind in ("points", "proofs"):
        try:
            data = (folder / kind / f"{part.name}.safetensors").read_bytes()
        except OSError:
            return f"{kind} absent"
        if hashlib.sha256(data).hexdigest() != marks.get(kind):
            return f"{kind} damaged"
    return ""


# ---- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder, read. Frames and tensors are loaded when they are asked for.

    folder, plan, key   where it is and what was asked
    environment         versions of what computed it
    sources             where model and data came from, as the command was given
    missing             parts that are absent or unreadable: part name -> why
    """

    folder: Path
    plan: Plan
    key: str
    environment: Mapping[str, str]
    sources: Mapping[str, object]
    missing: Mapping[str, str]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.plan.models)

    @cached_property
    def samples(self) -> "polars.DataFrame":
        """One row per model, region or law, and example (columns: ``brittle.records.COLUMNS``)."""
        import polars

        schema = {name: getattr(polars, kind) for name, kind in COLUMNS.items()}
        read = lambda parts: polars.concat(
            [polars.DataFrame(schema=schema), *(_read_samples(_samples(self.folder, part))[0] for part in parts)]
        )
        common = [unit for unit in self.plan.commons() if unit.name not in self.missing]
        return _completed(read(self._parts()), read(common)) if common else read(self._parts())

    @cached_property
    def checks(self) -> dict[str, list[dict]]:
        """Health checks by model: facts of Findings, those before the measurement first."""
        facts = read_json(self.folder / "checks.json") or {}
        return {
            model: [*facts.get("before", {}).get(model, []), *(facts.get("after") or {}).get(model, [])]
            for model in self.models
        }

    @cached_property
    def findings(self) -> dict[str, dict[str, dict]]:
        """Diagnostics: model -> name -> facts of the Finding."""
        return {
            model: {name: facts for name in self.plan.diagnostics if (facts := read_finding(self.folder, model, name))}
            for model in self.models
        }

    @cached_property
    def timings(self) -> dict[str, dict]:
        """Seconds by unit of work. They differ from run to run and are no part of the evidence."""
        files = sorted((self.folder / "timings").glob("*.json"))
        return {file.stem: facts for file in files if (facts := read_json(file)) is not None}

    @property
    def complete(self) -> bool:
        """Every part, check and diagnostic of the plan is there."""
        findings = all(name in self.findings[model] for model in self.models for name in self.plan.diagnostics)
        return not self.missing and findings and checks_done(self.folder)

    def points(self, model: str) -> "dict[str, numpy.ndarray]":
        """``"clean/LEAF"`` and ``"radius/NAME/LEAF"``: the clean and the witnessed points, (N, ...) in the order of the examples."""
        return self._tensors("points", model)

    def proofs(self, model: str) -> "dict[str, numpy.ndarray]":
        """``"radius/NAME/scale"`` and ``"radius/NAME/ARRAY"``: what re-evaluates the certificates, (N, ...) in the order of
        the examples; zeros where an example has none."""
        return self._tensors("proofs", model)

    def common(self, model: str, region: str) -> "dict[str, numpy.ndarray]":
        """Leaf -> the change common to all examples, as the point that it leads to: (1, ...) for a parameter, held once; (N, ...) for
        inputs and for leaves of each example's own. Errors: InputError where it is not there, or damaged."""
        unit = Common(model, region)
        if unit not in list(self.plan.commons()):
            expected = (
                ", ".join(u.name for u in self.plan.commons())
                or "a region with shared=True, of which this run has none"
            )
            raise InputError("common change", expected, unit.name, "use one of these names")
        prefix = f"accuracy/{region}/"
        found = _read_tensors(self.folder / "points" / f"{unit.name}.safetensors")
        return {name.removeprefix(prefix): value for name, value in found.items()}

    def shared_accuracy(self, model: str, name: str) -> tuple[float | None, float | None]:
        """Accuracy under one change common to all examples: (certified, attacked); an end is None where its unit is missing.

        Below: the share certified for changes of each example's own, a common one being one of them. Above: what one stored change leaves right.
        """
        rows = self.brackets(model, name)
        whole, judged = len(rows) == self.plan.count, rows["found"].null_count() == 0
        return _share(rows["lower"] > 0) if whole else None, _share(~rows["found"]) if whole and judged else None

    def brackets(self, model: str, name: str) -> "polars.DataFrame":
        """The rows of one model and one region or law, in the order of the examples."""
        import polars

        known = [n for _, n in self.plan.questions()]
        if model not in self.models or name not in known:
            expected = f"a model of {', '.join(self.models)} and a region or law of {', '.join(known)}"
            raise InputError("brackets", expected, f"{model!r}, {name!r}", "use one of these names")
        return self.samples.filter((polars.col("model") == model) & (polars.col("name") == name)).sort("example")

    def accuracy(self, model: str, name: str, scales: Sequence[float]) -> tuple[list[float], list[float]]:
        """Certified and attacked accuracy when the region is multiplied by each scale: shares with lower, upper > scale.

        Errors: InputError for a region with one change common to all examples, which was asked at its own size alone.
        """
        if ("smoothed", name) in self.plan.questions():
            do = "read run.brackets(model, name)"
            raise InputError(f"smoothed model {name!r}", "a region of the given model", "another model", do)
        if ("accuracy", name) in self.plan.questions():
            do = "ask run.shared_accuracy(model, name)"
            raise InputError(f"region {name!r}", "a change for each example", "one common to all examples", do)
        rows = self.brackets(model, name)
        share = lambda end, scale: _share(rows[end] > scale)
        return [share("lower", s) for s in scales], [share("upper", s) for s in scales]

    def summary(self) -> list[dict[str, object]]:
        """One row per model and question: count, clean accuracy, the bracket, and what a radius or a probability adds."""
        return [
            {"model": model, "question": question, "name": name, **_summary(self, question, model, name)}
            for model in self.models
            for question, name in self.plan.questions()
        ]

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{len(self.missing)} of {len(self.plan.stored())} parts missing"
        names = ", ".join(name for _, name in self.plan.questions())
        return f"Run({self.folder}: {', '.join(self.models)} on {self.plan.count} examples; {names}; {state})"

    def _parts(self) -> list[Part]:
        return [part for part in self.plan.parts() if part.name not in self.missing]

    def _tensors(self, kind: str, model: str) -> "dict[str, numpy.ndarray]":
        import numpy

        parts = [part for part in self._parts() if part.model == model]
        loaded = [_read_tensors(self.folder / kind / f"{part.name}.safetensors") for part in parts]
        like = {name: value for tensors in reversed(loaded) for name, value in tensors.items()}

        def one(name: str, part: Part, tensors: "dict[str, numpy.ndarray]") -> "numpy.ndarray":
            absent = numpy.zeros((part.stop - part.start, *like[name].shape[1:]), like[name].dtype)
            return tensors.get(name, absent)

        pairs = list(zip(parts, loaded, strict=True))
        return {name: numpy.concatenate([one(name, p, t) for p, t in pairs]) for name in sorted(like)}


def load_run(folder: str | Path) -> Run:
    """Read a run folder, finished or not.

    Errors: InputError where there is none, or where a newer brittle wrote it. Damaged parts are named in ``missing``.
    """
    folder = Path(folder)
    facts, plan = read_plan(folder)
    missing = {part.name: why for part in plan.stored() if (why := _unreadable(folder, part))}
    return Run(folder, plan, facts["key"], facts["environment"], facts["sources"], missing)


def read_plan(folder: Path) -> tuple[dict, Plan]:
    """run.json and the plan in it. Errors: InputError where there is none that this version can read."""
    what, facts = f"run folder {folder}", read_json(folder / "run.json")
    if facts is None:
        got = "an unreadable run.json" if (folder / "run.json").exists() else "no run.json"
        raise InputError(what, "a folder that brittle audit wrote", got, "check the path")
    if facts.get("schema") not in READABLE:
        got, known = f"schema {facts.get('schema')}", " or ".join(map(str, READABLE))
        raise InputError(what, f"records of schema {known}", got, "use the brittle that wrote it")
    try:
        return facts, Plan.of(facts["plan"])
    except (KeyError, TypeError):
        raise InputError(what, "a whole run.json", "one without its plan", "run the audit again elsewhere") from None


def read_finding(folder: Path, model: str, name: str) -> dict | None:
    """The facts of a stored Finding; None where it is absent or damaged."""
    facts = read_json(folder / "findings" / f"{model}-{name}.json")
    if facts is None or "columns" not in facts:
        return None
    return {**facts, "columns": {k: [number(v) for v in values] for k, values in facts["columns"].items()}}


def checks_done(folder: Path) -> bool:
    """The checks before and after the measurement are recorded (none of them, where the plan has none)."""
    facts = read_json(folder / "checks.json")
    return facts is not None and facts.get("after") is not None


# ---- private -----------------------------------------------------------------------------------------------------


def _samples(folder: Path, part: Part | Common) -> Path:
    return folder / "samples" / f"{part.name}.parquet"


def _read_samples(file: Path) -> "tuple[polars.DataFrame, dict[str, str]]":
    import polars

    data = file.read_bytes()
    frame = polars.read_parquet(io.BytesIO(data))
    return frame.select(list(COLUMNS)), polars.read_parquet_metadata(io.BytesIO(data))


def _unreadable(folder: Path, part: Part | Common) -> str:
    try:
        _read_samples(_samples(folder, part))
    except FileNotFoundError:
        return "absent"
    except Exception as reason:  # polars raises many kinds on a broken file
        return f"samples unreadable ({type(reason).__name__})"
    return ""


def _rows_digest(frame: "polars.DataFrame") -> str:
    return digest([frame.columns, [[repr(v) for v in row] for row in frame.rows()]])


def _write_tensors(file: Path, tensors: Mapping) -> str:
    from safetensors.numpy import save

    data = save({name: tensors[name] for name in sorted(tensors)})
    write_bytes(file, data)
    return hashlib.sha256(data).hexdigest()


def _read_tensors(file: Path) -> "dict[str, numpy.ndarray]":
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(file.read_bytes())
    except (OSError, SafetensorError) as reason:
        raise InputError(
            f"{file}", "whole tensors", str(reason), "run the same audit again: it redoes that part"
        ) from None


def _completed(rows: "polars.DataFrame", common: "polars.DataFrame") -> "polars.DataFrame":
    """The rows of the chunks with what the units of common changes say of the same examples; passes add up."""
    import polars

    keys, passes = ["model", "question", "name", "example"], ["forward", "backward"]
    both = rows.join(
        common.select(keys + [*COMMON] + passes), on=keys, how="left", suffix="_new", maintain_order="left"
    )
    added = [(polars.col(c) + polars.col(f"{c}_new").fill_null(0)).alias(c) for c in passes]
    filled = [polars.coalesce(f"{c}_new", c).alias(c) for c in COMMON]
    return both.with_columns(*filled, *added).select(rows.columns)


def _share(hits: "polars.Series") -> float:
    return int(hits.sum()) / max(len(hits), 1)


def _summary(run: Run, question: str, model: str, name: str) -> dict[str, object]:
    rows = run.brackets(model, name)
    mean = lambda column: rows[column].mean()
    common = {
        "count": len(rows),
        "clean_accuracy": _share(rows["clean_margin"] > 0),
        "forward": mean("forward"),
        "backward": mean("backward"),
    }
    if question == "probability":
        ends = {c: mean(c) for c in ("lower", "upper", "estimate", "interval_lower", "interval_upper")}
        return {**common, **ends}
    if question == "smoothed":  # of another model than the given one: no accuracy of it, no ratio
        return {**common, "lower": rows["lower"].median(), "upper": rows["upper"].median()}
    if question == "accuracy":
        ends = run.shared_accuracy(model, name)
        return {**common, **dict(zip(("lower", "upper"), ends)), **dict(zip(("certified", "attacked"), ends))}
    certified, attacked = run.accuracy(model, name, [1.0])
    both = rows.filter((rows["lower"] > 0) & rows["upper"].is_finite())
    return {
        **common,
        "lower": rows["lower"].median(),
        "upper": rows["upper"].median(),
        "certified": certified[0],
        "attacked": attacked[0],
        "ratio": (both["upper"] / both["lower"]).median() if len(both) else None,
    }
