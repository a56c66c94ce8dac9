"""Inverse Lanczos at many shifts at once, in NumPy: the off-diagonal of T is shared by all shifts, so most of the work is a product.

For C = zI - T the operator is C^-1 C^-*: two triangular solves per step, largest eigenvalue theta = 1 / s_min^2. A Ritz value never
exceeds theta, so its root is an upper bound of s_min, up to rounding. Lanczos stops where the residual, which bounds the distance
to *some* eigenvalue of the operator from both sides, is below the tolerance; where successive values merely agree it would stop early
on clustered singular values. That this eigenvalue is the largest holds unless the start vector misses it; no rounding-free proof.

The compiled kernel computes the same with the same start vector, to the same residual, after a first pass in single precision; this
one needs NumPy alone, works in double throughout, and is its twin in the tests.
"""

import numpy as np

from brittle.spectra._matrix import UNIT
from brittle.spectra._schur import Complex, Factored, Real

STEPS = 400  # a near-symmetric matrix of 256 rows took 123 on average; what has not converged by then goes to the SVD
BLOCK = 16  # rows of a diagonal block
LAGUERRE = 40  # iterations at most; 2 to 4 are usual
BYTES = 2**26  # of one block of vectors
SAFETY = 0.5  # the residual may be this share of the tolerance (of s; twice that of theta): room for pairs that it cannot tell apart
RESIDUAL = 1e-6  # the least that is asked, relative to theta: the recurrence for the last entry of the eigenvector ends at the root of u


def start_vector(n: int) -> Complex:
    """The same unit vector at every point: results depend on nothing but the matrix and the points."""
    draws = np.random.default_rng(0).standard_normal((2, n))
    vector = draws[0] + 1j * draws[1]
    return vector / np.linalg.norm(vector)


