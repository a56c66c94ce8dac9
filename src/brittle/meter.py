"""Counting of forward and backward passes, wherever they happen."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Meter:
    """Passes counted in single examples, so that a batch of 8 is 8 forward passes."""

    forward: int = 0
    backward: int = 0
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0


_open: ContextVar[tuple[Meter, ...]] = ContextVar("open_meters", default=())


@contextmanager
def measure() -> Iterator[Meter]:
    """Count every pass made inside the block; blocks nest, and an outer one sees the inner passes.

    >>> with measure() as meter:
    ...     count(forward=3)
    >>> meter.forward
    3
    """
    meter = Meter()
    token = _open.set((*_open.get(), meter))
    try:
        yield meter
    finally:
        _open.reset(token)
        meter.seconds = time.perf_counter() - meter.started


def count(forward: int = 0, backward: int = 0) -> None:
    """Add passes to every open meter."""
    for meter in _open.get():
        meter.forward += forward
        meter.backward += backward
