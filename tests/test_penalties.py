"""Every penalty, found by discovery, on live networks: what training relies on, and the closed forms of linear rules."""

import inspect
from dataclasses import replace
from math import inf, log

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

import brittle as bt
from brittle import meter, norms
from brittle.digest import state_digest
from brittle.discovery import method, methods
from brittle.errors import InputError
from brittle.network import Network
from brittle.penalties._live import at_rest, order
from brittle.penalties._losses import LOSSES, mean_loss
from brittle.penalties._pairs import pairs, times
from brittle.penalties._spans import outside
from brittle.penalties._terms import read_terms
from brittle.problem import Problem

ALL = [m.name for m in methods("penalties")]
RECURRENT = (
    "commutator",
    "distance_to_instability",
    "kreiss",
    "lyapunov",
    "pseudospectral_radius",
    "state_jacobian",
    "transient",
)
PENALTIES = [name for name in ALL if name not in RECURRENT]  # those: tests/test_recurrent_penalties.py
# "at rest": read in evaluation mode, so that one example's input gradient does not depend on its batch
AT_REST = [name for name in PENALTIES if name not in ("noise", "adversarial", "awp", "sam")]
HELD = (
    "awp",
    "sam",
)  # the step in the weights is held fixed: the gradient is not that of the value (tests/test_joint_penalties.py)
PIECEWISE = ("fold_crown",)  # no smooth activations
CERTIFYING = ("fold_crown", "joint_ibp", "product_bound")  # no product of two inputs
BALL = bt.Ball(p=inf, radius=0.1, low=-4.0, high=4.0)


def run(name: str, problem: Problem, **options: object) -> Tensor:
    return method("penalties", name)(problem, **options)


def live(module: nn.Module, x, labels: Tensor, region: object = BALL) -> Problem:
    """The problem that the training loop gives to a penalty."""
    return replace(Problem(module, x, labels, region), module=module, network=Network.live(module))  # type: ignore[arg-type]


def smooth(classes: int = 3) -> Problem:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 6), nn.Sigmoid(), nn.Linear(6, classes)).double()
    labels = torch.arange(7) % max(classes, 2)
    return live(module, torch.randn(7, 4, dtype=torch.float64), labels)


