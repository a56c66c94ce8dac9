"""What a study leaves: claims with verdicts, tables and plots as plain data. Nothing here is heavy; a page is drawn from it later."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from brittle.errors import InputError

VERDICTS = ("reproduced", "not reproduced", "only when", "ours")


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper (or of ours), and what the measurement says of it.

    statement  what is claimed, in our words
    source     where: "arXiv 2602.18674, Theorem 3.1"; "ours" for a law that the paper does not state
    verdict    "reproduced", "not reproduced", "only when" (under the condition that ``evidence`` names), or "ours" (no claim of the paper)
    evidence   the numbers behind the verdict, one or two sentences
    figure     the title of the plot or table that shows it; the page links there
    """

    statement: str
    source: str
    verdict: str
    evidence: str
    figure: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError("Claim.verdict", " | ".join(VERDICTS), repr(self.verdict), "choose one of these")


@dataclass(frozen=True)
class Table:
    """Rows under columns; a cell is text or a number (None where nothing could be measured)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise InputError(
                f"Table {self.title!r}", f"{len(self.columns)} cells per row", wrong[0], "fill every column"
            )


@dataclass(frozen=True)
class Curve:
    """One series of a plot. ``low`` and ``high`` are the ends of an interval around ``y``, if there is one.

    style  "line" (a prediction or a trend), "points" (measurements, with their intervals as bars), "band" (line with a shaded interval)
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    style: str = "line"


@dataclass(frozen=True)
class Plot:
    """One figure: one claim. ``rules`` are reference lines (value of y, word)."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    rules: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Study:
    """A paper's experiments, done again and gone past.

    paper    its reference; settings: what was run (seeds, data, sizes), so that a reader can judge it
    """

    title: str
    paper: str
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, object]:
        """Plain values for ``study.json``."""
        return asdict(self)

    @staticmethod
    def of(facts: Mapping) -> "Study":
        """The study of a record: the inverse of :meth:`facts`."""
        return Study(
            facts["title"],
            facts["paper"],
            tuple(Claim(**c) for c in facts["claims"]),
            tuple(Table(**{**t, "columns": tuple(t["columns"]), "rows": _rows(t["rows"])}) for t in facts["tables"]),
            tuple(
                Plot(**{**p, "curves": tuple(Curve(**_tuples(c)) for c in p["curves"]), "rules": _rows(p["rules"])})
                for p in facts["plots"]
            ),
            facts["settings"],
            tuple(facts["notes"]),
        )


def _rows(rows: Sequence[Sequence]) -> tuple[tuple, ...]:
    return tuple(tuple(row) for row in rows)


def _tuples(facts: Mapping) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
