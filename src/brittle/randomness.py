"""Generators folded from a seed and the identity of an example, so that order and workers never matter."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators of torch, NumPy and Python, seeded for whoever draws from them inside, and put back afterwards.

    >>> with seeded(3):
    ...     one = torch.rand(1), random.random()
    >>> with seeded(3):
    ...     one == (torch.rand(1), random.random())
    True
    """
    with kept():
        reseed(seed)
        yield


@contextmanager
def kept() -> Iterator[None]:
    """The global generators of torch, NumPy and Python are afterwards what they were."""
    import numpy

    arrays, plain = numpy.random.get_state(), random.getstate()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            numpy.random.set_state(arrays)
            random.setstate(plain)


def reseed(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python."""
    import numpy

    torch.default_generator.manual_seed(seed)  # torch.manual_seed reads a whole traceback where CUDA has not begun
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)
