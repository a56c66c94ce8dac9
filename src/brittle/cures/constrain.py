"""Recurrent weights that cannot leave a set while they are trained: orthogonal ones, or ones of bounded norm."""

import numpy
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from brittle.about import About
from brittle.errors import InputError
from brittle.network import copied
from brittle.spectra.cells import GATES, SOUGHT, cells

ABOUT = About(
    promise="every recurrent block stays orthogonal, or below a spectral norm, through any training",
    reference="orthogonal: Lezcano-Casado and Martinez-Rubio, expRNN, ICML 2019 (W = exp(S - S^T)); norm: Yoshida and Miyato, arXiv 1705.10941, as a cap",
    leaves=("parameter",),
    cost="a matrix exponential, or a singular value decomposition, per block and forward pass",
)
HOW = ("orthogonal", "spectral_norm")


class Orthogonal(nn.Module):
    """Blocks ``exp(S - S^T)``: every trained S gives orthogonal matrices of determinant 1."""

    def __init__(self, gates: int) -> None:
        super().__init__()
        self.gates = gates

    def forward(self, free: Tensor) -> Tensor:
        blocks = torch.stack(free.chunk(self.gates))
        return torch.linalg.matrix_exp(blocks - blocks.mT).flatten(0, 1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Half the real logarithm of the nearest orthogonal matrix of determinant 1: the way back, where there is one."""
        blocks = torch.stack(weight.double().chunk(self.gates))
        return torch.stack([_logarithm(block) / 2 for block in blocks]).flatten(0, 1).to(weight)


class Capped(nn.Module):
    """Blocks ``W / max(1, ||W||_2 / cap)``."""

    def __init__(self, gates: int, cap: float) -> None:
        super().__init__()
        self.gates, self.cap = gates, cap

    def forward(self, free: Tensor) -> Tensor:
        blocks = torch.stack(free.chunk(self.gates))
        size = torch.linalg.matrix_norm(blocks, 2)[:, None, None]
        return (blocks / (size / self.cap).clamp_min(1)).flatten(0, 1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Every matrix stands for its capped self."""
        return weight


def constrain(module: nn.Module, how: str = "spectral_norm", *, cap: float = 1.0) -> nn.Module:
    """A copy whose recurrent weights are parametrised (``torch.nn.utils.parametrize``): train it with any loop.

    how   ``"orthogonal"``: every square block is ``exp(S - S^T)``: normal, Kreiss constant 1, every eigenvalue on the unit circle, so the linear recurrence
          neither forgets nor explodes, and lies on the boundary of stability. It starts from the nearest orthogonal matrix of determinant 1.
          ``"spectral_norm"``: every block is divided by what its norm exceeds ``cap`` by. A tanh or ReLU RNN with ``cap < 1`` is a
          contraction: states forget their past by that factor at every step, whatever the input. For gated cells the cap bounds the blocks, and
          no such statement follows.
    cap   for ``"spectral_norm"``

    Guarantee: the constraint holds at every forward pass, to rounding. ``torch.nn.utils.parametrize.remove_parametrizations(layer, name)`` makes
    the weights plain again. On CUDA, layers that are parametrised read their weights through autograd as on the CPU, but torch's flattened cuDNN
    buffer is known to miss them in some versions (pytorch issue 65688): compare one step with the CPU before a long run.

    Errors: InputError where nothing recurrent is found, for projections, whose blocks are not square, and for weights that are parametrised already.

    >>> _ = torch.manual_seed(0)
    >>> rnn = constrain(nn.RNN(3, 4), "orthogonal")
    >>> bool(torch.allclose(rnn.weight_hh_l0 @ rnn.weight_hh_l0.T, torch.eye(4), atol=1e-6))
    True
    """
    if how not in HOW:
        raise InputError("how", " | ".join(HOW), repr(how), "choose one of these")
    if not cap > 0:
        raise InputError("constrain cap", "a number > 0", cap, "use 1.0")
    found = cells(module)
    if not found:
        raise InputError(
            "module", f"a module that holds {SOUGHT}", type(module).__name__, "constrain a recurrent network"
        )
    cured = copied(module)
    for cell in found:
        owner = cured.get_submodule(cell.owner)
        name = "weight_hh"
        if isinstance(owner, nn.RNNBase):
            name = f"weight_hh_l{cell.layer}{'_reverse' if cell.reverse else ''}"
        if "hr" in cell.weights or parametrize.is_parametrized(owner, name):
            got = "a projection" if "hr" in cell.weights else "parametrised already"
            raise InputError(f"{cell.owner or 'module'}.{name}", "plain square blocks", got, "constrain another layer")
        gates = len(GATES[cell.kind])
        parametrize.register_parametrization(
            owner, name, Orthogonal(gates) if how == "orthogonal" else Capped(gates, cap)
        )
    return cured


def _logarithm(block: Tensor) -> Tensor:
    """The skew-symmetric real logarithm of the nearest orthogonal matrix of determinant 1."""
    from scipy.linalg import schur

    left, _, right = torch.linalg.svd(block)
    turn = left @ right
    if torch.linalg.det(turn) < 0:  # no logarithm: turn the direction round that the block stretches least
        left = left.clone()
        left[:, -1] *= -1
        turn = left @ right
    form, basis = schur(turn.detach().numpy())[:2]  # rotations, and single eigenvalues +-1
    angles, i, halves = numpy.zeros_like(form), 0, []
    while i < len(form):
        pair = i + 1 < len(form) and form[i + 1, i] != 0
        if pair:
            angles[i + 1, i] = numpy.arctan2(form[i + 1, i], form[i, i])
        elif form[i, i] < 0:
            halves.append(i)
        i += 2 if pair else 1
    for i, j in zip(
        halves[::2], halves[1::2], strict=True
    ):  # an even number, for the determinant is 1: half turns of planes
        angles[j, i] = numpy.pi
    return torch.as_tensor(basis @ (angles - angles.T) @ basis.T)
