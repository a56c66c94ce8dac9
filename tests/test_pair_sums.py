"""The pair-sum check: silent on exact radii, also where the pair is tight, and loud on an attack that is too weak."""

import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import brittle as bt
import zoo
from brittle.checks.nearest_other import nearest_other
from brittle.checks.pair_sums import SLACK, pair_sums
from brittle.problem import Problem
from brittle.region import Ball
from brittle.results import Bracket, Ends
from brittle.spec import TopK
from brittle.studies._codebooks import codebook, linear


def bracket(lower: Tensor, upper: Tensor, quantity: str = "radius") -> Bracket:
    names, count = ("by hand",) * len(upper), len(upper)
    kinds = Ends(("proved",) * count, ("witnessed",) * count)
    return Bracket(quantity, lower.double(), upper.double(), kinds, ("ok",) * count, Ends(names, names))


def halfway(p: float = 2, points: Tensor | None = None) -> Problem:
    """Class 1 where the sum of both inputs is > 0: the diagonal pair +-1 is tight in every norm."""
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.fill_(1.0)
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [3.0, 3.0]]) if points is None else points
    return Problem(module.eval(), x, (x.sum(1) > 0).long(), Ball(p=p, radius=1.0))


@pytest.mark.parametrize("p, exact", [(1, [2.0, 2, 6]), (2, [2**0.5, 2**0.5, 18**0.5]), (inf, [1.0, 1, 3])])
def test_exact_radii_pass_where_the_pair_is_tight_and_longer_ones_do_not(p, exact):
    """In l-inf and l2 the sum is the distance; in l1 the corner is half as far: 2 + 2 = 4 again."""
    problem, radii = halfway(p), torch.tensor(exact).double()
    sound = pair_sums(problem, bracket(radii, radii))
    assert (sound.consequence, sound.doubt) == ("none", None) and sound.value.startswith(
        "largest sum 1 of the distance, 0 of 2"
    )
    assert pair_sums(problem, bracket(radii, radii * (1 + 0.9 * SLACK))).consequence == "none"
    weak = pair_sums(problem, bracket(radii * 0.5, radii * torch.tensor([1 + 2.2 * SLACK, 1, 1])))
    assert weak.consequence == "warn" and "examples [0, 1]" in weak.doubt and "1 of 2 pairs" in weak.value


def test_certificates_that_no_classifier_can_have_stop_everything():
    problem, radii = halfway(), torch.tensor([2**0.5, 2**0.5, 18**0.5]).double()
    wrong = pair_sums(problem, bracket(radii * (1 + 1e-5), radii * (1 + 1e-5)))
    assert wrong.consequence == "stop" and "a bound has a bug" in wrong.doubt


def test_radii_of_one_label_wrong_examples_and_fruitless_attacks_are_not_compared():
    """Only the pair of different labels, both right and both attacked, counts; the ball's radius is the unit."""
    problem = halfway()
    far = torch.tensor([9.0, 0.0, 9.0])  # example 1 is misclassified: its neighbours may reach beyond it
    assert pair_sums(problem, bracket(torch.zeros(3), far)).consequence == "none"
    assert pair_sums(problem, bracket(torch.zeros(3), torch.tensor([9.0, inf, 9.0]))).consequence == "none"
    radii = torch.tensor([2**0.5, 2**0.5, 18**0.5]).double()
    double = problem.within(Ball(p=2, radius=2.0))
    assert pair_sums(double, bracket(radii / 2, radii / 2)).consequence == "none"
    assert pair_sums(double, bracket(radii / 2, radii)).consequence == "warn"


def test_what_has_no_pair_sums_says_so():
    problem, radii = halfway(), torch.full((3,), 99.0)
    module = nn.Linear(2, 3).eval()
    x = torch.rand(3, 2)
    loose = Problem(module, x, module(x).argmax(1), Ball(p=2, radius=1.0), TopK(2))
    for asked, answer in [
        (problem, bracket(radii * 0, radii, "margin")),
        (halfway(p=0), bracket(radii * 0, radii)),
        (problem.within({"weight": Ball(p=2, radius=1.0)}), bracket(radii * 0, radii)),
        (loose, bracket(radii * 0, radii)),
    ]:
        finding = pair_sums(asked, answer)
        assert finding.consequence == "none" and finding.note.startswith("Only radii of a single input")


def test_a_weak_attack_on_a_compressed_network_is_found_by_its_pairs():
    """A one-hot codebook: exact radii pass, and twelve times as much, still below every distance, does not."""
    book = codebook(12, seed=3)
    problem = Problem(linear(book.weights), book.x, book.labels, Ball(p=2, radius=1.0))
    assert pair_sums(problem, bracket(book.radii, book.radii)).consequence == "none"
    nearest = 2 * book.half_distance
    weak = bracket(book.radii, torch.full((12,), 0.9 * float(nearest.min())))
    assert nearest_other(problem, weak).consequence == "none" and pair_sums(problem, weak).consequence == "warn"


@pytest.mark.parametrize("case", zoo.CASES[:4], ids=lambda c: c.name)
def test_healthy_networks_raise_no_alarm(case):
    module, x, labels = case.make()
    problem = Problem(module, x, labels, Ball(p=2, radius=1.0, low=case.low, high=case.high))
    finding = pair_sums(problem, bt.radius(problem, effort="quick", ends="upper"))
    assert finding.consequence == "none" and finding.note.endswith(".") and finding.name == "pair_sums"


def test_the_optimum_passes_and_anything_longer_does_not():
    """Radii of bt.optimum are the largest that this check can let pass."""
    torch.manual_seed(0)
    x = torch.randn(20, 2)
    problem = halfway(points=x)
    best = bt.optimum(x, problem.labels)
    exact = bracket(best.radii, best.radii)
    assert pair_sums(problem, exact).consequence == "none"
    assert (
        pair_sums(problem, replace(exact, lower=exact.lower * 0, upper=exact.upper * (1 + 1.1 * SLACK))).consequence
        == "warn"
    )
