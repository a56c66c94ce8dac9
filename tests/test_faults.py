"""Faults of the weights: roundings stay in their balls, flips do what two's complement says, and the readings bracket each other."""

from math import inf
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.diagnostics._bench import cross_entropy
from brittle.diagnostics._bits import BITS, Flip, codes_flipped, jumps, random_flips, ranked
from brittle.diagnostics._formats import FLOATS, FORMATS, codes, rounded
from brittle.diagnostics._weights import Exchange, weights_of
from brittle.diagnostics.faults import faults
from brittle.digest import state_digest
from brittle.panels.faults import faults as panel


def net(seed=0, widths=(4, 6, 3)):
    torch.manual_seed(seed)
    layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    return nn.Sequential(*layers).eval()


def question(module=None, count=24, region=None):
    module = module or net()
    x = torch.rand(count, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return bt.Problem(module, x, module(x).argmax(1), region)


def rows(found, reading, **where):
    every = [dict(zip(found.columns, v, strict=True)) for v in zip(*found.columns.values(), strict=True)]
    return [r for r in every if r["reading"] == reading and all(r[k] == v for k, v in where.items())]


# ---- rounding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_rounding_stays_within_its_reach_and_attains_it(name):
    draw = torch.Generator().manual_seed(0)
    weight = torch.cat([torch.randn(500, generator=draw), 1e-3 * torch.randn(500, generator=draw), torch.zeros(3)])
    found = rounded(weight, name)
    change = (found.value - weight).double().abs()
    assert found.fits and bool((change <= found.reach).all())
    assert float((change / found.reach).max()) > 0.97, "half a step or half a spacing is attained"
    facts = found.facts(weight)
    assert facts["radius"] == float(found.reach.max()) and facts["change"] == float(change.max())
    kept = weight != 0
    zeta = facts["radius_element"]
    assert zeta is not None and bool((change[kept] <= zeta * weight[kept].double().abs() * (1 + 1e-12)).all())


def test_the_reach_is_half_a_spacing():
    for name, (kind, bits, least) in FLOATS.items():
        for value in (1.0, 1.5, 2.0**least, 2.0 ** (least - 1)):
            exponent = max(least, int(torch.tensor(value).log2().floor()))
            tie = torch.tensor([value + 2.0 ** (exponent - bits - 1)])
            found = rounded(tie, name)
            assert float((found.value - tie).abs()) == 2.0 ** (exponent - bits - 1), (name, value)
            assert found.reach.item() == 2.0 ** (exponent - bits - 1), (name, kind, value)
    ties = rounded(torch.tensor([127.0, 0.5, 1.5, -2.5]), "int8")
    assert ties.value.tolist() == [127, 0, 2, -2] and ties.reach.tolist() == pytest.approx([0.5] * 4, rel=1e-4)


def test_weights_outside_a_format_are_told():
    assert not rounded(torch.tensor([1e6]), "fp16").fits and not rounded(torch.tensor([600.0]), "fp8_e4m3").fits
    module = nn.Linear(4, 2)
    with torch.no_grad():
        module.weight.mul_(1e6)
    found = faults(question(module), formats=("fp16",), flips=0, random=(), ball=None)
    assert set(found.columns["status"]) == {"outside the range of the format"}


def test_a_tensor_of_zeros_rounds_to_itself():
    found = rounded(torch.zeros(3), "int8")
    assert found.value.tolist() == [0, 0, 0] and found.step == 0 and found.facts(torch.zeros(3))["radius_rms"] is None


# ---- bits ----------------------------------------------------------------------------------------------------------


def test_jumps_of_all_codes_are_those_of_two_complement():
    every = torch.arange(-128, 128).to(torch.int8)
    found = jumps(every)
    for bit in range(BITS):
        power = torch.tensor([-128 if (1 << bit) == 128 else 1 << bit], dtype=torch.int8)
        direct = (every ^ power).to(torch.int16) - every.to(torch.int16)
        assert torch.equal(found[bit], direct)
        changed = codes_flipped({"w": every}, [Flip("w", k, bit) for k in range(256)])["w"]
        assert torch.equal(changed.to(torch.int16), every.to(torch.int16) + direct)


def test_ranking_is_the_first_order_gain_of_every_bit():
    draw = torch.Generator().manual_seed(2)
    held = {k: torch.randint(-127, 128, (3, 2), generator=draw).to(torch.int8) for k in "ab"}
    steps, slopes = {"a": 0.1, "b": 0.7}, {k: torch.randn(3, 2, generator=draw) for k in "ab"}
    gains = {
        Flip(leaf, at, bit): float(jumps(held[leaf])[bit].flatten()[at] * steps[leaf] * slopes[leaf].flatten()[at])
        for leaf in "ab" for at in range(6) for bit in range(BITS)
    }  # fmt: skip
    best = sorted(gains, key=lambda f: -gains[f])
    assert ranked(held, steps, slopes, 5, set()) == best[:5]
    assert ranked(held, steps, slopes, 5, set(best[:2])) == best[2:7]


def test_random_flips_are_distinct_and_reach_every_bit():
    held = {"a": torch.zeros(2, dtype=torch.int8), "b": torch.zeros(1, 1, dtype=torch.int8)}
    assert len(set(random_flips(held, 24, 0, 0))) == 24
    seen = {f for draw in range(300) for f in random_flips(held, 1, 0, draw)}
    assert len(seen) == 24 and random_flips(held, 3, 0, 5) == random_flips(held, 3, 0, 5)


def test_the_first_worst_flip_is_the_worst_of_all_single_flips():
    problem = question(net(3))
    found = faults(problem, formats=("int8",), flips=1, candidates=10_000, random=(), ball=None)
    (greedy,) = rows(found, "worst bit flips")
    weights = weights_of(problem)
    exchange, steps = Exchange.of(problem, weights), {k: rounded(w, "int8").step for k, w in weights.items()}
    held = {k: codes(w, steps[k]) for k, w in weights.items()}
    every = [Flip(k, at, bit) for k, w in weights.items() for at in range(w.numel()) for bit in range(BITS)]
    left = []
    for flip in every:
        changed = {k: v.float() * steps[k] for k, v in codes_flipped(held, [flip]).items()}
        left.append(float((exchange.logits(changed).argmax(1) == problem.labels).double().mean()))
    assert greedy["accuracy"] == pytest.approx(min(left))
    few = faults(problem, formats=("int8",), flips=1, candidates=10, random=(), ball=None)
    assert rows(few, "worst bit flips")[0]["accuracy"] <= min(left) + 2 / len(problem), "ten candidates nearly suffice"


def test_a_fault_can_be_made_again_from_its_words():
    problem = question(net(4))
    found = faults(problem, formats=("int8",), flips=2, random=(), ball=None)
    module = net(4)
    with torch.no_grad():
        for k, w in dict(module.named_parameters()).items():
            if w.dim() > 1:
                step = float(w.abs().max()) / 127
                held = (w / step).round().to(torch.int8)
                for words in (r["fault"] for r in rows(found, "worst bit flips") if r["leaf"] == k):
                    place, bit = words.removeprefix(k + "[").split("] bit ")
                    at = tuple(int(i) for i in place.split(","))
                    held[at] ^= -128 if bit == "7" else 1 << int(bit)
                w.copy_(held * step)
        right = float((module(problem.x).argmax(1) == problem.labels).double().mean())
    assert right == pytest.approx(rows(found, "worst bit flips")[-1]["accuracy"])


# ---- the exchange and the finding ----------------------------------------------------------------------------------


def test_slopes_are_the_gradients_and_weights_are_put_back():
    module = net(5)
    problem = question(module, 70)
    before = state_digest(module)
    weights = weights_of(problem)
    exchange = Exchange.of(problem, weights)
    found = exchange.slopes(weights, cross_entropy)
    free = net(5)
    nn.functional.cross_entropy(free(problem.x), problem.labels, reduction="sum").backward()
    for name, parameter in free.named_parameters():
        if parameter.dim() > 1 and parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-4)
    exchange.logits({"0.weight": torch.zeros(6, 4)})
    assert torch.equal(exchange.parameters["0.weight"], weights["0.weight"]) and state_digest(module) == before


