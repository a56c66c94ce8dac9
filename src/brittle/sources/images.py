"""A folder of class folders of images."""

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from brittle.errors import InputError
from brittle.sources.batch import Data

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
GREY, COLOUR = ("1", "L"), ("P", "RGB")  # Pillow's names of the modes that convert without loss


def load_images(folder: Path, limit: int | None = None) -> Data:
    """Images as x (N, C, H, W) float32 in [0, 1] (pixel / 255, C = 1 or 3) and their class numbers.

    Classes are numbered in the order of the folder names. Examples come in turn, the first image of every class, then the
    second of every class, each class in the order of its file names, so that the first N are spread over the classes.
    """
    classes = sorted(d for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    files = [sorted(f for f in d.iterdir() if f.suffix.lower() in SUFFIXES) for d in classes]
    turns = [(f, label) for turn in zip_longest(*files) for label, f in enumerate(turn) if f is not None][:limit]
    if not turns:
        raise InputError(
            "data",
            "class folders that hold images",
            f"{folder} with {len(classes)} sub-folders",
            "use folder/CLASS/image.png",
        )
    pixels = [_pixels(file) for file, _ in turns]
    for (file, _), value in zip(turns, pixels, strict=True):
        if value.shape != pixels[0].shape:
            raise InputError(
                "data",
                f"images of one size and depth, (C, H, W) = {tuple(pixels[0].shape)} as {turns[0][0].name}",
                f"{tuple(value.shape)} in {file.name}",
                "resize or convert them first",
            )
    return Data(torch.stack(pixels), torch.tensor([label for _, label in turns]))


def _pixels(file: Path) -> Tensor:
    import numpy as np

    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "data", "Pillow, which reads images", "no such package", "pip install 'brittle[images]'"
        ) from None
    try:
        with Image.open(file) as image:
            image.load()
            flat = _flat(image, file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as reason:
        if isinstance(reason, InputError):
            raise
        raise InputError("data", "an image", f"{file.name}: {reason}", "remove or repair it") from None
    value = torch.from_numpy(np.asarray(flat, dtype=np.float32) / 255)
    return value[None] if value.dim() == 2 else value.permute(2, 0, 1).contiguous()


def _flat(image: "Image", file: Path) -> "Image":
    if image.mode in GREY:
        return image.convert("L")
    if image.mode in COLOUR and "transparency" not in image.info:
        return image.convert("RGB")
    raise InputError(
        "data", "8-bit grey or RGB images without transparency", f"{file.name} of mode {image.mode}", "convert it first"
    )
