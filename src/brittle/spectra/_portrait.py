"""One matrix described: its quantities, and what is needed to draw it, as plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brittle.randomness import fold
from brittle.spectra._frontier import Unsettled
from brittle.spectra.distance_to_defective import distance_to_defective
from brittle.spectra.distance_to_instability import distance_to_instability
from brittle.spectra.eigenvalue_conditions import eigenvalue_conditions
from brittle.spectra.eigenvector_condition import eigenvector_condition
from brittle.spectra.henrici import henrici
from brittle.spectra.kreiss import kreiss
from brittle.spectra.numerical_radius import numerical_radius
from brittle.spectra.numerical_range import numerical_range
from brittle.spectra.pseudospectrum import error_floor, pseudospectrum
from brittle.spectra.transient import transient

INSIDE = 0.99  # radius to which an unstable matrix is scaled before its robustness is asked: theory's choice, arbitrary
FLOAT32 = 1e-6  # of the norm: what rounding the weights to float32 may move; nearer to 1 a radius is marginal
DENSE = 600  # rows up to which Kreiss constant, distances and grids are computed; cubes of more take minutes
DROWNED = 64  # rounding floors below which a distance has no digit left, as in the Kreiss enclosure
REAL = 160  # rows up to which the real distance is computed: it took 75 s at 256


@dataclass(frozen=True)
class Effort:
    """What is computed. grid: points a side of the picture (0: none); kreiss: relative width of the enclosure (0: none); real, defective: those
    distances; nulls: random matrices for the percentile; close: those of them whose every quantity is computed; copies: untrained networks;
    starts: of the search for fixed points; fixed: points described; sequences: followed along data; exponents: of Lyapunov."""

    grid: int
    kreiss: float
    real: bool
    defective: bool
    nulls: int
    close: int
    copies: int
    starts: int
    fixed: int
    sequences: int
    exponents: int


EFFORTS = {
    "quick": Effort(40, 0.0, False, False, 20, 3, 2, 8, 1, 16, 4),
    "standard": Effort(64, 0.05, True, True, 20, 3, 5, 24, 2, 64, 8),
    "thorough": Effort(128, 0.01, True, True, 100, 20, 20, 96, 4, 512, 32),
}
QUANTITIES = (
    "norm",
    "numerical_radius",
    "henrici",
    "condition",
    "distance",
    "kreiss_lower",
    "kreiss_upper",
    "transient",
)


def quantities(a: np.ndarray, effort: Effort) -> dict[str, float | None]:
    """What one matrix is, in numbers. Those from ``distance`` on are of ``scale * A``: A itself where it is stable, else scaled to radius INSIDE.

    None stands for what this effort, or a matrix of this size, leaves out.
    """
    values = np.linalg.eigvals(a)
    radius = float(np.abs(values).max())
    scale = 1.0 if radius < 1 else INSIDE / radius
    inner = scale * a
    found: dict[str, float | None] = {
        "radius": radius,
        "norm": float(np.linalg.norm(a, 2)),
        "numerical_radius": numerical_radius(a, tolerance=1e-6),
        "henrici": henrici(a, relative=True),
        "condition": eigenvector_condition(a),
        "eigenvalue_condition": float(eigenvalue_conditions(a)[1].max()),
        "scale": scale,
        "distance": _away(inner) if len(a) <= DENSE else None,
        "distance_real": _away(inner, real=True) if effort.real and np.isrealobj(a) and len(a) <= REAL else None,
        "defective": distance_to_defective(a) if effort.defective and 2 <= len(a) <= DENSE else None,
        "kreiss_lower": None,
        "kreiss_upper": None,
    }
    if effort.kreiss and len(a) <= DENSE:
        enclosed = kreiss(inner, tolerance=effort.kreiss)
        found |= {"kreiss_lower": float(enclosed.lower), "kreiss_upper": float(enclosed.upper)}
    norms = settled_norms(inner)
    return found | {"transient": float(norms.max()), "transient_step": int(norms.argmax()), "settled": len(norms) - 1}


def _away(a: np.ndarray, real: bool = False) -> float:
    """The distance to instability; 0 where it drowns in the rounding of the matrix, which one look at the boundary beside the spectrum tells."""
    values = np.linalg.eigvals(a)
    values = values[values != 0]
    if len(values) and pseudospectrum(a, values / np.abs(values)).min() <= DROWNED * error_floor(a):
        return 0.0
    try:
        return distance_to_instability(a, real=real)
    except Unsettled:
        return 0.0


def settled_norms(a: np.ndarray, most: int = 512) -> np.ndarray:
    """``|A^k|`` for k = 0, 1, ... until one of them is at most 1, after which none is larger than before; at most ``most`` steps.

    Large powers are measured by block power iteration from the singular vectors of the power before: attained values, lower ends to about 1e-9.
    """
    norms, power = [1.0], a
    probe = np.linalg.qr(np.random.default_rng(0).standard_normal((len(a), min(4, len(a)))))[0]
    for _ in range(most):
        size, probe = _norm(power, probe)
        norms.append(size)
        if size <= 1:
            break
        power = a @ power
    return np.array(norms)


def _norm(a: np.ndarray, probe: np.ndarray) -> tuple[float, np.ndarray]:
    if len(a) <= 48:  # a whole decomposition costs no more
        return float(np.linalg.norm(a, 2)), probe
    before = 0.0
    for _ in range(60):
        forth = a @ probe
        size = float(np.linalg.norm(forth, 2))
        if size <= before * (1 + 1e-10):
            return max(size, before), probe
        before, probe = size, np.linalg.qr(a.conj().T @ forth)[0]
    return before, probe


def picture(a: np.ndarray, effort: Effort, scale: float, settled: int = 60) -> dict[str, list]:
    """Lists to draw: eigenvalues, numerical range, log10 of s_min on a grid (upper half for real matrices), transient with envelopes.

    scale : of the transient; settled : the step at which its powers have died, a little beyond which it is drawn.
    """
    values = np.linalg.eigvals(a)
    touched = numerical_range(a, count=90)
    grown = transient(scale * a, int(np.clip(1.2 * settled, 24, 300 if len(a) <= 100 else 120)))
    shown = {
        "eigenvalues": _pairs(values[np.lexsort((values.imag, -np.abs(values)))]),
        "numerical_range": _pairs(touched.points),
        "transient_norms": _short(grown.norms),
        "transient_lower": _short(grown.lower),
        "transient_upper": _short(grown.upper),
        "grid_x": [],
        "grid_y": [],
        "grid": [],
        "levels": [],
    }
    if not effort.grid or len(a) > DENSE:
        return shown
    reach = 1.12 * max(1.15, min(float(np.abs(touched.points).max()), 1.5 * float(np.abs(values).max())))
    x = np.linspace(-reach, reach, effort.grid)
    y = x[x >= 0] if np.isrealobj(a) else x
    y = np.concatenate([[0.0], y[y > 0]]) if np.isrealobj(a) else y
    heights = np.log10(pseudospectrum(a, x[None] + 1j * y[:, None], tolerance=1e-3))
    return shown | {
        "grid_x": _short(x),
        "grid_y": _short(y),
        "grid": heights.round(3).tolist(),
        "levels": levels(heights),
    }


def levels(heights: np.ndarray, most: int = 6) -> list[float]:
    """Exponents of the contours to draw: whole or half powers of ten above the least fiftieth of the grid, at most ``most``.

    >>> levels(np.linspace(-3, 0.2, 1000))
    [-2.5, -2.0, -1.5, -1.0, -0.5, 0.0]
    """
    low, high = float(np.quantile(heights, 0.02)), float(heights.max())
    step = next(s for s in (0.25, 0.5, 1.0, 2.0, 4.0, 100.0) if (high - low) / s < most + 1)
    first, last = int(np.ceil(low / step)), int(np.floor(high / step))
    return [k * step + 0.0 for k in range(first, last + 1)][-most:]


def normal_like(found: Mapping[str, float | None]) -> dict[str, float | None]:
    """The quantities of a normal matrix with the same eigenvalues, in closed form; scaled as ``found`` was."""
    radius, scale = found["radius"] or 0.0, found["scale"] or 1.0
    inner = radius * scale
    return {
        "norm": radius, "numerical_radius": radius, "henrici": 0.0, "condition": 1.0, "distance": 1 - inner, "kreiss_lower": 1.0,
        "kreiss_upper": 1.0, "transient": 1.0,
    }  # fmt: skip


def random_like(size: int, radius: float, count: int, seed: int, name: str) -> list[np.ndarray]:
    """Matrices of independent normal entries, scaled to the same spectral radius."""
    drawn = np.random.default_rng(fold(seed, "random matrices", size, name)).standard_normal((count, size, size))
    return [g * (radius / float(np.abs(np.linalg.eigvals(g)).max())) for g in drawn]


def scaled_to(a: np.ndarray, radius: float) -> np.ndarray:
    own = float(np.abs(np.linalg.eigvals(a)).max())
    return a * (radius / own) if own else a


def medians(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Of every quantity over several matrices."""
    column = lambda name: [v for row in rows if (v := row.get(name)) is not None]
    return {name: float(np.median(column(name))) if column(name) else None for name in QUANTITIES}


def percentile(value: float, others: Sequence[float]) -> float | None:
    """The share of the others that are smaller; None without others."""
    return float(np.mean([other < value for other in others])) if len(others) else None


def _pairs(values: np.ndarray) -> list[list[float]]:
    return [[float(f"{z.real:.6g}"), float(f"{z.imag:.6g}")] for z in np.asarray(values, complex).tolist()]


def _short(values: Sequence[float] | np.ndarray) -> list:
    return [float(f"{v:.6g}") for v in np.asarray(values, float).tolist()]
