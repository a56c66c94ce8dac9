"""A small synthetic run folder in the real format, written without torch: what the report tests read."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np

from brittle.files import write_json
from brittle.records import SCHEMA, Part, Plan, plain
from brittle.store import Run, load_run, write_part

BALLS = {
    "l2": {"x": {"p": 2, "radius": 1.0, "low": 0, "high": 1, "groups": None, "shared": False}},
    "linf": {"x": {"p": "inf", "radius": 0.1, "low": 0, "high": 1, "groups": None, "shared": False}},
    "joint": {
        "x": {"p": "inf", "radius": 0.01, "low": 0, "high": 1, "groups": None, "shared": False},
        "fc1.weight": {"p": "inf", "radius": 0.002, "low": None, "high": None, "groups": None, "shared": False},
    },
}
LAWS = {
    "noise": {"x": {"law": "Gaussian", "sigma": 0.1, "clip": None}},
    "ball": {"x": {"law": "UniformBall", "radius": 0.05, "p": "inf", "clip": [0, 1]}},
}


@dataclass(frozen=True)
class Sketch:
    """What a synthetic run looks like. ``lower`` and ``upper`` give the medians of the two ends per model."""

    models: tuple[str, ...] = ("plain", "hardened")
    regions: tuple[str, ...] = ("l2", "linf")
    laws: tuple[str, ...] = ("noise",)
    count: int = 60
    shape: tuple[int, ...] = (64,)
    certified: bool = True
    found: bool = True
    wrong: float = 0.05  # share of misclassified examples
    checks: tuple[dict, ...] = ()
    findings: tuple[dict, ...] = ()
    points: bool = True
    title: str = ""


def check(
    name: str, consequence: str = "none", doubt: str | None = None, value: str = "ok", threshold: str = ""
) -> dict:
    """Facts of a check's Finding."""
    finding = {"name": name, "title": name.replace("_", " "), "columns": {}, "axes": [], "unit": ""}
    return finding | {
        "note": f"{name} was looked at",
        "doubt": doubt,
        "consequence": consequence,
        "value": value,
        "threshold": threshold,
    }


def finding(name: str, columns: dict, axes: tuple[str, ...] = (), doubt: str | None = None, note: str = "") -> dict:
    """Facts of a diagnostic's Finding."""
    facts = {"name": name, "title": f"All about {name}", "columns": columns, "axes": list(axes), "unit": "logits"}
    return facts | {"note": note, "doubt": doubt, "consequence": "none", "value": "", "threshold": ""}


def write_run(folder: Path, sketch: Sketch = Sketch(), tables: dict | None = None) -> Run:
    """Write and read back. ``tables``: (model, question, name) -> columns that replace the synthetic ones."""
    plan = _plan(sketch)
    facts = {"schema": SCHEMA, "plan": plan.facts(), "key": plan.key, "environment": ENVIRONMENT, "sources": SOURCES}
    write_json(folder / "run.json", facts)
    for part in plan.parts():
        _write(folder, sketch, part, tables or {})
    checks = {model: list(sketch.checks) for model in sketch.models}
    write_json(folder / "checks.json", {"before": checks, "after": {model: [] for model in sketch.models}})
    for model in sketch.models:
        for facts in sketch.findings:
            columns = {k: [plain(v) for v in values] for k, values in facts["columns"].items()}
            write_json(folder / "findings" / f"{model}-{facts['name']}.json", {**facts, "columns": columns})
    return load_run(folder)


ENVIRONMENT = {"python": "3.11.7", "platform": "Linux", "torch": "2.13.0", "numpy": "2.2.0"}
SOURCES = {"command": "brittle audit model.py:net data.npz --out runs/demo", "model": "model.py:net"}


