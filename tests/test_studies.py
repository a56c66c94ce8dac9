"""Studies: cells are computed once and remembered, a killed study goes on, and the page is drawn from the record alone."""

import json
from math import inf, nan

import pytest

from brittle import discovery, study_report
from brittle.cli.main import main
from brittle.discovery import Method, method
from brittle.errors import InputError
from brittle.studies._cells import Cells
from brittle.studies._reproduce import load_study, reproduce
from brittle.studies._study import Claim, Curve, Plot, Study, Table

CALLS: list[object] = []


def square(value: float) -> dict:
    CALLS.append(value)
    if value < 0:
        raise ValueError("killed")
    return {"square": value * value, "ends": (0.0, inf), "missing": nan}


def tiny(cells, *, full=False, seed=0):
    found = cells.map(square, {f"square-{k}": (k,) for k in range(3 + full)})
    ys = tuple(f["square"] for f in found.values())
    return Study(
        "Squares <script>",
        "nowhere",
        (Claim("squares grow", "ours", "ours", f"up to {max(ys)}"),),
        (Table("all", ("value",), tuple((y,) for y in ys)),),
        (Plot("squares", "k", "k²", (Curve("measured", tuple(map(float, range(len(ys)))), ys, style="points"),)),),
        {"seeds": 1},
    )


@pytest.fixture
def study(monkeypatch):
    made = Method("studies", "tiny", __name__, discovery.About("a", "b"), "tests")
    monkeypatch.setattr("brittle.studies._reproduce.method", lambda family, name: made)
    CALLS.clear()


def test_cells_remember_and_read_back_what_they_wrote(tmp_path):
    CALLS.clear()
    first = Cells(tmp_path)("one", square, 2.0)
    assert first == {"square": 4.0, "ends": [0.0, inf], "missing": None}
    assert Cells(tmp_path)("one", square, 2.0) == first and CALLS == [2.0]
    Cells(tmp_path)("one", square, 3.0)
    assert CALLS == [2.0, 3.0], "other arguments are another cell"


def test_what_was_finished_before_a_failure_is_kept(tmp_path):
    CALLS.clear()
    with pytest.raises(ValueError, match="killed"):
        Cells(tmp_path).map(square, {"a": (1.0,), "b": (-1.0,), "c": (2.0,)})
    Cells(tmp_path).map(square, {"a": (1.0,), "c": (2.0,)})
    assert CALLS == [1.0, -1.0, 2.0]


def test_a_changed_source_is_computed_again(tmp_path, monkeypatch):
    CALLS.clear()
    Cells(tmp_path)("one", square, 2.0)
    copy = tmp_path / "copy.py"
    copy.write_text("changed")
    monkeypatch.setattr("brittle.studies._cells.getsourcefile", lambda function: str(copy))
    Cells(tmp_path)("one", square, 2.0)
    assert CALLS == [2.0, 2.0]


def test_processes_give_the_same_cells(tmp_path):
    cells = {f"m{k}": (k, 2) for k in range(3)}
    assert Cells(tmp_path / "a", workers=2).map(_double, cells) == Cells(tmp_path / "b").map(_double, cells)
    assert Cells(tmp_path / "a").seconds() > 0 and Cells(tmp_path / "a").processor() >= 0


def test_cells_of_several_functions_run_together(tmp_path):
    CALLS.clear()
    calls = {"a": (square, 3.0), "b": (_double, 2, 5)}
    assert Cells(tmp_path).each(calls)["b"] == [10] and Cells(tmp_path).each(calls)["a"]["square"] == 9.0
    assert Cells(tmp_path)("a", square, 3.0)["square"] == 9.0 and CALLS == [3.0], "the same cell, whoever asks"


def _double(k: int, factor: int) -> list[int]:
    return [k * factor]


def test_a_study_runs_resumes_and_is_drawn(tmp_path, study):
    done = reproduce("tiny", tmp_path, show=False)
    assert load_study(tmp_path) == done and done.tables[0].rows == ((0.0,), (1.0,), (4.0,))
    reproduce("tiny", tmp_path, full=True, show=False)
    assert CALLS == [0, 1, 2, 3], "only the new cell was computed"
    text = study_report.write(tmp_path).read_text()
    assert "squares grow" in text and "<script>" not in text and text.count("<circle") == 4


def test_wrong_records_are_refused(tmp_path):
    with pytest.raises(InputError, match="study.json"):
        load_study(tmp_path)
    with pytest.raises(InputError, match="reproduced"):
        Claim("a", "b", "maybe", "c")
    with pytest.raises(InputError, match="2 cells per row"):
        Table("t", ("a", "b"), ((1,),))
    with pytest.raises(InputError, match="key of a cell"):
        Cells(tmp_path)("../x", square, 1.0)


def test_the_command_names_the_studies(capsys):
    assert main(["reproduce", "nothing"]) == 3
    assert "method of studies" in capsys.readouterr().err


def test_a_plot_without_numbers_says_so():
    plot = Plot("empty", "x", "y", (Curve("none", (1.0,), (None,)),), log_y=True)
    record = json.loads(json.dumps({"name": "n", **Study("t", "p", (), (), (plot,)).facts()}))
    assert "nothing could be measured" in study_report.render(record)


def test_every_study_can_be_found():
    for found in discovery.methods("studies"):
        assert method("studies", found.name).about.reference
