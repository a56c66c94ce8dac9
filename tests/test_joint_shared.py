"""One change common to all examples: its closed forms, what certificates say of it, what it costs, and who refuses."""

import time
from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.attacks.apgd import apgd
from brittle.attacks.shared_descent import shared_descent
from brittle.errors import InputError
from brittle.questions._shared import attack_together
from zoo import CASES, cnn, mlp

SHARED = {"x": bt.Ball(p=inf, radius=0.02, low=0, high=1), "*": bt.Ball(p=inf, radius=0.03, shared=True)}


def thresholds(shift: float, p: float = 2) -> bt.Problem:
    """Logit x + b on both sides of 0: pushing b down breaks the first ones, up the last ones, never both."""
    module = nn.Linear(1, 1).double()
    with torch.no_grad():
        module.weight.fill_(1.0), module.bias.zero_()
    x = torch.tensor([[0.2], [0.6], [2.0], [-0.3], [-0.5], [-1.0]]).double()
    return bt.Problem(module, x, (x[:, 0] > 0).long(), {"bias": bt.Ball(p=p, radius=shift, shared=True)})


@pytest.mark.parametrize(
    ("shift", "below", "above"), [(0.1, 1, 1), (0.25, 5 / 6, 5 / 6), (0.55, 3 / 6, 4 / 6), (0.65, 2 / 6, 4 / 6)]
)
def test_a_common_shift_breaks_one_side_only(shift, below, above):
    """Certified: what no shift breaks. Attacked: the better of the two directions; at 0.55 both examples on the negative side."""
    answer = bt.accuracy(thresholds(shift))
    assert (float(answer.lower), float(answer.upper)) == (pytest.approx(below), pytest.approx(above))
    assert answer.witness.point["bias"].stride(0) == 0 and answer.methods.upper[0] == (
        "" if shift == 0.1 else "shared_descent"
    )


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("kind", [None, "element", "rms"])
def test_one_example_has_the_closed_form_of_its_own_change(kind, p):
    """With one example a shared change is its own: broken exactly from the distance <W, G> / |unit G|_q on."""
    module = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, -4.0, 0.0], [0.5, 1.0, -2.0]]))
    x, label = torch.tensor([[1.0, -0.5, 0.25]]).double(), torch.tensor([0])
    ball = bt.Ball(p=p, radius=1.0, relative=kind, shared=True).at(module.weight)
    unit = torch.ones(2, 3).double() if kind is None else ball.unit
    slope = torch.stack([x[0], -x[0]]) * unit
    distance = float(
        (module.weight.detach() * torch.stack([x[0], -x[0]])).sum()
        / torch.linalg.vector_norm(slope, {1: inf, 2: 2, inf: 1}[p])
    )
    for factor, upper in ((0.999, 1.0), (1.001, 0.0)):
        region = {"weight": bt.Ball(p=p, radius=factor * distance, relative=kind, shared=True)}
        assert float(bt.accuracy(bt.Problem(module, x, label, region)).upper) == upper


@pytest.mark.parametrize("case", ["one_unit", "mlp", "cnn"])
def test_what_is_certified_for_each_example_is_not_broken_by_a_common_change(case):
    """And the common change is one, inside its ball, and breaks no more than changes of each example's own may."""
    chosen = next(c for c in CASES if c.name == case)
    module, x, labels = chosen.make()
    region = {
        "x": bt.Ball(p=inf, radius=0.02, low=chosen.low, high=chosen.high),
        "*": bt.Ball(p=inf, radius=0.03, shared=True),
    }
    problem = bt.Problem(module, x, labels, region)
    answer = bt.accuracy(problem)
    assert float(answer.lower) <= float(answer.upper)
    witness = answer.witness
    assert bool((problem.size(witness.point) <= 1).all())
    for leaf, value in witness.point.items():
        if leaf != "x":
            assert bool((value == value[:1]).all())
    replay = problem.margin({k: v.contiguous() for k, v in witness.point.items()})  # a copy for each example
    torch.testing.assert_close(replay.double(), witness.margin, rtol=1e-4, atol=1e-5)
    assert bool((replay[witness.found] <= 1e-5).all())


def test_a_common_change_of_inputs_is_cut_off_at_the_range_and_breaks_what_it_may():
    """margin = 2 v - 1: the same -0.5 for all breaks 0.9; 0.1 moves to 0, and its label is the other class."""
    module = lambda v: torch.stack([2 * v[:, 0] - 1, 0 * v[:, 0]], 1)
    x, labels = torch.tensor([[0.9], [0.8], [0.1]]), torch.tensor([0, 0, 1])
    answer = bt.accuracy(bt.Problem(module, x, labels, bt.Ball(p=inf, radius=0.5, low=0, high=1, shared=True)))
    assert float(answer.upper) == pytest.approx(1 / 3)
    assert answer.witness.point["x"][:, 0].tolist() == pytest.approx([0.4, 0.3, 0.0], abs=0.1)
    turned = bt.Problem(module, x.flip(0), labels.flip(0), bt.Ball(p=inf, radius=0.5, low=0, high=1, shared=True))
    assert shared_descent(turned, restarts=1).found.tolist() == [
        False,
        True,
        True,
    ]  # the sum decides, not the first example


def test_without_room_a_shared_region_asks_the_clean_question():
    module, x, labels = mlp()
    region = {"x": bt.Ball(p=inf, radius=0.05, low=0, high=1), "*": bt.Ball(p=inf, radius=0.0, shared=True)}
    shared, plain = (
        bt.accuracy(bt.Problem(module, x, labels, region)),
        bt.accuracy(bt.Problem(module, x, labels, region["x"])),
    )
    assert float(shared.lower) == float(plain.lower) and float(shared.upper) == float(plain.upper)


