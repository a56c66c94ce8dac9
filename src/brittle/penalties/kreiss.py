"""Penalise recurrent matrices whose powers grow before they decay."""

from math import log

from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._recurrent import now_and_then
from brittle.problem import Problem
from brittle.spectra import differentiable, spectral_radius

ABOUT = About(
    promise="the Kreiss constant of the recurrent matrices falls towards 1, and with it how far their powers can grow",
    reference="Kreiss, BIT 2 (1962) 153; as an objective: Apkarian and Noll (remembered); as a penalty for recurrent networks: ours",
    leaves=("parameter",),
    cost="no pass for blocks; a search of the resolvent per matrix at one step in every",
)
ROOM = 1.02  # the circle stays that far outside the spectrum, where the constant is finite (folklore)


def kreiss(
    problem: Problem, *, seed: int = 0, target: float = 1.0, of: str = "blocks", every: int = 8, tolerance: float = 0.01
) -> Tensor:
    """``mean max(0, log K(A / r) - log target)`` over recurrent matrices A, ``r = max(1, 1.02 rho(A))`` held fixed in the gradient.

    ``K(A) = sup_{|z| > 1} (|z| - 1) ||(zI - A)^-1||`` and ``K <= sup ||A^k|| <= e n K``. It is infinite for an unstable matrix, so that one is measured on
    the circle around its spectrum: what is penalised there is non-normality alone, not the spectral radius.

    target     constants up to it cost nothing
    of, every  as for ``pseudospectral_radius``
    tolerance  of the search for the supremum, relative

    >>> import torch
    >>> class Last(torch.nn.RNN):
    ...     def forward(self, x):
    ...         return super().forward(x)[0][:, -1]
    >>> rnn = Last(1, 2, batch_first=True)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(torch.tensor([[0.5, 3.0], [0.0, 0.5]]))
    >>> problem = Problem(rnn, torch.zeros(1, 3, 1), torch.tensor([0]))
    >>> round(float(kreiss(problem, every=1)), 3)  # log of 1.667
    0.511
    """
    if not target >= 1:
        raise InputError("kreiss target", "a number >= 1, the constant of a normal matrix", target, "use 1.0")

    def term(matrix: Tensor) -> Tensor:
        around = max(1.0, ROOM * spectral_radius(matrix.detach()))
        return (differentiable(matrix / around, "kreiss", tolerance=tolerance).log() - log(target)).clamp_min(0)

    return now_and_then(problem, seed, every, of, term)
