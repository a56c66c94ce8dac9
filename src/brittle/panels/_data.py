"""What panels ask of a run: the answers to one question as arrays, units of a region, points of one example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, inf, isnan, log10
from typing import Any

import numpy as np

NUMBERS = ("lower", "upper", "clean_margin", "estimate", "interval_lower", "interval_upper", "forward", "backward")
WORDS = ("lower_kind", "upper_kind", "lower_method", "upper_method", "status")


@dataclass(frozen=True, eq=False)
class Answers:
    """One model's answers to one question (region or law), an entry per example, sorted by example; NaN where none."""

    example: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    clean_margin: np.ndarray
    estimate: np.ndarray
    interval_lower: np.ndarray
    interval_upper: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    lower_kind: tuple[str, ...]
    upper_kind: tuple[str, ...]
    lower_method: tuple[str, ...]
    upper_method: tuple[str, ...]
    status: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.example)

    @property
    def misclassified(self) -> np.ndarray:
        """(N,) bool: wrong before anything moved."""
        return np.array([s == "misclassified" for s in self.status], dtype=bool)

    @property
    def clean(self) -> float:
        """Accuracy before anything moves."""
        return float(1 - self.misclassified.mean()) if len(self) else 0.0

    def scaled(self, factor: float) -> "Answers":
        """Both ends in other units."""
        return replace(self, lower=self.lower * factor, upper=self.upper * factor)


@dataclass(frozen=True)
class Unit:
    """How a region's scale is told: ``factor`` turns it into ``noun``, e.g. 0.5 into an "l2 size"."""

    factor: float
    noun: str


def regions(run) -> dict[str, Mapping]:
    """Region name -> leaf -> the facts of its ball; only those with answers."""
    return _answered(run, run.plan.regions, "radius")


def commons(run) -> dict[str, Mapping]:
    """The same of regions with one change common to all examples, which have an accuracy and no radii."""
    return _answered(run, run.plan.regions, "accuracy")


def laws(run) -> dict[str, Mapping]:
    """Law name -> leaf -> the facts of the noise law; only those with answers."""
    return _answered(run, run.plan.laws, "probability")


def smoothings(run) -> dict[str, Mapping]:
    """Name of a smoothed model -> its laws, region, draws and level; only those with answers."""
    return _answered(run, run.plan.smoothed, "smoothed")


def answers(run, model: str, question: str, name: str) -> Answers:
    """One model's answers; empty when there are none."""
    import polars as pl

    mask = (pl.col("model") == model) & (pl.col("question") == question) & (pl.col("name") == name)
    part = run.samples.filter(mask).sort("example")
    ints = {c: part[c].cast(pl.Int64).to_numpy() for c in ("example", "label", "predicted")}
    floats = {c: part[c].cast(pl.Float64).fill_null(float("nan")).to_numpy() for c in NUMBERS}
    words = {c: tuple(part[c].fill_null("").to_list()) for c in WORDS}
    columns: dict[str, Any] = {**ints, **floats, **words}
    return Answers(**columns)


def unit(leaves: Mapping) -> Unit:
    """How the scale of a region is told to a reader.

    >>> unit({"x": {"p": 2, "radius": 0.5}})
    Unit(factor=0.5, noun='l2 size')
    >>> unit({"x": {"p": "inf", "radius": 0.1}, "fc.weight": {"p": 2, "radius": 0.1}}).noun
    'scale of the joint region'
    """
    if len(leaves) == 1:
        ((leaf, ball),) = leaves.items()
        radius = float(ball.get("radius", 1.0))
        noun = {"0": "number of changed features", "inf": "l∞ size"}.get(str(ball.get("p")), f"l{ball.get('p')} size")
        if ball.get("groups"):
            noun = "number of changed positions"
        where = ("" if leaf == "x" else f" of {leaf}") + restriction(ball)
        where += {"element": " in multiples of each weight", "rms": " in multiples of their rms"}.get(
            str(ball.get("relative")), ""
        )
        return Unit(radius if radius > 0 else 1.0, noun + where)
    return Unit(1.0, "scale of the joint region" if leaves else "scale of the region")


def restriction(ball: Mapping) -> str:
    """Where changes are confined to a subspace, in words that continue a sentence; "" where they are not.

    >>> restriction({"p": 2, "within": {"dimension": 3, "features": 64}})
    ' inside a subspace of 3 of 64 dimensions'
    """
    for side, word in (("within", "inside"), ("orthogonal_to", "orthogonal to")):
        if ball.get(side):
            facts = ball[side]
            return f" {word} a subspace of {facts['dimension']} of {facts['features']} dimensions"
    return ""


def telling_scale(summary: Sequence[Mapping], name: str, factor: float) -> float:
    """Where accuracies differ: the region itself or, where it certifies nothing (a radius of 1 asks for the distance), the
    largest 1, 2 or 5 times a power of ten at which the most fragile model still stands in the median."""
    rows = [r for r in summary if r["name"] == name]
    if any(r["certified"] > 0 for r in rows):
        return 1.0
    sizes = [r["upper"] * factor for r in rows if r["upper"] is not None and 0 < r["upper"] < inf]
    return round_down(min(sizes)) / factor if sizes else 1.0


def round_down(value: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most ``value`` > 0.

    >>> round_down(0.47), round_down(0.0857), round_down(1.0)
    (0.2, 0.05, 1.0)
    """
    power = floor(log10(value))
    return max(
        float(f"{digit}e{exponent}")
        for exponent in (power - 1, power)
        for digit in (1, 2, 5)
        if float(f"{digit}e{exponent}") <= value
    )


def survival(values: np.ndarray, stop: float) -> tuple[list[float], list[float]]:
    """The step function s -> mean(values > s) on [0, stop], as (edges, levels).

    >>> survival(np.array([0.0, 1.0, 2.0, np.inf]), 4.0)
    ([0.0, 1.0, 2.0, 4.0], [0.75, 0.5, 0.25])
    """
    jumps = np.unique(values[(values > 0) & (values < stop)])
    edges = [0.0, *jumps.tolist(), stop]
    return edges, at_scales(values, np.array(edges[:-1])).tolist()


def at_scales(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """mean(values > s) for every s."""
    ordered = np.sort(values)
    return 1 - np.searchsorted(ordered, scales, side="right") / max(1, len(ordered))


def binomial_interval(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval (Clopper and Pearson, Biometrika 1934) for a share of ``count`` examples.

    >>> binomial_interval(0.0, 100)[0], round(binomial_interval(0.0, 100)[1], 4)
    (0.0, 0.0362)
    """
    from scipy.special import betaincinv

    hits, tail = round(share * count), (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, count - hits + 1, tail))
    high = 1.0 if hits == count else float(betaincinv(hits + 1, count - hits, 1 - tail))
    return low, high


def middle(values: np.ndarray) -> float:
    """The value at rank (n - 1) // 2: at least half of the examples are at or above it, and at least half at or below.

    The same rank serves both ends, so that the middle of the lower ends never exceeds that of the upper ends.
    """
    return float(np.sort(values)[(len(values) - 1) // 2])


def spread(count: int, most: int) -> np.ndarray:
    """At most ``most`` ranks out of ``count``, evenly spaced, first and last included."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def missing(value: float | None) -> bool:
    """Whether a number is absent (null in the table)."""
    return value is None or isnan(value)


def _answered(run, planned: Mapping, question: str) -> dict[str, Mapping]:
    import polars as pl

    present = set(run.samples.filter(pl.col("question") == question)["name"].unique().to_list())
    return {name: facts for name, facts in planned.items() if name in present}
