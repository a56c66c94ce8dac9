"""Every discovered bound obeys the laws of bounds; a new file in ``bounds/`` is tested by being there."""

from dataclasses import dataclass, replace
from functools import cache, partial
from math import inf

import pytest
import torch
from torch import nn

import bound_laws
import zoo
from brittle import meter
from brittle.about import About
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.discovery import Method, methods
from brittle.errors import InputError, NotCertified
from brittle.evidence import Certificate
from brittle.problem import Problem
from brittle.region import Ball
from brittle.spec import Targeted, Threshold, TopK


@dataclass(frozen=True)
class OrCrown:
    """A bound for some operations only: where it declines it says that crown is to be used, and the law is asked of crown."""

    bound: Method

    @property
    def name(self) -> str:
        return self.bound.name

    @property
    def about(self) -> About:
        return self.bound.about

    def __call__(self, *args, **options) -> Certificate:
        try:
            return self.bound(*args, **options)
        except NotCertified as reason:
            assert "crown" in str(reason)
            return replace(crown(*args, **options), method=self.name)


RUN = [m for m in methods("bounds") if m.about.effort]  # those that questions run by themselves, on every network
BOUNDS = [OrCrown(m) if m.name == "branch_and_bound" else m for m in RUN]
CASES = {case.name: case for case in zoo.CASES}
EXACT = ["crown"]  # bounds that are exact on affine networks in every norm


@cache
def without_region(name: str) -> Problem:
    """Shared by all regions, so that its graph is exported once."""
    return Problem(*CASES[name].make())


def problem_of(name: str, p: float = inf, radius: float = 0.05) -> Problem:
    case = CASES[name]
    return without_region(name).within(Ball(p, radius, case.low, case.high))


@pytest.mark.parametrize("law", bound_laws.INPUT_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.name)
def test_laws(bound, law) -> None:
    law(bound)


@pytest.mark.parametrize("p", [0, 1, 2, inf])
@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.name)
def test_every_bound_on_every_network_and_norm(bound, case, p) -> None:
    """Sampled points of the region stay above the rows; a promise not kept is -inf with a note, never NaN."""
    if p not in bound.about.norms:
        pytest.skip("not promised")
    problem = problem_of(case.name, p, 1.0 if p == 0 else 0.1)
    answer = bound(problem)
    assert not answer.rows.isnan().any() and answer.method == bound.name
    assert answer.rows.shape == problem.rows().shape
    assert all(
        (note == "") == bool(fine) for note, fine in zip(answer.notes, answer.rows.isfinite().all(1), strict=True)
    )
    double, generator = problem.double(), torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = torch.randn(problem.x.shape, generator=generator, dtype=torch.float64)
        point = double.project({"x": double.x + noise})
        assert (double.rows(point) >= answer.rows - 1e-12).all()


@pytest.mark.parametrize("name", EXACT)
def test_exact_on_affine_networks(name) -> None:
    bound_laws.exact_on_affine(next(b for b in BOUNDS if b.name == name))


def test_ibp_is_exact_on_affine_networks_in_the_largest_norm() -> None:
    bound_laws.exact_on_affine(ibp, (inf,))


@pytest.mark.parametrize("bound", [b for b in BOUNDS if "parameter" in b.about.leaves], ids=lambda bound: bound.name)
def test_weights_move(bound) -> None:
    bound_laws.weights_and_inputs_at_corners(bound)
    bound_laws.weights_of_two_layers_at_corners(bound)


@pytest.mark.parametrize("bound", [ibp, crown])
@pytest.mark.parametrize("case", ["mlp", "cnn", "residual"])
def test_weights_and_inputs_of_deep_networks_against_samples(case, bound) -> None:
    problem = problem_of(case)
    name = next(n for n in problem.network.parameters() if n.endswith("weight") and "1.weight" != n)
    bias = next(n for n in problem.network.parameters() if n.endswith("bias") and "1.bias" != n)
    region = {"x": Ball(inf, 0.02, 0, 1), name: Ball(2, 0.01), bias: Ball(inf, 0.01)}
    moving = problem.within(region)
    rows, double = bound(moving).rows, moving.double()
    assert (rows < bound(problem.within({"x": region["x"]})).rows).all()
    for _ in range(10):
        point = {leaf: value.double() + 0.05 * torch.randn(value.shape) for leaf, value in moving.centre.items()}
        assert (double.rows(double.project(point)) >= rows).all()


