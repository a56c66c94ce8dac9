"""Problem: geometry that binds to the last bit, gradients against finite differences, and a module that is never touched."""

import copy
import pickle
from math import inf

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle import meter
from brittle.digest import state_digest
from brittle.region import Ball
from zoo import CASES


def mlp(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor, Tensor]:
    module, x, labels = next(c for c in CASES if c.name == "mlp").make()
    return module.to(dtype), x.to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0, 1, 2, inf])
def test_settled_points_are_feasible_to_the_last_bit(p: float, dtype: torch.dtype) -> None:
    module, x, labels = mlp(dtype)
    problem = bt.Problem(module, x, labels, Ball(p=p, radius=2 if p == 0 else 0.1, low=0, high=1))
    torch.manual_seed(0)
    for _ in range(5):
        settled = problem.settle({"x": x + torch.randn_like(x)})["x"]
        assert settled.dtype == dtype
        change = settled.double() - x.double()
        size = (change != 0).sum(1) if p == 0 else torch.linalg.vector_norm(change, p, dim=1)
        assert bool((size <= problem.region["x"].radius).all())
        assert bool((settled >= 0).all() and (settled <= 1).all())
        assert bool((problem.size({"x": settled}) <= 1).all())


def test_size_is_the_largest_ratio_over_the_leaves() -> None:
    module, x, labels = mlp()
    region = {"x": Ball(p=inf, radius=0.5), "0.bias": Ball(p=2, radius=0.1), "2.bias": Ball(p=1, radius=0.0)}
    problem = bt.Problem(module, x, labels, region)
    point = dict(problem.centre)
    assert problem.size(point).tolist() == [0.0] * 6
    point["x"] = x + 0.25
    assert problem.size(point).tolist() == pytest.approx([0.5] * 6)
    point["0.bias"] = point["0.bias"] + 0.05  # sqrt(16) x 0.05 = 0.2, twice the radius
    assert problem.size(point).tolist() == pytest.approx([2.0] * 6)
    point["2.bias"] = point["2.bias"] + 1e-3
    assert problem.size(point).tolist() == [inf] * 6
    outside = bt.Problem(module, x, labels, Ball(p=inf, radius=1, low=0, high=1)).size({"x": x + 2})
    assert outside.tolist() == [inf] * 6


