"""Gradients of the scalars of a spectrum, one function each: ``f(A, options) -> (value, gradient)``.

Of a real function of a matrix the gradient G is the one with ``d value = Re sum conj(G_ij) dA_ij``: for complex A torch's convention, for real A the
real part is taken. With the singular triple ``(zI - A) v = s u``: ``ds = Re(u* dz v) - Re(u* dA v)``, so G of s is ``-u v*``.
"""

from dataclasses import dataclass

import numpy as np

from brittle.errors import InputError
from brittle.spectra._circles import circle
from brittle.spectra._enclosure import enclose
from brittle.spectra._frontier import Unsettled, circles, furthest, least_on, polished
from brittle.spectra._instability import stable, weakest
from brittle.spectra._matrix import check_epsilon
from brittle.spectra._plane import Pair, Plane, plane
from brittle.spectra._quotient import climb
from brittle.spectra.transient import power_norms

Derivative = tuple[float, np.ndarray]
STEPS = (
    1e-3,
    1e-2,
    1e-1,
    1.0,
)  # above the unit circle, from which a maximum of the Kreiss quotient is sought where nothing is settled


@dataclass(frozen=True)
class Options:
    """What some quantities need: epsilon, a point z, a number of steps, the relative window of tied extrema, the search tolerance."""

    epsilon: float | None
    point: complex | None
    steps: int
    tied: float
    tolerance: float


def smallest(a: np.ndarray, options: Options) -> Derivative:
    if options.point is None:
        raise InputError("point", "the complex number z of s_min(zI - A)", None, "write for example point=1.0")
    pair = plane(a).pair(options.point)
    return pair.value, -_outer(pair)


def pseudospectral_radius(a: np.ndarray, options: Options) -> Derivative:
    """``G = u v* / Re(e^{it} u* v)`` at the outermost point ``r e^{it}``."""
    if options.epsilon is None:
        raise InputError("epsilon", "the size of the change", None, "write for example epsilon=0.1")
    at, epsilon = plane(a), check_epsilon(a, options.epsilon)
    best = furthest(at, circles(at), epsilon, options.tolerance)
    found = [best]
    if options.tied:
        c, quick = abs(best.point), min(1e-3, options.tied / 4)
        others = polished(
            at, circles(at), c, least_on(at, circles(at), c, lambda least: least * (1 - 8 * quick), quick)
        )
        found = [p for p in others if p.value <= epsilon * (1 + options.tied)] or [best]
    rise = lambda p: (p.point / abs(p.point) * p.overlap).real if p.point else abs(p.overlap)
    return abs(best.point), _mean([_outer(p) / rise(p) for p in found])


def kreiss(a: np.ndarray, options: Options) -> Derivative:
    """``G = (K / s) u v*`` at the maximiser of the quotient; zero where K = 1 is approached far out. Where s is so tiny on a long arc that no search
    settles a circle: at the best local maximum above the least s seen, as :func:`brittle.spectra.kreiss` has its lower end."""
    at = plane(a)
    if not stable(at, "discrete"):
        raise InputError(
            "matrix", "a spectral radius below 1", _rho(at), "K is infinite there: train pseudospectral_radius instead"
        )
    try:
        found = enclose(at, circle(at, 1.0, np.inf, options.tolerance / 3), max(options.tolerance, 1e-4))
    except Unsettled as reason:
        angle = float(reason.curve.t[int(reason.curve.values.argmin())])
        q = climb(at, [(1 + step, angle) for step in STEPS])[0]
        return (q.value, q.value / q.pair.value * _outer(q.pair)) if q.value > 1 else (1.0, np.zeros_like(a))
    if found.best is None:
        return 1.0, np.zeros_like(a)
    best = [found.best]
    if options.tied:
        ring = min(found.rings, key=lambda r: abs(r.radius - abs(best[0].point)))
        dips = polished(at, circles(at), ring.radius, ring.curve)
        more = [
            q
            for q in climb(at, [(ring.radius, float(np.angle(p.point))) for p in dips])
            if q.value >= best[0].value * (1 - options.tied)
        ]
        best = _apart(best + more)
    return best[0].value, _mean([q.value / q.pair.value * _outer(q.pair) for q in best])


