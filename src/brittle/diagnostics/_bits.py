"""Bits of int8 weights: what flipping one changes, which flips hurt most to first order, and flips drawn at random."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from brittle.randomness import generator

BITS = 8


class Flip(NamedTuple):
    """One bit of one weight: the leaf, the position in the flattened tensor, the bit (7 is the sign of two's complement)."""

    leaf: str
    at: int
    bit: int

    def words(self, shape: torch.Size) -> str:
        """``"0.weight[3, 5] bit 7"``: what a reader needs to make the same fault."""
        place = ", ".join(str(int(k)) for k in torch.unravel_index(torch.tensor(self.at), shape))
        return f"{self.leaf}[{place}] bit {self.bit}"


def jumps(code: Tensor) -> Tensor:
    """(8, ...) what the code changes by when bit 0 ... 7 is flipped; two's complement, so bit 7 takes 128 off or adds it.

    >>> jumps(torch.tensor([5, -1], dtype=torch.int8))[[0, 1, 7]].tolist()
    [[-1, -1], [2, -2], [-128, 128]]
    """
    wide = code.to(torch.int16)
    powers = torch.tensor([1 << b for b in range(BITS)], dtype=torch.int16).reshape(-1, *[1] * code.dim())
    flipped = (wide[None] & 0xFF) ^ powers
    return torch.where(flipped >= 128, flipped - 256, flipped) - wide[None]


def ranked(
    codes: Mapping[str, Tensor], steps: Mapping[str, float], slopes: Mapping[str, Tensor], count: int, done: set[Flip]
) -> list[Flip]:
    """The ``count`` flips of largest ``slope x change of the value``, largest first, without those in ``done``.

    A first-order estimate of how much the loss grows, for every bit of every weight at once.
    """
    found: list[tuple[float, Flip]] = []
    for leaf, code in codes.items():
        gain = (jumps(code).to(slopes[leaf].dtype) * steps[leaf] * slopes[leaf].to("cpu")[None]).reshape(BITS, -1)
        best = gain.flatten().topk(min(count + len(done), gain.numel()))
        for value, k in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            bit, at = divmod(k, gain.shape[1])
            found.append((value, Flip(leaf, at, bit)))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    return [flip for _, flip in found if flip not in done][:count]


def codes_flipped(codes: Mapping[str, Tensor], flips: list[Flip]) -> dict[str, Tensor]:
    """The codes with these bits flipped; the tensors that were given stay as they are."""
    changed = dict(codes)
    for leaf in {f.leaf for f in flips}:
        whole = codes[leaf].flatten().clone()
        for f in (f for f in flips if f.leaf == leaf):
            value = (int(whole[f.at]) & 0xFF) ^ (1 << f.bit)
            whole[f.at] = value - 256 if value >= 128 else value
        changed[leaf] = whole.reshape(codes[leaf].shape)
    return changed


def random_flips(codes: Mapping[str, Tensor], count: int, seed: int, draw: int) -> list[Flip]:
    """``count`` different bits, each set of bits equally likely."""
    sizes = {leaf: code.numel() * BITS for leaf, code in codes.items()}
    total = sum(sizes.values())
    source, chosen = generator(seed, "bit flips", count, draw), set()
    while len(chosen) < min(count, total):
        chosen.add(int(torch.randint(total, (1,), generator=source)))
    return [_flip_at(sizes, k) for k in sorted(chosen)]


def _flip_at(sizes: Mapping[str, int], k: int) -> Flip:
    for leaf, size in sizes.items():
        if k < size:
            return Flip(leaf, k // BITS, k % BITS)
        k -= size
    raise IndexError(k)
