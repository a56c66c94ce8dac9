"""Penalise recurrent matrices that a small change can make unstable."""

from math import inf

from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._recurrent import now_and_then
from brittle.problem import Problem
from brittle.spectra import differentiable

ABOUT = About(
    promise="the pseudospectral radius of the recurrent matrices falls towards the target; no statement about the nonlinear network",
    reference="as an objective: Burke, Lewis and Overton, SIMAX 25 (2003) 80; as a penalty for recurrent networks: ours, none was found",
    leaves=("parameter",),
    cost="no pass for blocks; a search of the pseudospectrum per matrix at one step in every",
)


def pseudospectral_radius(
    problem: Problem, *, seed: int = 0, epsilon: float = 0.1, target: float = 1.0, of: str = "blocks", every: int = 4
) -> Tensor:
    """``mean max(0, rho_eps(A) - target)^2`` over recurrent matrices A, with its exact gradient.

    ``rho_eps(A) = max {rho(A + E): ||E|| <= eps}``: where it is at most 1 no change of A of that size makes the linear recurrence unstable.

    epsilon  size of the change, in the spectral norm
    target   what is not exceeded costs nothing
    of       ``"blocks"``: every gate block (``weight_hh``); ``"jacobian"``: each layer's Jacobian at the batch's mean state
    every    computed at a random one in so many steps and weighted by it

    >>> import torch
    >>> class Last(torch.nn.RNN):
    ...     def forward(self, x):
    ...         return super().forward(x)[0][:, -1]
    >>> rnn = Last(1, 2, batch_first=True)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(torch.tensor([[0.5, 0.9], [0.0, 0.5]]))
    >>> problem = Problem(rnn, torch.zeros(1, 3, 1), torch.tensor([0]))
    >>> round(float(pseudospectral_radius(problem, epsilon=0.1, target=0.5, every=1)), 4)  # (0.8162 - 0.5)^2
    0.1
    """
    if not 0 < epsilon < inf or not target > epsilon:
        raise InputError("pseudospectral_radius", "0 < epsilon < target", (epsilon, target), "lower epsilon")

    def term(matrix: Tensor) -> Tensor:
        return (differentiable(matrix, "pseudospectral_radius", epsilon=epsilon) - target).clamp_min(0).square()

    return now_and_then(problem, seed, every, of, term)