def test_gradients_agree_with_differences() -> None:
    module, x, labels = mlp(torch.float64)
    problem = bt.Problem(module, x, labels, {"x": Ball(p=2, radius=1.0), "4.weight": Ball(p=2, radius=1.0)})
    rows, gradients = problem.gradient(problem.centre)
    each, by_row = problem.row_gradients(problem.centre, torch.tensor([[0, 2]] * 6))
    assert torch.equal(rows, each)
    for leaf, centre in problem.centre.items():
        step = torch.zeros_like(centre)
        step.view(6, -1)[:, 1] = 1e-6
        ahead, behind = ({**problem.centre, leaf: centre + s * step} for s in (1, -1))
        slope = (problem.margin(ahead) - problem.margin(behind)) / 2e-6
        torch.testing.assert_close(gradients[leaf].reshape(6, -1)[:, 1], slope, rtol=1e-5, atol=1e-7)
        slope = (problem.rows(ahead) - problem.rows(behind)).detach()[:, [0, 2]] / 2e-6
        torch.testing.assert_close(by_row[leaf].reshape(6, 2, -1)[:, :, 1], slope, rtol=1e-5, atol=1e-7)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(2, 3, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def test_weights_of_recurrent_layers_move_one_example_at_a_time() -> None:
    """vmap has no rule for a GRU: the loop must give what each example's own module gives."""
    torch.manual_seed(0)
    module, x = Recurrent().eval(), torch.rand(3, 4, 2)
    leaf = "cell.weight_ih_l0"
    problem = bt.Problem(module, x, torch.tensor([0, 1, 0]), {leaf: Ball(p=2, radius=1.0)})
    moved = problem.centre[leaf] + 0.1 * torch.randn(3, 9, 2)
    logits = problem.logits({leaf: moved})
    for i in range(3):
        twin = copy.deepcopy(module)
        with torch.no_grad():
            twin.cell.weight_ih_l0.copy_(moved[i])
            torch.testing.assert_close(logits[i], twin(x[i : i + 1])[0])
    assert float(problem.gradient({leaf: moved})[1][leaf].abs().sum()) > 0


def test_each_example_has_its_own_weights() -> None:
    module, x, labels = mlp()
    problem = bt.Problem(module, x, labels, {"0.weight": Ball(p=2, radius=1.0)})
    moved = problem.centre["0.weight"] + torch.randn(6, 16, 6)
    logits = problem.logits({"0.weight": moved})
    for i in range(6):
        twin = copy.deepcopy(module)
        with torch.no_grad():
            twin[0].weight.copy_(moved[i])
            torch.testing.assert_close(logits[i], twin(x[i : i + 1])[0])


def test_a_witness_is_judged_at_the_point_it_returns() -> None:
    module = nn.Linear(1, 2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0], [0.0]]))
        module.bias.zero_()
    x = torch.tensor([[0.5], [0.5], [0.5]])
    problem = bt.Problem(module, x, torch.tensor([0, 0, 0]), Ball(p=2, radius=1.0, low=-1, high=1))
    witness = problem.witness({"x": torch.tensor([[-0.5], [-2.0], [0.25]])}, "mine")
    assert witness.status == ("found", "none", "none") and witness.method == "mine"
    assert witness.point["x"].tolist() == [[-0.5], [0.5], [0.25]]  # -2 is out of range: the clean point instead
    assert witness.margin.tolist() == [-0.5, 0.5, 0.25]
    assert witness.size.tolist() == [1.0, inf, inf]


def test_a_failure_in_its_own_type_alone_is_no_witness() -> None:
    """1e8 + x - 1e8 is 0 in float32 and x in float64."""
    module = lambda v: torch.stack([(v[:, 0] + 1e8) - 1e8, 0 * v[:, 0]], 1)
    problem = bt.Problem(module, torch.tensor([[8.0]]), torch.tensor([0]), Ball(p=2, radius=8.0))
    witness = problem.witness({"x": torch.tensor([[1.0]])})
    assert witness.status == ("rounding-only",) and not bool(witness.found)
    assert float(witness.margin) == 0 and float(witness.margin64) == 1


def test_the_module_is_never_touched() -> None:
    module, x, labels = mlp()
    module.train()
    module[0].weight.requires_grad_(False)
    module[2].weight.grad = torch.ones_like(module[2].weight)
    before = state_digest(module)
    problem = bt.Problem(module, x, labels, {"x": Ball(p=2, radius=1.0), "2.weight": Ball(p=2, radius=1.0)})
    problem.gradient(problem.centre)
    problem.row_gradients(problem.centre, torch.zeros(6, 1, dtype=torch.long))
    problem.witness(problem.centre)
    assert state_digest(module) == before


def test_take_scale_and_pickle_keep_the_question() -> None:
    module, x, labels = mlp()
    problem = bt.Problem(module, x, labels, Ball(p=2, radius=0.5)).scaled(torch.arange(1.0, 7.0))
    part = problem.take(torch.tensor([4, 1]))
    assert part.index.tolist() == [4, 1] and part.radius("x").tolist() == [2.5, 1.0]
    torch.testing.assert_close(part.margin(), problem.margin()[[4, 1]])
    again = pickle.loads(pickle.dumps(problem))
    assert torch.equal(again.margin(), problem.margin())


