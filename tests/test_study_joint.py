"""The study joint: its cells obey their definitions at tiny sizes, and its verdicts follow the numbers."""

from dataclasses import replace
from math import isfinite

import pytest
import torch
from torch import nn

from brittle.problem import Problem
from brittle.region import Ball
from brittle.studies import _joint_bounds as bounds
from brittle.studies import _joint_nets as nets
from brittle.studies import _joint_readings as readings
from brittle.studies import _joint_scale as scale
from brittle.studies import _joint_trainings as trainings


def small(seed=0, widths=(5, 6, 4, 3)):
    return nets.network(replace(nets.TASKS["digits"], widths=widths), seed).double().eval()


# ---- cells ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_no_corner_passes_the_bounds_in_the_papers_shape(seed):
    module, x = small(seed), torch.rand(6, 5, dtype=torch.float64)
    labels = module(x).argmax(1)
    found = bounds.paper_bounds(module, x, labels, 0.02, 0.03)
    draw, rows = torch.Generator().manual_seed(seed), []
    for _ in range(300):
        sign = lambda v: 2 * torch.randint(2, v.shape, generator=draw) - 1.0
        moved = {n: p + 0.03 * sign(p) * (p.dim() > 1) for n, p in module.named_parameters()}
        logits = torch.func.functional_call(module, moved, ((x + 0.02 * sign(x)).clamp(0, 1),))
        own = nn.functional.one_hot(labels, 3).bool()
        rows.append((logits.gather(1, labels[:, None]) - logits).masked_fill(own, torch.inf).amin(1))
    least = torch.stack(rows).amin(0)
    assert all(bool((value <= least).all()) for value in found.values())
    assert bool((found["recursion"] <= found["vector"] + 1e-12).all()), "row sums are looser than matrices"


def test_the_bounds_are_exact_for_one_layer_whose_rows_point_one_way():
    layer = nn.Linear(3, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, -2.0, -3.0], [0.5, 0.0, 1.0]]))
        layer.bias.zero_()
    x = torch.tensor([[0.2, 0.3, 0.4]], dtype=torch.float64)
    apart, e, w = torch.tensor([-1.5, -2.0, -4.0]).double(), 0.01, 0.02
    exact = float((apart - 2 * w) @ (x[0] + e))  # the worst point: every input up, one row down, the other up
    found = bounds.paper_bounds(nn.Sequential(layer), x, torch.tensor([0]), e, w)
    assert [float(v) for v in found.values()] == pytest.approx([exact] * 3, abs=1e-12)


def test_starred_activations_are_passed_and_interval_ends_are_not():
    found = bounds.starred(0)
    assert found["broken"] > 100 and found["passed"] == 0 and max(found["ratio"]) > 1.5


def test_a_twin_is_the_same_function():
    module, x = small(), torch.rand(9, 5, dtype=torch.float64)
    for factor in (0.25, 4.0):
        twin = scale.twin_of(module, factor)
        assert torch.allclose(twin(x), module(x), atol=1e-12)
        assert not torch.allclose(next(twin.parameters()), next(module.parameters()))


def test_radius_zero_leaves_a_leaf_out_and_corners_lie_on_the_ball():
    assert nets.region(0.1).keys() == {"x"} and nets.region(w=0.1).keys() == {"*.weight"} and not nets.region()
    module = small()
    corner = readings._corner(module, 0.05, 0, 3)
    weights = dict(module.named_parameters())
    assert all(torch.allclose((v - weights[n]).abs(), torch.full_like(v, 0.05)) for n, v in corner.items())
    assert sorted(corner) == ["0.weight", "2.weight", "4.weight"]


def test_one_network_is_measured_end_to_end(monkeypatch):
    tiny = nets.Task("digits", (64, 8, 10), 0.02, 0.004, (0.01, 0.01), (0.0, 0.02), 2, 3e-3, 64, 6, 4, 1)
    asked = nets.questions(tiny)
    monkeypatch.setitem(nets.TASKS, "digits", tiny)
    monkeypatch.setattr(nets, "questions", lambda task: {k: asked[k] for k in ("x", "xw", "shared xw", "element")})
    found = nets.net("digits", "joint", 0, 0)
    for name in nets.questions(tiny):
        low, high = found[name]
        assert 0 <= low <= high <= 1, name
    assert found["shared xw"][1] >= found["xw"][0], "a shared change is one of those that certificates cover"
    assert found["xw"][0] <= found["x"][0] and len(found["faults"]["worst"]) == 10 and len(found["row sums"]) == 2


def test_no_lower_end_passes_an_attack_in_a_cell():
    module, (x, _) = nets.network(nets.TASKS["digits"], 0), nets.data(nets.TASKS["digits"])[1]
    rows = bounds.at_radius(Problem(module, x[:5], module(x[:5]).argmax(1)), module, 0.001, 0.0002, 0)
    assert (
        rows["crossed"] == 0
        and rows["crown"] <= rows["attacked"]
        and sum(rows["shares"].values()) == pytest.approx(1, abs=0.2)
    )


