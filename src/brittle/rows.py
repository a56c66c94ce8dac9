"""Answers as rows and arrays: plain columns for the samples, NumPy arrays for points and proofs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, isnan

import torch
from torch import Tensor

from brittle.problem import Problem
from brittle.records import Part
from brittle.results import Bracket, Cost, Ends, Proof, Witness, bracket_of
from brittle.spec import Threshold, margin
from brittle.store import Run


def clean_columns(problem: Problem) -> dict[str, list]:
    """Label, prediction and margin at the clean point."""
    logits = problem.clean_logits()
    spec, labels = problem.spec, problem.labels
    assert spec is not None and problem.index is not None  # a Problem fills them in
    if isinstance(spec, Threshold):
        predicted = (logits[:, 0] > spec.threshold).long()
    else:
        predicted = logits.argmax(1)
    margins = margin(spec.rows(logits, labels), spec.rank)
    return {
        "example": problem.index.tolist(),
        "label": labels.tolist(),
        "predicted": predicted.tolist(),
        "clean_margin": numbers(margins),
    }


def join_columns(parts: Sequence[dict[str, list]]) -> dict[str, list]:
    return {name: [v for part in parts for v in part[name]] for name in parts[0]}


def identity_columns(part: Part, question: str, name: str) -> dict[str, list]:
    count = part.stop - part.start
    return {"model": [part.model] * count, "question": [question] * count, "name": [name] * count}


def bracket_columns(bracket: Bracket) -> dict[str, list]:
    count = len(bracket)
    nothing = [None] * count
    columns = {
        "lower": numbers(bracket.lower),
        "lower_kind": list(bracket.kinds.lower),  # type: ignore[call-overload]
        "lower_method": list(bracket.methods.lower),  # type: ignore[call-overload]
        "upper": numbers(bracket.upper),
        "upper_kind": list(bracket.kinds.upper),  # type: ignore[call-overload]
        "upper_method": list(bracket.methods.upper),  # type: ignore[call-overload]
        "status": list(bracket.status),
        "estimate": nothing if bracket.estimate is None else numbers(bracket.estimate),
        "interval_lower": nothing if bracket.interval is None else numbers(bracket.interval[:, 0]),
        "interval_upper": nothing if bracket.interval is None else numbers(bracket.interval[:, 1]),
        "forward": [float(bracket.cost.forward)] * count,
        "backward": [float(bracket.cost.backward)] * count,
    }
    return {**columns, **witness_columns(bracket.witness, count)}


def join_brackets(parts: Sequence[Bracket]) -> Bracket:
    """Micro-batches as one chunk; one without any proof (all of it misclassified) does not cost the others theirs."""
    if any(part.proof is not None for part in parts):
        nothing = lambda n: Proof(torch.zeros(n, dtype=torch.float64), ("",) * n)
        parts = [p if p.proof is not None else replace(p, proof=nothing(len(p))) for p in parts]
    return Bracket.join(parts)


def recorded_bracket(run: Run, model: str, name: str, problem: Problem) -> Bracket:
    """The radii of a problem's examples, read back from the records of a run, with the witnesses and without the proofs."""
    assert problem.index is not None
    rows = run.brackets(model, name)[problem.index.tolist()]
    column_of = lambda column: torch.tensor(rows[column].fill_null(inf).to_list(), dtype=torch.float64)
    words = lambda column: tuple(rows[column].fill_null("").to_list())
    point = {
        leaf: torch.from_numpy(run.points(model)[f"radius/{name}/{leaf}"])[problem.index].to(value)
        for leaf, value in problem.centre.items()
    }
    found = torch.tensor(rows["found"].to_list(), dtype=torch.bool)
    said = tuple(
        "found" if f and s != "misclassified" else s for f, s in zip(found.tolist(), words("status"), strict=True)
    )
    status = tuple(s if s in ("found", "misclassified", "rounding-only", "nan") else "none" for s in said)
    clean = torch.tensor(
        [s == "none" for s in status]
    )  # nothing found: the point is the clean one, and so is the margin
    margins = [
        torch.where(clean, column_of("clean_margin"), column_of(c)) for c in ("witness_margin", "witness_margin64")
    ]
    witness = Witness(point, margins[0], found, column_of("upper"), status, margin64=margins[1])
    return replace(
        bracket_of("radius", len(rows), column_of("lower"), column_of("upper")),
        kinds=Ends(words("lower_kind"), words("upper_kind")),
        methods=Ends(words("lower_method"), words("upper_method")),
        status=words("status"),
        witness=witness,
        cost=Cost(float(rows["forward"][0]), float(rows["backward"][0])),
    )


def witness_columns(witness: Witness | None, count: int) -> dict[str, list]:
    nothing = [None] * count
    if witness is None:
        return {"found": nothing, "witness_margin": nothing, "witness_margin64": nothing}
    stored = [status in ("found", "rounding-only", "misclassified") for status in witness.status]
    only = lambda values: [v if s else None for v, s in zip(values, stored, strict=True)]
    exact = witness.margin if witness.margin64 is None else witness.margin64
    return {
        "found": [bool(f) for f in witness.found.tolist()],
        "witness_margin": only(numbers(witness.margin)),
        "witness_margin64": only(numbers(exact)),
    }


def clean_points(x: Tensor | Mapping[str, Tensor]) -> dict:
    if isinstance(x, Tensor):
        return {"clean/x": array(x)}
    return {f"clean/x.{name}": array(value) for name, value in x.items()}


def witness_points(bracket: Bracket, prefix: str) -> dict:
    if bracket.witness is None:
        return {}
    return {f"{prefix}/{leaf}": array(value) for leaf, value in bracket.witness.point.items()}


def proof_arrays(bracket: Bracket, prefix: str) -> dict:
    if bracket.proof is None:
        return {}
    arrays = {f"{prefix}/{name}": array(value) for name, value in bracket.proof.arrays.items()}
    return {f"{prefix}/scale": array(bracket.proof.scale), **arrays}


def vote_arrays(bracket: Bracket, prefix: str) -> dict:
    """The votes behind radii of smoothed models, (N,) each: what their lower ends are computed from."""
    return {f"{prefix}/{name}": array(value) for name, value in bracket.diagnostics.items()}


def numbers(values: Tensor) -> list[float | None]:
    """Plain numbers; what is not a number is missing."""
    return [None if isnan(v) else v for v in values.detach().to(torch.float64).cpu().tolist()]


def array(value: Tensor):
    """A NumPy array of its own memory; bfloat16, which NumPy lacks, as float32, which holds it exactly."""
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()
