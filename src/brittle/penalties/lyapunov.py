"""Gradient flossing: pull the Lyapunov exponents along the data towards zero, or below."""

import torch
from torch import Tensor

from brittle import randomness
from brittle.about import About
from brittle.errors import InputError
from brittle.penalties._recurrent import paths
from brittle.problem import Problem

ABOUT = About(
    promise="changes of the state neither explode nor vanish along the data, on average over steps and sequences",
    reference="Engelken, Gradient flossing, NeurIPS 2023, arXiv 2312.17306 (the formula as remembered)",
    leaves=("parameter",),
    cost="1 forward pass, its steps once more, a QR factorisation per step, and the way back through all of it",
)

TINY = 1e-12  # a direction that one step erases has no exponent; its logarithm is cut here (folklore)


def lyapunov(problem: Problem, *, seed: int = 0, exponents: int = 4, target: float | None = None) -> Tensor:
    """Mean over layers, sequences and the first ``exponents`` of ``l_i^2``; with a target of ``max(0, l_i - target)^2``.

    ``J_t Q_{t-1} = Q_t R_t`` along the trajectory of every layer and direction, ``l_i`` the mean of ``log |R_t,ii|``. Differentiated through the
    factorisation. Without a target it conditions training (gradients survive long sequences); with ``target=0`` it asks only that
    changes do not grow.

    exponents  how many of the largest, at most the size of the state
    target     exponents below it cost nothing

    >>> class Last(torch.nn.RNN):
    ...     def forward(self, x):
    ...         return super().forward(x)[0][:, -1]
    >>> rnn = Last(1, 2, batch_first=True, bias=False)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(0.5 * torch.eye(2))
    >>> problem = Problem(rnn, torch.zeros(1, 6, 1), torch.tensor([0]))
    >>> round(float(lyapunov(problem)), 4)  # (log 0.5)^2
    0.4805
    """
    if not (isinstance(exponents, int) and exponents >= 1):
        raise InputError("lyapunov exponents", "a whole number >= 1", exponents, "use 4")
    terms = []
    for cell, states, inputs in paths(problem):
        k = min(cell.size, exponents)
        draw = torch.randn(cell.size, k, generator=randomness.generator(seed, "lyapunov"), dtype=torch.float64)
        frame = torch.linalg.qr(draw).Q.to(states).expand(len(states), -1, -1)
        rates = []
        for t in range(inputs.shape[1]):
            frame, upper = torch.linalg.qr(cell.derivative(states[:, t], inputs[:, t]).times(frame))
            rates.append(upper.diagonal(dim1=-2, dim2=-1).abs().clamp_min(TINY).log())
        mean = torch.stack(rates).mean(0)
        terms.append((mean if target is None else (mean - target).clamp_min(0)).square().mean())
    return torch.stack(terms).mean()
