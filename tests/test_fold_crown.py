"""Joint certificates: exact where theory says so, below every attack, and false when a term is left out."""

import importlib
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bound_laws
import brittle
import joint_attacks
from brittle import absolute, folding, sharing
from brittle._checker.affine import Unknown
from brittle._checker.walk import Model, rows_below
from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.graph import graph_of
from brittle.problem import Problem
from brittle.region import Ball, Region
from brittle.spec import matrix
from brittle.verifying import proofs

crown_file = importlib.import_module("brittle.bounds.crown")


# ---- networks ------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A shortcut round two layers, a learned shift and a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.shift, self.gain = nn.Parameter(torch.randn(width) / 4), nn.Parameter(1 + torch.randn(width) / 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.head((h + torch.tanh(self.inner(h)) + self.shift) * self.gain)


class Tied(nn.Module):
    """One layer read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.again(torch.relu(self.again(torch.relu(self.first(x)))))))


def plain(depth: int, activation: type[nn.Module], norm: bool = False) -> nn.Module:
    sizes = [5, *[7] * depth, 3]
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), activation()]
    return _still(nn.Sequential(*layers[: -2 if norm else -1]))


def convolutional(norm: bool = True) -> nn.Module:
    return _still(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), *([nn.BatchNorm2d(4)] if norm else []), nn.LeakyReLU(0.1),
            nn.Conv2d(4, 3, 2, dilation=2, padding=1), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(12, 3),
        )
    )  # fmt: skip


def _still(module: nn.Module) -> nn.Module:
    """Statistics away from 0 and 1, evaluation mode."""
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
                m.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr]
                m.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
                m.weight.uniform_(-1.5, 1.5)
    return module.eval()


def inputs(module: nn.Module, count: int = 3) -> Tensor:
    return (
        torch.rand(count, 2, 5, 5) - 0.25
        if isinstance(next(module.children()), nn.Conv2d)
        else torch.rand(count, 5) - 0.25
    )


NETS = {
    "one": lambda: plain(1, nn.ReLU),
    "two": lambda: plain(2, nn.ReLU),
    "three": lambda: plain(3, nn.ReLU),
    "tanh": lambda: plain(2, nn.Tanh),
    "leaky": lambda: plain(2, lambda: nn.LeakyReLU(0.2)),  # type: ignore[arg-type]
    "normalised": lambda: plain(2, nn.ReLU, norm=True),
    "convolution": convolutional,
    "residual": lambda: Residual(6).eval(),
    "tied": lambda: Tied().eval(),
}


def weights(module: nn.Module, ball: Ball) -> dict[str, Ball]:
    """The ball on every parameter, gains and shifts of batch normalisations included."""
    return {n: ball for n, _ in module.named_parameters()}


def joint(name: str, seed: int, p: float = inf, radius: float = 0.02) -> Problem:
    torch.manual_seed(seed)
    module = NETS[name]()
    x = inputs(module)
    ball = Ball(p, radius if p == inf else 4 * radius)
    region: Region = {"x": Ball(inf, radius, -0.25, 0.75), **weights(module, ball)}
    return Problem(module, x, module(x).argmax(1), region).scaled(torch.linspace(0.3, 1.0, len(x)))


# ---- exact ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [crown, ibp])
def test_one_layer_on_non_negative_inputs_is_the_joint_minimum(bound) -> None:
    torch.manual_seed(0)
    module = nn.Linear(6, 4).double()
    x, labels = torch.rand(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    region = {"x": Ball(inf, 0.1, 0, 1), "weight": Ball(inf, 0.03), "bias": Ball(inf, 0.02)}
    rows = bound(Problem(module, x, labels, region)).rows
    low, high, weight, bias = (x - 0.1).clamp(0, 1), (x + 0.1).clamp(0, 1), module.weight.detach(), module.bias.detach()
    for i, label in enumerate(labels.tolist()):
        for k, j in enumerate(c for c in range(4) if c != label):
            slope = weight[label] - weight[j] - 2 * 0.03
            least = torch.minimum(slope * low[i], slope * high[i]).sum() + bias[label] - bias[j] - 2 * 0.02
            assert rows[i, k] <= least + 1e-15
            assert abs(float(rows[i, k] - least)) < 1e-12


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("kind", ["linear", "tokens", "conv1d", "conv2d", "gain"])
def test_one_moving_layer_at_a_fixed_input_costs_the_dual_norm_of_its_gradient(kind, p) -> None:
    """One change for all positions of a kernel, one for all tokens: the gradient is summed before the norm is taken."""
    torch.manual_seed(1)
    layer, x = {
        "linear": (nn.Linear(6, 5), torch.randn(3, 6)),
        "tokens": (nn.Linear(4, 3), torch.randn(3, 5, 4)),
        "conv1d": (nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), torch.randn(3, 2, 7)),
        "conv2d": (nn.Conv2d(2, 3, 3, padding=2, dilation=2), torch.randn(3, 2, 5, 6)),
        "gain": (Residual(5), torch.randn(3, 5)),
    }[kind]
    module = (layer if kind == "gain" else nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))).double()
    x = x.double()
    labels = module(x).argmax(1)
    name = {"gain": "shift"}.get(kind, "0.weight")
    problem = Problem(module, x, labels, {name: Ball(p, 0.01)})
    rows, clean = crown(problem).rows, problem.rows().detach()
    value = {k: v.detach().clone().requires_grad_() for k, v in problem.centre.items()}
    for k in range(rows.shape[1]):
        gradient = torch.autograd.grad(problem.rows(value)[:, k].sum(), value[name])[0].flatten(1)
        norm = {1: inf, 2: 2, inf: 1}[p]
        cost = 0.01 * torch.linalg.vector_norm(gradient, norm, dim=1)
        assert torch.allclose(rows[:, k], clean[:, k] - cost, rtol=0, atol=1e-12)


def test_only_the_last_layer_moves() -> None:
    """The drop is ``2 eps |h|_1``, for relu and for signed activations."""
    for activation in (nn.ReLU(), nn.Tanh()):
        torch.manual_seed(2)
        module = nn.Sequential(nn.Linear(5, 7), activation, nn.Linear(7, 3)).double()
        x = torch.randn(4, 5, dtype=torch.float64)
        problem = Problem(module, x, module(x).argmax(1), {"2.weight": Ball(inf, 0.02)})
        drop = problem.rows() - crown(problem).rows
        # tanh of a fixed input is known to 8 ulp
        assert torch.allclose(drop, 0.04 * module[:2](x).abs().sum(1, keepdim=True).expand_as(drop), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_weights_that_do_not_move_cost_nothing(name) -> None:
    problem = joint(name, 3)
    still = {leaf: ball if leaf == "x" else ball.with_radius(0.0) for leaf, ball in problem.region.items()}
    tiny = {leaf: ball if leaf == "x" else ball.with_radius(1e-15) for leaf, ball in problem.region.items()}
    ordinary = crown(problem.within({"x": problem.region["x"]})).rows
    assert torch.equal(crown(problem.within(still)).rows, ordinary)
    assert torch.allclose(crown(problem.within(tiny)).rows, ordinary, rtol=0, atol=1e-11)


# ---- sound ---------------------------------------------------------------------------------------------------------------


def holds_against_attacks(bound, names=tuple(NETS), seeds=(0,), norms=(inf,), **options) -> int:
    """Every certified row below everything that an attack finds; returns how many points were tried per bound and row."""
    tried = 0
    for name in names:
        for seed in seeds:
            for p in norms:
                problem = joint(name, seed, p)
                found, points = joint_attacks.lowest_rows(problem, seed=seed, **options)
                rows = bound(problem).rows
                assert (rows <= found).all(), (name, seed, p, float((rows - found).amax()))
                tried += points * len(problem)
    return tried


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("name", NETS)
def test_below_joint_attacks(name, p) -> None:
    for bound in (crown, ibp):
        holds_against_attacks(bound, (name,), norms=(p,), steps=4, corners=3)


@pytest.mark.slow
def test_ten_thousand_joint_attacks() -> None:
    tried = holds_against_attacks(crown, seeds=range(100, 104), norms=(1, 2, inf), steps=12, corners=12)
    tried += holds_against_attacks(ibp, seeds=range(100, 104), norms=(1, 2, inf), steps=12, corners=12)
    assert tried >= 10_000


@pytest.mark.parametrize(
    "ball", [Ball(inf, 0.05, relative="element"), Ball(2, 0.05, relative="rms"), Ball(inf, 0.02, -0.3, 0.3)]
)
@pytest.mark.parametrize("name", ["two", "convolution"])
def test_relative_balls_and_ranges(name, ball) -> None:
    problem = joint(name, 4)
    region = {leaf: own if leaf == "x" else ball for leaf, own in problem.region.items()}
    with torch.no_grad():
        for parameter in problem.module.parameters():  # type: ignore[attr-defined]
            parameter.clamp_(-0.29, 0.29)
    problem = Problem(problem.module, problem.x, problem.module(problem.x).argmax(1), region).scaled(
        torch.tensor([0.2, 0.6, 1.0])
    )
    found, _ = joint_attacks.lowest_rows(problem, steps=4, corners=3)
    assert (crown(problem).rows <= found).all() and (ibp(problem).rows <= found).all()


def test_attacks_come_close_so_that_a_missing_term_would_show() -> None:
    problem = joint("one", 0).scaled(0.2)
    found, _ = joint_attacks.lowest_rows(problem, steps=20, corners=2)
    clean = problem.double().rows()
    assert ((clean - crown(problem).rows) / (clean - found)).median() < 1.1


def test_losses_stay_below_the_certified_loss() -> None:
    """``log(1 + sum exp(-row))``: equal at a point, above every attacked loss, and less than the largest drop above the clean one."""
    problem = joint("two", 9)
    certificate, clean = crown(problem), problem.double().rows()
    worst = certificate.worst_cross_entropy()
    double, generator = problem.double(), torch.Generator().manual_seed(0)
    for _ in range(40):
        point = joint_attacks._corner(double, generator)
        assert (nn.functional.cross_entropy(double.logits(point), problem.labels, reduction="none") <= worst).all()
    loss = nn.functional.cross_entropy(double.logits(), problem.labels, reduction="none")
    assert (worst - loss <= (clean - certificate.rows).amax(1) + 1e-12).all()
    still = crown(problem.scaled(0.0)).worst_cross_entropy()
    assert (still >= loss).all() and torch.allclose(still, loss, rtol=0, atol=1e-11)


def test_examples_do_not_see_each_other() -> None:
    problem = joint("convolution", 5)
    rows = crown(problem).rows
    alone = torch.cat([crown(problem.take(torch.tensor([i]))).rows for i in range(len(problem))])
    assert torch.allclose(rows, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_types_are_widened_exactly(dtype) -> None:
    torch.manual_seed(6)
    module = plain(1, nn.ReLU).to(dtype)
    x = (torch.rand(3, 5) - 0.25).to(dtype)
    region = {"x": Ball(inf, 0.01), **weights(module, Ball(inf, 0.01))}
    problem = Problem(module, x, module(x).argmax(1), region)
    wide = problem.double()
    assert torch.equal(crown(problem).rows, crown(wide).rows)


# ---- tight ---------------------------------------------------------------------------------------------------------------


def test_a_shared_kernel_is_tighter_than_one_that_may_differ_at_every_position(monkeypatch) -> None:
    torch.manual_seed(7)
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    x = torch.rand(3, 2, 8, 8) - 0.25
    problem = Problem(module, x, module(x).argmax(1), {"x": Ball(inf, 0.01), **weights(module, Ball(inf, 0.005))})
    clean, shared = problem.double().rows(), crown(problem).rows
    pull_back = crown_file.pull_back
    monkeypatch.setattr(crown_file, "pull_back", lambda *a, sharing=False: pull_back(*a))
    free = crown(problem).rows
    assert (shared >= free).all()
    assert ((clean - shared) / (clean - free)).median() < 0.8


def test_crown_is_rarely_below_interval_propagation() -> None:
    better = [crown(joint(name, 8)).rows >= ibp(joint(name, 8)).rows - 1e-9 for name in NETS]
    assert torch.cat([b.flatten() for b in better]).double().mean() > 0.95


# ---- mutants -------------------------------------------------------------------------------------------------------------


def _first_order(state, node, name, source, here, rows, lift):
    middle = (state.low[source] + state.high[source]) / 2
    taken = folding._pulled(state, node, name, source, here, rows.abs()) * here.scale.reshape(
        -1, *[1] * (middle.dim() - 1)
    )
    return None, folding.inner(taken.expand(*taken.shape[:2], *middle.shape[1:]), middle.abs())


def _wrong_sign(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    slope, most = absolute.chord(low, high)
    return -slope, most


def _wrong_sign_around(centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    slope, most = absolute.chord_around(centre, radius)
    return -slope, most


def _too_low(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    slope, most = absolute.chord(low, high)
    return slope, 0.5 * most


def _half_tangent(weight: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    slope, most = absolute.tangent(weight, low, high)
    return 0.5 * slope, most


MUTANTS = {
    "second-order term dropped": (folding, "_multiplied", _first_order, lambda: bound_laws.weights_of_two_layers_at_corners(crown)),
    "chord with the wrong sign": (folding, "chord", _wrong_sign, lambda: holds_against_attacks(crown, ("one",))),
    "chord too low": (folding, "chord", _too_low, lambda: holds_against_attacks(crown, ("one", "tanh"), seeds=range(4), steps=12)),
    "chord of a kernel with the wrong sign": (sharing, "chord_around", _wrong_sign_around, lambda: holds_against_attacks(crown, ("convolution",))),
    "bias forgotten": (folding, "_added", lambda *a: torch.zeros(()), lambda: bound_laws.weights_and_inputs_at_corners(crown)),
    "length halved": (
        folding, "tangent", _half_tangent,
        lambda: test_one_moving_layer_at_a_fixed_input_costs_the_dual_norm_of_its_gradient("linear", 2),
    ),
    "length of a kernel halved": (
        sharing, "tangent", _half_tangent,
        lambda: test_one_moving_layer_at_a_fixed_input_costs_the_dual_norm_of_its_gradient("conv2d", 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_laws_kill(name: str, monkeypatch) -> None:
    where, attribute, mutant, law = MUTANTS[name]
    monkeypatch.setattr(where, attribute, mutant)
    with pytest.raises(AssertionError):
        law()


# ---- proofs evaluated again ----------------------------------------------------------------------------------------------


def evaluated(problem: Problem, i: int, proof: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of one example by the independent checker."""
    moved = frozenset(leaf for leaf in problem.leaves if problem.parameter_name(leaf))
    model = Model(graph_of(problem), moved)
    coefficients, offsets = (v.numpy() for v in matrix(problem.spec, problem.labels, problem.logits().shape[1]))
    leaves = {leaf: proofs.moving(problem, leaf, i, float(problem.scale[i])) for leaf in problem.leaves}
    return rows_below(model, leaves, {}, proof, coefficients[:, i], offsets[:, i])