def bent(classes: int = 3) -> Problem:
    """The same shape with kinks in place of bends."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.LeakyReLU(0.1), nn.Linear(6, classes)
    ).double()
    labels = torch.arange(7) % max(classes, 2)
    return live(module, torch.randn(7, 4, dtype=torch.float64), labels)


def convolutional() -> Problem:
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    return live(module.train(), torch.rand(6, 1, 6, 6), torch.tensor([0, 1, 2, 0, 1, 2]))


def linear(weight: Tensor, x: Tensor, labels: Tensor, bias: Tensor | None = None, region: object = None) -> Problem:
    module = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return live(module, x, labels, region or bt.Ball(p=2, radius=0.5))


def gradients(problem: Problem, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value, list(problem.module.parameters()), allow_unused=True, retain_graph=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                      for p, g in zip(problem.module.parameters(), found, strict=True)])  # fmt: skip


# ---- conformance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 1])
@pytest.mark.parametrize("name", PENALTIES)
def test_the_gradient_is_that_of_the_value(name, classes):
    """Central differences along a random direction of all parameters, the randomness fixed by the seed."""
    problem = smooth(classes) if name not in PIECEWISE else bent(classes)
    if name in HELD:
        pytest.skip("held fixed")
    value = run(name, problem, seed=3)
    assert value.shape == () and bool(value.isfinite()) and value.dtype == torch.float64
    parameters = list(problem.module.parameters())
    generator = torch.Generator().manual_seed(1)
    ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = float(gradients(problem, value) @ torch.cat([w.flatten() for w in ways]))
    h = 1e-5

    def moved(amount: float) -> float:
        with torch.no_grad():
            for p, w in zip(parameters, ways, strict=True):
                p.add_(w, alpha=amount)
        return float(run(name, problem, seed=3).detach())

    ahead, behind = moved(h), moved(-2 * h)
    moved(h)
    assert abs((ahead - behind) / (2 * h) - slope) <= 1e-6 * abs(slope) + 1e-10
    assert abs(slope) > 1e-4, "a gradient that reaches nothing"


@pytest.mark.parametrize("make", [smooth, convolutional])
@pytest.mark.parametrize("name", PENALTIES)
def test_the_order_of_the_batch_does_not_matter_and_the_seed_does_all(name, make):
    make = bent if make is smooth and name in PIECEWISE else make
    problem = make()
    state = torch.random.get_rng_state()
    value = run(name, problem, seed=5)
    again = (
        make() if name in HELD else problem
    )  # their outer pass, in training mode, moves the statistics that their search reads
    torch.random.set_rng_state(state)  # dropout draws from torch's own state
    assert torch.equal(run(name, again, seed=5), value)
    if make is not convolutional:
        shuffled = problem.take(torch.tensor([3, 0, 6, 2, 5, 1, 4]))
        torch.testing.assert_close(run(name, shuffled, seed=5), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PENALTIES)
def test_modes_and_statistics_are_left_alone(name):
    problem = convolutional()
    problem.network.quiet[3].eval()  # a part that its owner froze stays frozen
    modes = [m.training for m in problem.network.quiet.modules()]
    before = state_digest(problem.module) if name in AT_REST else None
    value = run(name, problem, seed=0)
    assert [m.training for m in problem.network.quiet.modules()] == modes
    assert before is None or state_digest(problem.module) == before, "a trace in the running statistics"
    value.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in problem.module.parameters() if p.dim() > 1)


def test_modes_are_put_back_after_an_error():
    problem = convolutional()
    with pytest.raises(ZeroDivisionError), at_rest(problem):
        assert not problem.module.training
        raise ZeroDivisionError
    assert problem.module.training and problem.module[1].training


@pytest.mark.parametrize("name", PENALTIES)
def test_a_batch_of_one_class_and_a_dead_network_are_numbers(name):
    problem = bent() if name in PIECEWISE else smooth()
    alone = problem.take(torch.tensor([0, 3, 6]))
    value = run(name, alone, seed=0)
    assert bool(value.isfinite()) and bool(gradients(alone, value).isfinite().all())
    with torch.no_grad():
        for p in problem.module.parameters():
            p.zero_()
    value = run(name, problem, seed=0)
    assert bool(value.isfinite()) and bool(gradients(problem, value).isfinite().all())


@pytest.mark.parametrize("name", PENALTIES)
def test_keyword_inputs_and_passes_are_counted(name):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(5, 6), nn.ReLU() if name in PIECEWISE else nn.Tanh(), nn.Linear(6, 3))

        def forward(self, *, left: Tensor, right: Tensor, code: Tensor) -> Tensor:
            return self.inner(torch.cat([left, right if name in CERTIFYING else right * code[:, None]], 1))

    torch.manual_seed(0)
    x = {"left": torch.randn(6, 2), "right": torch.randn(6, 3), "code": torch.tensor([1, 2, 1, 2, 1, 2])}
    problem = live(
        Two(), x, torch.arange(6) % 3, {"x.left": bt.Ball(p=2, radius=0.1), "x.right": bt.Ball(p=2, radius=0.1)}
    )
    with meter.measure() as passes:
        value = run(name, problem)
    assert bool(value.isfinite()) and float(gradients(problem, value).abs().sum()) > 0
    if name == "weight_decay":  # reads the weights alone
        assert passes.forward == passes.backward == 0
        return
    least = 0 if name == "induced_norms" else 6
    assert passes.forward >= least and passes.forward % 6 == 0 and passes.backward >= least and passes.backward % 6 == 0


@pytest.mark.parametrize("name", ALL)
def test_every_penalty_has_the_signature_of_its_family(name):
    parameters = list(inspect.signature(method("penalties", name).function).parameters.values())
    assert [p.name for p in parameters[:2]] == ["problem", "seed"]
    assert all(p.kind == p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[1:])


# ---- losses elsewhere: noise and attacks -----------------------------------------------------------------------------


def test_noise_without_size_is_the_loss_and_with_it_adds_the_trace():
    """Squared loss of a linear map: E |W (x + s n) + b - y|^2 = loss + s^2 |W|_F^2, exactly."""
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.0, 1.0]], dtype=torch.float64)
    problem = linear(weight, torch.randn(400, 3, dtype=torch.float64), torch.arange(400) % 2)
    clean = mean_loss("squared", problem.logits(), problem.labels)
    torch.testing.assert_close(run("noise", problem, sigma=0.0, loss="squared"), clean)
    noisy = run("noise", problem, sigma=0.5, loss="squared", copies=60)
    added, expected = float((noisy - clean).detach()), 0.25 * float(weight.square().sum())
    assert abs(added - expected) < 0.1 * expected  # 24,000 draws: about 4 standard errors


def test_noise_is_cut_off_at_the_range_only_where_it_is_asked():
    x = torch.zeros(50, 2, dtype=torch.float64)
    inside = linear(
        torch.eye(2, dtype=torch.float64), x, torch.arange(50) % 2, region=bt.Ball(p=2, radius=1, low=0, high=0.5)
    )
    seen: list[Tensor] = []
    keep = lambda logits, labels: (seen.append(logits.detach()), logits.sum())[1]
    run("noise", inside, sigma=1.0, clip=True, loss=keep)
    run("noise", inside, sigma=1.0, loss=keep)
    assert float(seen[0].min()) == 0 and float(seen[0].max()) == 0.5 and float(seen[1].max()) > 0.5


@pytest.mark.parametrize("p", [1, 2, inf])
def test_adversarial_training_finds_the_worst_point_of_a_linear_rule(p):
    """The worst margin over a ball is ``margin - radius |a|_q``; its softplus is the loss (one step is exact for l-inf)."""
    weight = torch.tensor([[0.7, -1.1, 0.4], [0.0, 0.2, 0.0]], dtype=torch.float64)
    problem = linear(weight, torch.rand(5, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1]))
    attacked = float(run("adversarial", problem, radius=0.4, p=p, steps=40).detach())
    worst = lambda radius: float(
        softplus(-(problem.rows()[:, 0] - radius * norms.norm((weight[0] - weight[1])[None], norms.dual(p))))
        .mean()
        .detach()
    )
    assert worst(0.37) < attacked <= worst(0.4) + 1e-12
    assert p != inf or attacked == pytest.approx(worst(0.4), abs=1e-12)
    halved = float(run("adversarial", problem.scaled(0.5), radius=0.4, p=p, steps=40).detach())
    assert worst(0.18) < halved <= worst(0.2) + 1e-12


def test_the_form_of_trades_is_the_divergence_of_the_softmax():
    problem = smooth()
    assert float(run("adversarial", problem, radius=0.0, form="trades").detach()) == pytest.approx(0, abs=1e-15)
    weight = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    point = linear(weight, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0]))
    # clean probabilities 1/2, 1/2; the worst end of [-1, 1] by symmetry has logits +-2
    worst = -log(2) - 0.5 * (-softplus(torch.tensor(2.0)) - softplus(torch.tensor(-2.0)))
    found = run("adversarial", point, radius=1.0, p=inf, form="trades", steps=5)
    assert float(found.detach()) == pytest.approx(float(worst), abs=1e-6)


def test_weights_move_too_each_example_with_its_own_change():
    problem = live(nn.Linear(2, 2).double(), torch.ones(3, 2, dtype=torch.float64), torch.tensor([0, 1, 0]),
                   {"weight": bt.Ball(p=inf, radius=0.25)})  # fmt: skip
    clean = problem.rows()[:, 0]
    worst = softplus(-(clean - 4 * 0.25)).mean()  # four weights, all inputs one
    found = run("adversarial", problem, steps=5)
    torch.testing.assert_close(found, worst)
    torch.testing.assert_close(gradients(problem, found), gradients(problem, worst))


# ---- gradients -------------------------------------------------------------------------------------------------------


def test_the_jacobian_is_exact_without_projections_and_unbiased_with_them():
    problem = smooth()
    one = lambda row: problem.network.quiet(row[None])[0]
    whole = torch.stack([torch.autograd.functional.jacobian(one, row) for row in problem.x])  # type: ignore[arg-type]
    exact = run("jacobian", problem, projections=None).detach()
    torch.testing.assert_close(exact, whole.square().sum((1, 2)).mean())
    draws = torch.stack([run("jacobian", problem, seed=s).detach() for s in range(150)])
    error = draws.std() / 150**0.5
    assert abs(draws.mean() - exact) < 4 * error and float(error) < 0.05 * float(exact)
    torch.testing.assert_close(run("jacobian", smooth(1)), run("jacobian", smooth(1), projections=None))


@pytest.mark.parametrize("p", [1, 2, inf])
def test_double_backpropagation_of_a_linear_rule(p):
    weight = torch.tensor([[0.7, -1.1, 0.4], [0.0, 0.2, 0.0]], dtype=torch.float64)
    problem = linear(weight, torch.rand(4, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1]))
    size = norms.norm((weight[0] - weight[1])[None], norms.dual(p)).square()
    torch.testing.assert_close(run("gradient", problem, of="margin", p=p), size[0])
    missed = torch.sigmoid(-problem.rows()[:, 0])  # the loss falls by this much per unit of margin
    torch.testing.assert_close(run("gradient", problem, p=p), (missed.square() * size).mean())


def test_the_nearest_centroid_rule_needs_no_alignment():
    x = torch.randn(30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    labels = (torch.arange(30) % 5).clamp_max(2)  # classes of unequal size: 6, 6 and 18
    centroids = torch.stack([x[labels == c].mean(0) for c in range(3)])
    aligned = linear(centroids, x, labels, -0.5 * centroids.square().sum(1))
    assert float(run("centroid_alignment", aligned).detach()) == pytest.approx(0, abs=1e-12)
    opposed = linear(-centroids, x, labels)
    assert float(run("centroid_alignment", opposed).detach()) == pytest.approx(2, abs=1e-12)
    given = torch.eye(3, 5, dtype=torch.float64)
    assert float(run("centroid_alignment", linear(given, x, labels), centroids=given).detach()) == pytest.approx(
        0, abs=1e-12
    )


# ---- compression: two points, one linear rule, everything known ------------------------------------------------------


def two_points(count: int = 2) -> tuple[Problem, Tensor, Tensor]:
    """A linear rule on two points: the problem, the weight difference (of their classes) and the step between them."""
    generator = torch.Generator().manual_seed(2)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    weight, x, bias = normal(4, 6), normal(2, 6), normal(4)
    return linear(weight, x, torch.tensor([1, 3]), bias), weight[1] - weight[3], x[1] - x[0]


def test_compression_penalties_of_a_linear_rule():
    problem, w, step = two_points()
    cosine = float(-(w @ step) / (w.norm() * step.norm()))
    ratio = {p: float(-(w @ step) / (w.norm(p=norms.dual(p)) * step.norm(p=p))) for p in (1, 2, inf)}
    value = lambda name, **options: float(run(name, problem, **options).detach())
    assert value("path_alignment") == pytest.approx(1 - cosine, abs=1e-12)
    assert value("transverse_gradient") == pytest.approx(1 - cosine**2, abs=1e-12)
    assert value("transverse_gradient", relative=False) == pytest.approx((1 - cosine**2) * float(w @ w), abs=1e-12)
    for p in (1, 2, inf):
        assert value("path_ratio", p=p) == pytest.approx(1 - ratio[p], abs=1e-12)
        inverse = 1 / max(ratio[p], 0.05) if ratio[p] > 0 else None
        if inverse is not None:
            assert value("path_ratio", p=p, inverse=True) == pytest.approx(inverse - 1, abs=1e-9)
        scores = problem.rows()[[0, 1], [2, 1]].detach()  # the row against the other class of each point
        r = scores / w.norm(p=norms.dual(p))
        expected = (1 - 2 * r / step.norm(p=p)).clamp_min(0).mean()
        assert value("predicted_radius", p=p) == pytest.approx(float(expected), abs=1e-12)


def test_a_rule_that_reads_nothing_but_the_way_has_no_compression():
    """w along the step, boundary half-way: every penalty of compression is exactly 0, and so is the row space of the other classes."""
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, -1.0]], dtype=torch.float64)
    step = x[1] - x[0]
    problem = linear(
        torch.stack([-step, step]), x, torch.tensor([0, 1]), torch.stack([step @ step / 2, -step @ step / 2])
    )
    for name in (
        "path_alignment",
        "transverse_gradient",
        "path_ratio",
        "predicted_radius",
        "two_gradient",
        "row_space",
        "centroid_alignment",
    ):
        tolerance = 3e-6 if name in ("two_gradient", "row_space") else 1e-12  # the ridge of the projection
        assert float(run(name, problem).detach()) == pytest.approx(0, abs=tolerance), name
    assert float(run("path_ratio", problem, inverse=True).detach()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("partners", ["random", "nearest"])
def test_projections_against_a_full_decomposition(partners):
    """The slow twin: per example, an SVD of the gradients, and the part of the step outside its row space."""
    problem = smooth(4)
    found = pairs(problem, 7, partners)
    one = lambda row: problem.network.quiet(row[None])[0]
    missing: dict[str, list[float]] = {"two_gradient": [], "row_space": []}
    for i, row in enumerate(problem.x):  # type: ignore[arg-type]
        jacobian = torch.autograd.functional.jacobian(one, row)
        step = problem.x[found.partner[i]] - row  # type: ignore[index]
        rows = {"two_gradient": jacobian[[int(problem.labels[i]), int(problem.labels[found.partner[i]])]],
                "row_space": jacobian - jacobian.mean(0)}  # fmt: skip
        for name, matrix in rows.items():
            _, s, v = torch.linalg.svd(matrix, full_matrices=False)
            kept = v[s > 1e-10 * s[0]]
            missing[name].append(float(1 - (kept @ step).square().sum() / (step @ step)))
    for name, values in missing.items():
        mean = sum(values) / len(values)
        assert float(run(name, problem, seed=7, partners=partners).detach()) == pytest.approx(mean, abs=2e-4)


def test_outside_a_span_is_exact_up_to_its_ridge():
    rows = torch.tensor([[[1.0, 0, 0, 0], [1.0, 1.0, 0, 0]]], dtype=torch.float64)
    step = torch.tensor([[3.0, 1.0, 2.0, 1.0]], dtype=torch.float64)
    assert float(outside(step, rows)) == pytest.approx(5 / 15, abs=1e-5)
    assert float(outside(step, torch.zeros_like(rows))) == 1
    same = torch.cat([rows[:, :1], rows[:, :1]], 1)  # dependent rows: one direction
    assert float(outside(step, same)) == pytest.approx(6 / 15, abs=1e-5)


def test_the_path_ratio_of_many_points_is_the_identity_of_the_path():
    """D = -int <grad g, step>, so 1 - penalty = D / (L mean |grad g|) with a fine midpoint rule, on a network with kinks."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    problem = live(module, torch.randn(2, 4, dtype=torch.float64), torch.tensor([0, 2]))
    a, b = problem.x  # type: ignore[misc]
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    path = (a + t[:, None] * (b - a)).requires_grad_()
    g = module(path)[:, 0] - module(path)[:, 2]
    (slopes,) = torch.autograd.grad(g.sum(), path)
    drop = float((-(slopes @ (b - a)).mean()).detach())
    expected = 1 - drop / float((b - a).norm() * slopes.norm(dim=1).mean())
    assert float(run("path_ratio", problem, points=400, p=2).detach()) == pytest.approx(expected, abs=2e-3)


