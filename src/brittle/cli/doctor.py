"""``brittle doctor``: is this model, on this data, fit to be measured?"""

from typing import Annotated

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

COLUMNS = ("check", "verdict", "measured", "expected", "what to do")
WORST = ("stop", "invalid")


def doctor(
    model: Annotated[str, typer.Argument(help=MODELS, show_default=False)],
    data: Annotated[str, typer.Argument(help=DATA, show_default=False)],
    low: LowOption = None,
    high: HighOption = None,
    limit: LimitOption = 64,
    factory: FactoryOption = None,
    trust_pickle: TrustOption = False,
    form: FormatOption = "table",
) -> None:
    """Check model and data before any attack: range, mode, randomness, gradients, labels. Exit code 2 if unfit."""
    from brittle.cli._grammar import valid_range
    from brittle.cli._inputs import load
    from brittle.cli._table import render

    limits = valid_range(low, high)
    given = load({"model": model}, data, limit, factory, trust_pickle)
    import brittle as bt

    findings = bt.doctor(given.models["model"], given.data.x, given.data.labels, low=limits[0], high=limits[1])
    rows = [
        {
            "check": f.name.replace("_", " "),
            "verdict": "passed" if f.consequence == "none" else f.consequence,
            "measured": f.value or f.note,
            "expected": f.threshold,
            "what to do": f.doubt or "",
        }
        for f in findings
    ]
    render(rows, COLUMNS, form)
    if any(f.consequence in WORST for f in findings):
        raise typer.Exit(2)
