"""Scale recurrent matrices to the unit disk: by radius, by norm, or so that no change of a given size leaves it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from brittle.about import About
from brittle.errors import InputError
from brittle.network import copied
from brittle.spectra import error_floor, pseudospectral_radius, spectral_norm, spectral_radius
from brittle.spectra._frontier import Unsettled
from brittle.spectra.cells import GATES, SOUGHT, cells
from brittle.spectra.power_method import power_method

ABOUT = About(
    promise="every recurrent block is a multiple of itself, with spectral radius, norm or pseudospectral radius at the target",
    reference="by radius: Sengupta and Friston, arXiv 1804.11313; robust: derived from rho_eps(c W) = c rho_(eps / c)(W)",
    leaves=("parameter",),
    cost="one Schur form and some ten searches per block",
)
WAYS = ("radius", "norm", "robust", "power")


def normalise(
    module: Any, how: str = "radius", *, target: float = 1.0, epsilon: float = 0.05, only_down: bool = False
) -> Any:
    """A copy whose recurrent matrices are scaled: ``W -> c W``, block by block (W; r, z, n of a GRU; i, f, g, o of an LSTM).

    how        ``"radius"``: ``rho(c W) = target``, from all eigenvalues. ``"power"``: the same by the power method and the Rayleigh
               quotient, as the paper does, with its fallbacks where these fail (:func:`brittle.spectra.power_method.power_method`)
               ``"norm"``: ``||c W||_2 = target``, which makes the linear recurrence a contraction up to its boundary.
               ``"robust"``: ``rho_eps(c W) = target`` for ``eps = epsilon``, so that no change of W of spectral norm below ``epsilon`` takes an
               eigenvalue beyond the target; for target 1 the distance to instability of c W is then exactly ``epsilon``. It can be reached
               for ``epsilon < target`` only, since ``rho_eps(0) = epsilon``
    target     where the scaled quantity is to lie
    only_down  leave blocks that lie below the target as they are

    Guarantee: the scaled quantity is at the target to 1e-6 of it, in float64, before the weights are rounded to their own dtype; a pseudospectrum that is a
    disk (of a nilpotent block) is searched to a hundredth of its lead over the spectrum only. Nothing is said of accuracy: scaling changes
    what the network computes, so measure it again. The scaled matrix is the block that acts on the state; with a projection that is
    ``W_block W_hr``, of which W_block is scaled.

    module : a ``torch.nn.Module`` that holds RNN, GRU, LSTM or their cells; or a square matrix (array or tensor), which is returned scaled.
    Errors: InputError where nothing recurrent is found, for a nilpotent or zero block (radius 0: no multiple reaches the target), for weights that are
    parametrised.

    >>> import numpy as np
    >>> jordan = 0.5 * np.eye(4) + 0.9 * np.eye(4, k=1)
    >>> [round(float(np.abs(np.linalg.eigvals(normalise(jordan, how))).max()), 4) for how in ("radius", "norm", "robust")]
    [1.0, 0.3795, 0.5171]
    """
    if how not in WAYS:
        raise InputError("how", " | ".join(WAYS), repr(how), "choose one of these")
    if not target > 0 or not epsilon > 0 or (how == "robust" and epsilon >= target):
        raise InputError("normalise", "0 < epsilon < target", f"epsilon={epsilon}, target={target}", "lower epsilon")
    if not isinstance(module, nn.Module):
        array = module.detach().cpu().double().numpy() if isinstance(module, Tensor) else np.asarray(module)
        return factor(array, how, target, epsilon, only_down, "the matrix") * module
    cured = copied(module)
    found = cells(cured)
    if not found:
        raise InputError("module", f"a module that holds {SOUGHT}", type(module).__name__, "pass the matrix itself")
    with torch.no_grad():
        for cell in found:
            weight = _weight(cured, cell)
            rows = len(weight) // len(GATES[cell.kind])
            for k, (gate, block) in enumerate(cell.blocks.items()):
                where = f"block {gate} of {cell.name or 'the cell'}"
                weight[k * rows : (k + 1) * rows] *= factor(block.numpy(), how, target, epsilon, only_down, where)
    return cured


def factor(block: np.ndarray, how: str, target: float, epsilon: float, only_down: bool, where: str) -> float:
    """The c for which the quantity of ``c W`` is at the target."""
    if how == "robust":
        return _robust(block, target, epsilon, only_down, where)
    now = {"norm": spectral_norm, "radius": spectral_radius}.get(how, lambda a: power_method(a).radius)(block)
    if now <= error_floor(block):
        if only_down:
            return 1.0
        raise InputError(where, f"a {how} above 0", now, "no multiple of it reaches the target; say only_down=True")
    return min(1.0, target / now) if only_down else target / now


def _robust(block: np.ndarray, target: float, epsilon: float, only_down: bool, where: str) -> float:
    """Bisection on c: ``rho_eps(c W) = c rho_(eps/c)(W)`` grows with c, from ``eps`` at 0."""
    size = spectral_norm(block)
    if size <= error_floor(block):
        raise InputError(where, "a block that is not zero", size, "nothing can be normalised")
    low = (target - epsilon) / size  # rho_eps(c W) <= c ||W|| + eps, with equality where the norm is the radius
    tolerance = _tolerance(block, epsilon / low)
    outermost = lambda c: c * pseudospectral_radius(block, epsilon / c, tolerance=tolerance) - target
    if only_down and (low >= 1 or outermost(1.0) <= 0):
        return 1.0
    if outermost(low) >= 0:
        return low
    high = 2 * low
    while outermost(high) < 0:
        low, high = high, 2 * high
    from scipy.optimize import brentq

    return float(brentq(outermost, low, high, xtol=1e-9 * low))  # type: ignore[arg-type]


def _tolerance(block: np.ndarray, epsilon: float) -> float:
    """Of the search: 1e-6, or a hundredth where the pseudospectrum is round, so that no point of a circle stands out and too many are alike."""
    try:
        pseudospectral_radius(block, epsilon, tolerance=1e-6)
    except Unsettled:
        return 1e-2
    return 1e-6


def _weight(module: nn.Module, cell: Any) -> nn.Parameter:
    """The parameter whose row blocks are the cell's gates."""
    owner = module.get_submodule(cell.owner)
    if isinstance(owner, nn.RNNBase):
        name = f"weight_hh_l{cell.layer}{'_reverse' if cell.reverse else ''}"
    else:
        name = "weight_hh"
    if parametrize.is_parametrized(owner, name):
        raise InputError(
            f"{cell.owner}.{name}", "a plain parameter", "a parametrised one", "remove the parametrisation first"
        )
    return getattr(owner, name)
