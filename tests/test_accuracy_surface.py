"""bt.diagnose(problem, "accuracy_surface"): where both ends are known in closed form, what monotone means, and its panel."""

from functools import partial
from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle import discovery
from brittle.diagnostics.accuracy_surface import Known, accuracy_surface
from brittle.discovery import method
from brittle.errors import InputError
from brittle.questions.margin import margin
from brittle.questions.radius import radius
from fixtures_run import Sketch, finding, write_run


def line(points: list[float]) -> bt.Problem:
    """One weight pair: logits w x and -w x with w = 1, margins 2 x; at (a, b) the least margin is 2 (x - a)(1 - b) for b <= 1."""
    module = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    region = {"x": bt.Ball(p=inf, radius=2.0), "weight": bt.Ball(p=inf, radius=0.5)}
    return bt.Problem(module, torch.tensor(points).double()[:, None], torch.zeros(len(points)).long(), region)


def cells(found) -> dict[tuple[float, float], tuple[float, float]]:
    rows = zip(*(found.columns[n] for n in ("kind", "input", "weight", "certified", "attacked")), strict=True)
    return {(a, b): (low, high) for kind, a, b, low, high in rows if kind == "cell"}


def rays(found) -> dict[tuple[float, float], list[tuple[float, float]]]:
    out: dict = {}
    for kind, a, b, low, high in zip(
        *(found.columns[n] for n in ("kind", "input", "weight", "certified", "attacked")), strict=True
    ):
        if kind == "ray":
            out.setdefault((a, b), []).append((low, high))
    return out


def test_a_rule_whose_frontier_is_known():
    """Example x survives exactly while a < x and b < 1: its frontier along (a, b) is min(x / a, 1 / b)."""
    points = [0.5, 1.0, 2.0, 4.0, -1.0]
    found = bt.diagnose(line(points), "accuracy_surface", points=4, rays=2)
    for (a, b), ends in rays(found).items():
        for x, (low, high) in zip(points, ends, strict=True):
            exact = 0.0 if x < 0 else min(x / a if a else inf, 1 / b if b else inf)
            assert low <= exact * (1 + 1e-9) and high >= exact * (1 - 1e-9), (a, b, x)
            assert high <= exact * 1.001 and low >= exact * 0.9, (a, b, x)
    for (a, b), (low, high) in cells(found).items():
        exact = sum(x > a for x in points) / 5 if b < 1 else 0.0
        assert low <= exact + 1e-12 and high >= exact - 1e-12 and high - low <= 0.2 + 1e-12, (a, b)
    assert (max(a for a, _ in cells(found)), max(b for _, b in cells(found))) == pytest.approx((4.0, 1.0), rel=1e-3)
    assert found.unit == "x, in l-inf | weight, in l-inf"


def test_both_surfaces_fall_and_proofs_stay_below_attacks():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.rand(8, 4)
    with torch.no_grad():
        labels = module(x).argmax(1)
    region = {"x": bt.Ball(p=inf, radius=0.05, low=0, high=1), "*.weight": bt.Ball(p=inf, radius=0.01)}
    found = bt.diagnose(bt.Problem(module, x, labels, region), "accuracy_surface", points=3, rays=1)
    known = cells(found)
    for (a, b), (low, high) in known.items():
        assert low <= high
        for (c, d), (lower, higher) in known.items():
            if c >= a and d >= b:
                assert lower <= low and higher <= high, "monotone in both radii"
    assert known[0.0, 0.0] == (1.0, 1.0) and found.unit == "x, in l-inf | 2 leaves, in l-inf"


def test_what_the_points_settle():
    known = Known(
        torch.tensor([[[2.0, 1.0]], [[0.0, 0.0]]]).double(), torch.tensor([[[3.0, 2.0]], [[inf, inf]]]).double()
    )
    assert known.certified(2.0, 0.5).tolist() == [True, False] and known.certified(2.0, 1.5).tolist() == [False, False]
    assert known.attacked(3.0, 2.0).tolist() == [True, False] and known.attacked(3.0, 1.9).tolist() == [False, False]
    known.learn(torch.tensor([1]), 1.0, 1.0, torch.tensor([True]), torch.tensor([False]))
    assert known.certified(1.0, 1.0).tolist() == [True, True] and known.attacked(9.0, 9.0).tolist() == [True, False]


