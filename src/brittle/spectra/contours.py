"""The picture of a pseudospectrum as data: a grid, its values, and the boundaries of the epsilon-pseudospectra as lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._contour_lines import contour_lines
from brittle.spectra._matrix import check_epsilon, square
from brittle.spectra._schur import Complex
from brittle.spectra.numerical_range import numerical_range
from brittle.spectra.pseudospectrum import error_floor, pseudospectrum

ABOUT = About(
    promise="boundaries of epsilon-pseudospectra as lines, linear between the points of a grid",
    reference="Trefethen & Embree, Spectra and Pseudospectra, 2005",
    leaves=(),
    cost="no pass; one pseudospectrum on a grid",
)
MARGIN = 0.5  # of the larger side of the eigenvalues' box, as a frame around it; EigTool's pictures look like that, nothing more

Window = tuple[float, float, float, float]  # left, right, bottom, top


@dataclass(frozen=True, eq=False)
class Contours:
    """x (nx,), y (ny,), values (ny, nx): smallest singular values of ``(x + iy) I - A``; levels increasing; lines[k]: polylines (m, 2)
    of levels[k], none where the grid does not cut it; eigenvalues (n,); floor: what rounding hides."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    levels: tuple[float, ...]
    lines: tuple[tuple[np.ndarray, ...], ...]
    eigenvalues: np.ndarray
    floor: float


def contours(
    matrix: object,
    levels: Sequence[float] | None = None,
    *,
    window: Window | None = None,
    points: int = 100,
    tolerance: float = 1e-4,
    threads: int = 1,
) -> Contours:
    """Boundaries of the epsilon-pseudospectra of A at some ``levels`` of epsilon, inside a ``window`` of the complex plane.

    Guarantee: values as of :func:`pseudospectrum`; lines are interpolated, and what is smaller than a cell can be missed (s_min is
    1-Lipschitz, so a point with s_min > level + distance has no point of the pseudospectrum within that distance).

    levels    default: powers of ten, or halves of them, that the grid meets, at most six
    window    left, right, bottom, top. Default with levels: :func:`whole_window` of the largest, which holds every line; without:
              the eigenvalues with a frame around them
    points    along each side; tolerance, threads: of the values

    Errors: InputError in plain words where no level is met inside the window, or a level drowns in the rounding of the matrix.

    >>> found = contours([[0.5, 1.0], [0.0, 0.5]], [0.1])  # a disk of radius sqrt(epsilon^2 + epsilon) = 0.332
    >>> circle = found.lines[0][0]
    >>> np.hypot(circle[:, 0] - 0.5, circle[:, 1]).round(2).tolist() == [0.33] * len(circle)
    True

    Reference: Trefethen & Embree 2005; the default window and levels are chosen in the manner of EigTool.
    """
    a = square(matrix)
    if points < 2:
        raise InputError("points", "at least 2 along each side", points, "100 make a smooth picture")
    eigenvalues = np.asarray(np.linalg.eigvals(a), np.complex128)
    wanted = None if levels is None else tuple(sorted(check_epsilon(a, level) for level in levels))
    if wanted == ():
        raise InputError("levels", "at least one, or None", "none", "leave it out to have them chosen")
    box = (
        _checked(window)
        if window is not None
        else _framed(a, eigenvalues)
        if wanted is None
        else whole_window(a, wanted[-1])
    )
    x, y = np.linspace(*box[:2], points), np.linspace(*box[2:], points)
    values = pseudospectrum(a, x[None] + 1j * y[:, None], tolerance=tolerance, threads=threads)
    drawn = _chosen(values, error_floor(a)) if wanted is None else wanted
    lines = tuple(contour_lines(x, y, values, level) for level in drawn)
    if not any(lines):
        raise _missed(values, drawn, box)
    return Contours(x, y, values, drawn, lines, eigenvalues, error_floor(a))


def whole_window(matrix: object, epsilon: float) -> Window:
    """A box that holds the whole epsilon-pseudospectrum: that of the numerical range, ``epsilon`` wider on all sides, up to rounding.

    >>> whole_window([[0.0, 1.0], [0.0, 0.0]], 0.25)
    (-0.75, 0.75, -0.75, 0.75)
    """
    a = square(matrix)
    right, top, left, bottom = numerical_range(a, count=4).support
    return float(-left - epsilon), float(right + epsilon), float(-bottom - epsilon), float(top + epsilon)


def _framed(a: np.ndarray, eigenvalues: Complex) -> Window:
    """The eigenvalues with a frame around them, no larger than what holds everything of a tenth of the norm."""
    low, high = eigenvalues.real.min(), eigenvalues.real.max()
    bottom, top = eigenvalues.imag.min(), eigenvalues.imag.max()
    norm = float(np.linalg.norm(a, 2)) or 1.0
    frame = max(MARGIN * max(high - low, top - bottom), norm / 10)
    whole = whole_window(a, norm / 10)
    return (
        max(low - frame, whole[0]),
        min(high + frame, whole[1]),
        max(bottom - frame, whole[2]),
        min(top + frame, whole[3]),
    )


def _chosen(values: np.ndarray, floor: float) -> tuple[float, ...]:
    from brittle.spectra._portrait import levels

    return tuple(10.0**k for k in levels(np.log10(np.maximum(values, max(4 * floor, 1e-300)))))


def _checked(window: Window) -> Window:
    left, right, bottom, top = (float(edge) for edge in window)
    if not (np.isfinite([left, right, bottom, top]).all() and left < right and bottom < top):
        raise InputError("window", "left < right and bottom < top, finite", window, "give (left, right, bottom, top)")
    return left, right, bottom, top


def _missed(values: np.ndarray, levels: tuple[float, ...], window: Window) -> InputError:
    low, high = float(values.min()), float(values.max())
    if high <= levels[0]:
        do = "all of it lies inside the pseudospectra: widen the window, or lower the levels"
    else:
        cell = max((window[1] - window[0]), (window[3] - window[2])) / (len(values) - 1)
        do = f"widen or move it (whole_window holds everything), raise the levels, or use more points: a cell is {cell:.3g} wide"
    return InputError("window", f"one that a contour crosses (levels {levels[0]:.3g} to {levels[-1]:.3g})", f"{low:.3g} <= s_min <= {high:.3g} on the grid", do)  # fmt: skip