def test_partners_are_of_another_class_and_random_ones_of_every_kind():
    problem = smooth(3)
    for partners in ("random", "nearest"):
        found = pairs(problem, 0, partners)
        assert bool((problem.labels[found.partner] != problem.labels).all()) and bool(found.found.all())
    drawn = torch.stack([pairs(problem, seed).partner for seed in range(200)])
    for i in range(len(problem)):
        others = (problem.labels != problem.labels[i]).nonzero()[:, 0]
        counts = torch.bincount(drawn[:, i], minlength=len(problem))[others]
        assert int(counts.sum()) == 200 and int(counts.min()) > 20  # 40 or 50 expected of each
    distance = torch.cdist(problem.x, problem.x)  # type: ignore[arg-type]
    distance[problem.labels[:, None] == problem.labels[None]] = inf
    assert torch.equal(pairs(problem, 0, "nearest").partner, distance.argmin(1))


def test_places_on_a_path_are_one_in_each_part():
    drawn = torch.stack(times(smooth(), 4, "x", 5))
    assert bool((drawn * 5).floor().eq(torch.arange(5)[:, None]).all())


def test_what_is_drawn_belongs_to_the_example_and_not_to_its_place():
    problem = smooth()
    some = problem.take(torch.tensor([6, 2, 4]))
    assert order(some).tolist() == [2, 0, 1]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("noise", {"sigma": -1.0}, "sigma >= 0"),
        ("noise", {"loss": "hinge"}, "cross-entropy | squared | a function"),
        ("jacobian", {"projections": 0}, "a number >= 1"),
        ("gradient", {"of": "logits"}, 'of="loss"'),
        ("adversarial", {"form": "mart"}, 'form "loss" or "trades"'),
        ("adversarial", {"p": 0}, "for p of 1, 2 or inf"),
        ("path_alignment", {"partners": "far"}, '"random" or "nearest"'),
        ("path_ratio", {"points": 0}, "points >= 1"),
        ("predicted_radius", {"target": 0.0}, "target > 0"),
        ("centroid_alignment", {"centroids": torch.zeros(2, 4)}, r"\(3, 4\) points"),
    ],
)
def test_wrong_options_are_refused_in_words(name, options, words):
    with pytest.raises(InputError, match=words.replace("|", r"\|")):
        run(name, smooth(), **options)


