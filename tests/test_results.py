"""Bracket as a lattice, and the evidence behind it."""

import pickle
from math import inf

import pytest
import torch

from brittle.errors import BracketError
from brittle.results import Bracket, Cost, Ends, Finding, Proof, Witness, bracket_of

T = lambda *v: torch.tensor(v, dtype=torch.float64)


def bracket(lower, upper, kinds=("proved", "witnessed"), name="a", **more):
    n = len(lower)
    return Bracket(
        "radius",
        T(*lower),
        T(*upper),
        Ends((kinds[0],) * n, (kinds[1],) * n),
        ("ok",) * n,
        Ends((name,) * n, (name,) * n),
        **more,
    )


def witness(values, name="a", **more):
    n = len(values)
    return Witness(
        {"x": T(*values)[:, None]},
        -T(*values),
        torch.ones(n, dtype=torch.bool),
        T(*values),
        ("found",) * n,
        name,
        **more,
    )


def ends(b):
    return b.lower.tolist(), b.upper.tolist(), b.kinds


A, B, C = bracket([1, 2], [5, 6]), bracket([2, 1], [4, 7], name="b"), bracket([0, 2.5], [inf, 5], name="c")


def test_intersection_is_commutative_associative_and_idempotent_on_ends():
    assert ends(A & B) == ends(B & A) == ([2, 2], [4, 6], A.kinds)
    assert ends((A & B) & C) == ends(A & (B & C))
    assert ends(A & A) == ends(A)
    assert ends(A & bracket_of("radius", 2)) == ends(A) == ends(bracket_of("radius", 2) & A)


def test_methods_follow_the_ends_and_costs_add():
    both = bracket([1, 2], [5, 6], cost=Cost(1, 2, 3)) & bracket([2, 1], [4, 7], name="b", cost=Cost(10, 20, 30))
    assert both.methods == Ends(("b", "a"), ("b", "a")) and both.cost == Cost(11, 22, 33)


def test_equal_ends_keep_the_stronger_guarantee_from_either_side():
    weak = bracket([1, 2], [5, 6], ("none", "statistical"))
    assert (A & weak).kinds == (weak & A).kinds == A.kinds


def test_a_proof_beyond_a_witness_raises_and_rounding_does_not():
    bracket([1 + 1e-10], [1])
    with pytest.raises(BracketError, match="example 0: the proved lower end 1.1 .* witnessed upper end 1 "):
        bracket([1.1], [1])
    with pytest.raises(BracketError, match="bug"):
        bracket([3], [5]) & bracket([0], [2.9])
    bracket([1.1], [1], slack=0.1)


def test_statistical_crossing_is_one_doubt():
    crossed = bracket([2, 3, 0], [1, 2, 4], ("statistical", "witnessed"))
    assert crossed.doubts == ("statistical ends cross on 2 of 3 examples",)
    assert crossed.take(torch.tensor([0])).doubts == ("statistical ends cross on 1 of 1 examples",)


def test_an_end_that_is_not_a_number_is_refused():
    with pytest.raises(BracketError, match="NaN for examples \\[1\\]"):
        bracket([1, float("nan")], [2, 2])


def test_confidence_is_the_union_bound():
    one = bracket([0], [1], ("statistical", "statistical"), confidences=Ends(0.99, 0.98))
    assert one.confidence == pytest.approx(0.97)
    assert (one & one).confidences == pytest.approx((0.98, 0.96))
    assert Bracket.join([one, bracket([0], [1])]).confidences == Ends(0.99, 0.98)
    assert bracket([0], [1], confidences=Ends(0.3, 0.3)).confidence == 0


def test_guarantee_is_the_weakest_that_says_something():
    mixed = Bracket("radius", T(0, 1, 1), T(2, 2, inf), Ends(("none", "proved", "statistical"), ("witnessed", "witnessed", "none")), ("ok",) * 3,
                    Ends(("",) * 3, ("",) * 3))  # fmt: skip
    assert mixed.guarantee == Ends("statistical", "witnessed") and bracket_of("margin", 1).guarantee == Ends(
        "none", "none"
    )


def test_join_then_take_gives_the_parts_back():
    parts = [
        bracket(
            [1, 2],
            [5, 6],
            witness=witness([5, 6]),
            proof=Proof(T(1, 2), ("crown",) * 2, {"r.s": torch.ones(2, 3)}),
            cost=Cost(2, 4, 1),
        ),
        bracket([3], [4], name="b", witness=witness([4], "b"), proof=Proof(T(3), ("ibp",)), cost=Cost(8, 1, 1)),
    ]
    whole = Bracket.join(parts)
    assert len(whole) == 3 and whole.cost == Cost(4, 3, 2) and whole.witness.method == "a b"
    for part, at in zip(parts, ([0, 1], [2])):
        again = whole.take(torch.tensor(at))
        assert ends(again) == ends(part) and again.methods == part.methods
        assert torch.equal(again.witness.point["x"], part.witness.point["x"])
    # the arrays of a certificate survive next to a method that has none
    assert whole.proof.arrays["r.s"].tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert whole.proof.methods == ("crown", "crown", "ibp")
    with pytest.raises(BracketError, match="different quantities"):
        Bracket.join([A, bracket_of("margin", 1)])


def test_evidence_follows_the_end_it_stands_for():
    one = bracket([1, 2], [5, 6], witness=witness([5, 6]), proof=Proof(T(1, 2), ("a", "a"), {"k": T(1, 2)}))
    two = bracket([2, 1], [4, 7], witness=witness([4, 7]), proof=Proof(T(2, 1), ("b", "b")))
    both = one & two
    assert both.witness.size.tolist() == [4, 6] and both.proof.scale.tolist() == [2, 2]
    assert both.proof.methods == ("b", "a") and both.proof.arrays["k"].tolist() == [0, 2]


def test_everything_travels_between_processes():
    one = bracket(
        [1, 2], [5, 6], witness=witness([5, 6], margin64=T(0, 1)), proof=Proof(T(1, 2), ("a", "a"), {"k": T(1, 2)})
    )
    again = pickle.loads(pickle.dumps(one))
    assert (
        ends(again) == ends(one)
        and torch.equal(again.proof.arrays["k"], T(1, 2))
        and again.witness.status == ("found",) * 2
    )


def test_witnesses_with_and_without_float64_margins_join():
    both = Witness.join([witness([1], margin64=T(1)), witness([2])])
    assert both.margin64 is None and both.method == "a" and both.take(torch.tensor([1])).size.tolist() == [2]


def test_findings_survive_a_record():
    found = Finding("n", "t", {"a": T(1, 2), "b": ["x", "y"]}, ("a",), doubt="d", consequence="warn")
    again = Finding.of(found.facts())
    assert again.columns == {"a": [1, 2], "b": ["x", "y"]} and (again.axes, again.doubt) == (("a",), "d")


def test_a_finding_prints_what_it_says_and_which_columns_it_has():
    found = Finding(
        "n", "Faults", {"a": T(1, 2), "b": ["x", "y"]}, note="Half are left.", value="2 weights", doubt="Few."
    )
    assert repr(found) == "Faults: Half are left.\n2 weights\nFew.\ncolumns (2 rows each): a, b"
    assert repr(Finding("n", "Passed", consequence="none", value="0")) == "Passed: 0"
