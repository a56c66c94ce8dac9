"""How far from the origin an eigenvalue can be pushed by a change of given size."""

from typing import Any

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._frontier import circles, furthest
from brittle.spectra._matrix import check_epsilon, square
from brittle.spectra._plane import plane

ABOUT = About(
    promise="largest modulus that an eigenvalue can take when the matrix changes by at most epsilon in the spectral norm",
    reference="Mengi and Overton, IMA J. Numer. Anal. 25 (2005) 648; search by Lipschitz intervals: derived here. Large: Guglielmi and Overton, SIMAX 32 (2011) 1166",
    leaves=(),
    cost="no pass; one Schur form, then some hundred points per circle, two to four circles",
)
METHODS = ("global", "rank-one")


def pseudospectral_radius(matrix: Any, epsilon: float, *, method: str = "global", tolerance: float = 1e-3) -> float:
    """``rho_eps(A) = max {|z|: s_min(zI - A) <= eps} = max {rho(A + E): ||E|| <= eps}``, E complex.

    Attained by ``E = eps u v*`` at the outermost point. ``rho + eps <= rho_eps <= rho + eps cond(V)``, the lower one for normal matrices. It
    grows with eps, passes 1 at :func:`distance_to_instability`, and ``||A^k|| <= rho_eps^(k+1) / eps``.

    ``method``: ``"global"`` alternates between circles and rays as the criss-cross method does, with a certified search in place of the
    eigenproblem of size 2n; ``"rank-one"`` needs eigenvectors of the outermost eigenvalue only, for large or sparse A or anything with ``@``
    and ``.shape`` (SciPy's LinearOperator with ``rmatvec``), and finds a local maximum: a lower bound.

    Guarantee: the value is attained at a point with ``s <= eps`` to rounding. Globally: no point with ``s <= eps (1 - tolerance / 2)`` has a lead
    ``|z| - rho(A)`` that is longer by more than ``tolerance`` (default 1e-3), both relative, up to rounding and the kernel's residual test.

    matrix  : (n, n); epsilon : size of the change in the 2-norm, above the rounding of the matrix.
    Errors: InputError, also for an epsilon that double precision cannot tell from zero.

    >>> import numpy as np
    >>> jordan = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)
    >>> round(pseudospectral_radius(jordan, 0.1), 12)
    1.3
    """
    if method not in METHODS:
        raise InputError("method", " | ".join(METHODS), method, "choose one of these")
    if method == "rank-one":
        from brittle.spectra._rank_one import outermost

        return abs(outermost(matrix, epsilon).point)
    a = square(matrix)
    epsilon = check_epsilon(a, epsilon)
    at = plane(a)
    return abs(furthest(at, circles(at), epsilon, tolerance).point)
