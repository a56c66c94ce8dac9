"""Audits of smoothed models: votes stored, drawn again by ``verify``, and never mixed with radii of the given model."""

import shutil
from math import inf
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from safetensors.numpy import load
from torch import nn
from typer.testing import CliRunner

import brittle as bt
from audited import content
from brittle import store
from brittle.cli.main import app
from brittle.errors import InputError
from brittle.records import Part
from brittle.report import render

SIGMA = 0.5
QUIET = {"effort": "quick", "chunk": 3, "diagnostics": [], "checks": False, "progress": False, "report": None}
PART = Part("model", 0, 0, 3)


def data():
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    x = torch.tensor([[1.0, 0.0], [0.4, -0.2], [-1.0, 0.0], [0.001, 0.0]])  # distances .6, .4, wrong, .0006
    return linear, x, torch.zeros(4, dtype=torch.long)


def audit(out: Path, **options):
    asked = {"smoothed": {"smooth": bt.Gaussian(SIGMA)}, **QUIET, **options}
    return bt.audit(*data(), out=out, **asked)


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smoothed") / "run"
    audit(folder, regions={"l2": bt.Ball(p=2, radius=1.0)})
    return folder


@pytest.fixture
def forged(honest, tmp_path) -> Path:
    return shutil.copytree(honest, tmp_path / "run")


def rewrite(folder: Path, points=None, proofs=None, **cells) -> None:
    """Change the first example's row, points and votes the way a forger would: with all digests renewed."""
    tensors = {}
    for kind, change in (("points", points), ("proofs", proofs)):
        read = load((folder / kind / f"{PART.name}.safetensors").read_bytes())
        tensors[kind] = {k: v.copy() for k, v in read.items()}
        if change is not None:
            change(tensors[kind])
    rows = polars.read_parquet(folder / "samples" / f"{PART.name}.parquet").to_dict(as_series=False)
    first = next(i for i, question in enumerate(rows["question"]) if question == "smoothed")
    for column, value in cells.items():
        rows[column][first] = value
    store.write_part(folder, PART, rows, tensors["points"], tensors["proofs"], {})


def test_an_audit_gives_exactly_what_the_question_gives_and_keeps_its_votes(honest) -> None:
    run = bt.load_run(honest)
    answer = bt.smoothed_radius(bt.Problem(*data(), bt.Ball(p=2, radius=1.0)), bt.Gaussian(SIGMA), effort="quick")
    rows = run.brackets("model", "smooth")
    assert rows["question"].unique().to_list() == ["smoothed"]
    assert rows["lower"].to_list() == answer.lower.tolist() and rows["upper"].to_list() == answer.upper.tolist()
    assert rows["status"].to_list() == list(answer.status) and rows["found"].to_list() == [True, True, False, False]
    votes = run.proofs("model")["smoothed/smooth/votes of the label"]
    assert votes.tolist() == answer.diagnostics["votes of the label"].tolist()
    assert rows["estimate"].to_list() == (votes / 1000).tolist()
    facts = run.plan.smoothed["smooth"]
    assert (facts["draws"], facts["selection"], facts["level"]) == (1000, 100, 0.999)
    for i, distance in enumerate((0.6, 0.4)):
        assert 0.7 * distance < rows["lower"][i] <= distance <= rows["upper"][i] < 2 * distance


def test_the_two_radii_are_never_mixed(honest) -> None:
    run = bt.load_run(honest)
    kinds = {row["question"]: row for row in run.summary()}
    assert set(kinds) == {"radius", "smoothed"} and "certified" not in kinds["smoothed"]
    assert run.brackets("model", "l2")["lower_kind"].to_list()[0] == "proved"
    with pytest.raises(InputError, match="another model"):
        run.accuracy("model", "smooth", [1.0])
    page = render(run)
    assert "Smoothed models" in page and "say nothing of the given one" in page
    assert "gaussian" in page.lower() and "99.9 %" in page


def test_fresh_draws_agree_with_an_honest_run(honest) -> None:
    for seed in (1, 2, 3):
        found = bt.verify(honest, *data(), seed=seed)
        assert found.passed and found.intervals == 4 and not found.unchecked
    assert any("say nothing of it" in note for note in found.notes)


def test_a_run_without_regions_and_resumed_is_the_same(tmp_path) -> None:
    run = audit(tmp_path / "one")
    assert run.complete and "Smoothed models" in render(run)
    whole = content(tmp_path / "one")
    (tmp_path / "one" / "samples" / "model-00001.parquet").unlink()
    audit(tmp_path / "one")
    assert content(tmp_path / "one") == whole
    with pytest.raises(InputError, match="smoothed"):
        audit(tmp_path / "one", smoothed={"smooth": bt.Gaussian(0.4)})


