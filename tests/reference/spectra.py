"""Slow obvious twins of the spectral quantities: dense grids with full SVDs, and the eigenproblems of size 2n that the fast ones avoid."""

import numpy as np
from scipy.linalg import eigvals
from scipy.optimize import minimize, minimize_scalar


def smallest(a: np.ndarray, z: complex) -> float:
    return float(np.linalg.svd(z * np.eye(len(a)) - a, compute_uv=False)[-1])


def circle_minimum(a: np.ndarray, r: float, count: int = 720) -> float:
    """The least s on |z| = r: a dense grid, every local minimum of it refined."""
    return _grid_minimum(lambda t: smallest(a, r * np.exp(1j * t)), 0.0, 2 * np.pi, count)


def line_minimum(a: np.ndarray, x: float, count: int = 2000) -> float:
    height = 2 * np.linalg.norm(a, 2) + 1
    return _grid_minimum(lambda y: smallest(a, x + 1j * y), -height, height, count)


def _grid_minimum(f, low: float, high: float, count: int) -> float:
    t = np.linspace(low, high, count)
    v = np.array([f(x) for x in t])
    step = t[1] - t[0]
    padded = np.concatenate([[np.inf], v, [np.inf]])
    # not the few lowest cells: of a nearly normal matrix every eigenvalue is a narrow dip of nearly the same depth
    best = np.flatnonzero((v <= padded[:-2]) & (v <= padded[2:]))
    return min(
        minimize_scalar(f, bounds=(t[i] - step, t[i] + step), method="bounded", options={"xatol": 1e-12}).fun
        for i in best
    )


def radius_by_pencils(a: np.ndarray, epsilon: float) -> float:
    """Criss-cross (Mengi and Overton 2005): real eigenvalues along a ray, unimodular ones of a pencil around a circle."""
    n, eye = len(a), np.eye(len(a))

    def along(t: float) -> float:
        turned = np.exp(-1j * t) * a
        w = np.linalg.eigvals(np.block([[turned, -epsilon * eye], [-epsilon * eye, turned.conj().T]]))
        return max((x.real for x in w if abs(x.imag) < 1e-7 * max(1, abs(x))), default=0.0)

    angles, r = np.angle(np.linalg.eigvals(a)), 0.0
    for _ in range(30):
        further = max(along(t) for t in angles)
        if further <= r * (1 + 1e-13):
            break
        r = further
        left = np.block([[a, -epsilon * eye], [np.zeros((n, n)), r * eye]])
        right = np.block([[r * eye, np.zeros((n, n))], [-epsilon * eye, a.conj().T]])
        mu = eigvals(left, right)
        t = np.sort(np.angle(mu[np.abs(np.abs(mu) - 1) < 1e-6]))
        if not len(t):
            break
        ends = np.append(t, t[0] + 2 * np.pi)
        angles = np.concatenate([(ends[:-1] + ends[1:]) / 2, t])
    return r


def kreiss_by_grid(a: np.ndarray, radii: int = 60, angles: int = 120) -> float:
    """The quotient on a polar grid, the three best cells climbed by Nelder and Mead."""
    f = lambda v: -np.expm1(-v[0]) * np.exp(v[0]) / smallest(a, np.exp(v[0] + 1j * v[1])) if v[0] > 0 else 0.0
    cells = [(x, t) for x in np.geomspace(1e-3, 3, radii) for t in np.linspace(0, 2 * np.pi, angles, endpoint=False)]
    best = sorted(cells, key=lambda c: -f(c))[:3]
    return max(
        1.0,
        *(
            -minimize(lambda v: -f(v), c, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13}).fun
            for c in best
        ),
    )


def numerical_radius_by_angles(a: np.ndarray, count: int = 4000) -> float:
    turn = np.exp(-1j * np.linspace(0, 2 * np.pi, count))[:, None, None] * a
    return float(np.linalg.eigvalsh((turn + turn.conj().swapaxes(1, 2)) / 2)[:, -1].max())


def powers(a: np.ndarray, steps: int) -> np.ndarray:
    return np.array([np.linalg.norm(np.linalg.matrix_power(a, k), 2) for k in range(steps + 1)])


def multiple_eigenvalue_distance(a: np.ndarray, z: complex) -> float:
    """Malyshev's maximum over a dense grid of g."""
    n, shifted = len(a), a - z * np.eye(len(a))
    block = lambda g: np.block([[shifted, g * np.eye(n)], [np.zeros((n, n)), shifted]])
    return max(np.linalg.svd(block(g), compute_uv=False)[-2] for g in np.geomspace(1e-4, 20, 400))


def real_distance_to(a: np.ndarray, z: complex, seed: int = 0) -> float:
    """The smallest real E found for which z is an eigenvalue of A + E, by direct minimisation: an upper bound.

    Two real vectors (x, y) span the eigenvector x + iy; the least E that makes it one is ``-(A V - V Z) V^+`` with V = [x y], Z the rotation of z.
    """
    n, source = len(a), np.random.default_rng(seed)
    rotation = np.array([[z.real, z.imag], [-z.imag, z.real]])

    def size(flat: np.ndarray) -> float:
        v = flat.reshape(n, 2)
        return float(np.linalg.norm((v @ rotation - a @ v) @ np.linalg.pinv(v), 2))

    starts = [source.standard_normal(2 * n) for _ in range(3)]
    return min(
        minimize(
            size, s, method="Nelder-Mead", options={"maxiter": 1500, "fatol": 1e-7, "xatol": 1e-7, "adaptive": True}
        ).fun
        for s in starts
    )
