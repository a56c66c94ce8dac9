"""``brittle verify``: trust nothing but the model, the data and the records."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from brittle.cli._options import FactoryOption, TrustOption
from brittle.errors import InputError


def verify(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="[NAME=]SPEC", help="Where the model is now; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="SPEC", help="Where the data are now.")] = None,
    factory: FactoryOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Replay every witness, re-evaluate every proof, redraw statistical ends. Exit code 1 if anything does not hold.

    Model and data are those that the run has recorded, unless --model and --data say where they are now.
    """
    import brittle as bt
    from brittle.cli._inputs import load, named_models
    from brittle.cli._table import render
    from brittle.store import load_run

    recorded = _recorded(load_run(run).sources)
    models = named_models(model) if model else recorded.models
    source = data or recorded.data
    if not models or not source:
        raise InputError(
            f"run folder {run}", "recorded sources of model and data", "none", "give --model NAME=SPEC and --data SPEC"
        )
    given = load(models, source, recorded.limit, factory, trust_pickle)
    findings = bt.verify(run, given.models, given.data.x, given.data.labels)
    rows = [
        {"check": f.name.replace("_", " "), "verdict": f.doubt or "holds", "measured": f.value or f.note}
        for f in findings
    ]
    render(rows, ("check", "verdict", "measured"), "table")
    if any(f.consequence != "none" for f in findings):
        raise typer.Exit(1)


class Sources(NamedTuple):
    """Where a run says that its models and data came from; empty where it was made in Python without saying."""

    models: dict[str, str]
    data: str
    limit: int | None


def _recorded(sources: Mapping[str, object]) -> Sources:
    models, limit = sources.get("models"), sources.get("limit")
    return Sources(
        {str(k): str(v) for k, v in models.items()} if isinstance(models, Mapping) else {},
        str(sources.get("data") or ""),
        limit if isinstance(limit, int) else None,
    )