def test_a_readings_cell_orders_its_readings():
    module = small(2, (64, 6, 5, 10)).float()
    x = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        problem = Problem(module, x, module(x).argmax(1))
    found = readings.ball(problem, module, 0.01, 0)
    assert (
        found["certified"] <= found["attacked"] <= found["shared"] + 1e-9
        and found["certified"] <= found["worst corner"]
    )
    kept = readings.rounding(problem, module, 8, 0)
    assert kept["certified"] <= min(kept["agreement"], kept["attacked"]) and kept["agreement"] > 0.8


# ---- verdicts ------------------------------------------------------------------------------------------------------


def run_of(recipe, **changes):
    """Numbers of one run at which every claim holds, but for what a test changes."""
    attacked = {
        "standard": dict(x=0.7, w=0.4, xw=0.05, half=0.5, rms=0.3, element=0.3), "input": dict(x=0.9, w=0.3, xw=0.05, half=0.6, rms=0.2, element=0.2),
        "weight": dict(x=0.75, w=0.8, xw=0.3, half=0.7, rms=0.7, element=0.7),
    }.get(recipe, dict(x=0.92, w=0.85, xw=0.6, half=0.8, rms=0.8, element=0.8))  # fmt: skip
    if recipe in trainings.BOUNDED:
        attacked |= {"xw": 0.8}
    attacked["rms w"] = attacked["rms"]
    attacked |= {f"shared {k}": attacked[k] + 0.1 for k in ("w", "xw", "half")}
    certified = 0.7 if recipe in trainings.BOUNDED else 0.0
    found = {"clean": 0.97, "rms of layers": [0.3, 0.3], "row sums": [9.0, 9.0], "faults": {"worst": [0.9] * 10}}
    found |= {k: [certified, v] for k, v in attacked.items()}
    return found | changes


def trained_runs(**changes):
    """``changes``: recipe -> what its runs have instead."""
    return lambda recipe: (
        [run_of(recipe, **changes.get(recipe, {})) for _ in range(5)] if recipe in nets.RECIPES else []
    )


def test_verdicts_of_the_trainings_follow_the_numbers():
    verdicts = lambda **changes: [c.verdict for c in trainings.claims("digits", trained_runs(**changes))]
    assert verdicts() == ["reproduced"] * 6 + ["ours"] * 2
    both = lambda v: [v, v]
    for k, changes, verdict in (
        (0, {"input": {"w": both(0.95)}}, "not reproduced"),
        (1, {"weight": {"xw": both(0.7)}}, "only when"),
        (1, {"input": {"xw": both(0.7)}}, "not reproduced"),
        (2, {"input": {"w": both(0.5)}}, "only when"),
        (2, {"input": {k: both(0.5) for k in ("w", "rms w", "element")}}, "not reproduced"),
        (3, {"weight": {"x": both(0.95)}}, "not reproduced"),
        (4, {"regularised": {"x": both(0.6)}}, "only when"),
        (4, {"regularised": {k: both(0.0) for k in ("x", "w", "xw", "half")}}, "not reproduced"),
        (5, {"norms": {"w": both(0.1)}}, "only when"),
        (6, {"joint": {"xw": both(0.9)}}, "not reproduced"),
        (7, {"ibp": {"xw": [0.1, 0.8]}}, "not reproduced"),
    ):  # fmt: skip
        assert verdicts(**changes)[k] == verdict, (k, changes)


def bound_runs(**changes):
    """Five runs at six radii: attacks and the relaxation agree, products certify nothing where both move."""
    attacked = (0.97, 0.95, 0.9, 0.6, 0.1, 0.0)
    row = lambda k: {
        "clean": 0.97, "attacked": attacked[k], "predicted": attacked[k] + 0.01, "crossed": 0, "ibp": attacked[k] / 2, "crown": attacked[k],
        "vector": 0.6 if k == 1 else 0.0, "recursion": 0.5 if k == 1 else 0.0, "closed": 0.5 if k == 1 else 0.0,
        **{f"gap {n}": 2.0 for n in bounds.BOUNDS}, "ratio": 1.0, "shares": {"x": 0.4, "0.weight": 0.6} if k else {"x": 1.0},
    }  # fmt: skip
    return [[row(k) | changes.get(f"at{k}", {}) for k in range(6)] for _ in range(5)]


