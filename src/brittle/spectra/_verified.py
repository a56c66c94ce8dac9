"""Lower bounds of smallest singular values that hold in floating point, whatever an iteration believed.

``s_min(M) >= t`` is shown by a Cholesky factorisation of ``M* M - t^2 I``: where it runs to its end, the exact matrix has no
eigenvalue below minus the backward error of the factorisation (Rump, BIT 46 (2006) 433). Squares cost half of the digits, so for small t
the inverse is enclosed instead: ``||M^-1|| <= ||X|| / (1 - ||I - X M||)`` for any X.
"""

from dataclasses import dataclass

import numpy as np

from brittle.spectra._matrix import UNIT

EXTRA = 8.0  # Cholesky (n + 1) and the Gram matrix (n) at 2 sqrt(2) roundings per complex product, and the sums of the formation


@dataclass(frozen=True, eq=False)
class Verifier:
    """Proofs about ``M = zI - A`` for one A; ``gram`` is A* A."""

    matrix: np.ndarray
    gram: np.ndarray
    size: float

    def holds(self, point: complex, claim: float) -> bool:
        """Whether ``s_min(point I - A) >= claim`` could be proved. False says nothing."""
        n = len(self.matrix)
        lost = EXTRA * (n + 4) * UNIT * (self.size + abs(point) * n**0.5) ** 2
        if lost > 1e-5 * claim * claim:
            return self._by_inverse(point, claim)
        cross = np.conj(point) * self.matrix
        shifted = self.gram - cross - cross.conj().T
        shifted[np.diag_indices(n)] += abs(point) ** 2 - (claim * claim + 2 * lost)
        return positive_definite(shifted)

    def _by_inverse(self, point: complex, claim: float) -> bool:
        n = len(self.matrix)
        m = point * np.eye(n) - self.matrix
        try:
            inverse = np.linalg.inv(m)
        except np.linalg.LinAlgError:
            return False
        size = float(np.linalg.norm(inverse))
        unit = EXTRA * (n + 4) * UNIT
        wrong = float(np.linalg.norm(np.eye(n) - inverse @ m)) + unit * size * (self.size + abs(point) * n**0.5)
        if not wrong < 0.5:
            return False
        limit = (1 - wrong) / claim
        gap = -(inverse.conj().T @ inverse)
        gap[np.diag_indices(n)] += limit * limit - 2 * unit * (size * size + n * limit * limit)
        return positive_definite(gap)


def verifier(a: np.ndarray) -> Verifier:
    """The verifier of a checked square matrix."""
    c = a.astype(np.complex128)
    return Verifier(c, c.conj().T @ c, float(np.linalg.norm(c)) * (1 + 1e-12))


def positive_definite(hermitian: np.ndarray) -> bool:
    """Whether LAPACK's Cholesky factorisation runs to its end. The caller has subtracted what that may hide."""
    from scipy.linalg import lapack

    return (
        lapack.zpotrf(  # pyright: ignore[reportAttributeAccessIssue]
            hermitian.T, lower=True, clean=False, overwrite_a=True
        )[1]
        == 0
    )


def norm_above(a: np.ndarray) -> float:
    """A proved upper bound of ``||A||_2``, within ``32 n^2 u`` of it; exact where every row and column has one entry (else the Frobenius norm)."""
    n, size = len(a), float(np.linalg.norm(a)) * (1 + 1e-12)
    if max(np.count_nonzero(a, axis=0).max(), np.count_nonzero(a, axis=1).max()) <= 1:
        return float(np.abs(a).max()) * (1 if np.isrealobj(a) else 1 + 4 * UNIT)
    unit = 2 * EXTRA * (n + 4) * UNIT
    limit = float(np.linalg.norm(a, 2)) * (1 + unit * (n + 2))
    c = a.astype(np.complex128)
    gap = -(c.conj().T @ c)
    gap[np.diag_indices(n)] += limit * limit - unit * (size * size + n * limit * limit)
    return limit if limit and positive_definite(gap) else size
