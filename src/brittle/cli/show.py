"""``brittle show``: a run folder in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from brittle.cli._options import FormatOption

if TYPE_CHECKING:
    from brittle.store import Run


def show(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    format: FormatOption = "table",
) -> None:
    """Print the brackets of a run: every model, every question. Needs neither the model nor torch."""
    from brittle.cli._brackets import COLUMNS, VALUES, caption, texts, values
    from brittle.cli._table import render
    from brittle.store import load_run

    found = load_run(run)
    machine = format in ("json", "csv")
    render(values(found) if machine else texts(found), VALUES if machine else COLUMNS, format)
    if format == "table":
        say_doubts(found)
        print(caption(found))


def say_doubts(run: "Run") -> None:
    """Whatever a health check, an operation without a bound or a missing part puts in question, each said once."""
    for model, checks in run.checks.items():
        for doubt in dict.fromkeys(check["doubt"] for check in checks if check.get("doubt")):
            print(f"doubt ({model}): {doubt}")
        for reason, count in _unproved(run, model).items():
            print(f"{reason} ({model}, {count} of {run.plan.count} examples)")
    for row in run.summary():
        if row["question"] == "accuracy" and row["certified"] == 0 and row["attacked"]:
            print(
                f"vacuous: no bound says anything at the size of {row['name']} ({row['model']}); its 0 is nothing known, no weakness"
            )
    if not run.complete:
        print(f"doubt: this run is not complete; {len(run.missing)} parts are missing, run the same audit again")


def _unproved(run: "Run", model: str) -> dict[str, int]:
    """Why radii have no proof: the reason, and on how many examples at most."""
    counts: dict[str, int] = {}
    for question, name in run.plan.questions():
        status = run.brackets(model, name)["status"].to_list() if question != "probability" else []
        for reason in {s for s in status if s.startswith("not certified")}:
            counts[reason] = max(counts.get(reason, 0), status.count(reason))
    return dict(sorted(counts.items()))
