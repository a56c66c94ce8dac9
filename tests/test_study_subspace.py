"""The study subspace: its cells obey the exact laws at tiny sizes, and its verdicts follow the numbers."""

from math import inf, isfinite

import pytest
import torch

from brittle.studies import _subspace_convolutions as convolutions
from brittle.studies import _subspace_curved as curved
from brittle.studies import _subspace_digits as digits
from brittle.studies import _subspace_joint as joint
from brittle.studies import _subspace_norms as norms
from brittle.studies import _subspace_optimisers as optimisers
from brittle.studies import _subspace_planted as planted
from brittle.studies import _subspace_real as real
from brittle.studies._medians import Middle


def test_a_planted_cell_obeys_the_frozen_noise_law(monkeypatch):
    monkeypatch.setattr(planted, "WIDTH", 60)
    found = planted.planted(60, 5, 1.0, 0, 0, 2, "sgd", 0.0, 120)
    assert found["moved"] < 1e-12 and found["kept"] == pytest.approx(1)
    assert found["ratio"] == pytest.approx(1, abs=0.3) and 0 < found["share"] < 1
    assert found["radius"] <= min(found["on_radius"], found["off_radius"]) * 1.001
    decayed = planted.planted(60, 5, 1.0, 0, 0, 2, "sgd", 1e-2, 120)
    assert decayed["kept"] == pytest.approx((1 - 5 / 60 * 1e-2) ** 120, rel=1e-9)


def test_a_planted_cell_is_the_same_whether_or_not_its_training_is_judged(monkeypatch):
    from brittle import training

    monkeypatch.setattr(planted, "WIDTH", 40)
    fast = planted.planted(40, 5, 1.0, 0, 0, 2, "momentum", 1e-3, 130)
    once = training.train
    monkeypatch.setattr(training, "train", lambda *data, judge_every, **options: once(*data, **options))
    assert planted.planted(40, 5, 1.0, 0, 0, 2, "momentum", 1e-3, 130) == fast


def test_upsampling_repeats_pixels_and_keeps_the_rank():
    x = torch.rand(70, 64)
    big = digits.upsampled(x, 16)
    assert big.shape == (70, 256) and int(torch.linalg.matrix_rank(big)) == 64
    assert torch.equal(big.reshape(-1, 16, 16)[:, ::2, 1::2].flatten(1), x)


@pytest.mark.slow
def test_shares_of_upsampled_digits_at_three_initialisations():
    for scale, share in ((1.0, 0.08), (2.45, 0.35), (5.0, 0.69)):
        found = digits.digits_network(32, scale, 0, 0)
        assert found["share"] == pytest.approx(share, abs=0.05), scale
        assert found["ratio"] == pytest.approx(1, abs=0.03)


class Numbers:
    """A ``middle`` of settings in which every law holds, but for what a test changes."""

    def __init__(self, **changes):
        self.changes = changes

    def __call__(self, word, name):
        value = self.changes.get(f"{word}_{name}".replace(".", "_"), self.law(word, name))
        return Middle(value, value * 0.99, value * 1.01, 0.95, 10)

    def law(self, word, name):
        if name == "off_radius" and word[:1] == "d" and word[1:].isdigit():
            return 3 / int(word[1:]) ** 0.5
        if name == "on_radius":
            return 0.3
        if word.startswith("off"):
            return float(word[3:]) ** 0.5
        if word.startswith("scale"):
            scale = float(word[5:])
            return {"off_gradient": scale, "off_radius": 1 / scale, "radius": 1 / scale}.get(
                name, 1.0 if name == "ratio" else 0.3
            )
        if name == "kept":
            return (1 - 5 / 200 * float(word[5:])) ** 1500
        known = {
            "ratio": 1.0,
            "moved": 1e-15,
            "flipped": 1.0,
            "universal": 0.3,
            "gain": 1.8,
            "share": 0.3,
            "local_share": 0.7,
            "local_chance": 0.8,
        }
        if name == "off_gradient":
            return 5.0 if word == "adam" else 1.0
        if name == "off_radius":
            return 0.4 if word == "adam" else 4.0
        if word.startswith("cure"):
            if name == "radius":
                return 0.1 if word == "cure-none" else 0.18
            return 0.05 if (word, name) == ("cure-coupled", "share") else known.get(name, 1.0)
        return known.get(name, 1.0)


def verdicts(part, **changes):
    return [c.verdict for c in part.claims(Numbers(**changes))]


