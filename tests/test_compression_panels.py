"""What a report says about feature compression: of an audit with attacks, of one without, of findings that say nothing."""

import pytest
import torch

import audited
import brittle as bt
from brittle import report
from brittle.panels.compression import compression
from brittle.panels.compression_layers import compression_layers
from brittle.panels.compression_path import compression_path
from fixtures_run import Sketch, finding, write_run

NAMES = ["compression", "compression_layers", "compression_path"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two models side by side."""
    plain, x, labels = audited.mlp()
    other = torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).eval()
    other.load_state_dict({k: v * 0.9 for k, v in plain.state_dict().items()})
    options = {**audited.QUIET, "diagnostics": NAMES}
    return bt.audit(
        {"plain": plain, "other": other},
        x,
        labels,
        {"l2": audited.REGIONS["l2"]},
        out=tmp_path_factory.mktemp("run") / "r",
        **options,
    )


def test_an_audit_runs_the_diagnostics_by_itself_from_standard_effort_on():
    standard = {m.name for m in bt.methods("diagnostics") if m.about.effort in ("quick", "standard")}
    assert set(NAMES) <= standard


def test_the_report_shows_all_three_once(run):
    page = report.render(run)
    assert "could not be drawn" not in page
    for name in NAMES:
        assert page.count(f'<section id="{name}">') == 1
    assert "How much of a change of class the decision sees" not in page  # not in the generic table too


def test_radii_are_those_of_the_attack_and_stand_beside_the_optimum(run):
    html = compression(run)
    facts = run.findings["plain"]["compression"]["columns"]
    right = [e for e, s in zip(facts["example"], facts["status"], strict=True) if s != "misclassified"]
    _, x, labels = audited.mlp()
    assert facts["optimum"][0] == pytest.approx(bt.optimum(x[right], labels[right]).mean)
    upper = run.brackets("plain", "l2").filter(correct())["upper"].to_list()
    assert f"Mean size {sum(upper) / len(upper):.3g}" in html
    assert "plain, attacked" in html and "best possible mean" in html
    shown = [s for f in run.findings.values() for s in f["compression"]["columns"]["status"] if s == "ok"]
    assert html.count("<circle") == len(shown)


def correct():
    import polars as pl

    return pl.col("status") != "misclassified"


def test_layers_and_paths_are_drawn_model_beside_model(run):
    html = compression_layers(run)
    assert html.count("<svg class=") == 2 and "1: no preference" in html  # one energy, one selectivity for both models
    html = compression_path(run)
    assert "crossing at" in html and html.count("<figure") == 2 * 3


def test_without_a_region_the_prediction_is_drawn(tmp_path):
    module, x, labels = audited.mlp()
    options = {**audited.QUIET, "diagnostics": ["compression"]}
    run = bt.audit(module, x, labels, laws=audited.LAWS, out=tmp_path / "r", **options)
    html = compression(run)
    assert "is predicted to flip the answer" in html and "model, predicted" in html


def test_findings_that_say_nothing_are_told_in_words(tmp_path):
    silent = tuple(finding(name, {}, note=f"{name} could not be asked.") for name in NAMES)
    run = write_run(tmp_path / "demo", Sketch(findings=silent))
    for panel, name in zip((compression, compression_layers, compression_path), NAMES, strict=True):
        assert f"{name} could not be asked." in panel(run)
    empty = write_run(tmp_path / "none", Sketch())
    assert [panel(empty) for panel in (compression, compression_layers, compression_path)] == ["", "", ""]
