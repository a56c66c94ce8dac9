"""Tails of random replacement: never below 40-digit arithmetic or exact probabilities, equal to the formulas, and every mistake is caught."""

from math import inf

import mpmath
import pytest
import torch

import brittle as bt
from brittle import replacement
from brittle.randomness import generator
from brittle.replacement import Replacement

tensor = lambda *values: torch.tensor(values, dtype=torch.float64)


def rows_of(n: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(n)
    rows = torch.randn(4, n, generator=g, dtype=torch.float64)
    rows[0], rows[1] = 1.0, torch.eye(n)[0]
    rows[2] *= torch.rand(n, generator=g, dtype=torch.float64) ** 6
    return rows


def clean_of(n: int) -> torch.Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64) ** 2


def numbers(row: torch.Tensor, clean: torch.Tensor, low: float, high: float):
    """(w_i, c_i) exactly, and the half range."""
    middle = (mpmath.mpf(low) + mpmath.mpf(high)) / 2
    pairs = [(mpmath.mpf(w), middle - mpmath.mpf(x)) for w, x in zip(row.tolist(), clean.tolist(), strict=True)]
    return pairs, (mpmath.mpf(high) - mpmath.mpf(low)) / 2


def chernoff(row: torch.Tensor, clean: torch.Tensor, k: int, low: float, high: float, t: float) -> mpmath.mpf:
    """min over s of k ln mean_i m_i(s) - s t: the zero of its derivative."""
    pairs, a = numbers(row, clean, low, high)
    sinhc = lambda x: mpmath.sinh(x) / x if x else mpmath.mpf(1)
    height = lambda s: (
        k * mpmath.log(sum(mpmath.exp(s * w * c) * sinhc(a * s * w) for w, c in pairs) / len(pairs)) - s * t
    )
    s = mpmath.findroot(
        lambda v: mpmath.diff(height, v), (mpmath.mpf("0.1"), mpmath.mpf(30)), solver="anderson", verify=False
    )
    return height(s)


@pytest.mark.parametrize("n, k", [(1, 1), (6, 2), (12, 12)])
@pytest.mark.parametrize("which", [0, 1, 3])
def test_along_a_direction_the_bound_is_chernoffs_to_six_digits(n, k, which):
    rows, clean = rows_of(max(n, 2))[:, :n], clean_of(n)
    law = Replacement.of(clean[None], k, 0.0, 1.0)
    known = replacement.read(rows[which], law)
    for share in (0.3, 0.6, 0.9):
        t = float(known.mean) + share * (float(known.reach) - float(known.mean))
        with mpmath.workdps(40):
            exact = float(chernoff(rows[which], clean, k, 0.0, 1.0, t))
        value = float(replacement.log_tail_along(tensor(t), rows[which], law))
        assert exact <= value <= exact + 1e-6 * max(1, abs(exact)), (share, exact, value)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-3.0, 0.5)])
def test_readings_and_bennett_against_many_digits(low, high):
    n, k = 7, 3
    clean, law = clean_of(n), Replacement.of(clean_of(n)[None], k, low, high)
    for row in rows_of(n):
        known = replacement.read(row, law)
        with mpmath.workdps(40):
            pairs, a = numbers(row, clean, low, high)
            mean = k * sum(w * c for w, c in pairs) / n
            spread = k * sum(w * w * (c * c + a * a / 3) for w, c in pairs) / n
            most = [w * c + abs(w) * a for w, c in pairs]
            reach = sum(sorted((max(m, 0) for m in most), reverse=True)[:k])
            for found, exact in (
                (known.mean, mean), (known.spread, spread), (known.largest, max(max(most), 0)), (known.reach, reach),
            ):  # fmt: skip
                assert exact <= float(found) <= exact + abs(exact) * 1e-13 + 1e-13
            for t in (0.3, 1.0, 2.0):
                x, b = mpmath.mpf(t) - mean, max(most)
                if x <= 0 or t > reach:
                    continue
                u = b * x / spread
                exact = -spread / b**2 * ((1 + u) * mpmath.log(1 + u) - u)
                value = float(replacement.log_tail(tensor(t), known))
                assert exact <= value <= exact + 1e-5 * abs(exact) + 2e-9, (t, float(exact), value)


def test_one_coordinate_is_exact_to_compare_with():
    """k = 1: P(w_i (c_i + a v) >= t) averaged over i, piecewise linear; the bounds are above, the sharp one by at most a factor 7."""
    clean, law = clean_of(5), Replacement.of(clean_of(5)[None], 1, 0.0, 1.0)
    row = tensor(1.0, -0.5, 0.25, 2.0, -1.0)
    for t in (0.05, 0.2, 0.45, 0.8):
        beyond = [(1 - (t / w + x)) if w > 0 else (t / w + x) for w, x in zip(row.tolist(), clean.tolist())]
        exact = sum(min(1.0, max(0.0, b)) for b in beyond) / 5
        sharp = float(replacement.log_tail_along(tensor(t), row, law).exp())
        cheap = float(replacement.log_tail(tensor(t), replacement.read(row, law)).exp())
        assert exact <= sharp <= cheap * (1 + 1e-9) and sharp <= 7 * exact, (t, exact, sharp, cheap)