def test_verdicts_follow_the_numbers():
    good = verdicts(planted)
    assert good == ["reproduced"] * 5 + ["ours"] * 3 + ["reproduced"]
    for k, change in (
        (0, {"d1000_off_radius": 3.0}), (1, {"d1000_off_radius": 0.3}), (2, {"off390_off_gradient": 1.0}),
        (3, {"scale4_off_gradient": 0.1}), (4, {"decay0_01_kept": 0.9}), (6, {"adam_off_gradient": 1.0}),
        (7, {"depth5_ratio": 1.5}), (8, {"d400_flipped": 0.5}),
    ):  # fmt: skip
        assert verdicts(planted, **change)[k] == "not reproduced", k
    good = verdicts(digits)
    assert "not reproduced" not in good
    for k, change in (
        (1, {"scale10_radius": 9.0}), (2, {"cure-surgery_radius": 0.1}), (3, {"shallow5_ratio": 1.2}), (4, {"adam_off_radius": 5.0}),
        (6, {"energy0_9_local_share": 0.95}), (7, {"cure-off_decay_radius": 0.1}), (8, {"cure-coupled_share": 0.5}),
    ):  # fmt: skip
        assert verdicts(digits, **change)[k] == "not reproduced", k


class Law:
    """A ``middle`` from a rule (word, name) -> value, with changes."""

    def __init__(self, rule, **changes):
        self.rule, self.changes = rule, changes

    def __call__(self, word, name):
        value = self.changes.get(f"{word}_{name}".replace(".", "_").replace(" ", "_"), self.rule(word, name))
        return Middle(value, value * 0.99, value * 1.01, 0.95, 10)


def optimiser_law(word, name):
    where, setting = word.split("-", 1)
    if name == "kept":
        law = optimisers.predicted(setting, where == "rotated")
        return law if law is not None else {"adam-coupled": 0.02}.get(setting, 0.99)
    return 0.2 if name == "moved" else 0.7


def norm_law(word, name):
    kind = name.split("_")[1]
    return {"off": 3 / int(word[1:]) ** 0.5, "law": 3 / int(word[1:]) ** 0.5, "on": 0.3, "all": 0.1, "gain": 1.5}[kind]


def curve_law(word, name):
    bends = int(word.removeprefix("curve")) if word.startswith("curve") else 5
    known = {
        "ratio": 1.0,
        "moved_off": 1e-15,
        "off_share": 1 / bends,
        "tangent_share": 0.01,
        "normal_radius": 0.2,
        "radius": 0.2,
    }
    return known.get(name, 0.5)


def convolution_law(word, name):
    scale = float(word.removeprefix("scale"))
    known = {"moved": 1e-6, "patch_ratio": 1.0, "share": 0.1 * scale, "kernel_share": 0.05 * scale, "changed": 1e-6}
    return known.get(name, 0.2)


def joint_law(word, name):
    return {"gain": 0.02 * float(word.removeprefix("scale"))}.get(name, 0.7)


def real_law(word, name):
    shares = {"mnist-mlp": 0.05, "mnist-mlp-he": 0.3, "mnist-adam": 0.05, "mnist-decay": 0.01}
    known = {
        "span_ratio": 1.0,
        "span_share": shares.get(word, 0.1),
        "95_share": 0.2,
        "95_chance": 0.8,
        "95_after": 0.11,
        "radius": 0.1,
    }
    return known.get(name, 0.5)


PARTS = {
    optimisers: (
        optimiser_law,
        [{"aligned-sgd-coupled_kept": 0.5}, {"aligned-adam-coupled_kept": 0.9}, {"rotated-adam_moved": 0.01}],
    ),
    norms: (norm_law, [{"d400_linf_off": 3.0}, {"d400_l1_gain": 0.9}]),
    curved: (curve_law, [{"sphere_ratio": 1.5}, {"curve80_off_share": 0.9}]),
    convolutions: (convolution_law, [{"scale5_patch_ratio": 1.4}, {"scale5_share": 0.1}, {"scale5_kernel_share": 0.6}]),
    joint: (joint_law, [{"scale5_gain": -0.1}]),
    real: (real_law, [{"mnist-adam_span_ratio": 1.2}]),
}


@pytest.mark.parametrize("module", PARTS, ids=lambda m: m.__name__.rsplit("_", 1)[1])
def test_verdicts_of_the_other_parts_follow_their_numbers(module):
    rule, mutants = PARTS[module]
    assert {c.verdict for c in module.claims(Law(rule))} == {"ours"}
    for k, change in enumerate(mutants):
        assert module.claims(Law(rule, **change))[k].verdict == "not reproduced", change
    for table in module.tables(Law(rule)):
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows)


def test_real_data_wait_for_full():
    assert real.calls(False, 0) == {} and real.part({}).claims == ()
    assert len(real.calls(True, 0)) == real.RUNS * len(real.NETWORKS)


