"""Run folders: files that are whole or absent, parts that prove themselves, reading without surprises."""

import errno
import json
import os
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest

from brittle import files, store
from brittle.errors import InputError
from brittle.records import COLUMNS, SCHEMA, Part, Plan
from test_records import PLAN

ONE = replace(PLAN, models={"a": {}}, laws={}, diagnostics=(), chunk=4)


def _rows(part: Part, lower: list[float], upper: list[float]) -> dict[str, list]:
    count = part.stop - part.start
    rows: dict[str, list] = {name: [None] * count for name in COLUMNS}
    rows |= {"model": [part.model] * count, "question": ["radius"] * count, "name": ["l2"] * count}
    rows |= {"example": list(range(part.start, part.stop)), "clean_margin": [1.0, -1.0, 1.0, 1.0][:count]}
    return rows | {"lower": lower, "upper": upper, "forward": [2.0] * count, "backward": [1.0] * count}


def make_run(folder: Path, plan: Plan = ONE) -> list[Part]:
    """Seven examples in two parts, by hand: the second part has a proof array that the first one lacks."""
    facts = {"schema": SCHEMA, "key": plan.key, "plan": plan.facts(), "environment": {}, "sources": {}}
    files.write_json(folder / "run.json", facts)
    files.write_json(folder / "checks.json", {"before": {"a": [{"name": "h1"}]}, "after": {"a": [{"name": "h2"}]}})
    parts = list(plan.parts())
    ends = ([0.5, 0.0, 1.0, 2.0], [1.0, 0.0, inf, 3.0]), ([1.5, 0.25, 0.0], [2.0, 0.5, 4.0])
    for part, (lower, upper) in zip(parts, ends, strict=True):
        count = part.stop - part.start
        points = {"clean/x": np.full((count, 2), part.number, np.float32)}
        proofs = {"radius/l2/scale": np.array(lower)}
        if part.number:
            proofs["radius/l2/relu.lower_slope"] = np.ones((count, 3))
        store.write_part(folder, part, _rows(part, lower, upper), points, proofs, {"seconds": 1.0})
    return parts


def test_what_is_written_is_read(tmp_path: Path) -> None:
    make_run(tmp_path)
    run = store.load_run(tmp_path)
    assert run.complete and run.missing == {} and run.models == ("a",) and run.key == ONE.key
    assert run.samples["example"].to_list() == list(range(7))
    assert run.samples.columns == list(COLUMNS)
    assert run.samples["upper"].to_list() == [1.0, 0.0, inf, 3.0, 2.0, 0.5, 4.0]
    assert run.points("a")["clean/x"][:, 0].tolist() == [0.0] * 4 + [1.0] * 3
    assert run.proofs("a")["radius/l2/relu.lower_slope"].sum(1).tolist() == [0.0] * 4 + [3.0] * 3
    assert [c["name"] for c in run.checks["a"]] == ["h1", "h2"]
    assert run.timings["a-00001"] == {"seconds": 1.0}
    assert "complete" in repr(run)


def test_accuracies_count_what_lies_strictly_above_a_scale(tmp_path: Path) -> None:
    make_run(tmp_path)
    run = store.load_run(tmp_path)
    certified, attacked = run.accuracy("a", "l2", [0.0, 1.0, 10.0])
    assert certified == [5 / 7, 2 / 7, 0.0]
    assert attacked == [6 / 7, 4 / 7, 1 / 7]


def test_the_summary_has_one_row_per_model_and_question(tmp_path: Path) -> None:
    make_run(tmp_path)
    (row,) = store.load_run(tmp_path).summary()
    assert row["count"] == 7 and row["clean_accuracy"] == 5 / 7
    assert (row["lower"], row["upper"]) == (0.5, 2.0)
    assert (row["certified"], row["attacked"]) == (2 / 7, 4 / 7)
    assert row["ratio"] == pytest.approx((1.5 + 2.0) / 2)  # of 2, 1.5, 4/3 and 2: the four closed brackets
    assert (row["forward"], row["backward"]) == (2.0, 1.0)


def test_an_unknown_name_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(InputError, match="a region or law of l2"):
        store.load_run(tmp_path).brackets("a", "linf")