def test_every_reading_is_there_and_the_ball_brackets_its_members():
    problem = question()
    found = bt.diagnose(problem, "faults", flips=3, random=(5,), draws=8)
    assert len({len(v) for v in found.columns.values()}) == 1 and found.facts()["note"]
    (bracket,) = rows(found, "each example its own change")
    (whole,) = rows(found, "rounding", format="int8", leaf="all")
    (corners,) = rows(found, "random corners")
    (shared,) = rows(found, "one shared change")
    assert bracket["low"] == shared["low"] <= shared["high"] and bracket["high"] <= shared["high"] + 1e-9
    assert bracket["low"] <= bracket["high"] <= 1 and bracket["low"] <= min(corners["worst"], whole["accuracy"])
    assert len(rows(found, "rounding", format="bf16")) == 3 and len(rows(found, "worst bit flips")) == 3
    (random,) = rows(found, "random bit flips")
    assert random["low"] <= random["worst"] <= random["accuracy"] <= random["high"]
    again = bt.diagnose(problem, "faults", flips=3, random=(5,), draws=8)
    assert again.columns == found.columns


def test_leaves_of_the_region_are_the_faulty_ones():
    problem = question(region={"2.weight": bt.Ball(p=inf, radius=0.1), "2.bias": bt.Ball(p=inf, radius=0.1)})
    assert list(weights_of(problem)) == ["2.weight", "2.bias"]
    found = faults(problem, formats=("int8",), flips=0, random=(), ball=None)
    assert found.columns["leaf"] == ["all", "2.weight", "2.bias"]
    assert list(weights_of(question())) == ["0.weight", "2.weight"]


