"""Plans: what changes a number changes the key; names that are unsafe in files are refused."""

import subprocess
import sys
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from brittle.errors import InputError
from brittle.records import COLUMNS, Part, Plan, check_name, digest, number, plain

PLAN = Plan(
    models={"a": {"weights": "1" * 64}, "b": {"weights": "2" * 64}},
    data={"count": 7, "labels": "3" * 64},
    regions={"l2": {"x": {"p": 2, "radius": 1.0}}},
    laws={"noise": {"x": {"law": "Gaussian", "sigma": 0.1}}},
    specification={"specification": "default"},
    effort="quick",
    seed=0,
    chunk=3,
    level=0.95,
    methods=({"family": "attacks", "name": "fmn", "code": "4" * 64},),
    diagnostics=("compression",),
    checks=True,
    brittle="0.1.0",
    torch="2.13.0",
)
CHANGES = {
    "models": {"a": {"weights": "9" * 64}, "b": {"weights": "2" * 64}},
    "data": {"count": 7, "labels": "9" * 64},
    "regions": {"l2": {"x": {"p": 2, "radius": 2.0}}},
    "laws": {},
    "specification": {"specification": "TopK", "k": 2},
    "effort": "standard",
    "seed": 1,
    "chunk": 4,
    "level": 0.9,
    "methods": ({"family": "attacks", "name": "fmn", "code": "5" * 64},),
    "diagnostics": (),
    "checks": False,
    "brittle": "0.2.0",
    "torch": "2.14.0",
    "schema": 99,
}


@pytest.mark.parametrize("field", CHANGES)
def test_everything_in_a_plan_changes_its_key(field: str) -> None:
    other = replace(PLAN, **{field: CHANGES[field]})
    assert other.key != PLAN.key
    assert any(d.startswith(field) for d in other.differences(PLAN))


def test_a_plan_survives_its_record() -> None:
    again = Plan.of(PLAN.facts())
    assert again.key == PLAN.key and again.differences(PLAN) == [] and again.facts() == PLAN.facts()


def test_the_order_of_names_is_no_part_of_the_key() -> None:
    assert replace(PLAN, models=dict(reversed(PLAN.models.items()))).key == PLAN.key


def test_differences_name_what_differs_with_both_values() -> None:
    assert replace(PLAN, seed=1).differences(PLAN) == ["seed (1, not 0)"]
    (weights,) = replace(PLAN, models=CHANGES["models"]).differences(PLAN)
    assert weights == "models.a.weights (99999999..., not 11111111...)"
    (code,) = replace(PLAN, methods=CHANGES["methods"]).differences(PLAN)
    assert code.startswith("methods.attacks:fmn.code")
    assert replace(PLAN, laws={}).differences(PLAN) == [
        "laws.noise.x.law (absent, not Gaussian)",
        "laws.noise.x.sigma (absent, not 0.1)",
    ]


def test_parts_cover_every_example_of_every_model_once() -> None:
    parts = list(PLAN.parts())
    assert parts[2] == Part("a", 2, 6, 7) and parts[2].name == "a-00002" and len(parts) == 6
    for model in PLAN.models:
        covered = [i for p in parts if p.model == model for i in range(p.start, p.stop)]
        assert covered == list(range(7))
    assert [e.name for e in PLAN.explanations()] == ["a-compression", "b-compression"]
    assert PLAN.questions() == [("radius", "l2"), ("probability", "noise")]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "x" * 65, 3, "ä"])
def test_names_that_are_unsafe_in_files_are_refused(name: object) -> None:
    with pytest.raises(InputError, match="rename it"):
        check_name("model name", name)


def test_records_hold_no_nan_and_no_bare_infinity() -> None:
    assert plain({"a": (1.0, inf, -inf, nan), "b": {"c": True}}) == {"a": [1.0, "inf", "-inf", None], "b": {"c": True}}
    assert plain([np.float32(0.5), np.int64(3), np.bool_(True)]) == [0.5, 3, True]
    assert number("-inf") == -inf and number(None) is None
    with pytest.raises(ValueError):
        digest({"a": nan})


def test_the_columns_are_those_of_the_schema() -> None:
    assert len(COLUMNS) == 22 and set(COLUMNS.values()) == {"String", "Int64", "Float64", "Boolean"}


def test_reading_a_run_does_not_import_torch() -> None:
    code = "import brittle.store, brittle.progress, sys; sys.exit('torch' in sys.modules or 'polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
