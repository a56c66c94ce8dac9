"""What the numbers of a recurrent matrix or trajectory say, in plain sentences."""

from collections.abc import Mapping
from math import exp, log

from brittle.questions._matrices import FORMATS, GATE
from brittle.spectra._portrait import FLOAT32, INSIDE

ROUNDING = 1e-6  # eight units in the last place of a float32 state of length 1: slower than this, float32 cannot tell slow from still
Beside = tuple[float | None, int]


def stability(radius: float, norm: float) -> str:
    """One word: what the linear map does when it is iterated.

    >>> stability(0.9, 2.0), stability(1.0000001, 1.0), stability(1.2, 2.0)
    ('stable', 'marginal', 'unstable')
    """
    if abs(radius - 1) <= FLOAT32 * max(norm, 1):
        return "marginal"
    return "stable" if radius < 1 else "unstable"


def of_matrix(name: str, role: str, row: Mapping, rounding: Mapping[str, float], beside: Mapping[str, Beside]) -> str:
    """Stability, robustness, transient growth and non-normality of one matrix.

    row : its quantities; rounding : norms of what rounding does; beside : the share of random and of untrained matrices that are less
    non-normal, and how many these are.
    """
    said = [f"{name} is {row['stability']}: spectral radius {row['radius']:.4g}, norm {row['norm']:.4g}."]
    said += [_away(row, rounding), _growth(row), _normality(row, beside)]
    if role == GATE and row["stability"] == "unstable":
        said.append("A gate block alone is not the recurrence: what the network does is told by its Jacobians.")
    return " ".join(filter(None, said))


def _away(row: Mapping, rounding: Mapping[str, float]) -> str:
    """How small a change makes it unstable, beside a normal matrix and the rounding of the weights."""
    away, scaled = row["distance"], row["scale"] != 1
    if away is None:
        return ""
    lead = f"Scaled to radius {INSIDE:g}, a" if scaled else "A"
    if not away:
        return f"{lead} change of the size of rounding makes it unstable."
    size = row["norm"] * row["scale"]
    own = f", {_share(100 * away / size)} % of its own," if size else ""
    real = f" ({row['distance_real']:.3g} if it must be real)" if row["distance_real"] is not None else ""
    text = f"{lead} change of norm {away:.3g}{real}{own} makes it unstable; "
    text += f"a normal matrix would take {1 - row['radius'] * row['scale']:.3g}."
    multiples = [f"{_times(away / rounding[f])} times {f}" for f in FORMATS if rounding.get(f)]
    return text + (f" That is {', '.join(multiples)} rounding of the weights." if multiples and not scaled else "")


def _times(value: float) -> str:
    """Three digits, written out from a hundred on."""
    return f"{value:.3g}" if value < 99.5 else f"{float(f'{value:.3g}'):,.0f}"


def _share(value: float) -> str:
    """A percentage in two digits, written out from a hundred on."""
    return f"{value:.2g}" if value < 99.5 else f"{value:.0f}"


def _growth(row: Mapping) -> str:
    top, lower, upper = row["transient"], row["kreiss_lower"], row["kreiss_upper"]
    so = ", so scaled," if row["scale"] != 1 else ""
    bounds = f" (Kreiss constant {lower:.3g} to {upper:.3g})" if lower is not None else ""
    if top <= 1 + 1e-9:
        return f"No power of it{so} exceeds 1{bounds}."
    return f"Its powers{so} first grow {top:.3g}-fold, at step {int(row['transient_step'])}{bounds}; a normal matrix's never grow."


def _normality(row: Mapping, beside: Mapping[str, Beside]) -> str:
    parts = [_rank(share, count, what) for what, (share, count) in beside.items() if share is not None]
    text = f"Non-normality {row['henrici']:.2f} of 1{', ' if parts else ''}{' and '.join(parts)}"
    if row["defective"] is None:
        return f"{text}."
    return f"{text}; a change of norm {row['defective']:.2g} makes it impossible to diagonalise."


def _rank(share: float, count: int, what: str) -> str:
    """Where a value stands among others.

    >>> _rank(1.0, 20, "random matrices"), _rank(0.55, 20, "random matrices")
    ('more than all 20 random matrices', 'more than 11 of 20 random matrices')
    """
    if share in (0, 1):
        return f"{'more' if share else 'less'} than all {count} {what}"
    return f"more than {share * count:.0f} of {count} {what}"


def of_trajectory(part: str, row: Mapping) -> str:
    """What small changes of the state do along the data: at random on average, and at worst."""
    first, windows, worst = row["exponents"][0], row["growth_windows"], row["growth_worst"]
    mean_length = row["steps"] / row["sequences"]
    text = f"Along the data, in {part or 'the cell'}, a random small change of the state "
    text += f"{'shrinks' if first < 0 else 'grows'} {_percent(first)} a step (first Lyapunov exponent {first:.3g})"
    if first < 0 and log(1000) / -first <= mean_length:
        text += f", so that a thousandth is left after {log(1000) / -first:.0f} steps"
    k = max(range(len(windows)), key=worst.__getitem__)
    span = "one step" if windows[k] == 1 else f"{windows[k]} steps"
    if worst[k] <= 1:
        return f"{text}; even the worst never grows (at most {worst[k]:.3g}-fold, over {span})."
    where = f"sequence {row['growth_sequence'][k]}, from step {row['growth_start'][k]}"
    return f"{text}; the worst grows {worst[k]:.3g}-fold over {span} ({where}; in the median of {row['growth_places'][k]} places {row['growth_median'][k]:.3g}-fold)."


def _percent(rate: float) -> str:
    """What a rate in nats does in one step.

    >>> _percent(-0.105), _percent(1.2)
    ('by 10 %', '3.3-fold')
    """
    return f"by {100 * abs(exp(rate) - 1):.2g} %" if rate < log(2) else f"{exp(rate):.2g}-fold"


def of_fixed_point(part: str, stable: str, radius: float, found: int, starts: int, where: str) -> str:
    """One fixed point."""
    name = part or "the cell"
    return f"{name} has a fixed point at {where}, {stable} (spectral radius {radius:.4g}), reached from {found} of {starts} starts."


def of_slow_point(part: str, speed: float, found: int, starts: int, where: str) -> str:
    """A slow point, whose Jacobian always has the eigenvalue 1: there the gradient of the speed vanishes and the speed does not."""
    name = part or "the cell"
    reached = f"the least speed that the search came to from {found} of {starts} starts"
    if speed <= ROUNDING:
        reached += ", so small that a network evaluated in float32 may stand still there"
    return f"{name} has a slow point at {where}, where it moves by {speed:.3g} a step: {reached}."
