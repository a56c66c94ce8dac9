"""Pseudospectra of a large matrix near some of its eigenvalues, from a small block of its Schur form."""

from dataclasses import dataclass

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import UNIT
from brittle.spectra._schur import Complex, Factored, factorise, smallest

ABOUT = About(
    promise="upper bounds of the smallest singular values of zI - A; how far above is not bounded: an approximation",
    reference="Toh & Trefethen, SIAM J. Matrix Anal. Appl. 23 (2001) 21; Wright's EigTool",
    leaves=(),
    cost="no pass; one Schur form, then k^2 / n^2 of the work per point",
)
LEAST = 20  # eigenvalues that are kept at least, EigTool's number
GROWTH = 1.25  # of the window's half sides until it holds as many; arbitrary


@dataclass(frozen=True, eq=False)
class Projected:
    """values in the shape of the points: **upper bounds**; kept of ``of`` eigenvalues span the invariant subspace."""

    values: np.ndarray
    kept: int
    of: int


def projected(
    matrix: object, points: object, *, least: int = LEAST, tolerance: float = 1e-5, threads: int = 1
) -> Projected:
    """Approximate smallest singular values of zI - A from the eigenvalues in a window around the points.

    With orthonormal Q1 whose columns span the invariant subspace of k eigenvalues, A Q1 = Q1 T1, and s_min(zI - A) <= s_min(zI - T1):
    a bound from above, tight where the other eigenvalues are far away. The window is that of the points, doubled, and grown
    until it holds ``least`` eigenvalues. Memory: some 10 n^2 complex numbers (1 GB for n = 2000), 100 MB for the points.

    matrix : (n, n); points : complex numbers of any shape. Errors: InputError.

    >>> from brittle.spectra.pseudospectrum import pseudospectrum
    >>> a, z = np.diag(np.arange(1.0, 101)) + np.eye(100, k=1), np.array([1.5, 2.5 + 1j])
    >>> found = projected(a, z)
    >>> found.kept, bool((found.values >= pseudospectrum(a, z) * (1 - 1e-5)).all())
    (20, True)
    """
    z = np.asarray(points, np.complex128)
    if not z.size or not np.isfinite(z).all():
        raise InputError(
            "points", "finite complex numbers, at least one", f"shape {z.shape}", "give the points of the picture"
        )
    if least < 1:
        raise InputError("least", "at least 1 eigenvalue", least, "20 is usual")
    factored = factorise(matrix)
    inside = _inside(factored.eigenvalues, z, min(least, len(factored.eigenvalues)))
    block = factored if inside.all() else _leading(factored, inside)
    values = smallest(block, z.reshape(-1), tolerance, threads=threads)[0]
    return Projected(values.reshape(z.shape), int(inside.sum()), len(inside))


def _inside(eigenvalues: Complex, points: Complex, least: int) -> np.ndarray:
    """Which eigenvalues lie in the box of the points, doubled and then grown until it holds enough."""
    box = np.array([[points.real.min(), points.real.max()], [points.imag.min(), points.imag.max()]])
    middle, half = box.mean(1), np.maximum(np.diff(box, axis=1)[:, 0], 1e-3 * np.abs(eigenvalues).max() + 1e-300)
    away = np.stack(
        [np.abs(eigenvalues.real - middle[0]) / half[0], np.abs(eigenvalues.imag - middle[1]) / half[1]]
    ).max(0)
    reach = 1.0
    while (away <= reach).sum() < least:
        reach *= GROWTH
    return away <= reach


def _leading(factored: Factored, wanted: np.ndarray) -> Factored:
    """The Schur form reordered so that the wanted eigenvalues come first, cut down to them."""
    from scipy.linalg import get_lapack_funcs

    k, reorder = int(wanted.sum()), get_lapack_funcs(("trsen",), (factored.triangular,))[0]
    form, unitary, *_, info = reorder(wanted.astype(int), factored.triangular, factored.unitary, job=b"N")
    if info:
        raise ArithmeticError(f"LAPACK ztrsen failed with code {info}")
    block = np.triu(form[:k, :k])
    return Factored(
        np.ascontiguousarray(block),
        np.ascontiguousarray(unitary[:, :k]),
        float(np.linalg.norm(block, 2)),
        max(factored.floor, k * UNIT * float(np.linalg.norm(block))),
        False,
        float(np.linalg.norm(np.triu(block, 1))),
    )
