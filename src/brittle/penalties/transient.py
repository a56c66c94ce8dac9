"""Penalise the growth of powers of recurrent matrices."""

from torch import Tensor

from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._recurrent import now_and_then
from brittle.problem import Problem
from brittle.spectra import differentiable

ABOUT = About(
    promise="the largest norm among the first powers of the recurrent matrices falls towards 1",
    reference="derived; Trefethen and Embree, Spectra and Pseudospectra, chapter 14",
    leaves=("parameter",),
    cost="no pass for blocks; as many matrix products as steps per matrix, at one step in every",
)


def transient(problem: Problem, *, seed: int = 0, steps: int = 20, of: str = "blocks", every: int = 2) -> Tensor:
    """``mean max(0, log max_{0 <= k <= steps} ||A^k||)`` over recurrent matrices A, with the exact gradient at the power that attains it.

    steps      how far the recurrence is followed: the length of the sequences is a good choice
    of, every  as for ``pseudospectral_radius``

    >>> import torch
    >>> class Last(torch.nn.RNN):
    ...     def forward(self, x):
    ...         return super().forward(x)[0][:, -1]
    >>> rnn = Last(1, 2, batch_first=True)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(torch.tensor([[0.5, 0.9], [0.0, 0.5]]))
    >>> problem = Problem(rnn, torch.zeros(1, 3, 1), torch.tensor([0]))
    >>> round(float(transient(problem, every=1)), 4)  # the first power: log 1.1227
    0.1157
    """
    if not (isinstance(steps, int) and steps >= 1):
        raise InputError("transient steps", "a whole number >= 1", steps, "use the length of the sequences")
    term = lambda matrix: differentiable(matrix, "transient", steps=steps).log().clamp_min(0)
    return now_and_then(problem, seed, every, of, term)
