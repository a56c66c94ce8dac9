"""The Jacobian of a recurrent map by its state."""

import torch
from torch import Tensor

from brittle.about import About
from brittle.spectra._cells import Cell

ABOUT = About(
    promise="exact Jacobians of a recurrent map at given states and inputs, in closed form for torch's own cells",
    reference="derived from torch.nn's documented recurrences",
    leaves=("input", "parameter"),
    cost="about one step of the recurrence per row of the Jacobian; less in closed form",
)
CHUNK = 2**25  # numbers in one piece of Jacobians: 256 MB


def jacobians(cell: Cell, states: Tensor, inputs: Tensor) -> Tensor:
    """``J_ij = d F_i(state, input) / d state_j`` at every given point.

    tanh: ``diag(1 - h'^2) W``. GRU and LSTM: see ``brittle.spectra._cells``; an LSTM's state is (h, c), so its Jacobian has twice the size.
    Custom cells: forward-mode automatic differentiation. Equal to automatic differentiation to 1e-12 (tested, float64).

    states (..., S), inputs (..., F) -> (..., S, S). Whole trajectories: ``jacobians(t.cell, *t.points())``.

    >>> from torch import nn
    >>> from brittle.spectra.cells import cells
    >>> rnn = nn.RNN(1, 2, bias=False)
    >>> (cell,) = cells(rnn)
    >>> at_rest = jacobians(cell, torch.zeros(2).double(), torch.zeros(1).double())  # the slope of tanh is 1 there
    >>> torch.equal(at_rest, rnn.weight_hh_l0.double())
    True
    """
    shape = states.shape[:-1]
    flat, given = states.reshape(-1, states.shape[-1]), inputs.reshape(-1, inputs.shape[-1])
    piece = max(1, CHUNK // cell.size**2)
    parts = [cell.derivative(s, x).dense() for s, x in zip(flat.split(piece), given.split(piece), strict=True)]
    return torch.cat(parts).reshape(*shape, cell.size, cell.size)