def _plan(sketch: Sketch) -> Plan:
    return Plan(
        models={
            m: {"class": "Sequential", "parameters": 17610, "weights": "ab" * 32, "code": "cd" * 32}
            for m in sketch.models
        },
        data={
            "count": sketch.count,
            "device": "cpu",
            "inputs": {"x": {"shape": list(sketch.shape), "dtype": "torch.float32", "digest": "ef" * 32}},
            "labels": "01" * 32,
        },
        regions={name: BALLS[name] for name in sketch.regions},
        laws={name: LAWS[name] for name in sketch.laws},
        specification={"specification": "default"},
        effort="standard",
        seed=0,
        chunk=max(25, sketch.count // 4),
        level=0.95,
        methods=({"family": "attacks", "name": "fmn", "effort": "quick", "source": "brittle", "code": "23" * 32},),
        diagnostics=tuple(f["name"] for f in sketch.findings),
        checks=True,
        brittle="0.1.0",
        torch="2.13.0",
    )


def _write(folder: Path, sketch: Sketch, part: Part, tables: dict) -> None:
    rng = np.random.default_rng([part.number, sketch.models.index(part.model)])
    count = part.stop - part.start
    clean = _images(rng, count, sketch.shape)
    wrong = rng.random(count) < sketch.wrong
    rows: dict[str, list] = {}
    points = {"clean/x": clean} if sketch.points else {}
    proofs = {}
    questions = [("radius", n) for n in sketch.regions] + [("probability", n) for n in sketch.laws]
    for question, name in questions:
        columns = _radii(rng, sketch, part, wrong) if question == "radius" else _probabilities(rng, wrong)
        replaced = tables.get((part.model, question, name), {})
        columns |= {k: list(v)[part.start : part.stop] for k, v in replaced.items()}
        _append(rows, part, question, name, wrong, columns)
        if question == "radius" and sketch.points:
            points[f"radius/{name}/x"] = _moved(rng, clean, np.array(columns["upper"]))
        proofs[f"{question}/{name}/scale"] = np.zeros(count)
    seconds = {f"{q}/{n}": 0.5 for q, n in questions}
    write_part(folder, part, rows, points, proofs, {"examples": count, "questions": seconds, "seconds": 1.25})


def _radii(rng: np.random.Generator, sketch: Sketch, part: Part, wrong: np.ndarray) -> dict[str, list]:
    scale = 1 + sketch.models.index(part.model)
    upper = 0.4 * scale * rng.lognormal(0, 0.45, len(wrong))
    lower = upper * rng.uniform(0.7, 0.95, len(wrong)) * sketch.certified
    upper = upper if sketch.found else np.full(len(wrong), inf)
    lower, upper = np.where(wrong, 0.0, lower), np.where(wrong, 0.0, upper)
    proved = "proved" if sketch.certified else "none"
    witnessed = "witnessed" if sketch.found else "none"
    return {
        "lower": lower.tolist(),
        "upper": upper.tolist(),
        "lower_kind": [proved] * len(wrong),
        "upper_kind": [witnessed] * len(wrong),
        "lower_method": ["crown" if sketch.certified else ""] * len(wrong),
        "upper_method": ["fmn" if sketch.found else ""] * len(wrong),
        "status": ["misclassified" if w else "ok" for w in wrong],
        "found": [bool(sketch.found or w) for w in wrong],
        "witness_margin": [-0.1 if sketch.found else None] * len(wrong),
        "witness_margin64": [-0.1 if sketch.found else None] * len(wrong),
        "estimate": [None] * len(wrong),
        "interval_lower": [None] * len(wrong),
        "interval_upper": [None] * len(wrong),
    }


def _probabilities(rng: np.random.Generator, wrong: np.ndarray) -> dict[str, list]:
    hits = np.where(wrong, 900, rng.poisson(rng.lognormal(0, 2, len(wrong))).clip(0, 900))
    estimate = hits / 1000
    words = {
        "lower_kind": "statistical",
        "upper_kind": "proved",
        "lower_method": "monte_carlo",
        "upper_method": "smoothing",
    }
    return {
        "lower": np.maximum(0, estimate - 0.02).tolist(),
        "upper": np.minimum(1, 3 * estimate + 0.01).tolist(),
        **{k: [v] * len(wrong) for k, v in words.items()},
        "status": ["misclassified" if w else "ok" for w in wrong],
        **{k: [None] * len(wrong) for k in ("found", "witness_margin", "witness_margin64")},
        "estimate": estimate.tolist(),
        "interval_lower": np.maximum(0, estimate - 1.5 * np.sqrt(estimate / 1000)).tolist(),
        "interval_upper": np.minimum(1, estimate + 1.5 * np.sqrt(estimate / 1000) + 0.003).tolist(),
    }


def _append(rows: dict, part: Part, question: str, name: str, wrong: np.ndarray, columns: dict) -> None:
    count = len(wrong)
    identity = {
        "model": [part.model] * count,
        "question": [question] * count,
        "name": [name] * count,
        "example": list(range(part.start, part.stop)),
        "label": [i % 10 for i in range(part.start, part.stop)],
        "predicted": [(i + bool(w)) % 10 for i, w in zip(range(part.start, part.stop), wrong, strict=True)],
        "clean_margin": [-0.5 if w else 1.5 for w in wrong],
        "forward": [120.0] * count,
        "backward": [60.0] * count,
    }
    for column, values in {**identity, **columns}.items():
        rows.setdefault(column, []).extend(values)


def _images(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """A bright ring on a dark ground, a little different every time, where the shape allows for pictures."""
    size = int(np.prod(shape))
    side = int(round(size**0.5))
    if side * side != size:
        return rng.random((count, *shape)).astype(np.float32)
    across = np.linspace(-1, 1, side)
    distance = np.hypot(across[:, None], across[None, :])
    ring = np.exp(-(((distance[None] - rng.uniform(0.4, 0.8, (count, 1, 1))) / 0.25) ** 2))
    return ring.reshape(count, *shape).astype(np.float32)


def _moved(rng: np.random.Generator, clean: np.ndarray, size: np.ndarray) -> np.ndarray:
    change = rng.normal(size=clean.shape)
    norm = np.sqrt((change**2).reshape(len(clean), -1).sum(1))
    length = np.where(np.isfinite(size), size, 0.0) / norm
    return np.clip(clean + change * length.reshape(-1, *[1] * (clean.ndim - 1)), 0, 1).astype(np.float32)
