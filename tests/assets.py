"""Loaders of the real data and networks in ``.assets/``; a test whose assets are absent skips and says how to get them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from brittle.sources.assets import _idx, cifar10, efficientnet, imagenet, mnist

__all__ = ["cifar10", "efficientnet", "imagenet", "mnist"]  # those of the package, and below what only tests need

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".assets"


def need(*names: str) -> None:
    """Skip the running test unless these assets of ``scripts/assets.json`` are here."""
    table = json.loads((ROOT / "scripts" / "assets.json").read_text(encoding="utf-8"))
    absent = [n for n in names if not all(_folder(p["name"]) for p in table[n]["packages"])]
    if absent:
        pytest.skip(f"assets absent: run python scripts/fetch_assets.py {' '.join(absent)}")


def package(name: str) -> Path:
    """The folder of one fetched package, whatever its version."""
    found = _folder(name)
    if found is None:
        raise FileNotFoundError(f"{name}: expected a folder in {FOLDER}, got none; run python scripts/fetch_assets.py")
    return found


def fashion_mnist(split: str = "test") -> tuple[Tensor, Tensor]:
    """As :func:`mnist`, with clothes."""
    home = package("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    stem = {"test": "t10k", "train": "train"}[split]
    pixels, labels = (_idx(home / f"{stem}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return pixels[:, None].float() / 255, labels.long()


def faces() -> tuple[Tensor, Tensor]:
    """100 faces (label 1) and 100 other crops (label 0) of LFW: (200, 3, 24, 24) in [0, 1], grey in three channels."""
    crops = np.load(package("scikit-image") / "skimage" / "data" / "lfw_subset.npy")
    x = torch.tensor(crops, dtype=torch.float32)[:, None, :24, :24].expand(-1, 3, -1, -1).contiguous()
    return x, (torch.arange(200) < 100).long()


class RNet(nn.Module):
    """Face or not: the second stage of MTCNN on images in [0, 1]; two logits, class 1 is a face."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 28, 3), nn.PReLU(28), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(28, 48, 3), nn.PReLU(48), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(48, 64, 2), nn.PReLU(64),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(576, 128), nn.PReLU(128), nn.Linear(128, 2))

    def forward(self, x: Tensor) -> Tensor:
        deep = self.features((x * 255 - 127.5) / 128)
        return self.head(deep.permute(0, 3, 2, 1).flatten(1))  # the weights expect the order (width, height, channel)


def rnet() -> nn.Module:
    stored = torch.load(package("facenet-pytorch") / "facenet_pytorch" / "data" / "rnet.pt", weights_only=True)
    kept = [value for name, value in stored.items() if "5_2" not in name]  # the box regression is left out
    network = RNet()
    network.load_state_dict(dict(zip(network.state_dict(), kept, strict=True)))
    return network.eval()


def series(name: str, split: str) -> tuple[Tensor, list[str]]:
    """A time-series set of aeon by the stem of its file, split "TRAIN" or "TEST": (N, steps, channels), zero-padded, and classes."""
    file = next((package("aeon") / "aeon" / "datasets" / "data").rglob(f"{name}_{split}.ts"))
    lines = [line.strip() for line in file.read_text(encoding="utf8").splitlines()]
    rows = [line.split(":") for line in lines if line and line[0] not in "#@"]
    values = [torch.tensor([[float(v) for v in channel.split(",")] for channel in row[:-1]]).T for row in rows]
    return nn.utils.rnn.pad_sequence(values, batch_first=True), [row[-1] for row in rows]


def snippets(name: str) -> list[tuple[float, str]]:
    """Human sentiment in [-4, 4] and text; name "movieReviewSnippets", "tweets", "amazonReviewSnippets" or "nytEditorialSnippets"."""
    file = next(package("vaderSentiment").rglob(f"{name}_GroundTruth.txt"))
    rows = [line.split("\t") for line in file.read_text(encoding="latin-1").splitlines()]
    return [(float(row[1]), row[2]) for row in rows if len(row) > 2]


def _folder(name: str) -> Path | None:
    return next(iter(sorted(FOLDER.glob(f"{name}-[0-9]*"))), None) if FOLDER.is_dir() else None
