"""Feature compression: exact on linear networks, the identities and numbers of the theory, and what bad input gets."""

from functools import cache
from math import inf, pi

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle import meter, norms
from brittle.diagnostics._chance import cosine, path_ratio
from brittle.diagnostics._energy import kept
from brittle.partners import find_partners
from brittle.paths import walk
from brittle.sources.digits import digits
from brittle.sources.embedded import embedded

NORMS = (1, 2, inf)


def linear(classes: int = 4, d: int = 6, count: int = 24, seed: int = 0) -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear network in float64 and points of all its classes, about as many of each of two."""
    draw = torch.Generator().manual_seed(seed)
    module = nn.Linear(d, classes).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    x = torch.randn(count, d, generator=draw, dtype=torch.float64)
    return balanced(module, x)


def balanced(module: nn.Linear, x: Tensor) -> tuple[nn.Linear, Tensor, Tensor]:
    with torch.no_grad():
        module.bias[0] -= (
            module(x)[:, 0] - module(x)[:, 1:].amax(1) if module.out_features > 1 else module(x)[:, 0]
        ).median() - 0.05
        scores = module(x)
    return module, x, scores.argmax(1) if module.out_features > 1 else (scores[:, 0] > 0).long()


def relu_net(seed: int, d: int = 6) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).double()
    x = torch.randn(20, d, dtype=torch.float64) * 3
    return module, x, module(x).argmax(1)


def fine(finding: bt.Finding, name: str) -> Tensor:
    """A column where the status is ok."""
    return finding.columns[name][torch.tensor([s == "ok" for s in finding.columns["status"]])]


# ---- linear networks: every quantity has a closed form -------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
def test_linear_networks_are_predicted_exactly(p):
    module, x, labels = linear()
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(p, 0.3)), "compression", classes=4, midpoints=3)
    slopes = module.weight[labels][:, None] - module.weight[None]
    gaps = (module(x).gather(1, labels[:, None]) - module(x)).detach()
    radii = gaps / torch.linalg.vector_norm(slopes.detach(), norms.dual(p), dim=2)
    radii[torch.arange(len(x)), labels] = inf
    torch.testing.assert_close(found.columns["predicted_radius"], radii.amin(1), rtol=1e-9, atol=0)
    assert torch.equal(found.columns["predicted_class"], radii.argmin(1))


@pytest.mark.parametrize("p", NORMS)
def test_a_valid_range_is_taken_into_account_exactly(p):
    """Against the linear programme (p = 1, inf) or bisection on the support function (p = 2) of the same box."""
    module, x, labels = linear(2, 8)
    x = x.sigmoid()
    x[:, ::3] = x[:, ::3].round()  # some coordinates on the range itself
    module, x, labels = balanced(module, x)
    problem = bt.Problem(module, x, labels, bt.Ball(p, 1.0, low=0, high=1))
    found = bt.diagnose(problem, "compression", classes=2, midpoints=2)
    slope = (module.weight[1 - labels] - module.weight[labels]).detach()
    gap = -(module(x).gather(1, (1 - labels)[:, None]) - module(x).gather(1, labels[:, None]))[:, 0].detach()
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 20.0, dtype=torch.float64)
    for _ in range(60):  # the largest drop inside the box grows with the radius
        middle = (low + high) / 2
        reached = norms.support(slope[None], p, middle, x, 1 - x)[0] >= gap
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    told = found.columns["predicted_radius"]
    known = told.isfinite() & torch.tensor([s == "ok" for s in found.columns["status"]])
    assert known.sum() > 8
    torch.testing.assert_close(told[known], high[known], rtol=1e-4 if p == 2 else 1e-8, atol=0)
    assert bool((high[~known] > 19).all())  # what is not predicted cannot be reached inside the box


def test_every_other_measure_of_a_linear_network():
    module, x, labels = linear(2)
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression")
    probe = (module.weight[0] - module.weight[1]).detach()
    way = x[found.columns["nearest_partner"]] - x
    cosine_ = (way @ probe).abs() / (way.norm(dim=1) * probe.norm())
    torch.testing.assert_close(found.columns["path_cosine"], cosine_)
    torch.testing.assert_close(found.columns["path_ratio"], cosine_)
    torch.testing.assert_close(found.columns["row_space"], cosine_)  # two centred logits have one direction
    plane = torch.linalg.qr(module.weight.detach().T).Q
    torch.testing.assert_close(found.columns["two_gradient"], (way @ plane).norm(dim=1) / way.norm(dim=1))
    torch.testing.assert_close(found.columns["effective_rank"], torch.ones(len(x), dtype=torch.float64))
    torch.testing.assert_close(found.columns["stable_rank"], torch.ones(len(x), dtype=torch.float64))
    other = torch.cdist(x, x).masked_fill(labels[:, None] == labels, inf).amin(1)
    torch.testing.assert_close(found.columns["half_distance"], other / 2)
    torch.testing.assert_close(
        found.columns["d_eff"], (found.columns["half_distance"] / found.columns["predicted_radius"]).square()
    )


def test_the_binary_linear_identity():
    """(r(x) + r(x')) / 2 = L |cos| / 2 (theory 1.8), to 1e-9."""
    module, x, labels = linear(2)
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression")
    r, partner = found.columns["predicted_radius"], found.columns["nearest_partner"]
    torch.testing.assert_close(
        r + r[partner], found.columns["distance"] * found.columns["path_cosine"], rtol=1e-9, atol=0
    )


def test_layers_of_a_linear_network_keep_what_their_rank_allows():
    first = torch.zeros(3, 5)
    first[0, 0], first[1, 1], first[2, 2] = 1, 1, 1
    module = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(first), module[1].weight.copy_(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))
    x = torch.tensor([[1.0, 2, 3, 4, 5], [-1.0, 0, 0, 0, 0]])
    witness = bt.radius(
        bt.Problem(module, x, torch.tensor([0, 1]), bt.Ball(2, 1.0)), ends="upper", effort="quick"
    ).witness
    for options in ({}, {"exact": 0}, {"witness": witness}):
        found = bt.diagnose(bt.Problem(module, x, torch.tensor([0, 1])), "compression_layers", **options)
        assert found.columns["layer"] == ["0", "1"] and found.columns["dimension"].tolist() == [3, 1]
        way = torch.tensor([2.0, 2, 3, 4, 5])
        wanted = torch.tensor([float(way[:3].square().sum()), 4.0]) / float(way.square().sum())
        torch.testing.assert_close(found.columns["energy"], wanted.double())
        torch.testing.assert_close(found.columns["energy_chance"], torch.tensor([0.6, 0.2]).double())
        # the attack moves along the first coordinate alone: seen whole by both layers, the way by its share
        preferred = wanted.double() ** -0.5
        torch.testing.assert_close(
            found.columns["selectivity"], preferred, rtol=1e-3 if "witness" in options else 1e-6, atol=0
        )


def test_energy_is_that_of_the_singular_vectors():
    draw = torch.Generator().manual_seed(0)
    for shape in ((12, 5), (5, 12), (7, 7)):
        rows, way = (torch.randn(s, generator=draw, dtype=torch.float64) for s in (shape, shape[1:]))
        _, s, right = torch.linalg.svd(rows, full_matrices=False)
        count = int((s.square().cumsum(0) < 0.9 * s.square().sum()).sum()) + 1
        share, dimension = kept(rows, way, 0.9)
        assert dimension == count
        assert share == pytest.approx(float((right[:count] @ way).square().sum() / way.square().sum()), rel=1e-9)
    assert kept(torch.zeros(3, 4), torch.ones(4), 0.99) == (0.0, 0)


@pytest.mark.parametrize("p", NORMS)
def test_what_the_range_forbids_is_not_predicted(p):
    """f_0 - f_1 = x_0 + x_1 - x_2 - 1/2: within reach in the unit box, out of reach where x_0 and x_1 may hardly move."""
    module = nn.Linear(3, 2)
    with torch.no_grad():
        (
            module.weight.copy_(torch.tensor([[1.0, 1.0, -1.0], [0.0, 0.0, 0.0]])),
            module.bias.copy_(torch.tensor([-0.5, 0.0])),
        )
    x, labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([0, 1])
    reach = {1: 1.5, 2: 1.5 / 3**0.5, inf: 0.5}[p]  # shared by all three features, or not at all
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(p, 1.0, 0, 1)), "compression").columns
    assert float(found["predicted_radius"][0]) == pytest.approx(reach, rel=1e-6)
    narrow = bt.Ball(p, 1.0, torch.tensor([0.9, 0.9, 0.0]), torch.tensor([1.0, 1.0, 1.0]))
    inside = torch.tensor([[1.0, 1.0, 0.0], [0.9, 0.9, 1.0]])
    free = bt.Problem(module, inside, module(inside).argmax(1), narrow)
    assert set(bt.diagnose(free, "compression", partners=(x, labels)).columns["status"]) == {"no room"}


