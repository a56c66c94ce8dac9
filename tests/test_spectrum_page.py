"""brittle spectrum: what it prints, the record it keeps, the page it draws; recurrence in an audit and in its report."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle import spectrum_report
from brittle.cli.main import main
from brittle.files import read_json
from brittle.panels import _recurrent as draw
from brittle.panels.recurrence import recurrence
from brittle.spectra._portrait import EFFORTS
from brittle.store import load_run

SCRIPT = """
import torch
from torch import nn

class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.recurrent, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])

def data():
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))
    return {"x": x, "lengths": torch.tensor([6, 3, 6, 2]), "labels": torch.tensor([0, 1, 0, 1])}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A record of a small network on padded data, written by the command."""
    home = tmp_path_factory.mktemp("spectrum")
    (home / "net.py").write_text(SCRIPT)
    arguments = [f"{home}/net.py:Reader", "--data", f"{home}/net.py:data", "--effort", "quick", "-o", str(home / "out")]
    assert main(["spectrum", *arguments]) == 0
    return home / "out"


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_command_prints_the_verdicts_and_the_record_holds_them(folder, capsys):
    arguments = [f"{folder.parent}/net.py:Reader", "--data", f"{folder.parent}/net.py:data", "--effort", "quick"]
    assert main(["spectrum", *arguments, "-o", str(folder / "again")]) == 0
    said = capsys.readouterr().out
    record = read_json(folder / "spectrum.json")
    assert record is not None
    for name in ("along data", "matrices"):
        for verdict in record["findings"][name]["columns"]["verdict"]:
            assert verdict in said and verdict.replace("'", "&#39;") in page(folder)
    assert record["findings"]["along data"]["columns"]["steps"] == [17]  # the input "lengths" was taken for what it is
    assert said.splitlines()[-1] == str(folder / "again")
    assert read_json(folder / "again" / "spectrum.json")["findings"] == record["findings"]  # type: ignore[index]


def test_a_matrix_or_bare_weights_are_enough(tmp_path, capsys):
    from safetensors.torch import save_file

    np.save(tmp_path / "w.npy", np.array([[0.5, 0.9], [0.0, 0.5]]))
    assert (
        main(["spectrum", str(tmp_path / "w.npy"), "--effort", "quick", "-o", str(tmp_path / "a"), "--format", "json"])
        == 0
    )
    (row,) = json.loads(capsys.readouterr().out)
    assert row["matrix"] == "matrix" and row["distance"] == pytest.approx(0.222681, rel=1e-5)
    assert row["condition"] == "inf"  # defective; JSON has no infinity of its own
    save_file(nn.LSTM(2, 3).state_dict(), tmp_path / "w.safetensors")
    assert main(["spectrum", str(tmp_path / "w.safetensors"), "--effort", "quick", "-o", str(tmp_path / "b")]) == 0
    assert "l0.o" in capsys.readouterr().out
    assert main(["spectrum", "demo:mlp", "-o", str(tmp_path / "c")]) == 3
    assert "expected a recurrent part: RNN, GRU" in capsys.readouterr().err and not (tmp_path / "c").exists()
    assert main(["spectrum", str(tmp_path / "none.npy")]) == 3


def test_the_page_draws_every_matrix_and_names_what_it_draws(folder):
    text, record = page(folder), read_json(folder / "spectrum.json")
    assert record is not None
    rows = draw.rows(record["findings"]["matrices"])
    assert text.count("Eigenvalues and pseudospectra of") == text.count("Norms of the powers of") == len(rows) == 6
    assert text.count("untrained, same radius (median of 2)") == 5  # all but the fixed point
    assert "growth of a small change of the state over windows" in text and "<script" not in text
    ids = set(re.findall(r'id="(matrix-\d+)"', text))
    assert set(re.findall(r'href="#(matrix-\d+)"', text)) == ids and len(ids) == 6


def test_pictures_are_square_and_mirrored(folder):
    record = read_json(folder / "spectrum.json")
    assert record is not None
    row = draw.rows(record["findings"]["matrices"])[0]
    svg = draw.plane(row)["svg"]
    (circle,) = re.findall(r'<polyline class="line " points="([^"]+)"', svg)
    x, y = np.array([[float(v) for v in pair.split(",")] for pair in circle.split()]).T
    assert np.ptp(x) == pytest.approx(np.ptp(y), abs=0.02)  # the unit circle is one
    axis = (y.min() + y.max()) / 2
    for path in filter(None, re.findall(r'<path class="line c\d thin" d="([^"]+)"', svg)):
        heights = np.sort([float(v) for v in re.findall(r"[\d.]+,([\d.]+)", path)])
        assert (
            np.abs(heights - np.sort(2 * axis - heights)).max() < 0.03
        )  # a real matrix: symmetric about the real axis


def test_whatever_stands_in_a_record_is_escaped(folder):
    record = read_json(folder / "spectrum.json")
    assert record is not None
    for finding in record["findings"].values():
        for name in ("matrix", "part", "verdict"):
            if name in finding["columns"]:
                finding["columns"][name] = ["<script>x</script>"] * len(finding["columns"][name])
    text = spectrum_report.render({**record, "settings": {"model": "<b>bold</b>"}})
    assert "<script" not in text and "<b>bold" not in text and "&lt;b&gt;bold" in text


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An audit of a recurrent network and of one that is not."""
    x, out = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1)), tmp_path_factory.mktemp("audit") / "run"
    models = {"gru": Reader(), "plain": nn.Sequential(nn.Flatten(), nn.Linear(18, 2))}
    with pytest.MonkeyPatch.context() as patch:  # the diagnostic's own effort takes ten times as long
        patch.setitem(EFFORTS, "standard", EFFORTS["quick"])
        bt.audit(models, x, torch.zeros(4).long(), {"l2": bt.Ball(p=2, radius=0.1)}, out=out, effort="quick", checks=False,
                 progress=False, report=None, diagnostics=["recurrence"])  # fmt: skip
    return load_run(out)


def test_an_audit_describes_recurrence_where_there_is_some_and_is_silent_elsewhere(run):
    found = run.findings["gru"]["recurrence"]
    columns = found["columns"]
    assert len(columns["matrix"]) == len(columns["nulls"]) == len(columns["growth_worst"]) == 6
    assert [role is not None for role in columns["along"]] == [r.startswith("mean") for r in columns["role"]]
    assert found["note"] in columns["along"]
    html = recurrence(run)
    assert "what the recurrence does to a change" in html and html.count("Norms of the powers of") == 4
    assert "2 more matrices" in html
    assert not run.findings["plain"]["recurrence"].get("columns") and "plain" not in html


@pytest.mark.slow
def test_diagnose_asks_the_same_question():
    x = torch.randn(3, 6, 3)
    problem = bt.Problem(Reader(), x, torch.zeros(3).long())
    found = bt.diagnose(problem, "recurrence", effort="quick", lengths=[6, 2, 4])
    whole = bt.spectrum(Reader(), x, lengths=[6, 2, 4], effort="quick")
    assert found.columns["radius"] == whole["matrices"].columns["radius"]
    assert [s for s in found.columns["steps"] if s] == [12]
