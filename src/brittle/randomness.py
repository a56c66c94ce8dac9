"""Generators folded from a seed and the identity of an example, so that order and workers never matter."""

import hashlib

import torch
from torch import Tensor


def fold(seed: int, *path: int | str) -> int:
    """A 63-bit seed that depends on ``seed`` and every element of ``path``, and on nothing else.

    >>> fold(0, "pgd", 3) == fold(0, "pgd", 3), fold(0, "pgd", 3) == fold(0, "pgd", 4)
    (True, False)
    """
    digest = hashlib.blake2b(repr((int(seed), *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *path: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`fold`. Draws are made on the CPU so that devices agree."""
    return torch.Generator().manual_seed(fold(seed, *path))


def per_example(draw, seed: int, index: Tensor, *path: int | str) -> Tensor:
    """Stack ``draw(generator)`` over examples, each with a generator of its own.

    index : (N,) the identities of the examples. Returns (N, ...).
    """
    return torch.stack([draw(generator(seed, *path, int(i))) for i in index.tolist()])