class Hill(nn.Module):
    """One feature and two scores, whose difference climbs from 1 at x = 0 to 2 at 1/2 and falls to -1 at 1."""

    def forward(self, x):
        drop = 1 + 2 * x.relu() - 8 * (x - 0.5).relu()
        return torch.cat([drop, torch.zeros_like(drop)], 1)


def test_the_walk_ends_at_the_crossing_and_its_cosine_has_a_sign():
    """Seven of eight midpoints lie before the crossing at 5/6: four uphill with slope 2, three downhill with slope 6."""
    found = bt.diagnose(
        bt.Problem(Hill(), torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), bt.Ball(2, 1.0)), "compression"
    ).columns
    assert float(found["predicted_radius"][0]) == pytest.approx(7 / (4 * 2 + 3 * 6))
    assert float(found["path_cosine"][0]) == pytest.approx(-1 / 7)
    assert float(found["crossing"][0]) == 7 / 8
    assert float(found["path_ratio"][0]) == pytest.approx(2 / ((4 * 2 + 4 * 6) / 8))


# ---- identities of the theory --------------------------------------------------------------------------------------


def test_the_path_integral_is_the_difference_of_scores():
    """200 midpoints on a ReLU network, to 1e-3; and the weighted ratio is that integral over length and steepness."""
    data = digits("test")
    module, x, labels = embedded("mlp"), data.x[:40], data.labels[:40]
    problem = bt.Problem(module, x, labels, bt.Ball(2, 1.0, 0, 1))
    found = bt.diagnose(problem, "compression_path", examples=3, points=200).columns
    whole = bt.diagnose(problem, "compression", midpoints=200).columns
    product = found["steepness"] * found["cosine"]
    for rows in torch.arange(600).split(200):
        k = rows[0]
        i, j, kind = (int(found[name][k]) for name in ("example", "partner", "rival"))
        here, there = module(x[[i, j]]).detach()
        drop = float((here[labels[i]] - here[kind]) - (there[labels[i]] - there[kind]))
        assert float(product[rows].mean() * found["length"][k]) == pytest.approx(drop, rel=1e-3)
        assert whole["nearest_partner"][i] == j
        weighted = float(product[rows].mean() / found["steepness"][rows].mean())
        assert float(whole["path_ratio"][i]) == pytest.approx(weighted, rel=1e-3)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_weighted_path_ratio_is_at_most_one(p, seed):
    """Hoelder; random networks and also one whose way is its gradient, where the bound is attained."""
    module, x, labels = relu_net(seed)
    if len(labels.unique()) < 2:
        pytest.skip("one class")
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(p, 1.0)), "compression", midpoints=100)
    assert bool((fine(found, "path_ratio") <= 1 + 1e-3).all())
    tight = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        tight.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    pair = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    ratio = bt.diagnose(bt.Problem(tight, pair, torch.tensor([0, 1]), bt.Ball(p, 1.0)), "compression").columns[
        "path_ratio"
    ]
    torch.testing.assert_close(ratio, torch.ones(2, dtype=torch.float64))


