"""What the family reads: one finite matrix in double precision, and the size below which its rounding hides everything."""

from typing import Any

import numpy as np

from brittle.errors import InputError

UNIT = float(np.finfo(np.float64).eps) / 2  # 2^-53, one rounding
LARGE, SMALL = 1e70, 1e-70  # fourth powers of sizes between them neither overflow nor vanish


def square(matrix: Any) -> np.ndarray:
    """A square matrix (n, n) as float64 or complex128; see :func:`rectangular` for what is read and refused."""
    a = rectangular(matrix)
    if a.shape[0] != a.shape[1]:
        raise InputError(
            "matrix",
            "a square one: a map from a state to the next state, which has eigenvalues",
            f"shape {a.shape}",
            "multiply it with what brings its output back (an LSTM with proj_size: gate block @ weight_hr), "
            "or ask for spectral_norm, which any shape has",
        )
    return a


def rectangular(matrix: Any) -> np.ndarray:
    """Any matrix (m, n): nested lists, NumPy, torch on any device and in any precision, SciPy sparse. A fresh array never aliases torch's memory.

    Errors: InputError where it is not a matrix, empty, not finite, or of a size whose squares leave double precision.
    """
    a = _array(matrix)
    if a.ndim != 2 or a.size == 0:
        raise InputError("matrix", "two axes, at least one row and one column", f"shape {a.shape}", "pass one matrix")
    if not np.isfinite(a).all():
        raise InputError(
            "matrix",
            "finite entries",
            f"{int((~np.isfinite(a)).sum())} entries that are not",
            "look at the weights: training has diverged, or the file is damaged",
        )
    size = float(np.abs(a).max())
    if size and not SMALL < size < LARGE:
        raise InputError(
            "matrix",
            f"a largest entry of {SMALL:g} .. {LARGE:g}",
            f"{size:g}",
            "rescale it; most quantities scale along",
        )
    return a


def _array(matrix: Any) -> np.ndarray:
    if hasattr(matrix, "detach"):
        kept = matrix.detach().cpu()
        matrix = (kept.cdouble() if kept.is_complex() else kept.double()).numpy().copy()
    elif hasattr(matrix, "toarray"):
        matrix = matrix.toarray()
    try:
        a = np.asarray(matrix)
        return np.ascontiguousarray(a, dtype=np.complex128 if np.iscomplexobj(a) else np.float64)
    except (TypeError, ValueError) as reason:
        raise InputError("matrix", "an array of numbers", type(matrix).__name__, "pass a matrix") from reason


def rounding_floor(a: np.ndarray) -> float:
    """``n u ||A||_F``: what one backward stable factorisation may move A by, u = 2^-53. Singular values below it are noise."""
    return len(a) * UNIT * float(np.linalg.norm(a))


def check_epsilon(a: np.ndarray, epsilon: float) -> float:
    """A perturbation size that is positive, finite and above the rounding of the matrix itself."""
    value = float(epsilon)
    if not (np.isfinite(value) and value > 0):
        raise InputError("epsilon", "a positive number", epsilon, "give the 2-norm of the change of the matrix")
    if value < 4 * rounding_floor(a):
        raise InputError(
            "epsilon",
            f"at least {4 * rounding_floor(a):.2g}, four times the rounding of this matrix",
            f"{value:g}",
            "ask for a larger change: below that, double precision cannot tell the matrix from its neighbours",
        )
    return value


def is_real(a: np.ndarray) -> bool:
    """Whether the pseudospectrum is symmetric about the real axis, so that half the plane suffices."""
    return not np.iscomplexobj(a) or not np.imag(a).any()