def test_refusals_teach():
    x, labels = torch.rand(3, 4), torch.tensor([0, 1, 0])
    with pytest.raises(bt.InputError, match="weights"):
        faults(bt.Problem(lambda x: x, x, labels))
    with pytest.raises(bt.InputError, match="int8"):
        faults(question(), formats=("int4",))
    with pytest.raises(bt.InputError, match="draws"):
        faults(question(), draws=0)


def test_the_panel_shows_formats_flips_and_the_readings():
    found = bt.diagnose(question(), "faults", flips=3, random=(1, 50), draws=3)
    run = lambda facts: SimpleNamespace(models=("<net>",), findings={"<net>": {"faults": facts}})
    html = panel(run(found.facts()))
    assert "&lt;net&gt;" in html and "fp8_e4m3" in html and "worst flips found" in html
    assert "each example its own change" in html and "different\nquestions" in html
    bare = {"columns": {}, "note": "faults: not applicable"}
    assert "not applicable" in panel(run(bare)) and "<svg" not in panel(run(bare))
    assert panel(SimpleNamespace(models=("net",), findings={"net": {}})) == ""


@pytest.mark.slow
def test_digits_at_the_anchor_of_bit_flips():
    from brittle.sources.digits import digits
    from brittle.training import train

    (x, labels), (test, truth) = digits("train"), digits("test")
    done = train(net(0, (64, 32, 32, 10)), x, labels, epochs=80, rate=3e-3, schedule="constant").module
    found = faults(
        bt.Problem(done, torch.as_tensor(test)[:200], truth[:200]), formats=("int8",), random=(10,), flips=10, ball=None
    )
    worst = [r["accuracy"] for r in rows(found, "worst bit flips")]
    assert worst[0] <= 0.92 and worst[-1] <= 0.424, "an independent search: 0.880 after one, 0.424 after ten"
    assert rows(found, "random bit flips")[0]["worst"] > 0.85