def more_votes(proofs) -> None:
    proofs["smoothed/smooth/votes of the label"][0] += 60
    proofs["smoothed/smooth/votes of a rival"][0] -= 60


def nearer(points) -> None:
    points["smoothed/smooth/x"][0] = [0.8, 0.1]


def half(points) -> None:
    points["smoothed/smooth/x"][0] = [0.99, 0.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lower": 0.59}, "the recorded votes give a radius of"),
        ({"proofs": more_votes}, "the recorded votes give a radius of"),
        ({"points": nearer}, "the point has size"),
        ({"points": half, "upper": 0.01}, "the label leads at the point"),
        ({"found": False}, "has no point"),
        ({"status": "misclassified", "upper": 0.0, "found": False}, "the label leads"),
        ({"proofs": lambda proofs: proofs.pop("smoothed/smooth/draws")}, "holds no draws"),
        ({"proofs": lambda proofs: proofs["smoothed/smooth/draws"].fill(1e6)}, "votes that cannot be"),
    ],
)
def test_forgeries_are_found(forged, change, words) -> None:
    rewrite(forged, **change)
    found = bt.verify(forged, *data())
    assert not found.passed and any(words in failure for failure in found.failures), found.failures


def test_votes_raised_together_with_their_radius_disagree_with_fresh_draws(forged) -> None:
    """The consistent forgery: 876 -> 976 votes of 1,000 and the radius that they would give."""
    from brittle.questions._smoothing import reach_of
    from brittle.questions._votes import Votes
    from brittle.questions.smoothed_radius import lower_end

    run, problem = bt.load_run(forged), bt.Problem(*data(), bt.Ball(p=2, radius=1.0))
    votes = {k.rpartition("/")[2]: v[0] for k, v in run.proofs("model").items() if k.startswith("smoothed/")}
    tally = lambda most: torch.tensor([most], dtype=torch.float64)
    label, rival = float(votes["votes of the label"]) + 100, float(votes["votes of a rival"]) - 100
    chosen = Votes(float(votes["selected votes of the label"]), tally(float(votes["selected votes of a rival"])), 100)
    radius = lower_end(reach_of(problem, {"x": bt.Gaussian(SIGMA)}), chosen, Votes(label, tally(rival), 1000), 0.0005)

    def raised(proofs) -> None:
        proofs["smoothed/smooth/votes of the label"][0], proofs["smoothed/smooth/votes of a rival"][0] = label, rival

    rewrite(forged, proofs=raised, lower=radius, upper=inf, found=False)
    found = bt.verify(forged, *data())
    assert len(found.failures) == 1 and "the votes for the label disagree" in found.failures[0]


def test_bad_requests_leave_nothing_behind(tmp_path) -> None:
    for smoothed, words in (
        ({"smooth": bt.UniformSphere(0.1)}, "no certificate is known"),
        ({"smooth": {"weight": bt.Gaussian(0.1), "y": bt.Gaussian(0.1)}}, "y"),
        (bt.Gaussian(0.1), "mapping"),
    ):
        with pytest.raises(InputError, match=words):
            audit(tmp_path / "run", smoothed=smoothed)
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="different names"):
        audit(tmp_path / "run", regions={"smooth": bt.Ball(p=2, radius=1.0)})


def test_older_records_keep_their_key(honest) -> None:
    from dataclasses import replace

    plan = replace(bt.load_run(honest).plan, smoothed={})
    assert "smoothed" not in plan.facts()


def test_other_laws_bring_their_norms(tmp_path) -> None:
    laws = {
        "l1": bt.Laplace(0.3),
        "cube": bt.UniformCube(0.5),
        "l0": bt.Replace(1, 0, 1),
        "w": {"weight": bt.Gaussian(1.0)},
    }
    run = audit(tmp_path / "run", smoothed=laws)
    norms = {name: float(next(iter(facts["region"].values()))["p"]) for name, facts in run.plan.smoothed.items()}
    assert norms == {"l1": 1, "cube": 1, "l0": 0, "w": 2}
    found = bt.verify(tmp_path / "run", *data())
    assert found.passed and found.intervals == 16, found.failures
    assert np.isfinite(run.samples["lower"].to_numpy()).all()


def test_the_command_asks_for_it_and_shows_it(tmp_path) -> None:
    words = ["audit", "demo:mlp", "sklearn:digits[test]", "--limit", "2", "--smoothed", "smooth=gaussian:0.25"]
    said = CliRunner().invoke(app, [*words, "--effort", "quick", "--out", str(tmp_path / "run")])
    assert said.exit_code == 0 and "smooth: l2 size, smoothed model" in said.output, said.output
    assert "statistical" in said.output
    assert bt.load_run(tmp_path / "run").plan.questions() == [("smoothed", "smooth")]
