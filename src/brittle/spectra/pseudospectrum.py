"""Smallest singular values of zI - A over the complex plane: the epsilon-pseudospectrum is where they are below epsilon."""

from typing import Literal, overload

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import rectangular, rounding_floor
from brittle.spectra._schur import Complex, Real, factorise, smallest

ABOUT = About(
    promise="smallest singular values of zI - A: upper bounds up to rounding, within the tolerance of a singular value by their residual",
    reference="Trefethen & Embree, Spectra and Pseudospectra, 2005; Lui, SIAM J. Sci. Comput. 18 (1997) 565",
    cost="one Schur form, 25 n^3 flops; then 8 n^2 flops per step and point, 5 to 30 steps, all but one in single precision",
)


@overload
def pseudospectrum(
    matrix: object, points: object, *, tolerance: float = 1e-5, vectors: Literal[False] = False, threads: int = 1
) -> Real: ...
@overload
def pseudospectrum(
    matrix: object, points: object, *, tolerance: float = 1e-5, vectors: Literal[True], threads: int = 1
) -> tuple[Real, Complex, Complex]: ...
def pseudospectrum(
    matrix: object, points: object, *, tolerance: float = 1e-5, vectors: bool = False, threads: int = 1
) -> Real | tuple[Real, Complex, Complex]:
    """Smallest singular value of zI - A at each point z; the epsilon-pseudospectrum of A is ``pseudospectrum(A, z) < epsilon``.

    z lies in it exactly if some A + E with ||E|| < epsilon has the eigenvalue z. The change that attains it is rank one:
    E = s u v*, where (zI - A) v = s u, and ds = -Re(conj(u_i) v_j) dA_ij.

    Guarantee: a value is the root of a Ritz value and thus never below s_min, up to rounding; its residual proves that *some* singular
    value lies within ``tolerance`` (relative). That it is the smallest one fails only if the start vector is blind to it. Nothing
    below the **floor** n u ||A||_F (u = 2^-53, :func:`error_floor`) can be told in double precision: a value equal to the floor
    means "at most this". Relative accuracy fades from about 1e-12 ||A|| downwards. For normal A the distance to the spectrum is
    the answer, and is given as it is.

    matrix     (n, n), array or tensor on any device; real matrices answer conjugate points with one computation. Rows > columns is
               taken as zI - A with a rectangular identity (Wright & Trefethen 2002), by an SVD per point
    points     complex numbers of any shape, in the units of the eigenvalues
    tolerance  relative, from 1e-12. The residual is asked down to 1e-6; a value's error is about its square over the relative gap to
               the next singular value
    vectors    also return u and v, shape points.shape + (n,)
    threads    the points are split between so many; results do not depend on it

    Returns values in the shape of ``points``; with ``vectors`` the triple (values, u, v).

    >>> import numpy as np
    >>> jordan = np.array([[0.5, 1.0], [0.0, 0.5]])        # its pseudospectra are disks of radius sqrt(epsilon^2 + epsilon)
    >>> float(pseudospectrum(jordan, 0.5 + (0.1**2 + 0.1) ** 0.5).round(6))
    0.1

    Reference: Trefethen & Embree, Spectra and Pseudospectra, Princeton 2005; T. Wright's EigTool for the Schur form with inverse
    Lanczos (Lui 1997); Moon & Poulson, arXiv 1607.01477, for sharing the off-diagonal between shifts.
    """
    array, z = rectangular(matrix), _as_points(points)
    if not 1e-12 <= tolerance < 1:
        raise InputError("tolerance", "a number from 1e-12 up to 1", tolerance, "1e-5 is plenty for a picture")
    if threads < 1:
        raise InputError("threads", "at least 1", threads, "one per core that is free")
    rows, columns = array.shape
    if rows < columns:
        raise InputError(
            "matrix",
            "rows >= columns",
            f"shape {array.shape}",
            "z I - A has a null space at every z; pass A.T, or the square map",
        )
    flat = z.reshape(-1)
    if rows > columns:
        values, left, right = _rectangular(array, flat)
    else:
        values, left, right = smallest(factorise(array), flat, tolerance, vectors, threads)
    values = values.reshape(z.shape)
    if not vectors or left is None or right is None:
        return values
    return values, left.reshape(*z.shape, rows), right.reshape(*z.shape, columns)


def error_floor(matrix: object) -> float:
    """n u ||A||_F, u = 2^-53: values of :func:`pseudospectrum` at or below it say no more than "at most this".

    >>> error_floor([[3.0, 0.0], [0.0, 4.0]]) == 2 * 2.0**-53 * 5.0
    True
    """
    return rounding_floor(rectangular(matrix))


def _as_points(points: object) -> Complex:
    detach = getattr(points, "detach", None)
    array = np.asarray(detach().resolve_conj().cpu().numpy() if detach is not None else points)
    if array.dtype.kind not in "biufc":
        raise InputError("points", "complex numbers", f"dtype {array.dtype}", "convert them")
    if not np.isfinite(array).all():
        raise InputError("points", "finite numbers", "inf or NaN among them", "drop those points")
    return array.astype(np.complex128)


def _rectangular(array: np.ndarray, points: Complex) -> tuple[Real, Complex, Complex]:
    """By SVD; the rows below the square part do not depend on z, and a QR of them leaves at most 2n rows."""
    rows, n = array.shape
    unitary, below = np.linalg.qr(array[n:])
    top = array[:n]
    values, left, right = (
        np.empty(len(points)),
        np.zeros((len(points), rows), np.complex128),
        np.empty((len(points), n), np.complex128),
    )
    for i, z in enumerate(points):
        u, s, vh = np.linalg.svd(np.concatenate((z * np.eye(n) - top, -below)), full_matrices=False)
        values[i], right[i] = s[-1], vh[-1].conj()
        left[i, :n], left[i, n:] = u[:n, -1], unitary @ u[n:, -1]
    return np.maximum(values, error_floor(array)), left, right