def test_chance_levels_are_what_random_directions_score():
    draw = torch.Generator().manual_seed(1)
    way = torch.randn(1, 40, generator=draw, dtype=torch.float64)
    random = torch.randn(20_000, 40, generator=draw, dtype=torch.float64)
    measured = (random @ way[0]).abs() / (random.norm(dim=1) * way.norm())
    assert float(measured.mean()) == pytest.approx(cosine(40), rel=0.02)
    assert cosine(1000) == pytest.approx((2 / (pi * 1000)) ** 0.5, rel=1e-3)
    for p in NORMS:
        q = norms.norm(random, norms.dual(p)).mean() * norms.norm(way, p)
        assert float((random @ way[0]).abs().mean() / q) == pytest.approx(
            float(path_ratio(way, p)), rel=0.02 if p != 1 else 0.25
        )


# ---- trained networks ----------------------------------------------------------------------------------------------


@cache
def measured(name: str, p: float = 2) -> tuple[bt.Finding, bt.Bracket, meter.Meter]:
    data, train = digits("test"), digits("train")
    problem = bt.Problem(embedded(name), data.x[:60], data.labels[:60], bt.Ball(p, 0.5, low=0, high=1))
    bracket = bt.radius(problem, ends="upper", effort="standard", attacks=["hlrf", "fmn"])
    others = find_partners(problem, (train.x, train.labels))
    with meter.measure() as passes:
        walk(problem, others)
    return bt.diagnose(problem, "compression", partners=(train.x, train.labels), radius=bracket), bracket, passes


