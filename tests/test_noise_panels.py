"""What the report says of noise: levels, tolerated noise, and the size at which accuracies are told."""

import re
from math import erfc, inf

import pytest

from brittle import discovery
from brittle.cli._brackets import values
from brittle.errors import InputError
from brittle.panels._data import telling_scale
from brittle.panels._html import number, percent
from fixtures_run import Sketch, finding, write_run

# ---- the size at which accuracies are told -------------------------------------------------------------------------


def radii(lower: list[float], upper: list[float]) -> dict:
    return {"lower": lower, "upper": upper, "lower_kind": ["proved" if v > 0 else "none" for v in lower]}


def test_the_verdict_and_the_terminal_tell_the_same_accuracy_at_the_same_size(tmp_path):
    distances = radii([0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6])
    tables = {("plain", "radius", "l2"): distances}
    run = write_run(tmp_path / "run", Sketch(("plain",), ("l2",), (), count=4, wrong=0.0), tables)
    (row,) = values(run)
    assert row["at"] == 0.2 and row["certified"] == 0.5 and row["attacked"] == 1.0
    html = str(discovery.method("panels", "verdict")(run))
    cells = re.search(r'<tr><th>l2</th><td class="n">([^<]*)</td>' + r'<td class="n">([^<]*)</td>' * 3, html)
    assert cells is not None and list(cells.groups()) == [number(0.2), percent(1.0), percent(0.5), percent(1.0)]
    assert "certified at the declared size of l2" in html


def test_a_region_that_certifies_something_keeps_its_own_size(tmp_path):
    tables = {("plain", "radius", "l2"): radii([1.1, 0.2], [1.5, 0.4])}
    html = str(
        discovery.method("panels", "verdict")(
            write_run(tmp_path / "run", Sketch(("plain",), ("l2",), (), count=2, wrong=0.0), tables)
        )
    )
    assert re.search(r'<tr><th>l2</th><td class="n">1</td>', html) and "declared size of" not in html


@pytest.mark.parametrize(
    "medians, certified, expected", [((0.47, 0.3), 0.0, 0.2), ((inf, inf), 0.0, 1.0), ((0.47, 0.3), 0.1, 1.0)]
)
def test_the_most_fragile_model_sets_the_size(medians, certified, expected):
    rows = [{"name": "l2", "certified": certified, "upper": upper} for upper in medians]
    rows += [{"name": "other", "certified": 0.5, "upper": 0.01}]
    assert telling_scale(rows, "l2", 1.0) == expected
    assert telling_scale(rows, "l2", 0.1) == pytest.approx(1.0 if expected == 1.0 else expected)


# ---- levels and tolerated noise ------------------------------------------------------------------------------------

SIGMAS = [0.1, 1.0, 2.0]
LEVELS = {
    "example": [4, 4, 4], "level": SIGMAS, "estimate": [0.0, 1e-3, 0.2], "interval_lower": [0.0, 5e-4, 0.1],
    "interval_upper": [0.0, 2e-3, 0.3], "lower": [0.0, 1e-4, 0.1], "upper": [1e-15, 2e-2, 0.4], "paper": [1e-3, 1.0, 1.0],
    "cell": [1e-5, 0.5, 1.0], "house_bound": [1e-15, 1e-2, 0.9], "certified": [0.3] * 3, "attacked": [0.9] * 3,
}  # fmt: skip
TOLERATED = {
    "example": [0, 1, 2], "lower": [0.5, None, 1.0], "estimate": [1.0, 1.3, 2.0], "upper": [1.5, 2.0, None],
    "certified": [0.2, 0.2, None], "attacked": [0.4, None, 0.8], "ratio": [2.5, None, 2.6], "half_space": [2.589] * 3,
    "sqrt_n": [8.0] * 3,
}  # fmt: skip


def drawn(tmp_path, name: str, columns: dict) -> str:
    sketch = Sketch(("plain",), ("l2",), ("noise",), count=4, findings=(finding(name, columns, note="It is <noisy>."),))
    return str(discovery.method("panels", name)(write_run(tmp_path / "run", sketch)))


def test_levels_are_drawn_with_every_bound_and_the_worst_case(tmp_path):
    html = drawn(tmp_path, "noise_levels", LEVELS)
    assert html.count("<polyline") == 3, "paper, cell, house_bound"
    assert "house bound" in html and "bound from dimension and number of units" in html
    assert html.count("<circle") == 2, "an estimate of 0 is not drawn on a logarithmic axis"
    assert ">certified<" in html and ">attacked<" in html and "It is &lt;noisy&gt;." in html
    assert "example 4" in html and "nan" not in html.lower()


def test_words_of_close_radii_do_not_overlap(tmp_path):
    html = drawn(tmp_path, "noise_levels", {**LEVELS, "attacked": [0.5] * 3})
    assert "certified, attacked" in html and ">certified<" not in html


