"""Real changes of real matrices: how large one must be to have the eigenvalue z, and the smallest over the boundary of stability."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brittle.errors import InputError
from brittle.spectra._instability import boundary, weakest
from brittle.spectra._matrix import is_real
from brittle.spectra._plane import Plane

ANGLES = 48
TIED = 1e-9  # relative: that much of a real distance is the minimisation's over g


@dataclass(frozen=True, eq=False)
class RealChange:
    """The norm of the smallest real E with the eigenvalue ``point`` in A + E, and the scaling at which the infimum was taken."""

    value: float
    point: complex
    scaling: float


def nearest_real(plane: Plane, time: str, tolerance: float) -> RealChange:
    """The least of :func:`real_distance` over the boundary: both real points, then a grid over those where the complex distance is below the best.

    At real points the function jumps downwards, so they are asked by themselves; elsewhere it is continuous. Where others are better by rounding
    alone (a multiple of the identity, or next to nothing) a real point is kept: the change of rank two is not determined there.
    """
    if not is_real(plane.matrix):
        raise InputError("matrix", "a real one for real=True", "complex entries", "ask for the complex distance")
    sweep, level = boundary(plane, time)
    low, high = sweep.ends(level)
    real_points = [1.0 + 0j, -1.0 + 0j] if time == "discrete" else [0j]
    best = min((RealChange(plane.pair(z).value, z, 1.0) for z in real_points), key=lambda c: c.value)
    complex_best = weakest(plane, time, tolerance)
    starts = [sweep.parameter(p.point) for p in complex_best]
    t = np.linspace(low, high, ANGLES + 2)[1:-1]
    s = plane.values(sweep.at(level, t))
    at = lambda angle: real_distance(plane, complex(sweep.at(level, np.float64(angle))))
    coarse = {float(a): at(a) for a, value in zip(t, s, strict=True) if value < best.value}
    coarse |= {float(a): at(a) for a in starts if low < a < high}
    spacing = (high - low) / (ANGLES + 1)
    real_best = best
    for angle, change in sorted(coarse.items(), key=lambda pair: pair[1].value)[:3]:
        best = min(
            best, change, _refined(at, max(angle - spacing, low), min(angle + spacing, high)), key=lambda c: c.value
        )
    return best if best.value < real_best.value * (1 - TIED) else real_best


def _refined(at: Callable[[float], RealChange], low: float, high: float) -> RealChange:
    from scipy.optimize import minimize_scalar

    value = lambda angle: at(angle).value
    found = minimize_scalar(value, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    return at(found.x)  # pyright: ignore[reportAttributeAccessIssue]


def real_distance(plane: Plane, point: complex) -> RealChange:
    """``1 / mu_R(M)``, ``M = (zI - A)^-1``: ``mu_R = inf_{0<g<=1} s_2([[Re M, -g Im M], [Im M / g, Re M]])``, unimodal in g (Qiu et al. 1995)."""
    from scipy.optimize import minimize_scalar

    n = len(plane.matrix)
    try:
        resolvent = np.linalg.inv(point * np.eye(n) - plane.matrix)
    except np.linalg.LinAlgError:
        return RealChange(0.0, point, 1.0)
    if not np.imag(resolvent).any():
        return RealChange(1 / float(np.linalg.norm(np.real(resolvent), 2)), point, 1.0)
    second = lambda x: float(np.linalg.svd(scaled(resolvent, np.exp(x)), compute_uv=False)[1])
    found = minimize_scalar(
        second, bounds=(np.log(1e-8), 0.0), method="bounded", options={"xatol": 1e-9, "maxiter": 60}
    )
    x = min((float(found.x), 0.0), key=second)  # pyright: ignore[reportAttributeAccessIssue]
    return RealChange(1 / second(x), point, float(np.exp(x)))


def scaled(resolvent: np.ndarray, g: float) -> np.ndarray:
    """``[[X, -g Y], [Y / g, X]]`` of M = X + iY."""
    x, y = np.real(resolvent), np.imag(resolvent)
    return np.block([[x, -g * y], [y / g, x]])


def real_change(plane: Plane, found: RealChange) -> np.ndarray:
    """A real E of norm ``found.value`` for which ``point`` is an eigenvalue of A + E.

    With ``P v = mu u`` for the second singular triple of the scaled matrix, u = (u1, u2), v = (v1, v2): ``M (v1 + i g v2) = mu (u1 + i g u2)``. At
    the infimum ``[u1 u2]`` and ``[v1 v2]`` have the same Gram matrix, so ``E = [v1 v2] [u1 u2]^+ / mu`` has norm 1 / mu; it maps
    ``mu (u1 + i g u2)`` to ``v1 + i g v2``, which makes ``det(I - E M) = 0``.
    """
    n = len(plane.matrix)
    if found.point.imag == 0:
        u, s, vh = np.linalg.svd(found.point.real * np.eye(n) - np.real(plane.matrix))
        return s[-1] * np.outer(u[:, -1], vh[-1])
    resolvent = np.linalg.inv(found.point * np.eye(n) - plane.matrix)
    u, s, vh = np.linalg.svd(scaled(resolvent, found.scaling))
    left, right = u[:, 1].reshape(2, n).T, vh[1].reshape(2, n).T
    return right @ np.linalg.pinv(left, rcond=1e-7) / s[1]
