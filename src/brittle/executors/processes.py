"""In fresh processes on this machine, each with one thread. The function travels once to each of them."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from brittle.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

_function: Callable | None = None  # of a worker process, set once


def processes(function: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1) -> Iterator[Result]:
    """``map`` over ``workers`` spawned processes, results in the order of completion.

    ``function`` holds models and data; it is pickled here and unpickled in our own workers, never read from a file.
    The first error ends the map and its workers, and so does Ctrl-C; workers never outlive the process that started them.
    Errors: InputError where the function cannot travel (a class defined at a prompt or inside a function).
    """
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(
        max(1, workers), mp_context=get_context("spawn"), initializer=_start, initargs=(_travel(function),)
    )
    try:
        for future in as_completed([pool.submit(_call, item) for item in items]):
            yield future.result()
    except BrokenProcessPool as reason:
        raise InputError(
            "worker process",
            "workers that live to the end",
            "one that died (killed, out of memory, or unable to import the model)",
            'run the same audit again: it resumes; fewer workers or executor="local" need less memory',
        ) from reason
    finally:
        running = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in running:
            worker.terminate()
        for worker in running:
            worker.join()


def _travel(function: Callable) -> bytes:
    try:
        return pickle.dumps(function)
    except Exception as reason:  # pickle fails in many ways
        raise InputError(
            "executor",
            "models whose classes can be imported",
            f"{type(reason).__name__}: {reason}",
            'define the classes in a file, or use executor="local"',
        ) from reason


def _start(travelled: bytes) -> None:
    import signal
    import threading
    from multiprocessing import parent_process

    import torch
    from threadpoolctl import threadpool_limits

    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _function = pickle.loads(travelled)  # noqa: S301 - made by _travel in the parent
    threadpool_limits(1)
    torch.set_num_threads(1)


def _end_with(parent) -> None:
    import os

    parent.join()
    os._exit(1)


def _call(item):
    assert _function is not None
    return _function(item)
