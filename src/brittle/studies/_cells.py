"""Cells: the computations of a study, each kept in a file of its own, so that a study that was killed goes on where it was."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import getsourcefile
from pathlib import Path

from brittle.errors import InputError
from brittle.executors.local import local
from brittle.executors.processes import processes
from brittle.files import read_json, write_json
from brittle.progress import reporter
from brittle.records import digest, number, plain

Call = tuple[str, Callable, tuple]


class Cells:
    """Remembers what functions returned, by key, in a folder.

    A cell is used again where its key, its arguments and the source file of its function are what they were. What a function returns
    must be plain (numbers, texts, lists, mappings); every result is read back from its file, so that a resumed study and a fresh
    one see the same values: tuples as lists, NaN as None.
    """

    def __init__(self, folder: Path, workers: int = 1, show: bool = False) -> None:
        self.folder, self.workers, self.show = folder / "cells", workers, show

    def __call__(self, key: str, function: Callable, *arguments: object):
        """The result of ``function(*arguments)``, computed now or remembered."""
        return self.map(function, {key: arguments})[key]

    def map(self, function: Callable, cells: Mapping[str, Sequence[object]], what: str = "") -> dict[str, object]:
        """``{key: function(*arguments)}``, the missing ones computed by the workers, each written as soon as it is there.

        ``function`` must be a plain function of a module (it travels to other processes), its arguments plain values.
        """
        calls = {key: (function, *arguments) for key, arguments in cells.items()}
        return self.each(calls, what or function.__name__)

    def each(self, calls: Mapping[str, tuple], what: str = "cells") -> dict[str, object]:
        """As :meth:`map` where every cell has a function of its own: ``{key: (function, *arguments)}``, one pool of workers for all."""
        marks = {key: _mark(function, arguments) for key, (function, *arguments) in calls.items()}
        missing = [
            (key, function, tuple(arguments))
            for key, (function, *arguments) in calls.items()
            if self._read(key, marks[key]) is None
        ]
        run = processes if self.workers > 1 and len(missing) > 1 else local
        with reporter(len(calls), len(calls) - len(missing), self.show and len(calls) > 1, what) as advance:
            for key, result, spent in run(_compute, missing, workers=self.workers):
                write_json(self._file(key), {"mark": marks[key], "key": key, **spent, "result": result})
                advance(key)
        return {key: self._read(key, marks[key])["result"] for key in calls}  # type: ignore[index]

    def seconds(self) -> float:
        """What all cells of the folder took when they were computed."""
        return sum(facts["seconds"] for facts in self._all())

    def processor(self) -> float:
        """Seconds of processor of all cells of the folder: what a loaded machine does not change."""
        return sum(facts.get("processor", facts["seconds"]) for facts in self._all())

    def _all(self) -> Iterator[dict]:
        yield from (facts for f in sorted(self.folder.glob("*.json")) if (facts := read_json(f)) is not None)

    def _file(self, key: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=,-]{0,150}", key):
            raise InputError("key of a cell", "letters, digits, or . _ + = , -", repr(key), "rename it")
        return self.folder / f"{key}.json"

    def _read(self, key: str, mark: str) -> dict | None:
        facts = read_json(self._file(key))
        return _restored(facts) if facts is not None and facts.get("mark") == mark else None  # type: ignore[return-value]


def _mark(function: Callable, arguments: Sequence[object]) -> str:
    """The digest of the arguments and of the file that the function stands in."""
    source = Path(getsourcefile(function) or "").read_text(encoding="utf-8")
    return digest([function.__module__, function.__qualname__, source, plain(list(arguments))])


def _compute(call: Call) -> tuple[str, object, dict[str, float]]:
    key, function, arguments = call
    started, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return key, result, {"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}


def _restored(value: object) -> object:
    if isinstance(value, dict):
        return {k: _restored(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_restored(v) for v in value]
    return number(value)