def inverse_lanczos(
    factored: Factored, points: Complex, tolerance: float, vectors: bool, threads: int = 1
) -> tuple[Real, Complex, Complex]:
    """(values, left, right) in the basis of the Schur form, NaN where it has not converged; no vectors: empty left and right. One thread."""
    n = len(factored.triangular)
    width = max(1, BYTES // (16 * n * (STEPS if vectors else 4)))
    parts = [_block(factored, points[i : i + width], tolerance, vectors) for i in range(0, len(points), width)]
    values, left, right = (np.concatenate(p) for p in zip(*parts, strict=True))
    return values, left, right


def _block(factored: Factored, points: Complex, tolerance: float, vectors: bool) -> tuple[Real, Complex, Complex]:
    n, m = len(factored.triangular), len(points)
    values, right = np.full(m, np.nan), np.full((m, n), np.nan + 0j) if vectors else np.empty((m, 0), np.complex128)
    active, shifts = np.arange(m), points
    now, before = np.repeat(start_vector(n)[:, None], m, 1), np.zeros((n, m), np.complex128)
    alphas, betas = np.empty((0, m)), np.zeros((1, m))  # betas[j] couples step j - 1 with step j
    theta, basis = np.zeros(m), []
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            basis += [(active, now)] if vectors else []
            half = _solve_adjoint(factored, shifts, now)
            alpha = (half.real**2 + half.imag**2).sum(0)
            image = _solve(factored, shifts, half) - alpha * now - betas[-1] * before
            beta = np.sqrt((image.real**2 + image.imag**2).sum(0))
            alphas = np.concatenate((alphas, alpha[None]))
            theta, slope = largest_ritz(alphas, betas[1:], theta)
            sunk = ~(alpha < 1 / max(factored.floor, 1e-150) ** 2)  # also where the solve overflowed
            done = sunk | (beta <= max(2 * SAFETY * tolerance, RESIDUAL) * theta * np.sqrt(slope))
            values[active[done]] = np.where(sunk[done], np.nan if vectors else 0, 1 / np.sqrt(theta[done]))
            if vectors and done.any():
                weights = ritz_vector(alphas[:, done], betas[1:, done], theta[done])
                right[active[done]] = _combine(basis, active[done], weights)
            keep = ~done
            if not keep.any():
                break
            active, shifts, theta = active[keep], shifts[keep], theta[keep]
            before, now = now[:, keep], image[:, keep] / beta[keep]
            alphas, betas = alphas[:, keep], np.concatenate((betas, beta[None]))[:, keep]
        if not vectors:
            return values, right, right
        left = _unit(_solve_adjoint(factored, points, right.T))  # u ~ C^-* v, where C v would be all cancellation
        right = _solve(factored, points, left.copy())  # v ~ C^-1 u, so that C v = s u to rounding
        values = np.where(np.isnan(values), values, 1 / np.linalg.norm(right, axis=0))
        right = _unit(right)
    return values, left.T, right.T


def _unit(columns: Complex) -> Complex:
    return columns / np.linalg.norm(columns, axis=0)


def _solve(factored: Factored, shifts: Complex, x: Complex) -> Complex:
    """(zI - T)^-1 x in place, one shift per column."""
    t, n = factored.triangular, len(x)
    gap = _gaps(factored, shifts)
    for low in range((n - 1) // BLOCK * BLOCK, -1, -BLOCK):
        high = min(low + BLOCK, n)
        if high < n:
            x[low:high] += t[low:high, high:] @ x[high:]
        for i in range(high - 1, low - 1, -1):
            if i + 1 < high:
                x[i] += t[i, i + 1 : high] @ x[i + 1 : high]
            x[i] /= gap[i]
    return x


def _solve_adjoint(factored: Factored, shifts: Complex, x: Complex) -> Complex:
    """(zI - T)^-* x, one shift per column."""
    t, n, x = factored.adjoint, len(x), x.copy()
    gap = _gaps(factored, shifts).conj()
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        if low:
            x[low:high] += t[low:high, :low] @ x[:low]
        for i in range(low, high):
            if i > low:
                x[i] += t[i, low:i] @ x[low:i]
            x[i] /= gap[i]
    return x


def _gaps(factored: Factored, shifts: Complex) -> Complex:
    """z - t_ii, kept off zero by u ||A||, which is within the backward error of the Schur form."""
    gap = shifts - factored.eigenvalues[:, None]
    least = max(UNIT * factored.norm, 1e-150)
    return np.where(np.abs(gap) < least, least, gap)


def largest_ritz(alphas: Real, betas: Real, previous: Real) -> tuple[Real, Real]:
    """Largest eigenvalue of each tridiagonal matrix, and 1 / (last entry of its unit eigenvector)^2.

    Laguerre's iteration on the characteristic polynomial p from the right of all its roots, which are real: monotone and cubic, also
    where roots cluster (Newton's is linear there). The start is the bound from the last largest eigenvalue and the new row,
    [[theta, b], [b, a]]. With d_j = p_j / p_j-1, the sums over j of d'/d and (d'/d)^2 - d''/d are those of 1 / (x - root) and its square.
    alphas (k, m), betas (k - 1, m), previous (m,).
    """
    k = len(alphas)
    if k == 1:
        return alphas[0], np.ones_like(alphas[0])
    middle, half = (previous + alphas[-1]) / 2, (previous - alphas[-1]) / 2
    x, slope = (middle + np.hypot(half, betas[-1])) * (1 + 4 * UNIT), np.ones_like(middle)
    for _ in range(LAGUERRE):
        first, second = 1 / (x - alphas[0]), 0.0
        sums, squares, inverse = first, first**2, -first
        for a, b in zip(alphas[1:], betas, strict=True):
            shared = b * b * inverse
            inverse = 1 / (a - x - shared)
            slope = -1 + shared * first
            second = shared * (second - 2 * first**2) * inverse
            first = slope * inverse
            sums, squares = sums + first, squares + first**2 - second
        step = k / (sums + np.sqrt(np.maximum((k - 1) * (k * squares - sums**2), 0)))
        x = np.where(step > 0, x - step, x)  # also where it is NaN
        if not (step > 1e-10 * x).any():
            break
    return np.maximum(x, previous), -slope


def ritz_vector(alphas: Real, betas: Real, theta: Real) -> Real:
    """Eigenvectors (k, m) of the tridiagonal matrices to their largest eigenvalues, by back substitution from the last entry."""
    pivots = [alphas[0] - theta]
    for a, b in zip(alphas[1:], betas, strict=True):
        pivots.append(a - theta - b * b / pivots[-1])
    entries = [np.ones_like(theta)]
    for pivot, b in zip(pivots[-2::-1], betas[::-1], strict=True):
        entries.append(-b / pivot * entries[-1])
        entries = [e / np.abs(entries[-1]) for e in entries]
    return np.stack(entries[::-1])


def _combine(basis: list[tuple[np.ndarray, Complex]], wanted: np.ndarray, weights: Real) -> Complex:
    """Sum over the steps of weight times basis vector, for the wanted columns: (wanted, n)."""
    total = np.zeros((len(basis[0][1]), len(wanted)), np.complex128)
    for (columns, vectors), weight in zip(basis, weights, strict=True):
        total += weight * vectors[:, np.searchsorted(columns, wanted)]
    return total.T