def test_verdicts_of_the_bounds_follow_the_numbers():
    stars = {"broken": 150, "passed": 0, "networks": 300, "ratio": [1.0, 1.2, 2.0]}

    def verdicts(stars=stars, **changes):
        runs = bound_runs(**changes)
        return [c.verdict for c in bounds.claims(lambda k, n: nets_middle(runs, k, n), runs, stars)]

    assert verdicts() == ["only when", "ours", "ours", "not reproduced"]
    assert verdicts({**stars, "broken": 0})[3] == "reproduced"
    assert verdicts(at2={"vector": 0.8})[0] == "reproduced"
    assert verdicts(at1={"vector": 0.0, "recursion": 0.0, "closed": 0.0})[0] == "not reproduced"
    assert verdicts(at2={"crown": 0.8})[1] == "not reproduced"
    assert verdicts(at4={"predicted": 0.3})[2] == "only when"


def nets_middle(runs, k, name):
    return bounds.median_of([run[k][name] for run in runs])


def reading_run(**changes):
    ball = lambda size: {
        "certified": 0.2,
        "attacked": 0.3,
        "shared": 0.3 if size == 0.02 else 0.8,
        "corners": 0.96,
        "worst corner": 0.95,
    }
    bits = lambda b: {
        "agreement": 0.99,
        "certified": 0.8 if b == 8 else 0.0,
        "attacked": 0.85,
        "shared": 0.9,
        "radius": 0.01,
    }
    found = {
        "clean": 0.97, "balls": [ball(s) for s in readings.SIZES], "rounding": [bits(b) for b in readings.BITS],
        "faults": {"worst": [0.9 - 0.07 * k for k in range(12)], "random": [[0.97, 0.96], [0.96, 0.9], [0.9, 0.8]],
                   "rounding": dict.fromkeys(readings.FORMATS, 0.97), "agreement": dict.fromkeys(readings.FORMATS, 1.0)},
    }  # fmt: skip
    return found | changes


def test_verdicts_of_the_readings_follow_the_numbers():
    verdicts = lambda **changes: [c.verdict for c in readings.claims([reading_run(**changes)] * 5)]
    assert verdicts() == ["ours"] * 3 + ["reproduced"]
    balls = [{**b, "shared": 0.3, "corners": 0.8} for b in reading_run()["balls"]]
    assert verdicts(balls=balls)[:2] == ["not reproduced"] * 2
    assert verdicts(rounding=[{**r, "certified": 0.95} for r in reading_run()["rounding"]])[2] == "not reproduced"
    assert verdicts(faults={**reading_run()["faults"], "worst": [0.9] * 12})[3] == "not reproduced"


def test_the_verdict_on_scale_follows_the_numbers():
    answers = lambda absolute, other: {
        f"{c:g}": {"moved": 1e-5, "absolute": [0.0, absolute if c > 1 else 0.6], "rms": [0.0, other if c > 1 else 0.5], "element": [0.0, 0.5]} for c in scale.FACTORS
    }  # fmt: skip
    assert scale.claim([answers(0.1, 0.5)] * 5).verdict == "ours"
    assert (
        scale.claim([answers(0.6, 0.5)] * 5).verdict == scale.claim([answers(0.1, 0.1)] * 5).verdict == "not reproduced"
    )


def test_tables_and_plots_are_complete():
    found = {f"digits-{recipe}-{run}": run_of(recipe) for recipe in nets.RECIPES for run in range(5)}
    found |= {f"radii-{k}": run for k, run in enumerate(bound_runs())} | {
        f"readings-{k}": reading_run() for k in range(5)
    }
    found |= {"starred": {"broken": 150, "passed": 0, "networks": 300, "ratio": [1.0, 1.2, 2.0]}}
    one = {"moved": 0.0, "absolute": [0.0, 0.5], "rms": [0.0, 0.5], "element": [0.0, 0.5]}
    found |= {f"scaled-{k}": {f"{c:g}": one for c in scale.FACTORS} for k in range(5)}
    for module in (trainings, bounds, readings, scale):
        part = module.part(found)
        titles = {p.title for p in part.plots} | {t.title for t in part.tables}
        assert part.claims and all(c.figure in titles for c in part.claims)
        assert all(t.rows for t in part.tables)
        assert all(isfinite(v) for p in part.plots for c in p.curves for v in c.y if v is not None)


def test_calls_have_keys_of_their_own_and_full_adds_mnist():
    keys = [key for module in (trainings, bounds, readings, scale) for key in module.calls(False, 0)]
    assert len(keys) == len(set(keys)) and not any(k.startswith("mnist") for k in keys)
    assert any(k.startswith("mnist") for k in trainings.calls(True, 0))


def test_balls_of_the_questions_are_those_that_are_told():
    asked = nets.questions(nets.TASKS["digits"])
    assert isinstance(asked["x"]["x"], Ball) and asked["xw"]["*.weight"].radius == nets.TASKS["digits"].weight
    assert all(
        b.shared == name.startswith("shared") for name, r in asked.items() for leaf, b in r.items() if leaf != "x"
    )
    assert asked["rms"]["*.weight"].relative == "rms" and asked["element"]["*.weight"].relative == "element"
