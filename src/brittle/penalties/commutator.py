"""Penalise recurrent matrices that do not commute with their transpose."""

from torch import Tensor

from brittle.about import About
from brittle.penalties._recurrent import now_and_then
from brittle.problem import Problem

ABOUT = About(
    promise="the recurrent matrices become normal: orthogonal eigenvectors, no transient growth",
    reference="Henrici, Numer. Math. 4 (1962) 24: the commutator bounds the departure from normality from both sides",
    leaves=("parameter",),
    cost="no pass for blocks; two matrix products per matrix",
)


def commutator(problem: Problem, *, seed: int = 0, of: str = "blocks", every: int = 1) -> Tensor:
    """``mean ||A^T A - A A^T||_F^2 / ||A||_F^4`` over recurrent matrices A: 0 for normal ones, smooth, blind to the scale of A.

    Non-normality is also what a network remembers with (Orhan and Pitkow, ICLR 2020); look at the accuracy.

    of, every  as for ``pseudospectral_radius``

    >>> import torch
    >>> class Last(torch.nn.RNN):
    ...     def forward(self, x):
    ...         return super().forward(x)[0][:, -1]
    >>> rnn = Last(1, 2, batch_first=True)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(torch.tensor([[0.5, 0.9], [0.0, 0.5]]))
    >>> problem = Problem(rnn, torch.zeros(1, 3, 1), torch.tensor([0]))
    >>> round(float(commutator(problem)), 4)
    0.7646
    """

    def term(matrix: Tensor) -> Tensor:
        both = matrix.mT @ matrix - matrix @ matrix.mT
        return both.square().sum() / matrix.square().sum().square().clamp_min(1e-30)

    return now_and_then(problem, seed, every, of, term)
