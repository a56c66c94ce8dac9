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
    seed: Annotated[int, typer.Option(help="Of the redraw; not that of the run.")] = 1,
    allow_unchecked: Annotated[
        bool, typer.Option("--allow-unchecked", help="Pass although some operation is unknown to the checker.")
    ] = False,
    factory: FactoryOption = None,
    trust_pickle: TrustOption = False,
) -> None:
    """Replay every witness, re-evaluate every proof, redraw statistical ends. Exit code 1 if anything does not hold.

    Model and data are those that the run has recorded, unless --model and --data say where they are now.
    """
    import brittle as bt
    from brittle.cli._inputs import load, named_models
    from brittle.store import load_run

    recorded = _recorded(load_run(run).sources)
    models = named_models(model) if model else recorded.models
    source = data or recorded.data
    if not models or not source:
        raise InputError(
            f"run folder {run}", "recorded sources of model and data", "none", "give --model NAME=SPEC and --data SPEC"
        )
    given = load(models, source, recorded.limit, factory, trust_pickle)
    verdict = bt.verify(run, given.models, given.data.x, given.data.labels, seed=seed, allow_unchecked=allow_unchecked)
    for word, lines in (("note", verdict.notes), ("unchecked", verdict.unchecked), ("failure", verdict.failures)):
        for line in lines:
            print(f"{word}: {line}")
    print(
        f"{verdict.witnesses} witnesses replayed, {verdict.proofs} proofs evaluated, {verdict.intervals} intervals redrawn, "
        f"{len(verdict.unchecked)} not checked, {len(verdict.failures)} failures"
    )
    print(f"verification {'passed' if verdict.passed else 'failed'}: {run}")
    if not verdict.passed:
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
