"""``brittle harden``: weights of a cured copy, the same brackets before and after, and refusals in words."""

import json
from math import inf
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import brittle as bt
from brittle.cli.harden import read_penalties
from brittle.cli.main import main
from brittle.errors import InputError
from brittle.sources.embedded import embedded
from brittle.sources.models import load_model

QUICK = ["--limit", "60", "--epochs", "2", "--examples", "3", "--low", "0", "--high", "1"]


@pytest.fixture(scope="module")
def hardened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp("harden") / "cured.safetensors"
    given = [
        "harden",
        "demo:mlp",
        "sklearn:digits[train]",
        "--penalty",
        "jacobian=0.05",
        "--penalty",
        "noise=0.5:sigma=1/4,clip=true",
    ]
    assert main([*given, "-o", str(out), *QUICK]) == 0
    return out, []


def test_it_prints_both_brackets_and_writes_weights_that_load_again(hardened, capsys, tmp_path):
    out = tmp_path / "again.safetensors"
    given = [
        "harden",
        "demo:mlp",
        "sklearn:digits[train]",
        "--penalty",
        "jacobian=0.05",
        "--penalty",
        "noise=0.5:sigma=1/4,clip=true",
    ]
    assert main([*given, "-o", str(out), "--format", "json", *QUICK]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == ["given", "hardened"]
    assert all(0 < row["lower"] <= row["upper"] and row["lower_guarantee"] == "proved" for row in rows)
    assert out.read_bytes() == hardened[0].read_bytes(), "the seed alone decides"
    cured = load_model(f"{out}@demo:mlp")
    assert isinstance(cured, torch.nn.Module)
    before = embedded("mlp").state_dict()
    assert any(not torch.equal(before[k], v) for k, v in cured.state_dict().items())


def test_the_table_says_what_was_measured_and_how_to_go_on(capsys, tmp_path):
    out = tmp_path / "cured.safetensors"
    given = [
        "harden",
        "demo:mlp",
        "sklearn:digits[train]",
        "--test",
        "sklearn:digits[test]",
        "--region",
        "eps=inf:1/10",
    ]
    assert main([*given, "--penalty", "adversarial:steps=1", "-o", str(out), *QUICK]) == 0
    text = capsys.readouterr().out
    assert "given" in text and "hardened" in text and "proved .. witnessed" in text
    assert "Median linf radius of 3 examples" in text and f"{out}@demo:mlp" in text
    assert text.strip().splitlines()[-1] == str(out)


def test_a_factory_in_a_file_and_data_in_a_file(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(2, 2)\n"
        "x = torch.tensor([[0.0, 0.0], [0.1, 1.0], [1.0, 0.0], [0.9, 1.0]] * 5)\ndata = (x, (x[:, 0] > 0.5).long())\n"
    )
    weights = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in torch.nn.Linear(2, 2).state_dict().items()}, weights)
    model, out = f"{weights}@{tmp_path}/net.py:make", tmp_path / "new.safetensors"
    assert (
        main(
            [
                "harden",
                model,
                f"{tmp_path}/net.py:data",
                "--penalty",
                "path_alignment",
                "-o",
                str(out),
                "--epochs",
                "40",
                "--rate",
                "0.1",
            ]
        )
        == 0
    )
    assert "hardened  100.0%" in " ".join(capsys.readouterr().out.split("\n")).replace("   ", "  ")
    assert set(load_file(out)) == {"weight", "bias"}
    assert main(["harden", model, f"{tmp_path}/net.py:data", "--penalty", "jacobian", "-o", str(weights)]) == 3
    assert "another file than the model's own weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "at least one --penalty"),
        (["--penalty", "jacobian=many"], "weight of jacobian: expected a number"),
        (["--penalty", "jacobian=1", "--penalty", "jacobian=2"], "every name once"),
        (["--penalty", "jacobian=1:projections"], "expected OPTION=VALUE"),
        (["--penalty", "jacobin=1"], "expected one of adversarial"),
        (["--penalty", "jacobian=1:rank=3"], "expected some of seed, projections"),
        (["--penalty", "jacobian=-1"], "weight of penalty jacobian: expected a finite number >= 0"),
        (["--penalty", "jacobian=1", "-o", "weights.pt"], "a file that ends in .safetensors"),
        (["--penalty", "jacobian=1", "--limit", "3"], "at least 5 examples"),
    ],
)
def test_what_is_wrong_is_said_in_words(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["harden", "demo:mlp", "sklearn:digits[train]", *arguments]) == 3
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_options_of_a_penalty_are_numbers_truths_or_words():
    text = ["adversarial=1:radius=8/255,p=inf,steps=3,form=trades", "noise:clip=false"]
    assert read_penalties(text) == {
        "adversarial": {"weight": 1.0, "radius": 8 / 255, "p": inf, "steps": 3, "form": "trades"},
        "noise": {"weight": 1.0, "clip": False},
    }


def test_harden_returns_a_copy_in_evaluation_mode_and_refuses_nothing_to_train_with():
    linear, x = torch.nn.Linear(2, 2), torch.rand(6, 2)
    labels = (x[:, 0] > 0.5).long()
    before = {k: v.clone() for k, v in linear.state_dict().items()}
    cured = bt.harden(linear, (x, labels), {"gradient": 0.1}, epochs=2)
    assert not cured.training and linear.training
    assert all(torch.equal(before[k], v) for k, v in linear.state_dict().items())
    assert any(not torch.equal(before[k], v) for k, v in cured.state_dict().items())
    with pytest.raises(InputError, match="at least one penalty"):
        bt.harden(linear, (x, labels), {})
    with pytest.raises(InputError, match=r"a pair \(x, labels\)"):
        bt.harden(linear, x, {"jacobian": 1.0})  # type: ignore[arg-type]
    for given in ("jacobian", ["jacobian"]):
        with pytest.raises(InputError, match="penalties: expected a mapping from names to weights"):
            bt.harden(linear, (x, labels), given)  # type: ignore[arg-type]
