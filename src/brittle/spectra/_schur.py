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

from brittle.spectra._matrix import is_real, rounding_floor, square

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

    @cached_property
    def unit(self) -> float:
        """The power of two that brings ||A|| into [1/2, 1)."""
        return 2.0 ** -int(np.frexp(self.norm)[1])

    @cached_property
    def packed_single(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``packed`` of ``unit`` A, in single precision, whose range is too narrow for A as it comes."""
        forward, backward = ((self.unit * packed).astype(np.float32) for packed in self.packed)
        return forward, backward


def _packed(matrix: Complex) -> Real:
    strict = np.tril(matrix, -1)
    blocks = [strict[b : b + ROWS, : b + ROWS].T for b in range(0, len(strict), ROWS)]
    return np.concatenate([np.concatenate((b.real, b.imag), 1).reshape(-1) for b in blocks])


def factorise(matrix: object) -> Factored:
    """Complex Schur form of a square matrix; for a real one from the real form, which takes half the time."""
    from scipy import linalg

    a = square(matrix)
    triangular, unitary = linalg.schur(a)[:2]
    if not np.iscomplexobj(a):
        triangular, unitary = linalg.rsf2csf(triangular, unitary)
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
    n = len(factored.triangular)
    values = np.empty(len(points))
    left, right = (np.empty((len(points), n if vectors else 0), np.complex128) for _ in "lr")
    normal = _normal(factored, points, tolerance, vectors)
    if len(normal):
        gaps = points[normal, None] - factored.eigenvalues
        nearest = np.abs(gaps).argmin(1)
        gap = np.take_along_axis(gaps, nearest[:, None], 1)
        values[normal] = np.abs(gap[:, 0])
        if vectors:
            right[normal] = np.eye(n)[nearest]
            left[normal] = right[normal] * np.where(gap == 0, 1, gap / np.where(gap == 0, 1, np.abs(gap)))
    rest = np.delete(np.arange(len(points)), normal)
    if len(rest):
        values[rest], left[rest], right[rest] = _iteration()(factored, points[rest], tolerance, vectors, threads)
        lost = rest[np.isnan(values[rest])]  # not converged, or vectors that overflowed
        if len(lost):
            values[lost], u, v = _by_svd(factored, points[lost])
            if vectors:
                left[lost], right[lost] = u, v
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


def _normal(factored: Factored, points: Complex, tolerance: float, vectors: bool) -> NDArray[np.intp]:
    """Points whose s_min is their distance to the spectrum, within the tolerance, since by Weyl they differ by at most ||N||.

    Singular vectors need more than that: the matrix must be normal to rounding.
    """
    if vectors:
        normal = factored.departure <= len(factored.triangular) * factored.floor
        return np.arange(len(points)) if normal else np.empty(0, np.intp)
    least = factored.departure / tolerance
    far = np.flatnonzero(np.abs(points) + factored.norm >= least)  # nothing else can be that far from the spectrum
    block = max(1, 2**20 // len(factored.eigenvalues))
    parts = [far[i : i + block] for i in range(0, len(far), block)]
    kept = [p[(np.abs(points[p, None] - factored.eigenvalues) >= least).all(1)] for p in parts]
    return np.concatenate([np.empty(0, np.intp), *kept])


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