@pytest.mark.parametrize("bound", [ibp, crown])
def test_a_weight_ball_of_one_batch_scales_per_example(bound) -> None:
    """Only the last layer moves: the drop is exactly ``2 eps |h|_1``."""
    problem = problem_of("mlp").within({"4.weight": Ball(inf, 0.01)}).scaled(torch.linspace(0, 1, 6))
    rows = bound(problem).rows
    hidden = problem.network.double[:4](problem.x.double())
    drop = 2 * 0.01 * torch.linspace(0, 1, 6, dtype=torch.float64) * hidden.abs().sum(1)
    assert torch.allclose(rows, problem.double().rows() - drop[:, None], atol=1e-9)


@pytest.mark.parametrize("bound", [ibp, crown])
def test_specifications(bound) -> None:
    module, x, labels = zoo.mlp()
    ball = Ball(inf, 0.03, 0, 1)
    every = bound(Problem(module, x, labels, ball)).rows
    target = (labels + 1) % 4
    one = bound(Problem(module, x, labels, ball, spec=Targeted(target))).rows
    column = target - (target > labels).long()
    assert torch.allclose(one[:, 0], every.gather(1, column[:, None])[:, 0], atol=1e-9)
    # crown chooses slopes for the row that decides: planes that ask no specification give every one the same rows
    plain = partial(crown, lower_slope="chord") if bound is crown else bound
    two, every = (plain(Problem(module, x, labels, ball, spec=spec)) for spec in (TopK(2), None))
    assert torch.allclose(two.rows, every.rows)
    single = nn.Sequential(module, nn.Linear(4, 1)).eval()
    problem = Problem(single, x, torch.tensor([0, 1] * 3), ball, spec=Threshold(0.1))
    assert torch.allclose(bound(problem.scaled(0.0)).rows, problem.double().rows(), atol=1e-9)


