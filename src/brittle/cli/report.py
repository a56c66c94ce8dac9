"""``brittle report``: the page of one or several runs."""

from pathlib import Path
from typing import Annotated

import typer

from brittle.errors import InputError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file; default RUN/report.html.")] = None,
) -> None:
    """Write the report again from the records: one self-contained HTML file. Needs neither the model nor torch."""
    from brittle import report as pages

    if out is not None and len(runs) > 1:
        raise InputError(
            "--out",
            "one run for one file",
            f"{len(runs)} runs",
            "leave --out away: each report goes into its run folder",
        )
    for run in runs:
        print(pages.write(run, out))