def spearman(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.argsort().argsort().double(), b.argsort().argsort().double()]))[0, 1])


@pytest.mark.parametrize("p", [2, inf])
@pytest.mark.parametrize("name, least", [("mlp", 0.95), ("hardened", 0.9)])
def test_the_prediction_is_near_the_best_attack(name, least, p):
    found, bracket, passes = measured(name, p)
    good = torch.tensor([s == "ok" for s in found.columns["status"]])
    told, attacked = found.columns["predicted_radius"][good], 0.5 * bracket.upper[good]
    assert 0.9 <= float((told / attacked).median()) <= 1.05
    assert spearman(told, attacked) > least
    assert passes.backward <= 40 * 60 and passes.forward <= 42 * 60


def test_adversarial_training_compresses_less():
    plain, hardened = (measured(name)[0] for name in ("mlp", "hardened"))
    middle = lambda found, name: float(fine(found, name).median())
    for name in ("path_cosine", "path_ratio", "row_space", "two_gradient", "robustness_ratio"):
        assert middle(hardened, name) > 1.1 * middle(plain, name)
    assert middle(hardened, "d_eff") < middle(plain, "d_eff")
    assert 0.35 < middle(plain, "path_cosine") < 0.5 and middle(plain, "path_cosine_chance") == pytest.approx(
        0.1, abs=1e-3
    )
    train = digits("train")
    layers = []
    for name in ("mlp", "hardened"):
        data, witness = digits("test"), measured(name)[1].witness
        problem = bt.Problem(embedded(name), data.x[:60], data.labels[:60], bt.Ball(2, 0.5, low=0, high=1))
        layers.append(
            bt.diagnose(problem, "compression_layers", partners=(train.x, train.labels), witness=witness).columns
        )
    assert layers[1]["energy"][-1] > 1.2 * layers[0]["energy"][-1]
    assert bool((layers[1]["selectivity"] < layers[0]["selectivity"]).all())
    assert all(bool((c["energy"].diff() < 0.02).all()) for c in layers)  # what is lost stays lost


