"""Small pictures without an image library: PNG by hand, as data URIs."""

import base64
import struct
import zlib

import numpy as np
from markupsafe import Markup

MOST = 64  # pixels a side; larger pictures are averaged down to it. An incompressible one takes 16 KB of page

# Ends of a diverging map (Okabe and Ito's blue and vermillion) around white: they differ for every kind of colour vision.
DOWN, UP = np.array([0, 114, 178.0]), np.array([213, 94, 0.0])


def as_picture(value: np.ndarray) -> np.ndarray | None:
    """(H, W) or (H, W, 3) of an input that looks like a picture, else None.

    Pictures are (H, W), (1 or 3, H, W), or flat of a square size, with sides of at least 4.

    >>> as_picture(np.zeros(64)).shape, as_picture(np.zeros((3, 8, 9))).shape, as_picture(np.zeros(10))
    ((8, 8), (8, 9, 3), None)
    """
    side = int(round(value.size**0.5))
    if value.ndim == 1 and side * side == value.size:
        value = value.reshape(side, side)
    if value.ndim == 3 and value.shape[0] in (1, 3):
        value = value[0] if value.shape[0] == 1 else np.moveaxis(value, 0, -1)
    good = (value.ndim == 2 or (value.ndim == 3 and value.shape[-1] == 3)) and min(value.shape[:2]) >= 4
    return _smaller(value.astype(np.float64)) if good else None


def grey(picture: np.ndarray, low: float, high: float) -> Markup:
    """A picture as it is, from black at ``low`` to white at ``high``."""
    span = high - low if high > low else 1.0
    shade = np.clip((picture - low) / span, 0, 1)
    return image(np.repeat(shade[..., None], 3, axis=-1) if shade.ndim == 2 else shade)


def diverging(change: np.ndarray, most: float) -> Markup:
    """A change: blue where it lowers, white where it leaves, vermillion where it raises; full colour at ``most``."""
    flat = change.mean(-1) if change.ndim == 3 else change
    part = np.clip(flat / (most or 1.0), -1, 1)[..., None]
    colour = np.where(part < 0, DOWN, UP) / 255
    return image(1 - np.abs(part) * (1 - colour))


def image(shades: np.ndarray) -> Markup:
    """The data URI of (H, W, 3) values in [0, 1]."""
    return Markup("data:image/png;base64," + base64.b64encode(png((shades * 255).round().astype(np.uint8))).decode())


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) bytes as a PNG file (RFC 2083: signature, header, one compressed stream of unfiltered rows, end)."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows, 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _smaller(picture: np.ndarray) -> np.ndarray:
    block = -(-max(picture.shape[:2]) // MOST)
    if block == 1:
        return picture
    height, width = (picture.shape[0] // block, picture.shape[1] // block)
    cut = picture[: height * block, : width * block]
    return cut.reshape(height, block, width, block, *picture.shape[2:]).mean((1, 3))
