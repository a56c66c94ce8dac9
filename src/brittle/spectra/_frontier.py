"""Curves that sweep the plane (circles |z| = c, lines Re z = c), the smallest singular value on one of them, and how far out a pseudospectrum reaches.

``s`` is 1-Lipschitz: between two points of a curve at distance L it is at least ``(s_1 + s_2 - L) / 2``. Halving whatever interval
that does not settle gives the global minimum (Piyavskii 1972; Shubert 1972). Where others solve a 2n eigenproblem per curve
(criss-cross: Burke, Lewis and Overton 2003; Mengi and Overton 2005) this asks the fast kernel for some hundred points, needs no tolerance
for "an eigenvalue on the circle", and proves what it says up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from brittle.errors import InputError
from brittle.spectra._plane import QUICK, Pair, Plane

NODES = 17
POINTS = 200_000  # of one search; a search that needs more is told to the user
SHARE = (
    0.05  # local minima up to this above the least node are polished too: interval bounds may hide a lower one there
)


class Unsettled(InputError):
    """A curve that so many points do not settle: the smallest singular value is tiny on a long arc of it. ``curve`` is what was seen."""

    def __init__(self, c: float, curve: "Curve") -> None:
        super().__init__(
            "matrix",
            f"a smallest singular value on |z| or Re z = {c:.6g} that {len(curve.t):,} points settle",
            f"about {curve.least:.2g}",
            "it is close to that curve on a long arc, as high Jordan blocks are: ask for a larger epsilon or a coarser tolerance",
        )
        self.curve = curve


@dataclass(frozen=True)
class Sweep:
    """A family of curves, c growing outwards: ``at(c, t)``, ``tangent(c, t) = dz/dt`` of length ``speed(c)``, t in ``ends(c)``.

    level    c of a point; outward  the unit normal at a point; inner  the c that the eigenvalues reach
    """

    at: Callable[[float, Any], Any]
    tangent: Callable[[float, float], complex]
    speed: Callable[[float], float]
    ends: Callable[[float], tuple[float, float]]
    level: Callable[[complex], float]
    parameter: Callable[[complex], float]
    outward: Callable[[complex], complex]
    inner: float


@dataclass(frozen=True, eq=False)
class Curve:
    """What a search saw of one curve: parameters and values (m,), sorted; on all of it ``s >= proved`` as far as the values hold."""

    t: np.ndarray
    values: np.ndarray
    proved: float

    @property
    def least(self) -> float:
        return float(self.values.min())


def circles(plane: Plane) -> Sweep:
    """|z| = c; of a real matrix the upper half."""
    return Sweep(
        at=lambda c, t: c * np.exp(1j * np.asarray(t)),
        tangent=lambda c, t: complex(1j * c * np.exp(1j * t)),
        speed=lambda c: c,
        ends=lambda c: (0.0, np.pi) if plane.real else (0.0, 2 * np.pi),
        level=abs,
        parameter=lambda z: float(np.angle(z)) % (2 * np.pi),
        outward=lambda z: z / abs(z) if z else 1.0 + 0.0j,
        inner=float(np.abs(plane.eigenvalues).max()),
    )


def lines(plane: Plane, reach: float) -> Sweep:
    """Re z = c with |Im z| at most the norm plus ``reach``: beyond, ``s >= |Im z| - ||A|| > reach``."""
    height = plane.factored.norm * (1 + 1e-12) + reach
    return Sweep(
        at=lambda c, t: c + 1j * np.asarray(t),
        tangent=lambda c, t: 1j,
        speed=lambda c: 1.0,
        ends=lambda c: (0.0, height) if plane.real else (-height, height),
        level=lambda z: z.real,
        parameter=lambda z: z.imag,
        outward=lambda z: 1.0 + 0.0j,
        inner=float(np.real(plane.eigenvalues).max()),
    )


def least_on(
    plane: Plane,
    sweep: Sweep,
    c: float,
    target: Callable[[float], float],
    quick: float = QUICK,
    enough: float = 0.0,
    seen: Curve | None = None,
    limit: int = POINTS,
) -> Curve:
    """Search one curve until ``s >= target(least value seen)`` is settled on all of it, ``target(x) < x``, or until a value is below ``enough``.

    The values are taken ``quick`` lower than the kernel says, which is asked for a quarter of that. ``seen`` goes on from an earlier search of the same curve with the same ``quick``.
    Errors: Unsettled after ``limit`` points.
    """
    t = np.linspace(*sweep.ends(c), NODES) if seen is None else seen.t
    s = plane.values(sweep.at(c, t), quick / 4) if seen is None else seen.values
    while True:
        proved = target(float(s.min()))
        if s.min() < enough:
            return Curve(t, s, 0.0)
        sure = s * (1 - quick)
        gap, room = sweep.speed(c) * np.diff(t), sure[:-1] + sure[1:] - 2 * proved
        wide = np.flatnonzero(gap > room)
        if not len(wide):
            return Curve(t, s, proved)
        if len(t) > limit:
            raise Unsettled(c, Curve(t, s, 0.0))
        pieces = np.clip(np.ceil(gap[wide] / np.maximum(room[wide], gap[wide] / 4)), 2, 4).astype(int)
        more = np.concatenate([np.linspace(t[i], t[i + 1], k + 1)[1:-1] for i, k in zip(wide, pieces, strict=True)])
        order = np.argsort(np.concatenate([t, more]), kind="stable")
        t = np.concatenate([t, more])[order]
        s = np.concatenate([s, plane.values(sweep.at(c, more), quick / 4)])[order]


def polished(plane: Plane, sweep: Sweep, c: float, curve: Curve) -> list[Pair]:
    """Local minima of s on the curve to rounding, the least first: those that the search could not tell from the global one."""
    v = np.concatenate([[np.inf], curve.values, [np.inf]])
    dips = np.flatnonzero((v[1:-1] <= v[:-2]) & (v[1:-1] <= v[2:]) & (curve.values <= curve.least * (1 + SHARE)))
    dips = dips[np.argsort(curve.values[dips], kind="stable")][:8]
    last = len(curve.t) - 1
    found = [
        descend(plane, sweep, c, *(float(t) for t in (curve.t[max(i - 1, 0)], curve.t[i], curve.t[min(i + 1, last)])))
        for i in dips
    ]
    return sorted(found, key=lambda p: p.value)


def descend(plane: Plane, sweep: Sweep, c: float, low: float, middle: float, high: float) -> Pair:
    """The minimum of s between two parameters: where ``ds/dt = Re(u* v dz/dt)`` passes from below to above zero. Never worse than the middle."""
    pair = lambda t: plane.pair(complex(sweep.at(c, np.float64(t))))
    slope = lambda p, t: (p.overlap * sweep.tangent(c, t)).real
    best, t, size = pair(middle), middle, sweep.speed(c)
    for _ in range(60):
        g = slope(best, t)
        if abs(g) <= 1e-13 * size or high - low <= 4e-16 * max(abs(t), 1):
            break
        low, high = (low, t) if g > 0 else (t, high)
        step = _newton(pair, slope, t, g, high - low)
        other = t + step if low < t + step < high else (low + high) / 2
        tried = pair(other)
        if tried.value > best.value * (1 + 1e-15):  # past a bend, or over the crest to the next dip
            low, high = (low, other) if other > t else (other, high)
            if high - low <= 1e-9 * max(abs(t), 1e-3):
                break
            continue
        best, t = tried, other
    return best


def _newton(pair: Callable, slope: Callable, t: float, g: float, width: float) -> float:
    """A Newton step with a difference quotient of the slope."""
    h = 1e-5 * width
    if not h:  # the dip is an end of the curve: nothing is left between the two parameters
        return 0.0
    bend = (slope(pair(t + h), t + h) - g) / h
    return -g / bend if bend > 0 else -np.sign(g) * width / 2


def outwards(plane: Plane, sweep: Sweep, start: Pair, epsilon: float) -> Pair:
    """The point along the outward normal at which ``s = epsilon``, from one at which ``s <= epsilon``."""
    direction, inside, outside = sweep.outward(start.point), 0.0, np.inf
    now, x = start, 0.0
    for _ in range(80):
        short = epsilon - now.value
        if abs(short) <= 4e-16 * epsilon:
            break
        inside, outside = (x, outside) if short > 0 else (inside, x)
        rise = (now.overlap * direction).real
        step = (
            x + short / rise if rise > 0.05 or short < 0 < rise else x + max(short, x)
        )  # doubling where s hardly rises yet
        if not inside < step < outside:
            step = (inside + outside) / 2 if np.isfinite(outside) else x + abs(short)
        if step == x or outside - inside <= 2e-16 * max(abs(start.point), abs(x)):
            break
        x = step
        now = plane.pair(start.point + x * direction)
    return now


def furthest(plane: Plane, sweep: Sweep, epsilon: float, tolerance: float) -> Pair:
    """A point of the closed epsilon-pseudospectrum beyond whose c (by more than ``tolerance`` of its lead over the eigenvalues) there is none.

    From the outermost eigenvalue outwards; then curves slightly further out are searched until one has ``s >= epsilon`` all over:
    every component holds an eigenvalue, all of them are inside, so nothing of the set is outside.
    """
    z = max(plane.eigenvalues, key=lambda e: (sweep.level(complex(e)), e.imag))
    best = _climb(plane, sweep, outwards(plane, sweep, plane.pair(complex(z)), epsilon), epsilon)
    quick = min(QUICK, tolerance / 8)
    settled = lambda least: min(epsilon, least * (1 - 4 * quick))
    for _ in range(100):
        lead = sweep.level(best.point) - sweep.inner
        c = sweep.level(best.point) + tolerance * max(lead, epsilon)
        curve = least_on(plane, sweep, c, settled, quick, enough=epsilon * (1 - 4 * quick))
        if curve.least >= epsilon:
            return best
        seen = plane.pair(complex(sweep.at(c, curve.t[int(curve.values.argmin())])))
        if seen.value >= epsilon:
            return best
        best = _climb(plane, sweep, outwards(plane, sweep, seen, epsilon), epsilon)
    return best


def _climb(plane: Plane, sweep: Sweep, start: Pair, epsilon: float) -> Pair:
    """Alternate the least s on the curve with the way outwards, until neither moves: quadratic convergence (Mengi and Overton 2005)."""
    best = start
    for _ in range(60):
        c, t = sweep.level(best.point), sweep.parameter(best.point)
        width = 4 * epsilon / max(sweep.speed(c), 1e-300)
        dip = descend(plane, sweep, c, t - width, t, t + width)
        if not dip.value < best.value * (1 - 1e-15):
            return best
        further = outwards(plane, sweep, dip, epsilon)
        gain = sweep.level(further.point) - c
        best = further if gain > 0 else best
        if gain <= 1e-15 * abs(c):
            return best
    return best
