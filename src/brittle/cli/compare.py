"""``brittle compare``: two runs side by side, and where their brackets decide which is better."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brittle.cli._options import FormatOption
from brittle.errors import InputError

if TYPE_CHECKING:
    from brittle.store import Run

COLUMNS = ("model", "question", "first", "second", "verdict")


def compare(
    first: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another one, of the same data.", show_default=False)],
    format: FormatOption = "table",
) -> None:
    """Certified and attacked accuracy of two runs, region by region, at the declared size of the region.

    One is better only where its certified accuracy exceeds the attacked accuracy of the other on the same examples; where brackets overlap nothing is decided.
    Models are matched by name, or one with one. Regions are matched by name, and must be the same, one shared change included.
    """
    from brittle.cli._table import render
    from brittle.store import load_run

    runs = load_run(first), load_run(second)
    if any(runs[0].plan.data.get(k) != runs[1].plan.data.get(k) for k in ("count", "inputs", "labels")):
        raise InputError(
            "compare", "two runs of the same data", "other examples or labels", "audit both on the same data"
        )
    if runs[0].plan.specification != runs[1].plan.specification:
        raise InputError("compare", "two runs of one property", "other specifications", "audit both with the same spec")
    rows = [_row(runs, models, name) for models in _models(runs) for name in _regions(runs)]
    if not rows:
        raise InputError(
            "compare", "a model and a region that both runs have", "none", "audit both with the same names"
        )
    render(rows, COLUMNS, format)
    if differ := _plans_differ(runs):  # S16
        typer.echo(
            f"note: the runs differ in {', '.join(differ)}; brackets hold whatever these are, their widths do not compare",
            err=True,
        )


def _plans_differ(runs: "tuple[Run, Run]") -> list[str]:
    """What of the plans can change the width of a bracket, beside the models."""
    one, other = (run.plan for run in runs)
    return [k for k in ("effort", "seed", "methods", "brittle", "torch") if getattr(one, k) != getattr(other, k)]


def _models(runs: "tuple[Run, Run]") -> list[tuple[str, str]]:
    one, other = (run.models for run in runs)
    if len(one) == len(other) == 1:
        return [(one[0], other[0])]
    return [(model, model) for model in one if model in other]


def _regions(runs: "tuple[Run, Run]") -> list[str]:
    """Regions that are the same in both."""
    one, other = (run.plan.regions for run in runs)
    return [name for name in one if other.get(name) == one[name]]


def _row(runs: "tuple[Run, Run]", models: tuple[str, str], name: str) -> dict[str, object]:
    ends = [_ends(run, model, name) for run, model in zip(runs, models, strict=True)]
    shared = ("accuracy", name) in runs[0].plan.questions()
    told = lambda end: "–" if end is None else f"{end:.4g}"
    words = [f"[{told(low)}, {told(high)}]" for low, high in ends]
    return {
        "model": models[0] if models[0] == models[1] else " / ".join(models),
        "question": f"{name}: accuracy{', one change for all' if shared else ''}",
        "first": words[0],
        "second": words[1],
        "verdict": _verdict(*ends),
    }


def _ends(run: "Run", model: str, name: str) -> tuple[float | None, float | None]:
    if ("accuracy", name) in run.plan.questions():
        return run.shared_accuracy(model, name)
    (certified,), (attacked,) = run.accuracy(model, name, [1.0])
    return certified, attacked


def _verdict(one: tuple[float | None, float | None], other: tuple[float | None, float | None]) -> str:
    if None in (*one, *other):
        return "part of an answer is missing"
    if one[0] > other[1]:  # type: ignore[operator]
        return "the first is better"
    return "the second is better" if other[0] > one[1] else "open"  # type: ignore[operator]