def test_laws_without_a_length_have_no_vertical_lines(tmp_path):
    html = drawn(tmp_path, "noise_levels", {**LEVELS, "certified": [None] * 3, "attacked": [None] * 3})
    assert ">certified<" not in html and "<polyline" in html


def test_tolerated_noise_is_a_histogram_and_ratios(tmp_path):
    html = drawn(tmp_path, "tolerated_noise", TOLERATED)
    assert html.count("<circle") == 2, "one ratio is not known"
    assert "half-space, 2.59" in html and "sqrt(n) / 3.09" in html
    row = re.search(r"<tr><th>plain</th>" + r'<td class="n">([^<]*)</td>' * 5, html)
    assert row is not None and list(row.groups()) == ["3", "0.5", "1.3", "0.4", "2.5"]
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([0-9.]+)"', html)]
    assert sorted(round(h / max(heights)) for h in heights if h) == [1, 1, 1], "three bins of one example each"


def test_the_same_bin_counts_twice(tmp_path):
    html = drawn(tmp_path, "tolerated_noise", {**TOLERATED, "estimate": [1.01, 1.02, 2.0]})
    heights = sorted({float(h) for h in re.findall(r'<rect[^>]* height="([0-9.]+)"', html)} - {0.0})
    assert heights[-1] == pytest.approx(2 * heights[-2], rel=0.02)


@pytest.mark.parametrize("name", ["noise_levels", "tolerated_noise"])
def test_nothing_asked_is_nothing_drawn(tmp_path, name):
    assert drawn(tmp_path, name, {}) == ""
    assert discovery.method("panels", name)(write_run(tmp_path / "other", Sketch(("plain",), count=4))) == ""


# ---- the diagnostics behind them -----------------------------------------------------------------------------------


def half_space(rows: int = 2):
    """Inputs at distance 1.2 from the only boundary."""
    import torch

    import brittle as bt

    linear = torch.nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
        linear.bias.zero_()
    return bt.Problem(linear, torch.tensor([[2.0, 0.0]] * rows), torch.tensor([0] * rows))


def phi(z: float) -> float:
    return 0.5 * erfc(-z / 2**0.5)


def test_levels_of_a_half_space_are_its_tail():
    import brittle as bt

    found = bt.diagnose(half_space(1), "noise_levels", laws={"x": bt.Gaussian(0.5)}, levels=(0.4, 0.8))
    columns = found.columns
    for level, estimate, paper, exact in zip(
        columns["level"], columns["estimate"], columns["paper"], columns["cell"], strict=True
    ):
        truth = phi(-1.2 / (0.5 * level))
        assert estimate == pytest.approx(truth, rel=0.2) and paper == pytest.approx(truth, rel=1e-6)
        assert exact == pytest.approx(truth, rel=1e-6)
    assert columns["certified"][0] == pytest.approx(1.2 / (0.5 * 2**0.5), rel=0.05)
    assert columns["attacked"][0] == pytest.approx(1.2 / (0.5 * 2**0.5), rel=0.01)
    assert "0.4 times" in found.note and "says so up to 0.4" in found.note


def test_bad_questions_about_levels_are_refused():
    import brittle as bt

    law = bt.Gaussian(0.5)
    for options in ({}, {"laws": {"x": law}, "levels": (0.0,)}, {"laws": {"x": law.clipped(0, 1)}}):
        with pytest.raises(InputError, match="noise_levels|levels"):
            bt.diagnose(half_space(), "noise_levels", **options)
    with pytest.raises(InputError, match="tolerated_noise"):
        bt.diagnose(half_space(), "tolerated_noise")


def test_an_audit_gives_its_first_law_to_a_diagnostic_that_asks_for_one(tmp_path):
    import brittle as bt

    problem = half_space(2)
    run = bt.audit(
        problem.network.original, problem.x, problem.labels, {"l2": bt.Ball(p=2, radius=1.0)}, {"rain": bt.Gaussian(0.5)},
        tmp_path / "run", "quick", diagnostics=["noise_levels"], checks=False, progress=False, report=None,
    )  # fmt: skip
    columns = run.findings["model"]["noise_levels"]["columns"]
    assert columns, run.findings["model"]["noise_levels"]["note"]
    assert columns["example"][0] == 0 and columns["cell"][-1] == pytest.approx(phi(-1.2), rel=1e-6), "twice sigma 0.5"
    bare = bt.audit(
        problem.network.original, problem.x, problem.labels, {"l2": bt.Ball(p=2, radius=1.0)}, {},
        tmp_path / "bare", "quick", diagnostics=["noise_levels"], checks=False, progress=False, report=None,
    )  # fmt: skip
    facts = bare.findings["model"]["noise_levels"]
    assert "not applicable" in facts["title"] and facts["consequence"] == "none"
