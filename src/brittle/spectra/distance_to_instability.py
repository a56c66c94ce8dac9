"""The smallest change of a stable matrix that makes it unstable."""

from typing import Any

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._instability import stable, weakest
from brittle.spectra._matrix import square
from brittle.spectra._plane import plane

ABOUT = About(
    promise="spectral norm of the smallest change, complex or real, that puts an eigenvalue on the boundary of stability",
    reference="Van Loan 1985; Byers, SIAM J. Sci. Stat. Comput. 9 (1988) 875; real: Qiu et al., Automatica 31 (1995) 879; search by Lipschitz intervals: derived here",
    leaves=(),
    cost="no pass; one Schur form and some hundred points of the circle; real: some thousand singular values of size 2n",
)
METHODS = ("global", "rank-one")


def distance_to_instability(
    matrix: Any, *, real: bool = False, time: str = "discrete", method: str = "global", tolerance: float = 1e-3
) -> float:
    """``d(A) = min {||E||: rho(A + E) >= 1} = min_{|z| = 1} s_min(zI - A)``, the complex stability radius; 0 where ``rho(A) >= 1``.

    ``1 / d`` is the largest gain of the resolvent over the frequencies, and d the epsilon at which :func:`pseudospectral_radius` is 1. For
    normal A it is ``1 - rho``, for others less. :func:`nearest_unstable` gives the change that attains it. ``time="continuous"`` asks for
    eigenvalues on the imaginary axis instead: ``min_y s_min(iy I - A)``.

    ``real=True``: E real, for real A: ``min 1 / mu_R((zI - A)^-1)``, ``mu_R(M) = inf_{0<g<=1} s_2([[Re M, -g Im M], [Im M / g, Re M]])``.
    Never below the complex distance.

    ``method="rank-one"`` (discrete, complex) is for large or sparse A and matrix-free operators, as in :func:`pseudospectral_radius`: an upper bound.

    Guarantee: the value is attained (an upper bound to rounding) at a local minimum found to rounding. Complex: nothing is smaller by more than
    ``tolerance``, relative, by a search that covers the whole circle, up to the kernel's residual test (where s is
    below about 1e-6 on a long arc, as for high Jordan blocks, 200,000 points, fewer from n = 140 on, do not prove that, and the value is an upper bound only). Real: frequencies at which the complex
    distance exceeds the value are excluded by it; among the others a grid is refined, so the value is an upper bound, and the complex
    distance the lower one. Values below ``n u ||A||`` are rounding: d is then told as 0.

    matrix : (n, n). Errors: InputError, also for a complex matrix with ``real=True``.

    >>> import numpy as np
    >>> jordan = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)
    >>> round(distance_to_instability(jordan), 12), round(distance_to_instability(0.5 * np.eye(8)), 12)
    (0.005648750664, 0.5)
    """
    if method not in METHODS or (method == "rank-one" and (real or time != "discrete")):
        raise InputError("method", " | ".join(METHODS), method, "rank-one answers the discrete complex distance only")
    if method == "rank-one":
        from brittle.spectra._rank_one import least_epsilon

        return least_epsilon(matrix)
    a = square(matrix)
    at = plane(a)
    if not stable(at, time):
        return 0.0
    if real:
        from brittle.spectra._real_distance import nearest_real

        return nearest_real(at, time, tolerance).value
    return weakest(at, time, tolerance)[0].value