def test_measured_radius_witness_and_optimum_join_the_columns():
    found, bracket, _ = measured("mlp")
    good = torch.tensor([s == "ok" for s in found.columns["status"]])
    ratio = 0.5 * bracket.upper / found.columns["half_distance"]
    torch.testing.assert_close(found.columns["robustness_ratio"][good], ratio[good])
    assert bool(fine(found, "attack_alignment").ge(0).all()) and bool(fine(found, "attack_alignment").le(1).all())
    module, x, labels = linear()
    problem = bt.Problem(module, x, labels, bt.Ball(2, 1.0))
    best = bt.optimum(x, labels)
    told = bt.diagnose(problem, "compression", optimum=best)
    torch.testing.assert_close(told.columns["optimum_ratio"], told.columns["predicted_radius"] / best.mean)
    assert "of the optimum" in told.value
    labels[0] = (labels[0] + 1) % 4  # the network gets this one wrong, so it is left out of the comparison
    asked = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression").columns
    assert float(asked["optimum"][1]) == pytest.approx(bt.optimum(x[1:], labels[1:]).mean, rel=1e-12)


def test_classes_without_partners_are_judged_at_the_point_itself():
    module, x, labels = linear()
    keep = labels != int(labels[-1])  # no partner of this class, whose own example is asked about all the same
    whole = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression", classes=4).columns
    found = bt.diagnose(
        bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression", classes=4, partners=(x[keep], labels[keep])
    ).columns
    torch.testing.assert_close(found["predicted_radius"], whole["predicted_radius"])
    lost = whole["predicted_class"] == labels[-1]
    assert (
        bool(lost.any()) and bool((found["partner"][lost] == -1).all()) and bool((found["partner"][~lost] >= 0).all())
    )
    assert set(found["status"]) == {"ok"}


# ---- shapes, seeds, bad input --------------------------------------------------------------------------------------


def test_any_input_shape_and_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(12, 3), nn.Linear(2, 3)

        def forward(self, image, other):
            return self.a(image.flatten(1)) + self.b(other)

    torch.manual_seed(0)
    module, x = Two(), {"image": torch.randn(9, 3, 2, 2), "other": torch.randn(9, 2)}
    labels = module(**x).argmax(1)
    problem = bt.Problem(module, x, labels, {"x.image": bt.Ball(2, 1.0)})
    assert set(bt.diagnose(problem, "compression").columns["status"]) <= {"ok", "no room"}
    assert len(bt.diagnose(problem, "compression_layers").columns["layer"]) == 2
    with pytest.raises(bt.InputError, match="one moving input"):
        bt.diagnose(problem.within({"x.image": bt.Ball(2, 1.0), "x.other": bt.Ball(2, 1.0)}), "compression")


def test_one_logit_and_targets_have_paths_too():
    torch.manual_seed(0)
    module, x, labels = balanced(nn.Linear(3, 1), torch.randn(8, 3))
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression")
    distance = (module(x)[:, 0] / module.weight.norm()).abs().detach().double()
    torch.testing.assert_close(found.columns["predicted_radius"], distance, rtol=1e-5, atol=0)
    network, x, labels = linear()
    target = (labels + 1) % 4
    aimed = bt.diagnose(bt.Problem(network, x, labels, bt.Ball(2, 1.0), bt.Targeted(target)), "compression")
    assert set(aimed.columns["predicted_class"].tolist()) <= {*target.tolist(), -1}


def test_a_second_run_says_the_same():
    module, x, labels = relu_net(1)
    for name in ("compression", "compression_layers", "compression_path"):
        a, b = (bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), name).facts() for _ in range(2))
        assert str(a) == str(b)


def test_one_class_is_refused():
    module, x, _ = linear()
    for name in ("compression", "compression_layers", "compression_path"):
        with pytest.raises(bt.InputError, match="at least two classes, got class 2 alone"):
            bt.diagnose(bt.Problem(module, x, torch.full((24,), 2)), name)
    with pytest.raises(bt.InputError, match="partners"):
        bt.diagnose(
            bt.Problem(module, x, torch.arange(24) % 4), "compression", partners=(x[:3, :2], torch.tensor([0, 1, 2]))
        )