def distance_to_instability(a: np.ndarray, options: Options) -> Derivative:
    """``G = -u v*`` at the minimising point of the unit circle."""
    at = plane(a)
    if not stable(at, "discrete"):
        raise InputError(
            "matrix",
            "a spectral radius below 1",
            _rho(at),
            "d is 0 and flat there: train pseudospectral_radius instead",
        )
    found = weakest(at, "discrete", options.tolerance)
    return found[0].value, _mean(
        [
            -_outer(p)
            for p in found
            if p is found[0] or (options.tied and p.value <= found[0].value * (1 + options.tied))
        ]
    )


def transient(a: np.ndarray, options: Options) -> Derivative:
    """``max_k ||A^k||``, ``G = sum_j (A^j)* p q* (A^(k-1-j))*`` at the largest power, p and q its top singular vectors; zero where k = 0."""
    norms = power_norms(a, options.steps)
    if not np.isfinite(norms).all():
        raise InputError(
            "steps",
            "powers in the range of doubles",
            f"overflow at {int(np.isinf(norms).argmax())}",
            "look fewer steps ahead",
        )
    k = int(norms.argmax())
    gradient = np.zeros_like(a)
    if k == 0:
        return 1.0, gradient
    u, _, vh = np.linalg.svd(np.linalg.matrix_power(a, k))
    left, right = [u[:, 0]], [vh[0].conj()]
    for _ in range(k - 1):
        left.append(a.conj().T @ left[-1])
        right.append(a @ right[-1])
    return float(norms[k]), gradient + np.stack(left, 1) @ np.stack(right[::-1], 1).conj().T


def commutator(a: np.ndarray, options: Options) -> Derivative:
    """``G = 2 (A C - C A) / c`` with ``C = A* A - A A*`` and ``c = ||C||_F``; zero where A is normal."""
    c = a.conj().T @ a - a @ a.conj().T
    size = float(np.linalg.norm(c))
    return size, 2 * (a @ c - c @ a) / size if size else np.zeros_like(a)


def spectral_norm(a: np.ndarray, options: Options) -> Derivative:
    u, s, vh = np.linalg.svd(a)
    return float(s[0]), np.outer(u[:, 0], vh[0])


def spectral_radius(a: np.ndarray, options: Options) -> Derivative:
    """``d lambda = y* dA x / y* x`` of the outermost eigenvalue; there is none where ``y* x = 0``, at a defective one. Errors: InputError."""
    from scipy.linalg import eig

    values, left, right = eig(a, left=True, right=True)  # pyright: ignore[reportAssignmentType]
    i = int(np.argmax(np.abs(values)))
    value, y, x = complex(values[i]), left[:, i], right[:, i]
    turn, overlap = value / abs(value) if value else 1.0, np.conj(np.vdot(y, x))
    if abs(overlap) < 1e-300:
        raise InputError(
            "matrix",
            "an outermost eigenvalue that is not defective",
            f"{value:.6g}, whose slope is infinite",
            "train pseudospectral_radius, which has a finite one",
        )
    return abs(value), turn * np.outer(y, x.conj()) / overlap


RULES = {f.__name__: f for f in (smallest, pseudospectral_radius, kreiss, distance_to_instability, transient, commutator, spectral_norm, spectral_radius)}  # fmt: skip


def _outer(pair: Pair) -> np.ndarray:
    return np.outer(pair.left, pair.right.conj())


def _mean(gradients: list[np.ndarray]) -> np.ndarray:
    return sum(gradients[1:], gradients[0]) / len(gradients)


def _apart(found: list) -> list:
    """Without those that are another's point again, or its conjugate."""
    kept: list = []
    for q in found:
        if all(min(abs(q.point - k.point), abs(q.point - k.point.conjugate())) > 1e-5 * abs(q.point) for k in kept):
            kept.append(q)
    return kept


def _rho(at: Plane) -> str:
    return f"{np.abs(at.eigenvalues).max():.6g}"
