"""Lyapunov exponents along data: at what rate do small changes of the state grow or die, direction by direction?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from brittle.about import About
from brittle.randomness import generator
from brittle.spectra.trajectories import Trajectory

ABOUT = About(
    promise="the leading finite-time Lyapunov exponents of a recurrent map along data, in nats a step",
    reference="Benettin et al., Meccanica 15, 1980; for recurrent networks Vogt et al., Front. Appl. Math. Stat. 8, 2022 (arXiv 2006.14123)",
    leaves=("input",),
    cost="per step: k products with the recurrent matrix and one QR of (S, k)",
)


@dataclass(frozen=True, eq=False)
class Exponents:
    """values (N, k) nats per step, of each sequence, largest first on average; steps (N,) that they average over."""

    values: Tensor
    steps: Tensor

    @property
    def mean(self) -> Tensor:
        """(k,) means over all steps of all sequences."""
        return (self.values * self.steps[:, None]).sum(0) / self.steps.sum()


def lyapunov(trajectory: Trajectory, *, exponents: int | None = None, skip: int = 0, seed: int = 0) -> Exponents:
    """``J_t Q_{t-1} = Q_t R_t``; the i-th exponent is the mean of ``log |R_t,ii|`` over the steps of a sequence.

    A negative first exponent: small changes of the state die out along these data; a positive one: they grow exponentially, so the state does not
    forget and the gradient explodes. Finite-time values of finite sequences: for short ones they depend on the start of the directions (drawn from ``seed``)
    by O(1 / T); ``skip`` leaves out that many first steps, in which the directions align. Their sum over all S exponents is the mean of
    ``log |det J_t|`` whatever the start.

    exponents : k <= S, default min(S, 8). Steps beyond a sequence's length do not count; sequences not longer than ``skip`` have 0 steps.

    >>> from torch import nn
    >>> from brittle.spectra.trajectories import trajectories
    >>> rnn = nn.RNN(1, 2, batch_first=True, bias=False)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(torch.tensor([[0.5, 0.0], [0.0, 0.25]]))
    >>> (path,) = trajectories(rnn, torch.zeros(1, 60, 1))
    >>> lyapunov(path, skip=30).mean.exp()
    tensor([0.5000, 0.2500], dtype=torch.float64)
    """
    cell, count = trajectory.cell, len(trajectory.lengths)
    k = min(cell.size, exponents or 8)
    columns = [torch.randn(cell.size, generator=generator(seed, "lyapunov", i), dtype=torch.float64) for i in range(k)]
    frame = torch.linalg.qr(torch.stack(columns, 1)).Q.expand(
        count, -1, -1
    )  # more exponents leave the first as they were
    total = torch.zeros(count, k, dtype=torch.float64)
    smallest = torch.finfo(torch.float64).tiny
    with torch.no_grad():
        for t in range(trajectory.inputs.shape[1]):
            pushed = cell.derivative(trajectory.states[:, t], trajectory.inputs[:, t]).times(frame)
            frame, upper = torch.linalg.qr(pushed)
            rates = upper.diagonal(dim1=-2, dim2=-1).abs().clamp_min(smallest).log()
            counts = (t >= skip) & (t < trajectory.lengths)
            total += torch.where(counts[:, None], rates, 0.0)
    steps = (trajectory.lengths - skip).clamp_min(0)
    return Exponents(total / steps.clamp_min(1)[:, None], steps)
