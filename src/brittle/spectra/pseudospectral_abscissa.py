"""How far to the right an eigenvalue can be pushed by a change of given size."""

from typing import Any

from brittle.about import About
from brittle.spectra._frontier import furthest, lines
from brittle.spectra._matrix import check_epsilon, square
from brittle.spectra._plane import plane

ABOUT = About(
    promise="largest real part that an eigenvalue can take when the matrix changes by at most epsilon in the spectral norm",
    reference="Burke, Lewis and Overton, IMA J. Numer. Anal. 23 (2003) 359; search by Lipschitz intervals: derived here",
    leaves=(),
    cost="no pass; one Schur form, then some hundred points per line, two to four lines",
)


def pseudospectral_abscissa(matrix: Any, epsilon: float, *, tolerance: float = 1e-3) -> float:
    """``alpha_eps(A) = max {Re z: s_min(zI - A) <= eps} = max {Re lambda(A + E): ||E|| <= eps}``: stability of ``dh/dt = A h``.

    For continuous time (ODE networks, the generator of a leaky cell) what :func:`pseudospectral_radius` is for steps:
    ``||exp(tA)|| <= length of the contour / (2 pi eps) exp(t alpha_eps)``, and its supremum is at least ``alpha_eps / eps``.

    Guarantee: as of :func:`pseudospectral_radius`, the lead measured against the largest real part of an eigenvalue.

    matrix : (n, n); epsilon : size of the change in the 2-norm. Errors: InputError.

    >>> round(pseudospectral_abscissa([[-1.0, 1.0], [0.0, -1.0]], 0.1), 12)  # -1 + sqrt(0.1^2 + 0.1)
    -0.668337520964
    """
    a = square(matrix)
    epsilon = check_epsilon(a, epsilon)
    at = plane(a)
    return furthest(at, lines(at, epsilon), epsilon, tolerance).point.real
