"""One complex Schur form A = Q T Q*, reused for any number of points: s_min(zI - A) = s_min(zI - T) since Q is unitary.

``factorise`` once, ``smallest`` as often as wanted. What is exact is taken as it is: for normal A the answer is the distance to the
nearest eigenvalue (Weyl's enclosure), and real A answers conjugate points alike.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from brittle.spectra._matrix import UNIT, is_real, rounding_floor, square

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
ROWS = 4  # of the compiled kernel's blocks: 2 ROWS accumulators, 2 vectors and 2 factors in 16 to 32 registers
SAME = 1e-13  # points closer than this times ||A|| count as one; far below 1e-12 ||A||, where relative accuracy ends


@dataclass(frozen=True, eq=False)
class Factored:
    """A = ``unitary`` @ ``triangular`` @ ``unitary``*, and what the solver wants to know about A.

    norm       ||A||, the largest singular value
    floor      n u ||A||_F, what the Schur form may move A by: no singular value below it can be told
    real       A is real, so s_min(conj z) = s_min(z)
    departure  Frobenius norm of the strictly upper part of T (Henrici); 0 for a normal matrix
    """

    triangular: Complex
    unitary: Complex
    norm: float
    floor: float
    real: bool
    departure: float

    @cached_property
    def eigenvalues(self) -> Complex:
        return self.triangular.diagonal().copy()

    @cached_property
    def adjoint(self) -> Complex:
        """T*, stored by rows."""
        return np.ascontiguousarray(self.triangular.conj().T)

    @cached_property
    def packed(self) -> tuple[Real, Real]:
        """T* and T read backwards, both strictly lower, as the compiled kernel walks through them: ROWS rows at a time, by columns."""
        n = len(self.triangular)
        rows = -(-n // ROWS) * ROWS
        padded = np.zeros((rows, rows), np.complex128)
        padded[:n, :n] = self.triangular
        return _packed(padded.conj().T), _packed(padded[::-1, ::-1])


def _packed(matrix: Complex) -> Real:
    strict = np.tril(matrix, -1)
    blocks = [strict[b : b + ROWS, : b + ROWS].T for b in range(0, len(strict), ROWS)]
    return np.concatenate([np.concatenate((b.real, b.imag), 1).reshape(-1) for b in blocks])


def factorise(matrix: object) -> Factored:
    """Complex Schur form of a square matrix, 25 n^3 flops."""
    from scipy import linalg

    a = square(matrix)
    triangular, unitary = linalg.schur(a, output="complex")[:2]
    triangular = np.triu(triangular)
    return Factored(
        np.ascontiguousarray(triangular, np.complex128),
        np.ascontiguousarray(unitary, np.complex128),
        float(np.linalg.norm(a, 2)),
        rounding_floor(a),
        is_real(a),
        float(np.linalg.norm(np.triu(triangular, 1))),
    )


def smallest(
    factored: Factored, points: Complex, tolerance: float = 1e-5, vectors: bool = False, threads: int = 1
) -> tuple[Real, Complex | None, Complex | None]:
    """(values (m,), left (m, n), right (m, n)) at points (m,), with (zI - A) right = value * left; None, None without vectors.

    Values are relative to ``tolerance`` and never below ``factored.floor``: a value equal to the floor says "at most that".
    """
    distinct, inverse = _distinct(factored, np.asarray(points, np.complex128))
    values, left, right = _solve(factored, distinct, tolerance, vectors, threads)
    values = np.maximum(values, factored.floor)[inverse]
    if left is None or right is None:
        return values, None, None
    left, right = left[inverse], right[inverse]
    flipped = (points.imag < 0)[:, None] & factored.real
    return values, np.where(flipped, left.conj(), left), np.where(flipped, right.conj(), right)


def _distinct(factored: Factored, points: Complex) -> tuple[Complex, NDArray[np.intp]]:
    """The points that must be solved, and where each asked point finds its answer."""
    folded = points.real + 1j * np.abs(points.imag) if factored.real else points
    size = max(factored.norm, float(np.abs(folded).max(initial=0)))
    if size == 0:
        return folded[:1], np.zeros(len(folded), np.intp)
    _, first, inverse = np.unique(np.round(folded / (SAME * size)), return_index=True, return_inverse=True)
    return folded[first], inverse.reshape(-1)


def _solve(
    factored: Factored, points: Complex, tolerance: float, vectors: bool, threads: int
) -> tuple[Real, Complex | None, Complex | None]:
    values = np.empty(len(points))
    left, right = (np.empty((len(points), len(factored.triangular)), np.complex128) for _ in "lr")
    near, nearest = _distances(factored, points)
    # Weyl: |s_min - distance to the spectrum| <= ||N||. Singular vectors need more than that, unless the matrix is normal to rounding
    slack = factored.departure if not vectors else factored.departure / UNIT**0.5
    normal = slack <= tolerance * near
    values[normal] = near[normal]
    if vectors and normal.any():
        right[normal] = np.eye(len(factored.triangular))[nearest[normal]]
        step = points[normal] - factored.eigenvalues[nearest[normal]]
        left[normal] = (
            right[normal] * (step / np.where(near[normal] > 0, near[normal], 1) + (near[normal] == 0))[:, None]
        )
    rest = np.flatnonzero(~normal)
    if len(rest):
        found, y, x = _iteration()(factored, points[rest], tolerance, vectors, threads)
        lost = np.isnan(found)  # not converged, or vectors that overflowed
        if lost.any():
            found[lost], u, v = _by_svd(factored, points[rest[lost]])
            if vectors:
                y[lost], x[lost] = u, v
        values[rest] = found
        if vectors:
            left[rest], right[rest] = y, x
    if not vectors:
        return values, None, None
    return values, left @ factored.unitary.T, right @ factored.unitary.T


@cache
def _iteration() -> Callable[..., tuple[Real, Complex, Complex]]:
    """The compiled kernel, or its NumPy twin where Numba is missing."""
    try:
        from brittle.spectra._kernel import inverse_lanczos
    except ImportError as reason:
        from brittle.spectra._lanczos import inverse_lanczos

        warnings.warn(
            f"pseudospectra run in plain NumPy, some four times slower: {reason}", RuntimeWarning, stacklevel=2
        )
    return inverse_lanczos


def _distances(factored: Factored, points: Complex) -> tuple[Real, NDArray[np.intp]]:
    """Distance to the nearest eigenvalue, and which one it is, a block of points at a time."""
    near, nearest = np.empty(len(points)), np.empty(len(points), np.intp)
    block = max(1, 2**20 // len(factored.eigenvalues))
    for start in range(0, len(points), block):
        part = slice(start, start + block)
        away = np.abs(points[part, None] - factored.eigenvalues)
        nearest[part] = away.argmin(1)
        near[part] = away.min(1)
    return near, nearest


def _by_svd(factored: Factored, points: Complex) -> tuple[Real, Complex, Complex]:
    """What the iteration gives up, by LAPACK, point by point."""
    n = len(factored.triangular)
    values, left, right = (
        np.empty(len(points)),
        np.empty((len(points), n), np.complex128),
        np.empty((len(points), n), np.complex128),
    )
    for i, z in enumerate(points):
        u, s, vh = np.linalg.svd(z * np.eye(n) - factored.triangular)
        values[i], left[i], right[i] = s[-1], u[:, -1], vh[-1].conj()
    return values, left, right