class Two(nn.Module):
    """Two keyword inputs, logits in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, image, extra):
        hidden = torch.relu(self.left(image) + self.right(extra))
        return {"hidden": hidden, "logits": self.head(hidden)}


@pytest.mark.parametrize("bound", [ibp, crown])
def test_several_inputs(bound) -> None:
    torch.manual_seed(3)
    x = {"image": torch.rand(3, 3), "extra": torch.rand(3, 2)}
    region = {"x.image": Ball(2, 0.1), "x.extra": Ball(inf, 0.05, 0, 1)}
    problem = Problem(Two(), x, torch.tensor([0, 1, 2]), region)
    both = bound(problem).rows
    assert (both < bound(problem.within({"x.image": region["x.image"]})).rows).all()
    double = problem.double()
    for _ in range(20):
        point = double.project({k: v.double() + torch.randn(v.shape) for k, v in problem.inputs.items()})
        assert (double.rows(point) >= both).all()


def test_channels_count_as_one_change() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(18, 3)).double()
    x = torch.rand(2, 2, 3, 3).double()
    rows = [
        crown(Problem(module, x, torch.tensor([0, 1]), Ball(0, 1, 0, 1, groups=g))).rows for g in (None, "channels")
    ]
    weight = module[1].weight.detach()
    gain = torch.stack([weight[j] - weight[0] for j in (1, 2)])
    room = torch.where(gain > 0, 1 - x[0].flatten(), x[0].flatten())
    drop = (gain.abs() * room).reshape(2, 2, 9).sum(1).amax(1)
    clean = module(x[:1])[0]
    assert torch.allclose(rows[1][0], (clean[0] - clean[1:]) - drop, atol=1e-9)
    assert (rows[1] <= rows[0]).all()


def test_what_is_out_of_reach_says_so() -> None:
    x, labels = torch.rand(2, 4), torch.tensor([0, 1])
    ball = Ball(inf, 0.1)
    cases = [
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(0)), "operation softmax mixes examples"),
    ]
    for module, reason in cases:
        for bound in (ibp, crown):
            with pytest.raises(NotCertified, match=reason):
                bound(Problem(module, x, labels, ball))
    with pytest.raises(NotCertified, match="max_units"):
        crown(problem_of("mlp"), max_units=20)
    with pytest.raises(InputError, match="lower_slope"):
        crown(problem_of("mlp"), lower_slope="steep")
    slope = Problem(nn.Sequential(nn.Linear(4, 3), nn.PReLU()), x, labels, {"1.weight": Ball(inf, 0.1)})
    for bound in (ibp, crown):
        with pytest.raises(NotCertified, match="1.weight moves inside operation prelu"):
            bound(slope)


def test_an_unbounded_region_proves_nothing_and_says_so() -> None:
    for bound in (ibp, crown):
        answer = bound(Problem(nn.Linear(2, 2), torch.rand(1, 2), torch.tensor([0]), Ball(0, 1)))
        assert answer.rows.tolist() == [[-inf]] and answer.notes[0].startswith("not certified")


def test_the_proof_holds_the_slopes() -> None:
    proof = crown(problem_of("cnn")).proof
    assert {k: tuple(v.shape) for k, v in proof.items()} == {
        "relu.lower_slope": (4, 4, 8, 8),
        "relu.upper_slope": (4, 4, 8, 8),
        "leaky_relu.lower_slope": (4, 6, 2, 2),
        "leaky_relu.upper_slope": (4, 6, 2, 2),
        "max_pool2d.lower_slope": (4, 6, 1, 1, 4),
        "max_pool2d.upper_slope": (4, 6, 1, 1, 4),
    }
    assert ibp(problem_of("cnn")).proof == {}


def test_the_chord_is_valid_too() -> None:
    problem = problem_of("mlp", 2, 0.3)
    a, b = crown(problem).rows, crown(problem, lower_slope="chord").rows
    assert not torch.equal(a, b) and torch.allclose(a, b, atol=0.2)


def test_crown_is_above_ibp_in_every_norm() -> None:
    for name in ("mlp", "smooth", "cnn", "residual"):
        whole = problem_of(name)
        for p in (1, 2, inf):
            problem = whole.within(Ball(p, 0.05, 0, 1))
            assert (crown(problem).rows >= ibp(problem).rows).all(), name


def test_every_pulled_back_row_is_counted() -> None:
    problem = problem_of("affine")
    crown(problem)
    with meter.measure() as seen:
        crown(problem)
    assert (seen.forward, seen.backward) == (9, 3)  # one row for each of three examples
    with meter.measure() as seen:
        ibp(problem)
    assert (seen.forward, seen.backward) == (9, 0)


def test_a_thousand_classes_in_bounded_blocks(monkeypatch) -> None:
    from brittle import relaxation
    from brittle.bounds import _concrete

    module, x, labels = nn.Linear(4, 120), torch.rand(5, 4), torch.arange(5)
    problem = Problem(module, x, labels, Ball(2, 0.1))
    whole = [bound(problem).rows for bound in (ibp, crown)]
    monkeypatch.setattr(_concrete, "ENTRIES", 2 * 120 * 120)
    monkeypatch.setattr("brittle.backward.PIECE", 500)
    monkeypatch.setattr(relaxation, "PIECE", 500)
    for before, bound in zip(whole, (ibp, crown), strict=True):
        assert torch.allclose(bound(problem).rows, before, atol=1e-10)


@pytest.mark.parametrize(("p", "ratio"), [(inf, 1.3), (2, 1.3)])
def test_on_a_plain_network_the_certified_radius_is_near_the_attacked_one(p, ratio) -> None:
    """Measured on 100 digits: median 1.20 in both norms. Never above the attack."""
    from brittle.attacks.hlrf import hlrf
    from brittle.sources.digits import digits
    from brittle.sources.embedded import embedded

    x, labels = digits("test")
    problem = Problem(embedded("mlp"), x[:12], labels[:12], Ball(p, 1.0, 0, 1))
    upper = hlrf(problem).size
    low, high = torch.zeros_like(upper), upper
    for _ in range(6):
        middle = (low + high) / 2
        holds = crown(problem.scaled(middle)).rows.amin(1) > 0
        low, high = torch.where(holds, middle, low), torch.where(holds, high, middle)
    assert (crown(problem.scaled(upper)).rows.amin(1) <= 0).all()
    assert (upper / low).median() < ratio


def test_intervals_go_with_their_last_reader() -> None:
    """Residual branches are read late; what is kept is what a walk without forgetting has, and nothing else stays."""
    from brittle import intervals, ops, relaxation
    from brittle.graph import graph_of

    for case in zoo.CASES:
        problem = problem_of(case.name)
        graph = graph_of(problem)
        frontier = frozenset(node.name for node in graph.nodes if ops.is_nonlinear(node))
        read = relaxation.read_by_pull_back(graph, graph.output, frontier)
        short, whole = intervals.start(problem, graph), intervals.start(problem, graph)
        intervals.propagate(short, read)
        intervals.propagate(whole, frozenset(graph.by_name))
        varying = {node.name for node in graph.nodes if node.varies}
        assert set(whole.low) == varying and set(short.low) == set(short.high) == varying & read, case.name
        assert set(short.magnitudes) <= read
        assert all(
            torch.equal(short.low[n], whole.low[n]) and torch.equal(short.high[n], whole.high[n]) for n in short.low
        )