@pytest.mark.parametrize("kind", ["samples", "points", "proofs"])
@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_truncated_file_is_seen(tmp_path: Path, kind: str, cut: int) -> None:
    part = make_run(tmp_path)[1]
    assert store.damage(tmp_path, part) == ""
    (file,) = (tmp_path / kind).glob("a-00001.*")
    file.write_bytes(file.read_bytes()[:cut])
    assert kind in store.damage(tmp_path, part)


def test_an_altered_number_is_seen(tmp_path: Path) -> None:
    import polars

    part = make_run(tmp_path)[1]
    file = tmp_path / "samples" / "a-00001.parquet"
    marks = {k: v for k, v in polars.read_parquet_metadata(file).items() if k in ("rows", "points", "proofs")}
    polars.read_parquet(file).with_columns(lower=polars.lit(9.0)).write_parquet(file, metadata=marks)
    assert store.damage(tmp_path, part) == "samples altered"


def test_one_flipped_bit_in_a_proof_is_seen(tmp_path: Path) -> None:
    part = make_run(tmp_path)[0]
    file = tmp_path / "proofs" / "a-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert store.damage(tmp_path, part) == "proofs damaged"


def test_an_unfinished_run_can_be_read(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "samples" / "a-00001.parquet").write_bytes(b"PAR1")
    run = store.load_run(tmp_path)
    assert not run.complete and list(run.missing) == ["a-00001"] and "unreadable" in run.missing["a-00001"]
    assert len(run.samples) == 4 and len(run.points("a")["clean/x"]) == 4
    assert "1 of 2 parts missing" in repr(run)
    assert run.summary()[0]["count"] == 4


def test_a_run_without_any_part_can_be_read(tmp_path: Path) -> None:
    make_run(tmp_path)
    for file in (tmp_path / "samples").iterdir():
        file.unlink()
    run = store.load_run(tmp_path)
    assert len(run.samples) == 0 and run.points("a") == {} and run.summary()[0]["count"] == 0


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run.json"):
        store.load_run(tmp_path / "nothing")
    (tmp_path / "run.json").write_text('{"plan"')
    with pytest.raises(InputError, match="an unreadable run.json"):
        store.load_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema": SCHEMA, "plan": {}}))
    with pytest.raises(InputError, match="without its plan"):
        store.load_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"schema": 99, "plan": {}}))
    with pytest.raises(InputError, match="schema 99"):
        store.load_run(tmp_path)


def test_a_finding_keeps_its_infinities(tmp_path: Path) -> None:
    facts = {"name": "d", "columns": {"value": [1.0, inf, float("nan")]}}
    files.write_json(tmp_path / "findings" / "a-d.json", facts)
    assert json.loads((tmp_path / "findings" / "a-d.json").read_text())["columns"]["value"] == [1.0, "inf", None]
    assert store.read_finding(tmp_path, "a", "d")["columns"]["value"] == [1.0, inf, None]


@pytest.mark.parametrize("code, words", [(errno.ENOSPC, "free some space"), (errno.EROFS, "can be written")])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch, code: int, words: str, step) -> None:
    file = tmp_path / "a.json"
    files.write_bytes(file, b"old")

    def full(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(InputError, match=words):
        files.write_bytes(file, b"new")
    assert file.read_bytes() == b"old" and [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_a_file_in_place_of_the_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(InputError):
        files.write_bytes(tmp_path / "run" / "a.json", b"")
    with pytest.raises(InputError), files.locked(tmp_path / "run"):
        pass


def test_one_audit_at_a_time(tmp_path: Path) -> None:
    with files.locked(tmp_path), pytest.raises(InputError, match="another audit at work"), files.locked(tmp_path):
        pass
    with files.locked(tmp_path):
        pass


def test_a_lock_on_a_folder_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch) -> None:
    import fcntl

    def late(file, how: int) -> None:
        os.unlink(file.name)
        (tmp_path / files.LOCK).touch()  # somebody else's

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(InputError, match="another audit"), files.locked(tmp_path):
        pass


def test_what_interrupted_writers_left_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / ".a-00000.safetensors.123.partial").write_bytes(b"half")
    (tmp_path / "points" / "a-00000.safetensors").write_bytes(b"whole")
    files.remove_partial(tmp_path)
    assert [f.name for f in (tmp_path / "points").iterdir()] == ["a-00000.safetensors"]
