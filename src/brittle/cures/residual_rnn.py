"""Recurrent cells that are stable by the form of their equation: antisymmetric, and Lipschitz."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from brittle.about import About
from brittle.errors import InputError

ABOUT = About(
    promise="a recurrent layer whose Jacobian's eigenvalues stay near the unit circle by construction (antisymmetric), or in a set by a mixture (Lipschitz)",
    reference="Chang, Chen, Haber and Chi, AntisymmetricRNN, ICLR 2019; Erichson et al., Lipschitz Recurrent Neural Networks, ICLR 2021",
    leaves=("parameter",),
    cost="a forward pass of an RNN, step by step",
)
KINDS = ("antisymmetric", "lipschitz")


class Antisymmetric(nn.Module):
    """``M - M^T - damping I``: eigenvalues on the line of real part ``-damping``."""

    def __init__(self, damping: float) -> None:
        super().__init__()
        self.damping = damping

    def forward(self, free: Tensor) -> Tensor:
        return free - free.mT - self.damping * torch.eye(len(free), dtype=free.dtype, device=free.device)


class Mixture(nn.Module):
    """``mix (M - M^T) + (1 - mix)(M + M^T) - damping I``."""

    def __init__(self, mix: float, damping: float) -> None:
        super().__init__()
        self.mix, self.damping = mix, damping

    def forward(self, free: Tensor) -> Tensor:
        eye = torch.eye(len(free), dtype=free.dtype, device=free.device)
        return self.mix * (free - free.mT) + (1 - self.mix) * (free + free.mT) - self.damping * eye


class ResidualCell(nn.Module):
    """One step ``h + e (A h + tanh(W h + U x + b))``; without A for the antisymmetric kind."""

    def __init__(self, features: int, size: int, kind: str, step: float, damping: float, mix: float) -> None:
        super().__init__()
        self.step, self.size, self.kind = step, size, kind
        draw = lambda: nn.Parameter(torch.randn(size, size) / size**0.5 / 2)
        self.read = nn.Linear(features, size)
        self.weight = draw()
        form = lambda: Antisymmetric(damping) if kind == "antisymmetric" else Mixture(mix, damping)
        parametrize.register_parametrization(self, "weight", form(), unsafe=True)
        if kind == "lipschitz":
            self.linear = draw()
            parametrize.register_parametrization(self, "linear", form(), unsafe=True)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        change = torch.tanh(h @ self.weight.mT + self.read(x))
        return h + self.step * (change + h @ self.linear.mT if self.kind == "lipschitz" else change)


class ResidualRNN(nn.Module):
    """The cell along sequences (batch, time, feature): outputs (batch, time, size) and the last state (1, batch, size), as ``nn.RNN`` has them."""

    def __init__(self, cell: ResidualCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        state = x.new_zeros(len(x), self.cell.size) if h is None else h[0]
        out = []
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            out.append(state)
        return torch.stack(out, 1), state[None]


def residual_rnn(
    features: int,
    size: int,
    kind: str = "antisymmetric",
    *,
    step: float = 0.1,
    damping: float = 0.01,
    mix: float = 0.75,
) -> nn.Module:
    """A layer to take the place of ``nn.RNN(features, size, batch_first=True)``.

    ``"antisymmetric"``: ``h <- h + e tanh((M - M^T - g I) h + U x + b)``. ``"lipschitz"``: ``h <- h + e A h + e tanh(W h + U x + b)`` with
    ``A = mix (M - M^T) + (1 - mix)(M + M^T) - g I`` and W of the same form. Both are forward Euler steps of length e = ``step`` of a differential equation; the
    antisymmetric one's linear part has eigenvalues ``1 - e g +- i e w``: of modulus below 1 only where ``e (g^2 + w^2) < 2 g``.

    step, damping (g), mix   as in the formulas; defaults are of the size that the papers use (folklore)

    Errors: InputError for an unknown kind, sizes below 1, step or damping below 0, mix outside [0, 1].

    >>> layer = residual_rnn(3, 4)
    >>> outputs, last = layer(torch.zeros(2, 5, 3))
    >>> outputs.shape, last.shape
    (torch.Size([2, 5, 4]), torch.Size([1, 2, 4]))
    """
    if kind not in KINDS:
        raise InputError("kind", " | ".join(KINDS), repr(kind), "choose one of these")
    if features < 1 or size < 1 or not step > 0 or not damping >= 0 or not 0 <= mix <= 1:
        given = (features, size, step, damping, mix)
        raise InputError(
            "residual_rnn", "features, size >= 1, step > 0, damping >= 0, mix in [0, 1]", given, "correct them"
        )
    return ResidualRNN(ResidualCell(features, size, kind, step, damping, mix))