def test_passes_are_counted_in_examples() -> None:
    module, x, labels = mlp()
    problem = bt.Problem(module, x, labels, Ball(p=2, radius=0.5))
    with meter.measure() as passes:
        problem.margin()
        problem.gradient(problem.centre)
        problem.row_gradients(problem.centre, torch.zeros(6, 3, dtype=torch.long))
        problem.witness(problem.centre)
    assert (passes.forward, passes.backward) == (6 * 5, 6 * 4)


BAD = {
    "empty": dict(x=torch.zeros(0, 6), labels=torch.zeros(0, dtype=torch.long)),
    "nan": dict(x=torch.full((6, 6), torch.nan)),
    "counts": dict(labels=torch.zeros(5, dtype=torch.long)),
    "label": dict(labels=torch.full((6,), 4)),
    "negative": dict(labels=torch.full((6,), -1)),
    "soft": dict(labels=torch.full((6,), 0.5)),
    "two axes": dict(labels=torch.zeros(6, 1, dtype=torch.long)),
    "leaf": dict(region={"nothing": Ball(p=2, radius=1.0)}),
    "range": dict(region=Ball(p=2, radius=1.0, low=0, high=0.5)),
    "shape": dict(region=Ball(p=2, radius=1.0, low=torch.zeros(5))),
    "region": dict(region=0.3),
    "target": dict(spec=bt.Targeted(7)),
}


@pytest.mark.parametrize(
    "x, words",
    [
        (
            torch.rand(6, 5),
            r"model: expected logits for x \(6, 5\) float32, got RuntimeError: .*; give inputs of the shape",
        ),
        (torch.zeros(6, 6, dtype=torch.uint8), "model: expected logits for x .* uint8, got RuntimeError"),
        (torch.rand(6, 6).numpy(), "x: expected a torch tensor, got ndarray; convert it"),
    ],
)
def test_inputs_that_the_model_cannot_take_are_one_sentence(x: object, words: str) -> None:
    with pytest.raises(bt.InputError, match=words):
        bt.Problem(mlp()[0], x, torch.zeros(6, dtype=torch.long))


def test_what_a_model_raises_stays_attached() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("my own\nwords")

    with pytest.raises(bt.InputError, match="got ValueError: my own; ") as caught:
        bt.Problem(broken, torch.zeros(1, 2), torch.tensor([0]))
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("error", [MemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_is_no_bad_input(error: Exception) -> None:
    def large(x: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error)):
        bt.Problem(large, torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize(
    "leaf, advice", [("a", 'write "x.a"'), ("x", 'for example "x.a"'), ("b", "one of these names")]
)
def test_names_of_keyword_inputs_are_suggested(leaf: str, advice: str) -> None:
    with pytest.raises(bt.InputError, match=advice):
        bt.Problem(lambda a: a, {"a": torch.zeros(1, 2)}, torch.tensor([0]), {leaf: Ball(p=2, radius=1.0)})


@pytest.mark.parametrize("what", BAD)
def test_bad_questions_are_refused_with_advice(what: str) -> None:
    module, x, labels = mlp()
    good = dict(x=x, labels=labels, region=Ball(p=2, radius=1.0), spec=None)
    with pytest.raises(bt.InputError, match="expected .* got .*; "):
        bt.Problem(module, **{**good, **BAD[what]})


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("radius", [1e-3, 1e-5, 1e-6])
def test_small_changes_of_large_values_are_shortened_and_not_lost(p: float, radius: float) -> None:
    """In float32 one unit in the last place of 0.9 is 6 % of a change of 1e-6: rounding alone must not undo an attack."""
    torch.manual_seed(0)
    x = torch.full((8, 20), 0.9)
    problem = bt.Problem(torch.nn.Linear(20, 2), x, torch.zeros(8, dtype=torch.long), Ball(p=p, radius=radius))
    size = problem.size(problem.settle({"x": x + radius * torch.randn(8, 20)}))
    floor = 0.99 if radius == 1e-3 else 0.5
    assert bool((size <= 1).all() and (size > floor).all()), size