def test_twins_of_different_classes_have_an_optimum_of_zero_and_say_so():
    module, x, labels = linear()
    x, labels = torch.cat([x, x[:1]]), torch.cat([labels, (labels[:1] + 1) % 4])
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression").columns
    assert found["status"][0] == "duplicate" and "no classifier has a radius above 0" in found["reason"][0]
    assert found["half_distance"][0] == 0 and found["predicted_radius"][0] > 0 and found["robustness_ratio"][0].isnan()
    assert found["status"][-1] == "misclassified" and found["predicted_radius"][-1] == 0
    path = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression_path", examples=25).columns
    assert 0 not in path["example"] and bool(torch.isfinite(path["cosine"]).all())


def test_without_a_right_partner_there_is_no_path():
    module, x, labels = linear(2)
    wrong = torch.where(labels == 1, 0, labels)  # class 1 is gone, save for one example that the network gets wrong
    wrong[(labels == 0).nonzero()[0]] = 1
    found = bt.diagnose(bt.Problem(module, x, wrong, bt.Ball(2, 1.0)), "compression").columns
    right = wrong == labels
    assert {s for s, r in zip(found["status"], right, strict=True) if r} == {"no partner"}
    assert bool(found["predicted_radius"][right].isnan().all()) and bool((found["partner"][right] == -1).all())
    assert bool(found["half_distance"].isfinite().all())
    assert "no path to follow" in found["reason"][int(right.nonzero()[0])]
    for name in ("compression_layers", "compression_path"):
        assert not bt.diagnose(bt.Problem(module, x, wrong, bt.Ball(2, 1.0)), name).columns


def test_a_class_with_one_example_is_a_partner_like_any_other():
    module, x, labels = linear()
    keep = (labels != 1) | (torch.arange(24) == (labels == 1).nonzero()[0])
    found = bt.diagnose(bt.Problem(module, x[keep], labels[keep], bt.Ball(2, 1.0)), "compression").columns
    assert set(found["status"]) == {"ok"}


def test_a_network_without_gradients_says_so():
    class Step(nn.Module):
        def forward(self, x):
            return (x > 0).to(x.dtype) @ torch.tensor([[1.0, -1.0]] * 3, dtype=x.dtype)

    x = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    labels = torch.tensor([0, 1, 0])
    module = nn.Sequential(Step(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]) * torch.tensor([[1.0], [-1.0]]))
    x = x - torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    problem = bt.Problem(lambda x: module(x) - 1.5 * torch.tensor([1.0, -1.0]), x, labels, bt.Ball(2, 1.0))
    found = bt.diagnose(problem, "compression")
    assert set(found.columns["status"]) == {"no gradient"} and "gradient is zero" in found.note
    assert bool(found.columns["predicted_radius"].isnan().all())


@pytest.mark.parametrize(
    "options, message", [({"classes": 1}, "classes >= 2"), ({"radius": "bracket"}, "a bracket of the radius")]
)
def test_options_are_checked(options, message):
    module, x, labels = linear()
    problem = bt.Problem(module, x, labels, bt.Ball(2, 1.0))
    if "radius" in options:
        options = {"radius": bt.margin(problem.take(torch.arange(2)), effort="quick")}
    with pytest.raises(bt.InputError, match=message):
        bt.diagnose(problem, "compression", **options)
    with pytest.raises(bt.InputError, match="p = 1, 2 or inf"):
        bt.diagnose(problem.within(bt.Ball(0, 1.0)), "compression")


def test_a_status_accounts_for_every_missing_number():
    module, x, labels = linear()
    labels = torch.where(torch.arange(24) % 5 == 0, (labels + 1) % 4, labels)
    found = bt.diagnose(bt.Problem(module, x, labels, bt.Ball(2, 1.0)), "compression").columns
    missing = torch.stack([v.double().isnan() for v in found.values() if isinstance(v, Tensor)]).any(0)
    assert missing.tolist() == [s != "ok" for s in found["status"]]
    assert all(bool(r) == (s != "ok") for s, r in zip(found["status"], found["reason"], strict=True))
