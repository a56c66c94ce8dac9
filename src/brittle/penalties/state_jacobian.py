"""Penalise how much one step of the recurrence amplifies changes of its state, along the data."""

import torch
from torch import Tensor

from brittle import randomness
from brittle.about import About
from brittle.penalties._recurrent import paths
from brittle.problem import Problem

ABOUT = About(
    promise="the Jacobians of the recurrence along the data shrink in the Frobenius norm",
    reference="Hoffman, Roberts and Yaida, arXiv 1908.02729, for the random projection; here by the state in place of the input",
    leaves=("parameter",),
    cost="1 forward pass, its steps once more, one product with the Jacobian per step and probe",
)


def state_jacobian(problem: Problem, *, seed: int = 0, probes: int = 1, target: float = 0.0) -> Tensor:
    """Mean over layers, sequences and steps of ``max(0, ||J_t||_F^2 / S - target)``, S the size of the state.

    ``||J||_F^2 = S E |J v|^2`` over random unit vectors v: each probe is one product with the Jacobian in closed form. 1 is what an orthogonal
    Jacobian has. With a target the estimate is that of the batch's mean per step, so that single draws are not cut off.

    probes  random directions per step

    >>> class Last(torch.nn.RNN):
    ...     def forward(self, x):
    ...         return super().forward(x)[0][:, -1]
    >>> rnn = Last(1, 2, batch_first=True, bias=False)
    >>> with torch.no_grad():
    ...     _ = rnn.weight_hh_l0.copy_(0.5 * torch.eye(2))
    >>> problem = Problem(rnn, torch.zeros(1, 6, 1), torch.tensor([0]))
    >>> round(float(state_jacobian(problem)), 4)  # every direction shrinks to a half
    0.25
    """
    terms = []
    for cell, states, inputs in paths(problem):
        generator = randomness.generator(seed, "state_jacobian")
        count, steps = inputs.shape[:2]
        probe = torch.randn(steps, cell.size, probes, generator=generator, dtype=torch.float64).to(states)
        probe = probe / torch.linalg.vector_norm(probe, dim=1, keepdim=True)
        moved = [
            cell.derivative(states[:, t], inputs[:, t]).times(probe[t].expand(count, -1, -1)) for t in range(steps)
        ]
        size = torch.stack([m.square().sum(1).mean() for m in moved])
        terms.append((size - target).clamp_min(0).mean())
    return torch.stack(terms).mean()
