"""Circles that enclose the Kreiss constant of a stable matrix."""

from dataclasses import dataclass

import numpy as np

from brittle.spectra._circles import ROUNDED, Circle, circle, most, quotient_between
from brittle.spectra._frontier import Unsettled
from brittle.spectra._plane import Plane
from brittle.spectra._quotient import Quotient, climb
from brittle.spectra._verified import norm_above

ROUNDS = 1000
CIRCLES = 3  # full ones: so many times the points of one are spent on all of them


@dataclass(frozen=True, eq=False)
class Enclosure:
    """rings from the unit circle outwards; best local maximum above 1, if any; upper bound of the quotient outside the unit circle."""

    rings: list[Circle]
    best: Quotient | None
    upper: float


def enclose(at: Plane, unit: Circle, tolerance: float) -> Enclosure:
    """The worst circle is searched more closely, or the worst gap between two of them halved, until no bound is above the ceiling.

    Every state on the way is an enclosure: where a circle cannot be settled, or the points of all of them are spent, it ends there, wider than asked.
    Errors: Unsettled, where not even half the least value of a circle can be shown.
    """
    norm, rings = norm_above(at.matrix), [unit]
    far = 2 + max((1 + tolerance) * norm - 1, 1e-3) / tolerance  # (r - 1) / (r - ||A||) is 1 there, to the tolerance
    steps = np.geomspace(unit.curve.least, far, 2 + int(np.log(far / unit.curve.least) / np.log(10)))
    rings += [circle(at, 1 + step, np.inf, tolerance / 3) for step in steps]
    best, worst = _better(at, None, max(rings, key=lambda ring: ring.reached[0])), np.inf
    for _ in range(ROUNDS):
        ceiling = max(1.0, 0.0 if best is None else best.value) * (1 + tolerance)
        (worst, radius), i = max((quotient_between(rings[j], rings[j + 1]), j) for j in range(len(rings) - 1))
        if worst <= ceiling or sum(len(ring.curve.t) for ring in rings) > CIRCLES * most(len(at.matrix)):
            break
        try:
            j = _improve(at, rings, i, radius, ceiling, tolerance)
        except Unsettled:
            break
        best = _better(at, best, rings[j])
    last = rings[-1]
    beyond = min((last.radius - 1) / (last.radius - norm) if last.radius > norm else np.inf, last.gain) * ROUNDED
    return Enclosure(rings, best, max(float(worst), beyond, 1.0))


def _improve(at: Plane, rings: list[Circle], i: int, radius: float, ceiling: float, tolerance: float) -> int:
    """Search the looser of the circles i and i + 1 again, or one between them, near ``radius``; which one it was. Errors: Unsettled."""
    for j in (i, i + 1):
        if rings[j].bound > ceiling:
            closer = circle(at, rings[j].radius, ceiling, tolerance / 3, rings[j].curve)
            if closer.curve.proved > rings[j].curve.proved:
                rings[j] = closer
                return j
    low, high = rings[i].radius, rings[i + 1].radius
    between = min(max(radius, 0.8 * low + 0.2 * high), 0.2 * low + 0.8 * high)
    rings.insert(i + 1, circle(at, between, ceiling, tolerance / 3))
    return i + 1


def _better(at: Plane, best: Quotient | None, ring: Circle) -> Quotient | None:
    """The local maximum next to the largest quotient of a circle, where that exceeds the best so far and 1."""
    if ring.reached[0] <= (1.0 if best is None else best.value * (1 + 1e-12)):
        return best
    found = climb(at, [(ring.radius, ring.reached[1])])[0]
    return found if found.value > (1.0 if best is None else best.value) else best
