"""The Kreiss constant, enclosed."""

from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._circles import Circle, circle, verified
from brittle.spectra._enclosure import enclose
from brittle.spectra._frontier import Unsettled
from brittle.spectra._matrix import UNIT, rounding_floor, square
from brittle.spectra._plane import Plane, plane
from brittle.spectra._quotient import climb
from brittle.spectra._verified import norm_above, verifier

if TYPE_CHECKING:
    from brittle.results import Bracket

ABOUT = About(
    promise="both ends of the constant that bounds how far any power of the matrix can grow on its way",
    reference="Kreiss 1962; Mitchell, arXiv 1907.06537 (the problem); enclosure by the three circles theorem: derived here",
    leaves=(),
    cost="no pass; one Schur form and some thousand points of the plane",
)
BOUNDARY = "on the boundary of stability to rounding: K is decided by digits that the matrix does not have"
UNSETTLED = "the smallest singular value is tiny on a long arc, which so many points do not settle"


def kreiss(matrix: Any, *, tolerance: float = 0.01) -> "Bracket":
    """``K(A) = sup_{|z|>1} (|z| - 1) ||(zI - A)^-1|| = sup_eps (rho_eps(A) - 1) / eps``; ``K <= sup_k ||A^k|| <= e n K``.

    1 for normal A with ``rho < 1``, and always at least 1; infinite where a power of A grows without bound.

    Guarantee. ``lower``: a concrete point, ``(|z| - 1) / s`` there, a local maximum to rounding (``diagnostics["point"]``, infinite where K = 1 is
    approached far out). ``upper``: proved in floating point. On finitely many circles disks around points with a verified smallest
    singular value (Cholesky with its rounding error) cover the circle, between circles log ||(I - A/z)^-1|| is convex in log |z| (three
    circles theorem), and beyond the last one ``||A||`` bounds it. That all eigenvalues are inside rests on the residual of the Schur form. ``upper <= lower
    (1 + tolerance)`` unless the status says otherwise. A matrix that is on the boundary of stability to rounding, as orthogonal ones are, has its
    K decided by digits it does not have: ``lower`` is then what is reached at resolvable points, ``upper`` infinite and without guarantee.

    matrix : (n, n); tolerance : relative width asked for, 1e-4 .. 1. One value, the quantity is "Kreiss constant".
    Errors: InputError.

    >>> import numpy as np
    >>> found = kreiss(0.5 * np.eye(8) + 0.9 * np.eye(8, k=1))
    >>> found
    Bracket(Kreiss constant: [5.116, 5.16]; witnessed below, proved above)
    >>> round(float(found.lower), 9), round(float(found.diagnostics["point"][0, 0]), 6)
    (5.11624519, 1.089879)
    """
    if not 1e-4 <= tolerance <= 1:
        raise InputError("tolerance", "a number from 1e-4 to 1", tolerance, "leave it out for one per cent")
    started, a = perf_counter(), square(matrix)
    if norm_above(a) <= 1:
        return _answer(1.0, 1.0, complex(np.inf), "ok", started, 0)
    at = plane(a)
    try:
        unit = circle(at, 1.0, np.inf, tolerance / 3)
    except Unsettled:
        return _on_the_boundary(at, started, UNSETTLED)
    if unit.curve.least <= 64 * rounding_floor(a) or not verified(at, verifier(a), unit):
        return _on_the_boundary(at, started)
    if unit.curve.proved <= 2 * _schur_residual(at):
        return _on_the_boundary(at, started)
    if np.abs(at.eigenvalues).max() > 1:  # their number outside is that of A: no eigenvalue of A + t E is on the circle
        outside = complex(max(at.eigenvalues, key=abs))
        return _answer(
            np.inf, np.inf, outside, "unstable: an eigenvalue outside the unit circle", started, len(unit.curve.t)
        )
    return _enclosed(at, unit, tolerance, started)


def _enclosed(at: Plane, unit: Circle, tolerance: float, started: float) -> "Bracket":
    try:
        found = enclose(at, unit, tolerance)
    except Unsettled:
        return _on_the_boundary(at, started, UNSETTLED)
    lower, point = (1.0, complex(np.inf)) if found.best is None else (found.best.value, found.best.point)
    check = verifier(at.matrix)
    proved = all(verified(at, check, ring) for ring in found.rings[1:])
    wide = found.upper > lower * (1 + tolerance) * (1 + 1e-9)
    status = (
        ("wider than asked: " + UNSETTLED if wide else "ok")
        if proved
        else "not proved: a smallest singular value could not be verified"
    )
    points, above = sum(len(ring.curve.t) for ring in found.rings), "proved" if proved else "none"
    return _answer(lower, max(found.upper, lower), point, status, started, points, above)


def _schur_residual(at: Plane) -> float:
    """How far A is from a matrix with exactly the computed eigenvalues, inside and outside, up to the rounding of this very sum."""
    q, t = at.factored.unitary, at.factored.triangular
    size = float(np.linalg.norm(at.matrix))
    away = float(np.linalg.norm(at.matrix @ q - q @ t)) + size * float(np.linalg.norm(q.conj().T @ q - np.eye(len(q))))
    return 2 * away + 8 * (len(q) + 4) * UNIT * size * len(q) ** 0.5


def _on_the_boundary(at: Plane, started: float, status: str = BOUNDARY) -> "Bracket":
    """The quotient at the points that double precision can still tell from the circle."""
    outermost = np.abs(at.eigenvalues) >= min(1 - 1e-3, float(np.abs(at.eigenvalues).max()))
    angles = np.unique(np.angle(at.eigenvalues[outermost]))
    lower, point = 1.0, complex(np.inf)
    for step in np.geomspace(max(1e3 * rounding_floor(at.matrix), 1e-10), 1e-1, 20):
        z = (1 + step) * np.exp(1j * angles)
        quotient = step / (at.values(z) * (1 + 1e-2) + rounding_floor(at.matrix))
        if quotient.max() > lower:
            lower, point = float(quotient.max()), complex(z[int(quotient.argmax())])
    if status == UNSETTLED:
        best = climb(at, [(abs(point), float(np.angle(point)))] if lower > 1 else [(1.1, float(angles[0]))])[0]
        lower, point = (best.value, best.point) if best.value > lower else (lower, point)
    return _answer(lower, np.inf, point, status, started, 0, "none")


def _answer(
    lower: float, upper: float, point: complex, status: str, started: float, points: int, above: str = "proved"
) -> "Bracket":
    import torch

    from brittle.results import Bracket, Cost, Ends

    one = lambda value: torch.tensor([value], dtype=torch.float64)
    below = "proved" if lower == 1.0 else "witnessed"  # the quotient tends to 1 far out, for every matrix
    return Bracket(
        "Kreiss constant",
        one(lower),
        one(upper),
        Ends((below,), (above,)),
        (status,),
        Ends(("the limit far out" if lower == 1.0 else "local maximum",), ("three circles",)),
        cost=Cost(seconds=perf_counter() - started),
        diagnostics={
            "point": torch.tensor([[point.real, point.imag]], dtype=torch.float64),
            "evaluations": one(float(points)),
        },
    )
