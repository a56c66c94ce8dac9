"""How far along: a bar with the time left on a terminal, plain lines elsewhere, or nothing. Written to standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str], None]
PAUSE = 5.0  # seconds between plain lines: enough to see that it lives, few enough to read


@contextmanager
def reporter(total: int, done: int = 0, show: bool = True, what: str = "audit") -> Iterator[Advance]:
    """Yields ``advance(label)``, to be called after each of ``total`` units; ``done`` of them were finished before.

    >>> with reporter(2, show=False) as advance:
    ...     advance("model-00000")
    """
    if not show or done >= total:
        yield lambda label: None
    elif sys.stderr.isatty():
        with _bar(total, done, what) as advance:
            yield advance
    else:
        yield _lines(total, done, what)


@contextmanager
def _bar(total: int, done: int, what: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    # chunks are few and slow: the estimate looks back over all of them
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=3600) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda label: progress.update(task, advance=1, description=f"{what} {label}")


def _lines(total: int, done: int, what: str) -> Advance:
    state = {"done": done, "said": time.monotonic()}
    started = state["said"]

    def advance(label: str) -> None:
        state["done"] += 1
        now = time.monotonic()
        if state["done"] < total and now - state["said"] < PAUSE:
            return
        state["said"] = now
        left = (now - started) / (state["done"] - done) * (total - state["done"])
        print(f"{what}: {state['done']:.0f} of {total} ({label}), {left:.0f} s left", file=sys.stderr, flush=True)

    return advance