def test_the_answer_is_one_of_the_set_and_refused_for_each_example():
    problem = thresholds(0.5)
    for verb in (bt.margin, bt.radius):
        with pytest.raises(InputError, match="ask bt.accuracy"):
            verb(problem)
    with pytest.raises(InputError, match="one change of 'bias' common to all examples, got one for each"):
        bt.accuracy(problem, attacks=["apgd"])
    with pytest.raises(InputError, match="a ball with shared=True"):
        shared_descent(bt.Problem(*mlp(), bt.Ball(p=2, radius=1.0)))


def test_a_change_of_inputs_that_is_not_common_is_noticed():
    module, x, labels = mlp()
    problem = bt.Problem(module, x, labels, bt.Ball(p=inf, radius=0.3, low=0, high=1, shared=True))
    with pytest.raises(InputError, match="common to all examples"):
        attack_together(problem, [("apgd", apgd)], 0)
    assert attack_together(problem, [("shared_descent", shared_descent)], 0)[1] in ("clean", "shared_descent")


def test_one_value_for_all_is_evaluated_and_differentiated_once():
    """(1, *shape) and expanded leaves give what copies for each example give; their gradient is the sum."""
    module, x, labels = cnn()
    problem = bt.Problem(
        module, x, labels, {"0.weight": bt.Ball(p=2, radius=1.0), "8.weight": bt.Ball(p=2, radius=1.0)}
    )
    moved = {k: v[:1] + 0.1 * torch.randn_like(v[:1]) for k, v in problem.centre.items()}
    copies = {k: v.expand(len(x), *v.shape[1:]).contiguous() for k, v in moved.items()}
    torch.testing.assert_close(problem.logits(moved), problem.logits(copies))
    mixed = {"0.weight": moved["0.weight"], "8.weight": copies["8.weight"]}
    rows, gradient = problem.gradient(mixed)
    each = problem.gradient(copies)[1]
    torch.testing.assert_close(rows, problem.rows(copies))
    torch.testing.assert_close(gradient["0.weight"], each["0.weight"].sum(0, keepdim=True), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient["8.weight"], each["8.weight"], rtol=1e-4, atol=1e-6)
    wide = {k: v.expand(len(x), *v.shape[1:]) for k, v in moved.items()}
    assert torch.equal(problem.size(wide), problem.size(copies))
    assert problem.witness(wide).point["0.weight"].stride(0) == 0


class Sorted(nn.Module):
    def forward(self, x):
        return torch.cat([x, 0.1 * x], 1).sort(1, descending=True).values


def test_a_radius_at_which_no_bound_says_anything_is_called_vacuous():
    """logits (v - v, 0.1) of relu(x) = v, written as two units: intervals forget that they are one, so nothing is certified or broken."""
    module = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for tensor, value in zip(
            module.parameters(), ([[1.0], [1.0]], [0.0, 0.0], [[1.0, -1.0], [0.0, 0.0]], [0.1, 0.0]), strict=True
        ):
            tensor.copy_(torch.tensor(value))
    problem = bt.Problem(module, torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0]), bt.Ball(p=inf, radius=0.5))
    said = "vacuous: no bound says anything at this radius"
    answer = bt.accuracy(problem, bounds=["ibp"])
    assert (float(answer.lower), float(answer.upper)) == (0, 1) and answer.status == (said,)
    assert bt.accuracy(problem, bounds=["ibp"], ends="lower").status == (said,)
    assert bt.margin(problem, bounds=["ibp"]).doubts[0].startswith(said + ": 2 of 2")
    for sharp in (problem.scaled(0.1), problem):  # a smaller radius, or a bound that knows
        bounds = ["ibp"] if sharp is not problem else ["crown"]
        assert bt.accuracy(sharp, bounds=bounds).status == ("ok",) and not bt.margin(sharp, bounds=bounds).doubts
    unknown = bt.Problem(Sorted(), problem.x, torch.tensor([0, 0]), bt.Ball(p=inf, radius=0.5))
    answer = bt.margin(unknown)  # no bound knows the operation: the status says so, and no smaller radius would help
    assert not answer.doubts and answer.status[0] == "not certified: operation sort"
    assert "none below (not certified: operation sort), witnessed above" in repr(answer)
    broken = bt.Problem(module, problem.x, torch.tensor([1, 1]), bt.Ball(p=inf, radius=0.5))
    assert float(bt.accuracy(broken, bounds=["ibp"]).upper) == 0 and bt.accuracy(broken, bounds=["ibp"]).status == (
        "ok",
    )


@pytest.mark.slow
def test_a_step_with_shared_weights_costs_at_most_four_of_the_input_alone():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)).eval()
    x = torch.rand(512, 784)
    labels = module(x).argmax(1)
    times = {}
    for name, region in (
        ("x", {"x": bt.Ball(p=inf, radius=0.01, shared=True)}),
        ("w", {"*": bt.Ball(p=inf, radius=1e-5, shared=True)}),
    ):
        problem = bt.Problem(module, x, labels, region)
        spent = []
        for steps in (2, 22):
            began = time.process_time()
            shared_descent(problem, steps=steps, restarts=1)
            spent.append(time.process_time() - began)
        times[name] = spent[1] - spent[0]
    assert times["w"] <= 4 * times["x"], times
