"""Files that are whole or absent, and a lock that ends with its owner: what lets a run be killed at any moment."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from brittle.errors import InputError
from brittle.records import plain

LOCK = ".lock"


def write_bytes(path: Path, data: bytes) -> None:
    """The whole file or nothing: written under a temporary name in the same folder, synced, renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as reason:
        raise _no_room(path, reason) from reason
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, facts: object) -> None:
    """Readable JSON: infinities as "inf", NaN as null."""
    text = json.dumps(plain(facts), indent=1, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> dict | None:
    """The facts in a file; None where it is absent or damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def remove_partial(folder: Path) -> None:
    """Drop what interrupted writers left behind."""
    for file in folder.rglob(".*.partial"):
        file.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One audit at a time in a folder. The lock belongs to the process, so it ends with it, however it ends."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a")  # noqa: SIM115 - held until the block ends
    except OSError as reason:
        raise _no_room(folder, reason) from reason
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_ino != os.stat(file.name).st_ino:
                raise OSError  # a refused audit removed the folder between open and lock
        except OSError:
            raise InputError(
                f"run folder {folder}", "one audit at a time", "another audit at work in it", "wait for it to end"
            ) from None
        yield


def _no_room(path: Path, reason: OSError) -> InputError:
    do = "check that the folder can be written, then run the same audit again: it resumes"
    if reason.errno in (errno.ENOSPC, errno.EDQUOT):
        do = "free some space, then run the same audit again: it resumes"
    return InputError(f"writing {path}", "room for the records", reason.strerror or str(reason), do)


def _sync_folder(folder: Path) -> None:
    """A rename is safe against a power cut once the folder itself is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
