"""The study subspace: its cells obey the exact laws at tiny sizes, and its verdicts follow the numbers."""

from math import inf, isfinite

import pytest
import torch

from brittle.studies import _subspace_digits as digits
from brittle.studies import _subspace_planted as planted
from brittle.studies._medians import Middle


def test_a_planted_cell_obeys_the_frozen_noise_law(monkeypatch):
    monkeypatch.setattr(planted, "WIDTH", 60)
    found = planted.planted(60, 5, 1.0, 0, 0, 2, "sgd", 0.0, 120)
    assert found["moved"] < 1e-12 and found["kept"] == pytest.approx(1)
    assert found["ratio"] == pytest.approx(1, abs=0.3) and 0 < found["share"] < 1
    assert found["radius"] <= min(found["on_radius"], found["off_radius"]) * 1.001
    decayed = planted.planted(60, 5, 1.0, 0, 0, 2, "sgd", 1e-2, 120)
    assert decayed["kept"] == pytest.approx((1 - 5 / 60 * 1e-2) ** 120, rel=1e-9)


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
            return {"cure-surgery": 0.18, "cure-none": 0.1}.get(word, 0.1) if name == "radius" else known.get(name, 1.0)
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
        (1, {"scale10_radius": 9.0}), (2, {"cure-surgery_radius": 0.1}), (3, {"shallow_ratio": 1.2}), (4, {"adam_off_radius": 5.0}),
        (6, {"energy0_9_local_share": 0.95}), (7, {"cnn_share": 0.01}),
    ):  # fmt: skip
        assert verdicts(digits, **change)[k] == "not reproduced", k


def test_tables_and_plots_are_complete():
    for part in (planted, digits):
        for table in part.tables(Numbers()):
            assert table.rows and all(len(row) == len(table.columns) for row in table.rows)
        assert all(isfinite(v) for p in part.plots(Numbers()) for c in p.curves for v in c.y if v not in (None, inf))
