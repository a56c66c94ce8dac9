"""Penalise recurrent matrices that lie near an unstable one."""

from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._recurrent import now_and_then
from brittle.problem import Problem
from brittle.spectra import differentiable, spectral_radius

ABOUT = About(
    promise="the distance of the recurrent matrices to the unstable ones grows towards the target",
    reference="Van Loan 1985 for the distance; as a penalty for recurrent networks: ours",
    leaves=("parameter",),
    cost="no pass for blocks; a search of the unit circle per matrix at one step in every",
)


def distance_to_instability(
    problem: Problem, *, seed: int = 0, target: float = 0.1, of: str = "blocks", every: int = 4
) -> Tensor:
    """``mean max(0, target - d(A))^2`` over recurrent matrices A, where ``d(A) = min_{|z| = 1} s_min(zI - A)``.

    An unstable matrix has d = 0 and no slope; there the excess ``rho(A) - 1`` of its spectral radius takes the place of -d, so the penalty
    goes on growing and pulls the spectrum back into the disk.

    target     the distance that is asked for, in the spectral norm; below 1, which only the zero matrix has
    of, every  as for ``pseudospectral_radius``

    >>> import torch
    >>> class Last(torch.nn.RNN):
    ...     def forward(self, x):
    ...         return super().forward(x)[0][:, -1]
    >>> rnn = Last(1, 2, batch_first=True)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(torch.tensor([[0.5, 0.9], [0.0, 0.5]]))
    >>> problem = Problem(rnn, torch.zeros(1, 3, 1), torch.tensor([0]))
    >>> round(float(distance_to_instability(problem, target=0.5, every=1)), 4)  # d is 0.2227
    0.0769
    """
    if not 0 < target < 1:
        raise InputError("distance_to_instability target", "a number between 0 and 1", target, "use 0.1")

    def term(matrix: Tensor) -> Tensor:
        if spectral_radius(matrix.detach()) < 1:
            return (target - differentiable(matrix, "distance_to_instability")).clamp_min(0).square()
        return (target + differentiable(matrix, "spectral_radius") - 1).square()

    return now_and_then(problem, seed, every, of, term)
