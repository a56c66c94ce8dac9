"""``brittle reproduce``: the experiments of a paper, run again here, claim by claim."""

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    name: Annotated[str, typer.Argument(help="The study; brittle list studies names them.", show_default=False)],
    full: Annotated[
        bool, typer.Option("--full", help="The larger version, on real data; resumes where it was interrupted.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder; default runs/NAME.")] = None,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    workers: Annotated[int, typer.Option(help="Worker processes of one thread each.")] = 2,
) -> None:
    """Do the experiments of a paper again and say for every claim: reproduced, not reproduced, or only when.

    Prints the table of claims and writes report.html with one figure per claim. Every computation is kept as soon as it is
    finished: run the same command again to go on. The last line printed is the folder.
    """
    from brittle import study_report
    from brittle.cli._table import render
    from brittle.studies._reproduce import reproduce as run

    folder = out or Path("runs") / (f"{name}-full" if full else name)
    study = run(name, folder, full=full, seed=seed, workers=workers)
    rows = [
        {"verdict": c.verdict, "claim": c.statement, "evidence": c.evidence, "source": c.source} for c in study.claims
    ]
    render(rows, ("verdict", "claim", "evidence", "source"), "table", study.title)
    for note in study.notes:
        print(note)
    print(f"report: {study_report.write(folder)}")
    print(folder)
