"""Upper bounds of the resolvent between circles: Hadamard's theorem of the three circles, for matrices.

``F(w) = (I - w A)^-1`` is analytic where no ``1 / w`` is an eigenvalue, and log ||F|| is subharmonic. With ``N(r) = max_{|z|=r} r / s(z)`` therefore
log N is a convex, decreasing function of log r outside the spectral radius, and tends to 0. Two circles on which s is bounded from below
bound the Kreiss quotient ``(1 - 1/r) N(r)`` on all the circles between them: the search is one over radii.
"""

from dataclasses import dataclass

import numpy as np

from brittle.spectra._frontier import Curve, Unsettled, circles, least_on
from brittle.spectra._plane import QUICK, Plane
from brittle.spectra._verified import Verifier, norm_above

POINTS = (
    50_000  # of one circle; where s is tiny over a long arc Lipschitz intervals need more, and the enclosure stays wide
)
WORK = 1.1e10  # of one circle, in points times (n + 40)^3, the cost of a verified point (measured): two seconds or so
ATTEMPTS = 16  # at covering a circle, and at most so many points of one that are asked again
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

    Where ``most(n)`` points do not settle it, ``proved`` is what they do show. Errors: Unsettled, where that is less than a quarter of the least
    value. ``seen`` is what an earlier search saw of it.
    """
    step, floor, quick = radius - 1, 64 * plane.factored.floor, min(QUICK, tolerance / 4)

    def target(least: float) -> float:
        room = ceiling * least / step - 1 if step > 0 else 1.0
        return least / (1 + min(max(room / 3, tolerance), 1.0))

    try:
        curve = least_on(
            plane, circles(plane), radius, target, quick, enough=floor, seen=seen, limit=most(len(plane.matrix))
        )
    except Unsettled as reason:
        curve = _as_seen(reason.curve, radius, quick)
        if curve.proved < curve.least / 4:
            raise
    return Circle(radius, curve, quick)


def most(n: int) -> int:
    """How many points one circle of a matrix of n rows may cost."""
    return int(min(POINTS, max(2000.0, WORK / (n + 40) ** 3)))


def _as_seen(curve: Curve, radius: float, quick: float) -> Curve:
    """What the points show of the whole circle: the least of ``(s_1 + s_2 - L) / 2`` over the intervals between them."""
    sure = curve.values * (1 - quick)
    shown = (sure[:-1] + sure[1:] - radius * np.diff(curve.t)) / 2
    return Curve(curve.t, curve.values, float(shown.min()) * (1 - 1e-12))


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
    """Whether ``s >= curve.proved`` on all of the circle could be proved: far out by ``s >= |z| - ||A||``, else by points, since disks of
    radius ``s(z_j) - proved`` cover it.

    Real matrices: the upper half, since s is the same at conjugate points. Values enter lower than they were computed by half of
    what the search set aside for that. Where singular values lie close together, as they do far out, one in some thousand values is too high by
    more: a point that fails is asked again with its decomposition.
    """
    if found.radius > plane.factored.norm and found.curve.proved <= (found.radius - norm_above(plane.matrix)) / ROUNDED:
        return True
    claims = found.curve.values * (1 - found.quick / 2)
    proven = np.zeros(len(claims), bool)
    for _ in range(ATTEMPTS):
        reach = (claims - found.curve.proved) / found.radius * (1 - 1e-9) - 1e-14  # angles and points are rounded
        chosen = cover(found.curve.t, reach, circles(plane).ends(found.radius))
        if chosen is None:
            return False
        failed = []
        for i in (i for i in chosen if not proven[i]):
            z = complex(found.radius * np.exp(1j * found.curve.t[i]))
            proven[i] = verifier.holds(z, float(claims[i]))
            failed += [] if proven[i] else [(i, z)]
        if not failed:
            return True
        if len(failed) > ATTEMPTS:
            return False
        for i, z in failed:
            claims[i] = min(claims[i], plane.pair(z).value * (1 - found.quick / 8))
    return False


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
