"""The boundary of stability, |z| = 1 or Re z = 0, seen from inside: where a matrix is closest to having an eigenvalue on it."""

import numpy as np

from brittle.errors import InputError
from brittle.spectra._frontier import POINTS, Sweep, Unsettled, circles, least_on, lines, polished
from brittle.spectra._matrix import rounding_floor
from brittle.spectra._plane import Pair, Plane

WORK = 4e9  # of one search, in points times n^2, what a point costs: some five seconds (measured)
TIMES = {"discrete": 1.0, "continuous": 0.0}  # the level of the boundary


def boundary(plane: Plane, time: str) -> tuple[Sweep, float]:
    """The curves of that kind of time, and the level of its boundary of stability."""
    if time not in TIMES:
        raise InputError(
            "time", " | ".join(TIMES), time, "steps of a recurrence are discrete, dh/dt = A h is continuous"
        )
    reach = (
        float(np.abs(plane.eigenvalues).max()) + plane.factored.departure
    )  # s on the line is nowhere needed above this
    return (circles(plane), 1.0) if time == "discrete" else (lines(plane, reach), 0.0)


def stable(plane: Plane, time: str) -> bool:
    """Whether the eigenvalues are inside, by more than rounding."""
    sweep, level = boundary(plane, time)
    return sweep.inner < level - 2 * rounding_floor(plane.matrix)


def weakest(plane: Plane, time: str, tolerance: float, inside: float = 0.0) -> list[Pair]:
    """The points of the boundary at which s is least, the least first: all local minima within ``tolerance`` of it.

    The first is the global minimum up to that tolerance, proved by the search; where s is so tiny on a long arc that this needs too many points,
    it is the least of those seen. ``inside`` shrinks the boundary.
    """
    sweep, level = boundary(plane, time)
    quick = min(1e-3, tolerance / 8)
    limit = int(min(POINTS, max(20_000.0, WORK / len(plane.matrix) ** 2)))
    try:
        curve = least_on(plane, sweep, level - inside, lambda least: least * (1 - tolerance / 2), quick, limit=limit)
    except Unsettled as reason:
        curve = reason.curve
    return polished(plane, sweep, level - inside, curve)
