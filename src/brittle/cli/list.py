"""``brittle list``: every method there is."""

from typing import Annotated

import typer

from brittle.cli._options import FormatOption

COLUMNS = ("family", "name", "norms", "answers", "effort", "promise", "cost", "reference")


def list_methods(
    family: Annotated[
        str | None, typer.Argument(help="attacks, bounds, noise, diagnostics, checks, panels ...", show_default=False)
    ] = None,
    format: FormatOption = "table",
) -> None:
    """List every method: norms, what it promises, what it costs, where it comes from. Plug-ins are included."""
    from brittle.cli._table import render
    from brittle.discovery import methods

    rows = [
        {
            "family": m.family,
            "name": m.name,
            "norms": " ".join(f"{p:g}" for p in m.about.norms) or "-",
            "answers": m.about.answers or "-",
            "leaves": " ".join(m.about.leaves),
            "effort": m.about.effort or "by name",
            "promise": m.about.promise,
            "cost": m.about.cost or "-",
            "reference": m.about.reference,
            "source": m.source,
        }
        for m in methods(family)
    ]
    shown = tuple(c for c in COLUMNS if c != "family" or family is None)
    render(rows, COLUMNS if format in ("json", "csv") else shown, format)