def test_settled_examples_are_not_asked_again():
    """Every cell is asked only of examples that no proof and no witness of another point settles."""
    asked: list[int] = []

    def counting(problem, **options):
        asked.append(len(problem))
        return margin(problem, effort="quick", **options)

    problem = line([0.5, 1.0, 2.0, 4.0])
    found = accuracy_surface(problem, margin=counting, radius=partial(radius, effort="quick"), points=4, rays=2)
    assert sum(asked) < 16 * 4 / 2 and len(cells(found)) == 16


def test_an_assumed_weight_ball_and_refusals():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    x = torch.rand(3, 2)
    problem = bt.Problem(module, x, module(x).argmax(1), bt.Ball(p=inf, radius=0.1))
    found = bt.diagnose(problem, "accuracy_surface", points=2, rays=0)
    assert (
        "The region names no parameters" in found.note
        and found.unit == "x, in l-inf | 2 leaves, of each entry, in l-inf"
    )
    shared = {"x": bt.Ball(p=inf, radius=0.1), "0.weight": bt.Ball(p=inf, radius=0.01, shared=True)}
    told = bt.diagnose(bt.Problem(module, x, module(x).argmax(1), shared), "accuracy_surface", points=2, rays=0)
    assert "shared change" in told.note
    with pytest.raises(InputError, match="without an input that moves"):
        bt.diagnose(
            bt.Problem(module, x, module(x).argmax(1), {"0.weight": bt.Ball(p=inf, radius=0.1)}), "accuracy_surface"
        )
    fixed = lambda x: torch.stack([x[:, 0], x[:, 1]], 1)
    with pytest.raises(InputError, match="without a parameter"):
        bt.diagnose(bt.Problem(fixed, x, torch.zeros(3).long(), bt.Ball(p=2, radius=1.0)), "accuracy_surface")
    wide = nn.Linear(1100, 500)
    with pytest.raises(InputError, match="at most 524,288 weights"):
        bt.diagnose(
            bt.Problem(wide, torch.zeros(9, 1100), torch.zeros(9).long(), bt.Ball(p=2, radius=1.0)), "accuracy_surface"
        )
    with pytest.raises(InputError, match="points >= 2"):
        bt.diagnose(problem, "accuracy_surface", points=1)
    assert method("diagnostics", "accuracy_surface").about.effort == "thorough"


# ---- the panel -------------------------------------------------------------------------------------------------------

CELLS = [(a, b, max(0.0, 1 - a - b), max(0.0, 1 - 0.7 * (a + b))) for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)]
RAYS = [
    (1.0, 0.0, 0.4, 0.6),
    (1.0, 0.0, 0.5, inf),
    (0.0, 1.0, 0.5, 0.6),
    (0.0, 1.0, 0.3, 0.9),
    (1.0, 1.0, 0.2, 0.4),
    (1.0, 1.0, 0.2, 0.5),
]
COLUMNS = {
    "kind": ["cell"] * 9 + ["ray"] * 6,
    "example": [None] * 9 + [0, 1] * 3,
    **{n: [row[k] for row in (*CELLS, *RAYS)] for k, n in enumerate(("input", "weight", "certified", "attacked"))},
}  # fmt: skip


def drawn(tmp_path, columns: dict, note: str = "It is <joint>.") -> str:
    facts = {**finding("accuracy_surface", columns, note=note), "unit": "x, in l-inf | 2 <leaves>, in l-inf"}
    return str(
        discovery.method("panels", "accuracy_surface")(
            write_run(tmp_path, Sketch(("plain",), ("l2",), (), count=2, findings=(facts,)))
        )
    )


def test_the_panel_draws_both_surfaces_and_both_curves(tmp_path):
    html = drawn(tmp_path / "run", COLUMNS)
    assert html.count("<svg class") == 3 and html.count("<rect") == 9, "a heat map of nine cells, two marginal curves"
    assert "2 &lt;leaves&gt;" in html and "It is &lt;joint&gt;." in html and "of 2 examples" in html
    assert "50 % – 65 %" in html and "nan" not in html.lower()


def test_the_panel_says_nothing_of_a_region_with_nothing_to_move(tmp_path):
    assert drawn(tmp_path / "none", {}) == ""
    empty = write_run(tmp_path / "bare", Sketch(("plain",), ("l2",), (), count=2))
    assert str(discovery.method("panels", "accuracy_surface")(empty)) == ""
