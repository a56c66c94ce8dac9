"""A study in parts: each experiment in a file of its own brings its claims, tables and plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

from brittle.sources.assets import asset
from brittle.studies._cells import Cells
from brittle.studies._medians import Middle
from brittle.studies._study import Claim, Curve, Plot, Study, Table


@dataclass(frozen=True)
class Part:
    """What one experiment of a study contributes."""

    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()


def study(
    cells: Cells,
    title: str,
    reference: str,
    parts: Sequence[ModuleType],
    notes: tuple[str, ...],
    *,
    label: str,
    assets: Mapping[str, str],
    full: bool,
    seed: int,
) -> Study:
    """All cells of the parts at once, then what each makes of them.

    parts    modules with ``calls(full, seed)``, their cells, and ``part(found)``, what each makes of what was found
    assets   package: name it is fetched by; the full version needs them, and an absent one is told before the first cell
    """
    if full:
        for package, name in assets.items():
            asset(package, name)
    calls = {key: call for part in parts for key, call in part.calls(full, seed).items()}
    found = cells.each(calls, label)
    done = [part.part(found) for part in parts]
    return Study(
        title,
        reference,
        tuple(c for p in done for c in p.claims),
        tuple(t for p in done for t in p.tables),
        tuple(f for p in done for f in p.plots),
        {"cells": len(calls)},
        (*notes, *(n for p in done for n in p.notes)),
    )


def shown(figure: Plot | Table, *claims: Claim) -> tuple[Claim, ...]:
    """The claims, each naming the figure that shows it."""
    return tuple(replace(claim, figure=figure.title) for claim in claims)


def verdict(holds: bool, otherwise: str = "not reproduced") -> str:
    """ "reproduced" where the measured numbers say so.

    >>> verdict(True), verdict(False), verdict(False, "only when")
    ('reproduced', 'not reproduced', 'only when')
    """
    return "reproduced" if holds else otherwise


def measured(label: str, x: Sequence[float], middles: Sequence[Middle], style: str = "points") -> Curve:
    """Middle values over x with their intervals."""
    return Curve(
        label,
        tuple(float(v) for v in x),
        tuple(m.value for m in middles),
        tuple(m.low for m in middles),
        tuple(m.high for m in middles),
        style,
    )


def curve(label: str, x: Sequence[float], y: Sequence[float]) -> Curve:
    """A prediction: a line without an interval."""
    return Curve(label, tuple(float(v) for v in x), tuple(float(v) for v in y))
