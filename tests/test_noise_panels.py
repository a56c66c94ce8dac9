"""What the report says of noise: levels, tolerated noise, and the size at which accuracies are told."""

import re
from math import inf

import pytest

from brittle import discovery
from brittle.cli._brackets import values
from brittle.panels._data import telling_scale
from brittle.panels._html import number, percent
from fixtures_run import Sketch, write_run

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
