"""The outermost point of a pseudospectrum by changes of rank one, for matrices too large for a Schur form.

``B_k = A + eps y x*`` with the right and left eigenvectors x, y of the outermost eigenvalue l of ``B_{k-1}``, turned so that the eigenvalue moves
outwards: to first order ``eps y* E x / y* x`` with ``E = e^{i arg l} (conj phase) y x*`` moves it the furthest (Guglielmi and Overton, SIMAX
32 (2011) 1166). Each B_k is a matrix within eps of A, so every value is attained: a lower bound of the pseudospectral radius.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from brittle.errors import InputError
from brittle.spectra._matrix import check_epsilon, square

DENSE = 200  # below, all eigenvalues at once are quicker than Arnoldi (measured)
ROUNDS = 100
RESTARTS = (4, 60)  # of Arnoldi with 60 vectors: an outlier needs two or three, the edge of a dense cluster the rest
STARTS = 3  # of a large matrix one, since each costs a hundred products per round


@dataclass(frozen=True, eq=False)
class RankOne:
    """``A + epsilon left right*`` has the eigenvalue ``point``."""

    point: complex
    left: np.ndarray
    right: np.ndarray


def outermost(matrix: Any, epsilon: float) -> RankOne:
    """The best of the fixed points reached from the three outermost eigenvalues. Errors: InputError."""
    operator = _operator(matrix)
    if isinstance(operator, np.ndarray):
        epsilon = check_epsilon(operator, epsilon)
    elif not epsilon > 0:
        raise InputError("epsilon", "a positive number", epsilon, "give the 2-norm of the change of the matrix")
    forth, back, n = _products(operator)
    starts = _eigenpairs(operator, forth, n, None)
    lefts = _eigenpairs(operator, back, n, None, adjoint=True)
    found = []
    for value, right in starts[: STARTS if n <= DENSE else 1]:
        left = min(lefts, key=lambda pair: abs(pair[0].conjugate() - value))[1]
        found.append(_climb(operator, forth, back, n, epsilon, value, left, right))
    return max(found, key=lambda f: abs(f.point))


def least_epsilon(matrix: Any) -> float:
    """The epsilon at which :func:`outermost` reaches the unit circle: an upper bound of the distance to instability; 0 where rho >= 1.

    It grows with epsilon by at least as much, so the answer is at most ``1 - rho``.
    """
    from scipy.optimize import brentq

    operator = _operator(matrix)
    forth, _, n = _products(operator)
    room = 1 - abs(_eigenpairs(operator, forth, n, None)[0][0])
    if room <= 0:
        return 0.0
    beyond = lambda log: abs(outermost(operator, float(np.exp(log))).point) - 1
    high = np.log(room * (1 + 1e-9))
    low = high
    while beyond(low) > 0:
        high, low = low, low - 2.0
        if low < np.log(room) - 30:
            return float(np.exp(high))
    return float(np.exp(high if high == low else brentq(beyond, low, high, xtol=1e-10)))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _climb(operator: Any, forth: Callable, back: Callable, n: int, epsilon: float, value: complex, y: np.ndarray, x: np.ndarray) -> RankOne:  # fmt: skip
    best, stalled = None, 0
    for _ in range(ROUNDS):
        turn = value / abs(value) if value else 1.0
        overlap = np.vdot(y, x)
        left = turn * y * (overlap / abs(overlap) if abs(overlap) > 1e-300 else 1.0)
        found = _eigenpairs(operator, forth, n, (epsilon, left, x))[0]
        other = _eigenpairs(operator, back, n, (epsilon, x, left), adjoint=True)
        if best is None or abs(found[0]) > abs(best.point):
            gain = np.inf if best is None else abs(found[0]) - abs(best.point)
            best = RankOne(found[0], left, x)
            stalled = stalled + 1 if gain <= (1e-13 if n <= DENSE else 1e-10) * abs(found[0]) else 0
        else:
            stalled += 1
        if stalled >= 2:
            break
        value, x = found
        y = min(other, key=lambda pair: abs(pair[0].conjugate() - value))[1]
    assert best is not None
    return best


def _operator(matrix: Any) -> Any:
    """An array; what is large and knows products only is left as it is."""
    if hasattr(matrix, "toarray"):
        return matrix if matrix.shape[0] > DENSE else square(matrix)
    if hasattr(matrix, "matvec"):
        return matrix if matrix.shape[0] > DENSE else square(matrix @ np.eye(matrix.shape[1]))
    return square(matrix)


def _products(operator: Any) -> tuple[Callable, Callable, int]:
    if len(operator.shape) != 2 or operator.shape[0] != operator.shape[1] or not operator.shape[0]:
        raise InputError("matrix", "a square one", f"shape {operator.shape}", "pass the square map of the recurrence")
    if hasattr(operator, "matvec"):
        return operator.matvec, operator.rmatvec, operator.shape[0]
    adjoint = operator.conj().T
    if operator.dtype.kind == "f":  # a real matrix times a complex vector would be converted every time
        by_parts = lambda a, v: a @ np.real(v) + 1j * (a @ np.imag(v))
        return (lambda v: by_parts(operator, v)), (lambda v: by_parts(adjoint, v)), operator.shape[0]
    return (lambda v: operator @ v), (lambda v: adjoint @ v), operator.shape[0]


def _eigenpairs(
    operator: Any, product: Callable, n: int, change: tuple[float, np.ndarray, np.ndarray] | None, adjoint: bool = False
) -> list[tuple[complex, np.ndarray]]:
    """The outermost eigenpairs of A (or A*), plus ``epsilon a b*``, the first the outermost."""
    if n <= DENSE and isinstance(operator, np.ndarray):
        a = operator.conj().T if adjoint else operator
        if change is not None:
            a = a + change[0] * np.outer(change[1], change[2].conj())
        values, vectors = np.linalg.eig(a)
    else:
        values, vectors = _arnoldi(product, n, change)
    order = np.argsort(-np.abs(values), kind="stable")[:STARTS]
    return [(complex(values[i]), vectors[:, i] / np.linalg.norm(vectors[:, i])) for i in order]


def _arnoldi(
    product: Callable, n: int, change: tuple[float, np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

    def apply(v: np.ndarray) -> np.ndarray:
        image = np.asarray(product(v), dtype=np.complex128)
        return image if change is None else image + change[0] * change[1] * np.vdot(change[2], v)

    start = np.random.default_rng(0).standard_normal(n) + 0j  # a fixed start: the same answer every time
    start = start if change is None else change[2] + 1e-3 * start / n**0.5
    map_ = LinearOperator((n, n), matvec=apply, dtype=np.complex128)  # pyright: ignore[reportCallIssue]
    for restarts in RESTARTS:
        try:
            return eigs(map_, k=2, which="LM", v0=start, ncv=min(n - 1, 60), maxiter=restarts)  # pyright: ignore[reportReturnType]
        except ArpackNoConvergence as reason:
            if len(reason.eigenvalues):
                return reason.eigenvalues, reason.eigenvectors
    raise InputError(
        "matrix",
        "an outermost eigenvalue that Arnoldi finds",
        f"none after {RESTARTS[-1]} restarts",
        "use method='global'",
    )
