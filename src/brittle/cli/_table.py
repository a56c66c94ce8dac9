"""Rows of text as a table on the terminal, JSON, CSV or Markdown."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence

from brittle.records import plain

Row = Mapping[str, object]


def render(rows: Sequence[Row], columns: Sequence[str], form: str, title: str = "") -> None:
    """Print rows: ``table`` and ``md`` show text, ``csv`` the values as they are, ``json`` too (infinities as "inf", as in every record)."""
    if form == "json":
        print(json.dumps(plain(list(rows)), indent=2, allow_nan=False))
    elif form == "csv":
        print(_csv(rows, columns), end="")
    elif form == "md":
        print("\n".join(_markdown(rows, columns)))
    else:
        _terminal(rows, columns, title)


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(c, "") for c in columns] for row in rows)
    return out.getvalue()


def _markdown(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    cell = lambda value: str(value).replace("|", "\\|").replace("\n", " ")
    lines = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    return [f"| {' | '.join(cell(v) for v in line)} |" for line in lines]


def _terminal(rows: Sequence[Row], columns: Sequence[str], title: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = None if sys.stdout.isatty() else 160  # a log has no width of its own; do not fold at 80
    table = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row.get(c, ""))) for c in columns))  # Text: what a user typed is never markup
    Console(width=width).print(table)
