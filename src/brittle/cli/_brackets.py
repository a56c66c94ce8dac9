"""A run as rows in which every answer is a bracket."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from brittle.panels._data import telling_scale, unit

if TYPE_CHECKING:
    from brittle.store import Run

COLUMNS = ("model", "question", "accuracy", "bracket", "guarantee")
VALUES = (
    "model", "question", "name", "count", "clean_accuracy", "at", "certified", "attacked", "lower", "upper", "unit",
    "lower_guarantee", "upper_guarantee", "forward", "backward",
)  # fmt: skip


def texts(run: "Run") -> list[dict[str, object]]:
    """One row of text per model and question, for people."""
    return [_text(row) for row in values(run)]


def values(run: "Run") -> list[dict[str, object]]:
    """One row of numbers per model and question, radii in the units of the inputs, for programs."""
    summary = run.summary()
    told = {
        "radius": lambda row: _radius(run, row, summary),
        "accuracy": lambda row: _accuracy(run, row),
        "smoothed": lambda row: _smoothed(run, row),
    }
    return [told.get(str(row["question"]), lambda row: _probability(run, row))(row) for row in summary]


def caption(run: "Run") -> str:
    """What the columns mean, in one line."""
    shared = any(question == "accuracy" for question, _ in run.plan.questions())
    together = ", or certified and attacked accuracy under one change common to all examples" if shared else ""
    return (
        f"{run.plan.count} examples. Accuracy at a size (the declared one, or a telling one where nothing is certified "
        f"there): certified .. attacked. Bracket: median radius, or mean probability "
        f"of failure (each example's interval holds at level {run.plan.level:g}){together}."
    )


def _probability(run: "Run", row: Mapping) -> dict[str, object]:
    return {**row, "unit": "probability", "at": None, "certified": None, "attacked": None, **_guarantees(run, row)}


def _accuracy(run: "Run", row: Mapping) -> dict[str, object]:
    nothing = {} if row["certified"] else {"lower_guarantee": "none"}  # a vacuous 0 is nothing known
    return {**row, "unit": "accuracy", "at": None, **_guarantees(run, row), **nothing}


def _smoothed(run: "Run", row: Mapping) -> dict[str, object]:
    told = unit(run.plan.smoothed[row["name"]]["region"])
    ends = {end: _finite(row[end], told.factor) for end in ("lower", "upper")}
    nothing = {"at": None, "certified": None, "attacked": None}
    return {**row, **ends, **nothing, "unit": f"{told.noun}, smoothed model", **_guarantees(run, row)}


def _radius(run: "Run", row: Mapping, summary: Sequence[Mapping]) -> dict[str, object]:
    told = unit(run.plan.regions[row["name"]])
    scale = telling_scale(summary, row["name"], told.factor)
    (certified,), (attacked,) = run.accuracy(row["model"], row["name"], [scale])
    scaled = {end: _finite(row[end], told.factor) for end in ("lower", "upper")}
    accuracy = {"at": scale * told.factor, "certified": certified, "attacked": attacked}
    return {**row, **scaled, **accuracy, "unit": told.noun, **_guarantees(run, row)}


def _guarantees(run: "Run", row: Mapping) -> dict[str, str]:
    rows = run.brackets(row["model"], row["name"])
    return {f"{end}_guarantee": _weakest(rows[f"{end}_kind"].to_list()) for end in ("lower", "upper")}


def _text(row: Mapping) -> dict[str, object]:
    accuracy = "" if row["at"] is None else f"at {row['at']:.4g}: {row['certified']:.1%} .. {row['attacked']:.1%}"
    what = {"probability": "probability of failure", "accuracy": "accuracy, one change for all"}
    return {
        "model": row["model"],
        "question": f"{row['name']}: {what.get(row['question'], row['unit'])}",
        "accuracy": accuracy or f"clean: {row['clean_accuracy']:.1%}",
        "bracket": f"[{_number(row['lower'])}, {_number(row['upper'])}]",
        "guarantee": f"{row['lower_guarantee']} .. {row['upper_guarantee']}",
    }


def _weakest(kinds: list[str]) -> str:
    """The weakest guarantee among the examples that have one."""
    said = {k for k in kinds if k != "none"}
    return next((k for k in ("statistical", "witnessed", "proved") if k in said), "none")


def _finite(value: float | None, factor: float) -> float | str | None:
    """Scaled; infinity as a word, which JSON has no number for."""
    if value is None:
        return None
    return "inf" if value == float("inf") else value * factor


def _number(value: float | str | None) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:.4g}"
