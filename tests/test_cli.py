"""The command: what it prints, what it exits with, and what it does not import."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars
import pytest

import brittle as bt
from brittle import __version__
from brittle.cli import _grammar
from brittle.cli._inputs import named_models
from brittle.cli.main import main
from brittle.cli.show import say_doubts
from brittle.discovery import methods
from brittle.errors import InputError
from brittle.panels._data import round_down

QUICK = ["--effort", "quick", "--limit", "3", "--low", "0", "--high", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    noise = ["--noise", "rain=gaussian:0.1"]
    models = ["--model", "plain=demo:mlp", "--model", "hardened=demo:hardened"]
    assert main(["audit", *models, "sklearn:digits", *noise, "--region", "l2=2:1/4", "-o", str(out), *QUICK]) == 0
    return out


# ---- help, version, imports --------------------------------------------------------------------------------------


def test_help_and_version(capsys) -> None:
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"brittle {__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("doctor", "audit", "show", "report", "verify", "list"))


@pytest.mark.parametrize("arguments", [["--help"], ["audit", "--help"], ["list"], ["show", "RUN"], ["report", "RUN"]])
def test_reading_never_imports_torch(run: Path, arguments: list[str]) -> None:
    given = [str(run) if a == "RUN" else a for a in arguments]
    code = (
        "import sys; from brittle.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or (99 if 'torch' in sys.modules else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# ---- what is wrong is said in words, exit code 3 -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command"),
        (["audit", "--nonsense"], "No such option"),
        (["audit", "--effort", "heroic"], "effort"),
        (["audit", "--chunk", "many"], "chunk"),
        (["audit"], "--demo, got neither"),
        (["audit", "demo:mlp"], "got a model without data"),
        (["audit", "demo:mlp", "sklearn:digits[image]", "--limit", "2"], "expected logits for x (1, 1, 8, 8) float32"),
        (["audit", "--demo", "demo:mlp"], "leave one of them out"),
        (["audit", "demo:mlp", "nowhere.npz"], "does not exist"),
        (["audit", "nowhere.py:net", "sklearn:digits"], "does not exist"),
        (["audit", "demo:mlp", "sklearn:digits", "--region", "l2"], "NAME=VALUE"),
        (["audit", "demo:mlp", "sklearn:digits", "--low", "1", "--high", "0"], "swap them"),
        (["audit", "demo:mlp", "sklearn:digits", "--limit", "0"], "at least one example"),
        (["audit", "demo:mlp", "sklearn:digits", "--limit", "2", "--low", "0.5"], "inside low=0.5"),
        (["audit", "demo:mlp", "sklearn:digits[image]", "--limit", "2", "--seed", "x"], "seed"),
        (["show", "nowhere"], "no run.json"),
        (["report", "nowhere"], "no run.json"),
        (["report", "a", "b", "-o", "c.html"], "one run for one file"),
        (["verify", "nowhere"], "no run.json"),
        (["list", "spells"], "attacks"),
    ],
)
def test_usage_and_input_errors(tmp_path: Path, monkeypatch, capsys, arguments: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 3
    said = capsys.readouterr().err
    assert said.startswith("brittle: ") and words in said and "Traceback" not in said
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_an_interrupt_tells_how_to_go_on(monkeypatch, capsys) -> None:
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("brittle.audit", interrupted, raising=False)
    assert main(["audit", "demo:mlp", "sklearn:digits", *QUICK]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_a_full_disk_is_no_traceback(monkeypatch, capsys) -> None:
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("brittle.audit", full, raising=False)
    assert main(["audit", "demo:mlp", "sklearn:digits", *QUICK]) == 3
    assert "free some space" in capsys.readouterr().err


# ---- commands ----------------------------------------------------------------------------------------------------


def test_the_last_line_of_an_audit_is_the_run_folder(run: Path, capsys) -> None:
    models = ["--model", "plain=demo:mlp", "--model", "hardened=demo:hardened"]
    again = ["audit", *models, "sklearn:digits", "--noise", "rain=gaussian:0.1", "--region", "l2=2:0.25"]
    assert main([*again, "-o", str(run), *QUICK]) == 0, "the same command resumes a finished folder"
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(run)
    assert printed.count("proved .. witnessed") == 2 and (run / "report.html").exists()


def test_options_come_from_the_environment(run: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("BRITTLE_SHOW_FORMAT", "json")
    assert main(["show", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)


def test_show_in_every_format(run: Path, capsys) -> None:
    main(["show", str(run), "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert [(r["model"], r["name"]) for r in rows] == [(m, n) for m in ("plain", "hardened") for n in ("l2", "rain")]
    radius = rows[0]
    assert 0 < radius["lower"] <= radius["upper"] and radius["lower_guarantee"] == "proved" and radius["at"] == 0.25
    main(["show", str(run), "--format", "csv"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert float(table[0]["lower"]) == radius["lower"]
    main(["show", str(run), "--format", "md"])
    assert capsys.readouterr().out.splitlines()[0].startswith("| model | question |")
    main(["show", str(run)])
    assert "hardened" in capsys.readouterr().out


def test_every_doubt_and_every_missing_proof_is_said_once(capsys) -> None:
    run = SimpleNamespace(
        checks={"net": [{"doubt": "small"}, {"doubt": None}, {"doubt": "small"}]},
        plan=SimpleNamespace(
            count=3, questions=lambda: [("radius", "l2"), ("radius", "linf"), ("probability", "rain")]
        ),
        brackets=lambda model, name: {"status": polars.Series(["ok", *["not certified: operation gru"] * 2])},
        complete=True,
        summary=lambda: [],
    )
    say_doubts(run)
    assert capsys.readouterr().out.splitlines() == [
        "doubt (net): small",
        "not certified: operation gru (net, 2 of 3 examples)",
    ]


def test_report_writes_the_page_again(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["report", str(run), "-o", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == (run / "report.html").read_bytes()


def test_doctor_passes_a_sound_model_and_stops_a_sick_one(tmp_path: Path, capsys) -> None:
    assert main(["doctor", "demo:mlp", "sklearn:digits", "--low", "0", "--high", "1", "--limit", "32"]) == 0
    assert "verdict: ok" in capsys.readouterr().out
    file = tmp_path / "sick_data.py"
    file.write_text("import torch\npair = (torch.rand(8, 64) * 255, [10] * 8)\n")
    assert main(["doctor", "demo:mlp", f"{file}:pair", "--low", "0", "--high", "1"]) == 2


def test_verify_finds_model_and_data_by_itself(run: Path, capsys) -> None:
    assert main(["verify", str(run)]) == 0
    assert "verification passed" in capsys.readouterr().out.splitlines()[-1]
    assert main(["verify", str(run), "--model", "plain=demo:hardened", "--model", "hardened=demo:hardened"]) == 1
    printed = capsys.readouterr().out
    assert "failure: " in printed and "verification failed" in printed


def test_list_shows_every_method(capsys) -> None:
    assert main(["list", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["family"], r["name"]) for r in rows] == [(m.family, m.name) for m in methods()]
    assert all(r["promise"] and (r["reference"] or r["family"] == "panels") for r in rows)


# ---- grammar -----------------------------------------------------------------------------------------------------


def test_several_leaves_move_together() -> None:
    region = _grammar.regions(["joint=inf:8/255,2:0.5@fc.weight"], (0.0, 1.0))["joint"]
    assert region["x"].radius == 8 / 255 and region["x"].low == 0 and region["x"].high == 1
    assert region["fc.weight"].p == 2 and region["fc.weight"].low is None, "the range is that of the inputs"


def test_noise_laws() -> None:
    laws = _grammar.laws(["a=gaussian:0.1", "b=ball:1/2:inf:clipped", "c=sphere:2@fc.bias"], (0.0, 1.0))
    facts = {name: {leaf: law.facts() for leaf, law in by.items()} for name, by in laws.items()}
    assert facts["a"]["x"]["sigma"] == 0.1 and facts["a"]["x"]["clip"] is None
    assert (
        facts["b"]["x"]["radius"] == 0.5 and facts["b"]["x"]["p"] == "inf" and tuple(facts["b"]["x"]["clip"]) == (0, 1)
    )
    assert facts["c"]["fc.bias"]["law"] == "UniformSphere" and facts["c"]["fc.bias"]["p"] == 2


def test_noise_laws_by_their_everyday_names() -> None:
    laws = _grammar.laws(["a=cube:8/255", "b=l1ball:2", "c=replace:3", "d=replace:3@fc.bias"], (-1.0, 2.0))
    facts = [law.facts() for by in laws.values() for law in by.values()]
    assert facts[:2] == [bt.UniformCube(8 / 255).facts(), bt.UniformBall(2.0, p=1).facts()]
    assert facts[2:] == [bt.Replace(3, -1.0, 2.0).facts(), bt.Replace(3).facts()], "the range is that of the inputs"


@pytest.mark.parametrize(
    "text", ["l2", "=2:1", "l2=3:1", "l2=2", "l2=2:x", "l2=2:1/0", "l2=2:1,2:1", "l2=2:-1", "l2=2:inf"]
)
def test_regions_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError):
        _grammar.regions([text], (None, None))


@pytest.mark.parametrize(
    "text",
    ["a=gaussian", "a=gaussian:0", "a=ball:1:0", "a=salt:1", "a=gaussian:1:clipped", "a=replace:1/2", "a=cube:0"],
)
def test_noise_that_cannot_be_read(text: str) -> None:
    with pytest.raises(InputError):
        _grammar.laws([text], (None, None))


def test_models_by_name() -> None:
    assert named_models(["a=x.py:m", "b=y.py:m"]) == {"a": "x.py:m", "b": "y.py:m"}
    assert named_models(["x.py:m"]) == {"model": "x.py:m"}
    with pytest.raises(InputError):
        named_models(["a=x.py:m", "a=y.py:m"])


@pytest.mark.parametrize(
    ("value", "expected"), [(1.0, 1.0), (0.99, 0.5), (0.3, 0.2), (2e-3, 2e-3), (49, 20.0), (1e4, 1e4)]
)
def test_round_numbers_below(value: float, expected: float) -> None:
    assert round_down(value) == expected


def test_an_unforeseen_error_is_no_failed_verification(monkeypatch, capsys):
    """Its traceback is shown, and the exit code is that of invalid evidence, not of a failed gate."""
    monkeypatch.setattr("brittle.sources.data.load_data", lambda *a: 1 / 0)
    assert main(["doctor", "demo:mlp", "sklearn:digits"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err