@pytest.mark.parametrize("n, k", [(2, 2), (40, 1), (40, 6), (40, 40)])
def test_no_bound_is_below_the_draws(n, k):
    rows, clean, count = rows_of(n), clean_of(n), 40_000
    law = Replacement.of(clean[None], k, 0.0, 1.0)
    values = (bt.Replace(k).perturb(clean, count, generator(1, "replace", n, k)) - clean) @ rows.T
    known = replacement.read(rows, law)
    for level in (0.5, 0.1, 1e-2, 1e-3):
        t = values.quantile(1 - level, dim=0)
        share = (values >= t).double().mean(0)
        for limit in (replacement.log_tail(t, known).exp(), replacement.log_tail_along(t, rows, law).exp()):
            assert bool((limit >= share - 4 * (share / count).sqrt()).all()) and bool((limit <= 1).all())
    assert bool((values <= known.reach).all())


@pytest.mark.parametrize("target", [-1.0, -7.0, -40.0])
def test_quantiles_keep_what_they_promise(target):
    known = replacement.read(rows_of(30), Replacement.of(clean_of(30)[None], 5, 0.0, 1.0))
    q = replacement.quantile(tensor(target), known)
    assert bool((replacement.log_tail(q * (1 + 1e-12), known) <= target + 1e-6).all())
    assert torch.equal(replacement.quantile(tensor(-inf), known), known.reach)


def test_nothing_lies_beyond_the_reach():
    """Both largest rises of two coordinates, and a direction that no replacement can raise."""
    law = Replacement.of(tensor(0.0, 0.5, 1.0)[None], 2, 0.0, 1.0)
    up, down = tensor(1.0, 1.0, 1.0), tensor(-1.0, 0.0, 0.0)
    assert float(replacement.read(up, law).reach) == pytest.approx(1.5, rel=1e-12)
    for log in (replacement.log_tail_along, lambda t, w, law: replacement.log_tail(t, replacement.read(w, law))):
        assert float(log(tensor(1.5001), up, law)) == -inf < float(log(tensor(1.4999), up, law))
        assert float(log(tensor(1e-6), down, law)) == -inf and float(log(tensor(-0.4), down, law)) <= 0
    for t in (inf, 2.0):
        assert float(replacement.log_tail(tensor(t), replacement.read(up, law))) == -inf
    assert torch.allclose(law.furthest(), tensor(1.0), rtol=1e-14)


def test_the_widest_reading_bounds_every_direction_of_length_one():
    clean = torch.stack([clean_of(12), 1 - clean_of(12)])
    law = Replacement.of(clean, 4, 0.0, 1.0)
    rows = torch.randn(500, 1, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known, most = replacement.read(rows / rows.norm(dim=-1, keepdim=True), law), replacement.widest(law)
    for name in ("mean", "spread", "largest", "reach"):
        assert bool((getattr(known, name) <= getattr(most, name)).all()), name


def test_large_numbers_do_not_shorten_what_cancels():
    """A clean point of 1e8 with values around it: the shift is a difference of large numbers, its doubt is on the account."""
    clean = torch.full((1, 3), 1e8 + 0.3, dtype=torch.float64)
    law = Replacement.of(clean, 1, 1e8, 1e8 + 1)
    known = replacement.read(tensor(1.0, -1.0, 0.5), law)
    with mpmath.workdps(40):
        pairs, a = numbers(tensor(1.0, -1.0, 0.5), clean[0], 1e8, 1e8 + 1)
        assert float(known.mean) >= sum(w * c for w, c in pairs) / 3
        assert float(known.largest) >= max(w * c + abs(w) * a for w, c in pairs)


# ---- deliberate mistakes ---------------------------------------------------------------------------------------------

MUTANTS = {
    "one coordinate fewer": lambda law: Replacement(law.count - 1, law.shift, law.half, law.size),
    "shift the other way": lambda law: Replacement(law.count, -law.shift, law.half, law.size),
    "no shift": lambda law: Replacement(law.count, 0 * law.shift, law.half, law.size),
    "half the range": lambda law: Replacement(law.count, law.shift, law.half / 2, law.size),
    "a whole range": lambda law: Replacement(law.count, law.shift, law.half * 2, law.size),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_laws_kill(name, monkeypatch):
    made = Replacement.of
    monkeypatch.setattr(Replacement, "of", staticmethod(lambda *given: MUTANTS[name](made(*given))))
    with pytest.raises(AssertionError):
        test_along_a_direction_the_bound_is_chernoffs_to_six_digits(6, 2, 3)
