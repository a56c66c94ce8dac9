"""A run as rows in which every answer is a bracket."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from brittle.panels._data import unit

if TYPE_CHECKING:
    from brittle.store import Run

COLUMNS = ("model", "question", "accuracy", "bracket", "guarantee")
VALUES = (
    "model", "question", "name", "count", "clean_accuracy", "certified", "attacked", "lower", "upper", "unit",
    "lower_guarantee", "upper_guarantee", "forward", "backward",
)  # fmt: skip


def texts(run: "Run") -> list[dict[str, object]]:
    """One row of text per model and question, for people."""
    return [_text(row) for row in values(run)]


def values(run: "Run") -> list[dict[str, object]]:
    """One row of numbers per model and question, radii in the units of the inputs, for programs."""
    return [_value(run, row) for row in run.summary()]


def caption(run: "Run") -> str:
    """What the columns mean, in one line."""
    return (
        f"{run.plan.count} examples. Accuracy inside the region: certified .. attacked. Brackets: median radius, "
        f"or mean probability of failure (intervals at level {run.plan.level:g} per example)."
    )


def _value(run: "Run", row: Mapping) -> dict[str, object]:
    rows = run.brackets(row["model"], row["name"])
    ends = {f"{end}_guarantee": _weakest(rows[f"{end}_kind"].to_list()) for end in ("lower", "upper")}
    if row["question"] == "probability":
        return {**row, "unit": "probability", "certified": None, "attacked": None, **ends}
    told = unit(run.plan.regions[row["name"]])
    scaled = {end: _finite(row[end], told.factor) for end in ("lower", "upper")}
    return {**row, **scaled, "unit": told.noun, **ends}


def _text(row: Mapping) -> dict[str, object]:
    accuracy = "" if row["certified"] is None else f"{row['certified']:.1%} .. {row['attacked']:.1%}"
    return {
        "model": row["model"],
        "question": f"{row['name']}: {'probability of failure' if row['question'] == 'probability' else row['unit']}",
        "accuracy": accuracy or f"{row['clean_accuracy']:.1%} clean",
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
