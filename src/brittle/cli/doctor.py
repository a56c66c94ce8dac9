"""``brittle doctor``: is this model, on this data, fit to be measured?"""

from typing import TYPE_CHECKING, Annotated

import typer

from brittle.cli._options import (
    DATA,
    MODELS,
    FactoryOption,
    FormatOption,
    HighOption,
    LimitOption,
    LowOption,
    TrustOption,
)

if TYPE_CHECKING:
    from brittle.region import Ball
    from brittle.sources.batch import Inputs

COLUMNS = ("check", "result", "measured", "threshold", "what it says")
UNFIT = ("stop", "invalid")


def doctor(
    model: Annotated[str, typer.Argument(help=MODELS, show_default=False)],
    data: Annotated[str, typer.Argument(help=DATA, show_default=False)],
    low: LowOption = None,
    high: HighOption = None,
    limit: LimitOption = 256,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    factory: FactoryOption = None,
    trust_pickle: TrustOption = False,
    format: FormatOption = "table",
) -> None:
    """Check model and data before any attack: range, mode, randomness, gradients, labels. Exit code 2 if unfit."""
    from brittle.cli._grammar import valid_range
    from brittle.cli._inputs import load
    from brittle.cli._table import render

    limits = valid_range(low, high)
    given = load({"model": model}, data, limit, factory, trust_pickle)
    import brittle as bt

    health = bt.doctor(
        given.models["model"], given.data.x, given.data.labels, region=_region(given.data.x, limits), seed=seed
    )
    rows = [
        {
            "check": f.title,
            "result": "passed" if f.consequence == "none" else f.consequence,
            "measured": f.value,
            "threshold": f.threshold,
            "what it says": f.doubt or f.note,
        }
        for f in health.findings
    ]
    render(rows, COLUMNS, format)
    if format == "table":
        print(f"verdict: {health.verdict}")
    if health.verdict in UNFIT:
        raise typer.Exit(2)


def _region(x: "Inputs", limits: tuple[float | None, float | None]) -> "dict[str, Ball] | None":
    """What is going to move, as far as the checks need to know: every floating input, in its valid range."""
    from brittle.region import Ball

    if limits == (None, None):
        return None
    inputs = {f"x.{name}": value for name, value in x.items()} if isinstance(x, dict) else {"x": x}
    return {leaf: Ball(2, 1.0, *limits) for leaf, value in inputs.items() if value.is_floating_point()}
