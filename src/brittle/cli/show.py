"""``brittle show``: a run folder in the terminal."""

from pathlib import Path
from typing import Annotated

import typer

from brittle.cli._options import FormatOption


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


def say_doubts(run) -> None:
    """Whatever a health check or a missing part puts in question, one line each."""
    for model, checks in run.checks.items():
        for check in checks:
            if check.get("doubt"):
                print(f"doubt ({model}): {check['doubt']}")
    if not run.complete:
        print(f"doubt: this run is not complete; {len(run.missing)} parts are missing, run the same audit again")