@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("name", [n for n in NETS if n != "residual"])
def test_the_checker_agrees(name, p) -> None:
    """To rounding, for every layer and ball, at scales that are no powers of two: a proof is evaluated as it was found."""
    problem = joint(name, 10, p)
    for bound in (crown, ibp):
        certificate = bound(problem)
        for i in (0, 1):
            own = evaluated(problem, i, {k: v[i].numpy() for k, v in certificate.proof.items()})
            assert np.abs(own - certificate.rows[i].numpy()).max() < 1e-11 * (1 + np.abs(own).max()), bound


@pytest.mark.parametrize("name", ["tanh", "convolution"])
def test_a_tampered_slope_is_noticed(name) -> None:
    """Any slope is sound, so a changed one can only lose a proof: at the largest certified scale it does."""
    problem = joint(name, 11).scaled(0.5)
    certificate = crown(problem)
    found, _ = joint_attacks.lowest_rows(problem, steps=4, corners=3)
    honest = {k: v[1].numpy() for k, v in certificate.proof.items()}
    rng = np.random.default_rng(0)
    for key in honest:
        changed = 1 - honest[key] if key.endswith("sharing") else honest[key] + rng.normal(size=honest[key].shape)
        own = evaluated(problem, 1, {**honest, key: changed})
        assert (own <= found[1].numpy()).all(), key
        assert not np.allclose(own, certificate.rows[1].numpy(), atol=1e-9), key
    slopes = next(k for k in honest if k.endswith("lower_slope"))
    with pytest.raises(Unknown, match="slopes"):
        evaluated(problem, 1, {**honest, slopes: np.full_like(honest[slopes], np.nan)})
    if name == "convolution":
        share = next(k for k in honest if k.endswith("sharing"))
        with pytest.raises(Unknown, match="shares"):
            evaluated(problem, 1, {**honest, share: honest[share] + 2.0})


def test_an_audit_of_joint_regions_is_verified(tmp_path) -> None:
    torch.manual_seed(12)
    module = plain(2, nn.ReLU)
    x = torch.rand(4, 5)
    labels = module(x).argmax(1)
    region = {"x": Ball(inf, 0.05, 0, 1), "*.weight": Ball(inf, 0.05, relative="element"), "*.bias": Ball(2, 0.02)}
    options = {"effort": "quick", "checks": False, "diagnostics": [], "progress": False, "report": None}
    run = brittle.audit(module, x, labels, {"joint": region}, out=tmp_path / "run", **options)
    found = run.brackets(next(iter(run.models)), "joint")
    assert "crown" in set(found["lower_method"]) and (found["lower"] > 0).all()
    answer = brittle.verify(tmp_path / "run", module, x, labels)
    assert answer.passed and answer.proofs == 4, answer
