"""Progress: silent when asked, plain lines in a log, a bar on a terminal; the time left counts only what this call did."""

import sys

import pytest

from brittle import progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_tell_the_time_left_of_the_units_still_to_do(capsys, clock: list[float]) -> None:
    with progress.reporter(10, done=6) as advance:
        for label in ("a", "b", "c", "d"):
            clock[0] += 30.0
            advance(label)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "audit: 7 of 10 (a), 90 s left" and lines[-1] == "audit: 10 of 10 (d), 0 s left"
    assert len(lines) == 4


def test_quick_units_share_a_line(capsys, clock: list[float]) -> None:
    with progress.reporter(100) as advance:
        for i in range(100):
            clock[0] += 0.1
            advance(str(i))
    assert len(capsys.readouterr().err.splitlines()) == 2  # after five seconds, and at the end


@pytest.mark.parametrize("options", [{"show": False}, {"done": 3}])
def test_silence(capsys, options: dict) -> None:
    with progress.reporter(3, **options) as advance:
        advance("a")
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_terminal_gets_a_bar(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    with progress.reporter(2) as advance:
        advance("m-00000")
        advance("m-00001")
    assert "2/2" in capsys.readouterr().err