def test_a_region_is_asked_for_where_it_is_needed():
    problem = replace(smooth(), region={})
    with pytest.raises(InputError, match="how far the input moves"):
        run("adversarial", problem)
    with pytest.raises(InputError, match="a radius"):
        run("adversarial", problem, p=2)
    assert float(run("adversarial", problem, radius=0.1).detach()) > 0
    with pytest.raises(InputError, match="one norm p"):
        run("path_ratio", problem.within(bt.Ball(p=0, radius=2)))


def test_losses_by_name():
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 0])
    torch.testing.assert_close(LOSSES["cross-entropy"](logits, labels), softplus(logits[:, 1] - logits[:, 0]))
    torch.testing.assert_close(LOSSES["squared"](logits, labels), torch.tensor([1.0, 9.0]))
    one = torch.tensor([[2.0], [-1.0]])
    torch.testing.assert_close(LOSSES["cross-entropy"](one, torch.tensor([1, 0])), softplus(torch.tensor([-2.0, -1.0])))
    torch.testing.assert_close(LOSSES["squared"](one, torch.tensor([1, 0])), torch.tensor([1.0, 0.0]))
    with pytest.raises(InputError, match="a scalar or"):
        mean_loss(lambda logits, labels: logits, logits, labels)


def test_terms_are_read_from_weights_or_options():
    one, two = read_terms(
        {"jacobian": 0.5, "adversarial": {"weight": 2, "warm_up": 4, "radius_warm_up": 8, "radius": 0.1}}, "squared"
    )
    assert (one.weight, one.options, one.weight_at(0)) == (0.5, {}, 0.5)
    assert dict(two.options) == {"radius": 0.1, "loss": "squared"}, "a loss elsewhere is the loss that is trained"
    assert [two.weight_at(t) for t in (0, 1, 4, 9)] == [0, 0.5, 2, 2]
    scales: list[float] = []
    spy = replace(two, function=lambda problem, seed, **_: (scales.append(float(problem.scale[0])), torch.zeros(()))[1])
    for t in (0.0, 2.0, 8.0):
        spy.value(smooth(), t, 0, 0)
    assert scales == [0, 0.25, 1]
    for wrong in ({"weight": -1}, {"weight": inf}, {"weight": "much"}, {"sigma": 1}):
        with pytest.raises(InputError):
            read_terms({"jacobian": wrong}, "squared")
    with pytest.raises(InputError, match="a scalar"):
        replace(one, function=lambda problem, seed: torch.zeros(3)).value(smooth(), 0, 0, 0)
