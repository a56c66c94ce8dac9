"""In this process, one item after the other, with one thread."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from brittle.executors._threads import one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def local(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1) -> Iterator[Result]:
    """The built-in ``map`` with one BLAS and torch thread; ``workers`` is ignored.

    >>> list(local(abs, [-1, 2]))
    [1, 2]
    """
    for item in items:
        with one_thread():
            result = function(item)
        yield result
