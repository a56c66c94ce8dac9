"""Upper bounds of the resolvent between circles: Hadamard's theorem of the three circles, for matrices.

``F(w) = (I - w A)^-1`` is analytic where no ``1 / w`` is an eigenvalue, and log ||F|| is subharmonic. With ``N(r) = max_{|z|=r} r / s(z)`` therefore
log N is a convex, decreasing function of log r outside the spectral radius, and tends to 0. Two circles on which s is bounded from below
bound the Kreiss quotient ``(1 - 1/r) N(r)`` on all the circles between them: the search is one over radii.
"""

from dataclasses import dataclass

import numpy as np

from brittle.spectra._frontier import Curve, circles, least_on
from brittle.spectra._plane import QUICK, Plane
from brittle.spectra._verified import Verifier

POINTS = (
    50_000  # of one circle; where s is tiny over a long arc Lipschitz intervals need more, and the enclosure stays wide
)
ROUNDED = 1 + 1e-12  # outwards: a dozen operations each


@dataclass(frozen=True, eq=False)
class Circle:
    """|z| = radius, on all of which ``s >= curve.proved``; values entered the search lower than computed by ``quick``, relative."""

    radius: float
    curve: Curve
    quick: float

    @property
    def gain(self) -> float:
        """An upper bound of N."""
        return self.radius / self.curve.proved * ROUNDED

    @property
    def bound(self) -> float:
        """An upper bound of the Kreiss quotient on it."""
        return (1 - 1 / self.radius) * self.gain

    @property
    def reached(self) -> tuple[float, float]:
        """The largest Kreiss quotient among the points seen, and the angle of its point."""
        i = int(self.curve.values.argmin())
        return (self.radius - 1) / float(self.curve.values[i]), float(self.curve.t[i])


def circle(plane: Plane, radius: float, ceiling: float, tolerance: float, seen: Curve | None = None) -> Circle:
    """Search one circle as closely as it needs: by a third of the room between its own quotient and ``ceiling``, ``tolerance`` at least.

    Errors: Unsettled. Otherwise its own bound is below the ceiling. ``seen`` is what an earlier search saw of it.
    """
    step, floor, quick = radius - 1, 64 * plane.factored.floor, min(QUICK, tolerance / 4)

    def target(least: float) -> float:
        room = ceiling * least / step - 1 if step > 0 else 1.0
        return least / (1 + min(max(room / 3, tolerance), 1.0))

    curve = least_on(plane, circles(plane), radius, target, quick, enough=floor, seen=seen, limit=POINTS)
    return Circle(radius, curve, quick)


def quotient_between(inner: Circle, outer: Circle) -> tuple[float, float]:
    """An upper bound of ``(1 - 1/r) N(r)`` over the radii from one circle to the other, and the r where the bound is largest.

    log-linear in x = log r between both gains: ``(1 - e^-x) e^(a + b x)`` with b <= 0 has its maximum at ``x = log((1 - b) / -b)``.
    """
    x1, x2 = np.log(inner.radius), np.log(outer.radius)
    y1, y2 = np.log(inner.gain), np.log(outer.gain)
    y2 = min(y1, y2)  # N decreases; a looser bound further out is not used
    b = (y2 - y1) / (x2 - x1)
    top = np.log1p(-1 / b) if b < 0 else x2
    x = min(max(top, x1), x2)
    return float(-np.expm1(-x) * np.exp(y1 + b * (x - x1)) * ROUNDED), float(np.exp(x))


def verified(plane: Plane, verifier: Verifier, found: Circle) -> bool:
    """Whether points of the circle prove ``s >= curve.proved`` on all of it: disks of radius ``s(z_j) - proved`` cover it.

    Real matrices: the upper half, since s is the same at conjugate points. Values enter lower than they were computed by half of
    what the search set aside for that.
    """
    claims = found.curve.values * (1 - found.quick / 2)
    ends = circles(plane).ends(found.radius)
    reach = (claims - found.curve.proved) / found.radius * (1 - 1e-9) - 1e-14  # angles and points are rounded
    chosen = cover(found.curve.t, reach, ends)
    if chosen is None:
        return False
    points = found.radius * np.exp(1j * found.curve.t[chosen])
    return all(verifier.holds(complex(z), float(claim)) for z, claim in zip(points, claims[chosen], strict=True))


def cover(centres: np.ndarray, reach: np.ndarray, ends: tuple[float, float]) -> list[int] | None:
    """Few of the intervals ``centres +- reach`` that cover ``ends``: each time the one that reaches furthest. None where they leave a gap."""
    left, right = centres - reach, centres + reach
    order = np.argsort(left, kind="stable")
    chosen, covered, next_, furthest = [], ends[0], 0, -1
    while covered < ends[1]:
        while next_ < len(order) and left[order[next_]] <= covered:
            if furthest < 0 or right[order[next_]] > right[furthest]:
                furthest = int(order[next_])
            next_ += 1
        if furthest < 0 or right[furthest] <= covered:
            return None
        chosen.append(furthest)
        covered = right[furthest]
    return chosen
