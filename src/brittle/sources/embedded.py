"""The networks that come with brittle: four small classifiers of scikit-learn's digits, trained by scripts/train_embedded.py.

All take flat digits (N, 64) with pixels in [0, 1] and return ten logits.
"""

from pathlib import Path

import torch  # noqa: F401 - the example below uses it
from torch import Tensor, nn

from brittle.errors import InputError

FOLDER = Path(__file__).parent / "networks"


def mlp() -> nn.Module:
    """64-100-100-10, ReLU."""
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


def cnn() -> nn.Module:
    """Two 3x3 convolutions, the second with stride 2, and two dense layers."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class RowReader(nn.Module):
    """A GRU that reads a digit row by row, and a dense layer on its last state."""

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.recurrent = nn.GRU(8, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x.reshape(-1, 8, 8))[0][:, -1])


# name -> architecture, and one line on how it was trained
NETWORKS = {
    "mlp": (mlp, "plain cross-entropy"),
    "cnn": (cnn, "plain cross-entropy"),
    "hardened": (mlp, "cross-entropy on l-inf PGD examples of radius 0.1"),
    "gru": (RowReader, "plain cross-entropy"),
}


def embedded(name: str) -> nn.Module:
    """One of the embedded networks, in evaluation mode.

    >>> embedded("mlp")(torch.zeros(1, 64)).shape
    torch.Size([1, 10])
    """
    from safetensors.torch import load_file

    if name not in NETWORKS:
        raise InputError("embedded network", f"one of {', '.join(NETWORKS)}", repr(name), "choose one of these")
    module = NETWORKS[name][0]()
    module.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
    return module.eval()
