"""The scalars of a spectrum with their exact gradients."""

from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._gradients import RULES, Options
from brittle.spectra._matrix import square

ABOUT = About(
    promise="a scalar of the spectrum and its gradient with respect to every entry, from singular vectors that the search has anyway",
    reference="first-order perturbation of singular values; Burke, Lewis and Overton, SIMAX 25 (2003) 80",
    leaves=(),
    cost="no pass; that of the quantity, and an outer product",
)


def value_and_gradient(
    matrix: Any,
    quantity: str,
    *,
    epsilon: float | None = None,
    point: complex | None = None,
    steps: int = 100,
    tied: float = 0.0,
    tolerance: float = 1e-2,
) -> tuple[float, np.ndarray]:
    """``(f(A), G)`` with ``d f = sum G_ij dA_ij`` (complex A: ``Re sum conj(G_ij) dA_ij``, torch's convention), G of the shape of A.

    quantity   "smallest" (s_min(``point`` I - A)), "pseudospectral_radius" (needs ``epsilon``), "kreiss" (its attained lower end),
               "distance_to_instability", "transient" (largest ``||A^k||`` of ``steps`` powers), "commutator", "spectral_norm", "spectral_radius"
    tied       these functions are maxima or minima of smooth ones, and have a kink where several tie. 0: the gradient at one extremum, which is a
               subgradient. Larger: the mean over all extrema within this share of the best (the active set), calmer near a kink, and no longer
               the exact gradient beside it. Conjugate extrema of a real A have the same gradient and count once
    tolerance  how far, relative, another extremum may be better without being found

    Guarantee: exact derivative at the point that attains the value, where the singular value there is simple; central differences agree to 1e-7.

    Errors: InputError, also for "kreiss" and "distance_to_instability" of a matrix that is not stable (infinite, or zero and flat).

    >>> value, gradient = value_and_gradient([[0.5, 0.9], [0.0, 0.5]], "pseudospectral_radius", epsilon=0.1)
    >>> round(value, 12), gradient.round(6).tolist()  # 0.5 + sqrt(0.1^2 + 0.9 x 0.1)
    (0.816227766017, [[0.5, 0.158114], [1.581139, 0.5]])
    """
    if quantity not in RULES:
        raise InputError("quantity", " | ".join(RULES), quantity, "choose one of these")
    if not 0 <= tied < 1:
        raise InputError("tied", "a share from 0 to below 1", tied, "leave it out for one extremum")
    a = square(matrix)
    value, gradient = RULES[quantity](a, Options(epsilon, point, steps, tied, tolerance))
    return value, gradient if np.iscomplexobj(a) else np.real(gradient)
