"""One matrix over the complex plane: quick values at many points, and one point with its singular vectors to the last digits."""

from dataclasses import dataclass

import numpy as np

from brittle.spectra._schur import Factored, factorise, smallest

QUICK = 1e-3  # relative, of values that only steer a search or are verified afterwards
DENSE = 100  # up to this size LAPACK answers for a single point as quickly as the kernel (measured)


@dataclass(frozen=True, eq=False)
class Pair:
    """The smallest singular value of ``zI - A`` at ``point`` and its vectors: ``(zI - A) right = value left``."""

    point: complex
    value: float
    left: np.ndarray
    right: np.ndarray

    @property
    def overlap(self) -> complex:
        """``u* v``. With it ``ds = Re(u* v dz) - Re(sum conj(u_i) v_j dA_ij)`` where the singular value is simple."""
        return complex(np.vdot(self.left, self.right))

    @property
    def slope(self) -> np.ndarray:
        """``ds / dA_ij = -conj(u_i) v_j`` as a complex matrix G: a change E moves s by ``Re sum G_ij E_ij``."""
        return -np.outer(self.left.conj(), self.right)


@dataclass(frozen=True, eq=False)
class Plane:
    """``s(z) = s_min(zI - A)``, which is 1-Lipschitz in z: what every search of the family rests on."""

    matrix: np.ndarray
    factored: Factored

    def values(self, points: np.ndarray, tolerance: float = QUICK) -> np.ndarray:
        """s at many points, (m,), relative error about ``tolerance``, never too small but for rounding."""
        return smallest(self.factored, np.asarray(points, dtype=np.complex128), tolerance)[0]

    def pair(self, point: complex) -> Pair:
        """s and its singular vectors at one point, to rounding."""
        n = len(self.matrix)
        if n <= DENSE:
            u, s, vh = np.linalg.svd(point * np.eye(n) - self.matrix)
            return Pair(complex(point), float(s[-1]), u[:, -1], vh[-1].conj())
        s, u, v = smallest(self.factored, np.array([point], dtype=np.complex128), 1e-12, vectors=True)
        assert u is not None and v is not None  # vectors were asked for
        return Pair(complex(point), float(s[0]), u[0], v[0])

    @property
    def eigenvalues(self) -> np.ndarray:
        return self.factored.eigenvalues

    @property
    def real(self) -> bool:
        return self.factored.real


def plane(a: np.ndarray) -> Plane:
    """The plane of a checked square matrix: one Schur form."""
    return Plane(a, factorise(a))
