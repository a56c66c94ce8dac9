"""Linear and convolutional layers as lists of products: ``output[o] += weight[w] * input[i]``, from their own definitions."""

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from brittle._checker.arithmetic import Array

Index = NDArray[np.int64]
LARGEST = (
    20_000_000  # products of one layer; beyond it a layer is reported as not checked instead of filling the memory
)


class TooLarge(ValueError):
    """A layer with more products than the checker holds in memory."""


@dataclass(frozen=True)
class Stencil:
    """Which weight multiplies which input into which output; ``bias[o]`` is the index of the bias of output o."""

    out: Index
    inp: Index
    weight: Index
    bias: Index
    inputs: int

    @property
    def outputs(self) -> int:
        return len(self.bias)

    @property
    def fan_in(self) -> int:
        """The largest number of products in one output."""
        return int(np.bincount(self.out, minlength=1).max())

    def matrix(self, weight: Array) -> csr_matrix:
        """The layer as a sparse matrix (outputs, inputs)."""
        values = weight.reshape(-1)[self.weight]
        return csr_matrix((values, (self.out, self.inp)), shape=(self.outputs, self.inputs))


def linear(shape: tuple[int, ...], features: int) -> Stencil:
    """``y[..., o] = sum_i W[o, i] x[..., i]`` for an input of ``shape`` per example."""
    width, rows = shape[-1], prod(shape[:-1])
    _limit(rows * features * width)
    row, out, inp = (v.reshape(-1) for v in np.meshgrid(*map(np.arange, (rows, features, width)), indexing="ij"))
    return Stencil(
        row * features + out, row * width + inp, out * width + inp, np.tile(np.arange(features), rows), rows * width
    )


def convolution(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Stencil:
    """Cross-correlation with zero padding, in any number of space dimensions.

    shape  : (C, *space) of one example; kernel : (O, C / groups, *size)
    Output (o, y) sums ``W[o, c, k] x[first channel of o's group + c, y stride - padding + k dilation]`` over c and k inside the image.
    """
    channels, space = shape[0], shape[1:]
    outputs, depth, size = kernel[0], kernel[1], kernel[2:]
    if depth * groups != channels:
        raise ValueError(f"kernel {kernel} does not fit {channels} channels in {groups} groups")
    reach = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(space, padding, dilation, size, stride, strict=True)
    ]
    _limit(outputs * prod(reach) * depth * prod(size))
    grid = np.meshgrid(*map(np.arange, (outputs, *reach, depth, *size)), indexing="ij", sparse=True)
    out_channel, position, deep, tap = grid[0], grid[1 : 1 + len(space)], grid[1 + len(space)], grid[2 + len(space) :]
    shown, place = True, 0
    for n, s, p, d, y, k in zip(space, stride, padding, dilation, position, tap, strict=True):
        at = y * s - p + k * d
        shown, place = shown & (at >= 0) & (at < n), place * n + at
    inp = (out_channel // (outputs // groups) * depth + deep) * prod(space) + place
    out, weight = _ravel([out_channel, *position], (outputs, *reach)), _ravel([out_channel, deep, *tap], kernel)
    full = (outputs, *reach, depth, *size)
    keep = np.broadcast_to(shown, full).reshape(-1)
    flat = lambda index: np.broadcast_to(index, full).reshape(-1)[keep]
    return Stencil(flat(out), flat(inp), flat(weight), np.repeat(np.arange(outputs), prod(reach)), prod(shape))


def windows(
    space: tuple[int, ...],
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Stencil:
    """Pooling windows of one channel: products with a single weight of 1, taps outside the image left out."""
    return convolution((1, *space), (1, 1, *size), stride, padding, dilation, 1)


def _ravel(parts: list[NDArray], sizes: tuple[int, ...]) -> NDArray:
    index = 0
    for part, size in zip(parts, sizes, strict=True):
        index = index * size + part
    return np.asarray(index)


def _limit(products: int) -> None:
    if products > LARGEST:
        raise TooLarge(f"{products} products in one layer")
