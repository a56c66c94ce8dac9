"""A study in parts: each experiment in a file of its own brings its claims, tables and plots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from brittle.studies._medians import Middle
from brittle.studies._study import Claim, Curve, Plot, Table


@dataclass(frozen=True)
class Part:
    """What one experiment of a study contributes."""

    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()


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
