"""Nothing is lost: an audit killed at any moment resumes to the identical bytes."""

import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

import brittle as bt
from audited import LAWS, REGIONS, audit, content

SMALL = {"regions": {"l2": REGIONS["l2"]}, "laws": LAWS}
WHOLE = {"laws": LAWS, "checks": True}
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(  # imported once for all kills
    ["torch", "brittle.runs", "brittle.exporting", "torch._dynamo", "torch._decomp.decompositions_for_jvp"]
)


def _start(folder: Path, options: dict):
    process = CONTEXT.Process(target=audit, args=(folder,), kwargs=options)
    process.start()
    return process


def _survive(folder: Path, options: dict, kills: int, seed: int) -> set[int]:
    """Kill audits at random moments, in one folder after another; then finish them all. How many parts the kills had left."""
    moments, left, hits, number = random.Random(seed), set(), 0, 0
    longest = 0.5  # seconds: grows until an audit is seen to finish, then is what that one took
    CONTEXT.Process(target=os.getpid).start()  # the server is up from here on
    while hits < kills:
        run, started = folder / f"run{number}", time.perf_counter()
        process = _start(run, options)
        process.join(moments.uniform(0, longest))
        process.kill()
        process.join(60)
        if process.exitcode == 0:
            longest = time.perf_counter() - started
            number += 1
            continue
        assert process.exitcode == -signal.SIGKILL
        hits, longest = hits + 1, 1.2 * longest
        if (run / "run.json").exists():
            left.add(len(bt.load_run(run).missing))
    for i in range(number + 1):
        assert audit(folder / f"run{i}", **options).complete
    return left


@pytest.mark.parametrize("kills, options", [(4, SMALL), pytest.param(20, WHOLE, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_no_byte(tmp_path: Path, kills: int, options: dict) -> None:
    audit(tmp_path / "undisturbed", **options)
    expected = content(tmp_path / "undisturbed")
    left = _survive(tmp_path / "killed", options, kills, seed=kills)
    runs = list((tmp_path / "killed").iterdir())
    assert runs and all(content(run) == expected for run in runs)
    assert kills < 20 or len(left) > 1  # the kills did find audits at different stages


def _children(process_id: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def _alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_audit(tmp_path: Path, end: int) -> None:
    audit(tmp_path / "undisturbed", **WHOLE)
    run = tmp_path / "run"
    process = _start(run, {**WHOLE, "executor": "processes", "workers": 2})
    deadline = time.monotonic() + 60
    while not list(run.glob("samples/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    workers = _children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, end)
    process.join(30)
    while any(_alive(w) for w in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(w) for w in workers)
    audit(run, **WHOLE)
    assert content(run) == content(tmp_path / "undisturbed")
