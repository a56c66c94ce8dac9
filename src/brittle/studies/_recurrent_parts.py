"""How the parts of the study ``recurrent`` speak of runs: means with Student's interval, and names of cells."""

from collections.abc import Mapping, Sequence
from math import nan, sqrt
from statistics import mean, stdev

from brittle.studies._medians import Middle
from brittle.studies._recurrent_nets import DEFAULT, FULL, KINDS, RECIPES

PAPER = "arXiv 1804.11313"
RUNS = 5
SLOWER = ("gru", "lstm")
FEW = ("transient",)  # of gated cells on digits
FRONT = tuple(name for name in RECIPES if name not in ("none", "mild awp"))
REAL = {"tanh": ("transient", "awp", "transient and adversarial weights", "cap"), "gru": ("transient", "awp"), "lstm": ("transient", "awp")}  # fmt: skip
MILD = {("mnist", "gru"): ("mild awp",)}  # tried once the other was a point and a half less accurate there
Found = Mapping[str, dict]


def mean_of(values: Sequence[float | None]) -> Middle:
    """The mean with Student's 95 % interval, for runs that differ in their seed alone.

    >>> str(mean_of([1.0, 2.0, 3.0]))
    '2 [-0.484, 4.48]'
    """
    from scipy.stats import t

    found = [v for v in values if v is not None]
    n = len(found)
    if n < 2:
        return Middle(found[0] if n else nan, nan, nan, 0.0, n)
    half = float(t.ppf(0.975, n - 1)) * stdev(found) / sqrt(n)
    return Middle(mean(found), mean(found) - half, mean(found) + half, 0.95, n)


def tasks(full: bool) -> tuple[str, ...]:
    return FULL if full else DEFAULT


def recipes(task: str, kind: str) -> tuple[str, ...]:
    """Which ways of training a cell of the study compares with plain training: all for the tanh RNN on digits, a few elsewhere."""
    if task != "digits":
        return REAL[kind] + MILD.get((task, kind), ())
    return FRONT if kind == "tanh" else FEW


def plain_key(task: str, kind: str, run: int) -> str:
    return f"plain-{task}-{kind}-{run}"


def cure_key(task: str, kind: str, recipe: str, run: int) -> str:
    return f"cure-{task}-{kind}-{recipe.replace(' ', '+')}-{run}"


def runs_of(found: Found, task: str, kind: str, recipe: str = "none", variant: str = "none") -> list[dict]:
    """All runs of one way of training; of plain training as it is (variant "none") or after a normalisation."""
    if recipe != "none":
        return [found[key] for run in range(RUNS) if (key := cure_key(task, kind, recipe, run)) in found]
    keys = [plain_key(task, kind, run) for run in range(RUNS)]
    return [found[key]["variants"][variant] for key in keys if key in found and variant in found[key]["variants"]]


def settings(found: Found) -> list[tuple[str, str]]:
    """The pairs of data and recurrence that were run."""
    return [(task, kind) for task in FULL for kind in KINDS if plain_key(task, kind, 0) in found]
