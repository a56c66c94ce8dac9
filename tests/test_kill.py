"""Nothing is lost: an audit killed at any moment resumes to the identical bytes."""

import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

import brittle as bt
from audited import LAWS, audit, content

ALL = {"laws": LAWS, "checks": True}
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "brittle.runs"])  # one import of torch for all kills


def _start(folder: Path, **options):
    process = CONTEXT.Process(target=audit, args=(folder,), kwargs={**ALL, **options})
    process.start()
    return process


def _finish(folder: Path) -> float:
    """Run to the end, undisturbed; the seconds it took."""
    started = time.perf_counter()
    process = _start(folder)
    process.join(60)
    assert process.exitcode == 0
    return time.perf_counter() - started


def _kill(folder: Path, delay: float) -> bool:
    """Start an audit and kill it after a delay; whether it was still at work."""
    process = _start(folder)
    process.join(delay)
    alive = process.exitcode is None
    process.kill()
    process.join(60)
    return alive and process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[dict[str, bytes], float]:
    """The records, and the seconds that an audit takes in a process that has torch."""
    folder = tmp_path_factory.mktemp("kill")
    audit(folder / "here", **ALL)
    _start(folder / "none").join(60)  # the first one waits for torch
    seconds = _finish(folder / "there")
    assert content(folder / "here") == content(folder / "there")
    return content(folder / "here"), seconds


def _survive(folder: Path, kills: int, seconds: float, seed: int) -> set[int]:
    """Kill audits in one folder after another; how many parts were whole after each kill."""
    moments, hits, whole, number = random.Random(seed), 0, set(), 0
    while hits < kills:
        here = folder / f"run{number}"
        hits += _kill(here, moments.uniform(0, 1.1 * seconds))
        if not (here / "run.json").exists():
            continue
        run = bt.load_run(here)
        whole.add(3 - len(run.missing))
        number += run.complete
    for run in folder.iterdir():
        audit(run, **ALL)
    return whole


def _check(folder: Path, expected: dict[str, bytes]) -> None:
    for run in folder.iterdir():
        assert content(run) == expected
        assert bt.load_run(run).complete


def test_four_kills(tmp_path: Path, undisturbed) -> None:
    expected, seconds = undisturbed
    _survive(tmp_path, 4, seconds, seed=0)
    _check(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_twenty_kills(tmp_path: Path, undisturbed, seed: int) -> None:
    expected, seconds = undisturbed
    whole = _survive(tmp_path, 20, seconds, seed)
    assert len(whole) > 1  # the kills did hit audits at different stages
    _check(tmp_path, expected)


def _children(process_id: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def _alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_audit(tmp_path: Path, undisturbed, end: int) -> None:
    process = _start(tmp_path / "run", executor="processes", workers=2)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("samples/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    workers = _children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, end)
    process.join(30)
    while any(_alive(w) for w in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(w) for w in workers)
    audit(tmp_path / "run", **ALL)
    assert content(tmp_path / "run") == undisturbed[0]