def test_an_optimiser_keeps_or_shrinks_the_frozen_part_as_predicted(monkeypatch):
    monkeypatch.setattr(optimisers, "STEPS", 20)
    for setting, rotated in (("sgd-coupled", True), ("adam-decoupled-strong", False)):
        found = optimisers.optimised(setting, rotated, 0, 0)
        assert found["kept"] == pytest.approx(optimisers.predicted(setting, rotated), rel=1e-9)
    assert optimisers.optimised("adam", True, 0, 0)["moved"] > 1e-3


@pytest.mark.parametrize("manifold", curved.MANIFOLDS)
def test_tangents_are_those_of_the_manifold(manifold, monkeypatch):
    """Orthonormal, and along the differences of neighbouring points; the three shares of a gradient add up."""
    monkeypatch.setattr(curved, "POINTS", 12)
    draw = torch.Generator().manual_seed(0)
    x, tangents, labels = curved._points(manifold, draw)
    gram = tangents @ tangents.mT
    assert torch.allclose(gram, torch.eye(gram.shape[1], dtype=torch.float64).expand_as(gram), atol=1e-9)
    assert set(labels.tolist()) == {0, 1}
    if manifold == "sphere":  # tangents are orthogonal to the radius
        assert float((tangents @ x[..., None]).abs().max()) < 1e-9
    if manifold.startswith("curve"):
        assert torch.allclose(x.norm(dim=1), torch.full((12,), 200**0.5, dtype=torch.float64))


def test_a_curved_cell_splits_the_gradient(monkeypatch):
    for name, value in (("POINTS", 20), ("WIDTH", 30), ("ROUNDS", 1), ("ROUND", 20), ("ATTACKED", 1)):
        monkeypatch.setattr(curved, name, value)
    found = curved.curved("curve5", 0, 0)
    assert found["moved_off"] < 1e-12 < found["moved_on"] and found["span"] == 10
    assert (
        0.7 < found["tangent_share"] + found["normal_share"] + found["off_share"] < 1.3
    )  # medians of parts that add up to 1


@pytest.mark.slow
def test_surgery_raises_the_joint_certificate():
    """A badly initialised network, inputs within 0.02 and weights within 0.002: certified accuracy rises (anchors of another network .61 to .74)."""
    found = joint.joint(5.0, 0, 0)
    assert found["after_joint"] >= found["before_joint"] + 0.03 and found["after_rows"] < 0.8 * found["before_rows"]
    assert found["after_joint"] <= found["after_attacked"] and found["before_joint"] <= found["before_attacked"]
    assert found["after_clean"] == found["before_clean"]


@pytest.mark.slow
def test_surgery_on_data_of_exact_rank_in_double_precision():
    """Upsampled digits, d = 1024: outputs on the data within 1e-10; measured over predicted l2 gain within 3 % of 1 in the median."""
    from brittle import Ball, Problem, Subspace, diagnose, radius, surgery

    x, labels, test, truth = (v.double() if v.is_floating_point() else v for v in digits._data(32, False, 0))
    done = digits._train(digits._network("mlp", 1024, 5.0, 0).double(), x, labels, 0)
    plane = Subspace.span(x)
    cut = surgery(done, plane)
    with torch.no_grad():
        assert float((cut(x) - done(x)).abs().max()) < 1e-10
    problem = Problem(done, x[:40], labels[:40], Ball(p=2, radius=1.0))
    right = (problem.margin() > 0).nonzero()[:, 0]
    predicted = diagnose(problem, "subspace", subspace=plane, attacked=0).columns["removable_gain"][right]
    sizes = [
        radius(Problem(m, x[:40], labels[:40], Ball(p=2, radius=1.0)).take(right), ends="upper").upper
        for m in (cut, done)
    ]
    ratio = (sizes[0] / sizes[1] / predicted).median()
    print(f"gain measured / predicted {float(ratio):.4f}, predicted {float(predicted.median()):.3f}")
    assert float(ratio) == pytest.approx(1, abs=0.03)


def test_tables_and_plots_are_complete():
    for part in (planted, digits):
        for table in part.tables(Numbers()):
            assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
        assert all(isfinite(v) for p in part.plots(Numbers()) for c in p.curves for v in c.y if v not in (None, inf))


def test_the_span_of_the_digits_is_found_once_and_is_that_of_the_training_digits() -> None:
    from brittle.subspace import Subspace

    found, own = digits._plane(16, False, 0), Subspace.span(digits._data(16, False, 0)[0])
    assert digits._plane(16, False, 0) is found
    assert found.dimension == own.dimension == 61
    draw = torch.randn(5, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(found.off(draw), own.off(draw))
