"""The study of random noise: reductions are exact, its bound is the library's, and every verdict follows its numbers."""

from dataclasses import replace
from math import inf, sqrt

import pytest
import torch
from torch import nn

import brittle as bt
from brittle import study_report
from brittle.errors import InputError
from brittle.noise.cell import cell
from brittle.studies import _noise_ranking as ranking
from brittle.studies import _noise_real as real
from brittle.studies import _noise_scaling as scaling
from brittle.studies import _noise_statement as statement
from brittle.studies import _noise_tightness as tightness
from brittle.studies._cells import Cells
from brittle.studies._noise_levels import crossing, nearest_failure, steepness, tolerated
from brittle.studies._noise_nets import (
    Network,
    descend,
    digit_network,
    initial_weights,
    rectifier,
    reduced,
    square_root,
)
from brittle.studies._noise_walls import distances, own_sigma, paper_bound, paper_radius, sharp_bound
from brittle.studies._study import Study
from brittle.studies.noise import noise

BETA = 3.0902323061678132


def half_space(distance: float = 1.2, dimension: int = 5) -> Network:
    """Two logits whose only boundary near by is at ``distance``; rectifiers that never shut."""
    direction = torch.zeros(2, dimension, dtype=torch.float64)
    direction[0, 0] = 2.0
    identity = nn.Linear(2, 2, bias=False).double()
    identity.weight.data = torch.eye(2, dtype=torch.float64)
    start = torch.tensor([[100 + 2 * distance, 100.0]], dtype=torch.float64)
    return Network(dimension, direction, nn.Sequential(nn.ReLU(), identity), start, torch.tensor([0]), start, 1.0)


# ---- closed forms --------------------------------------------------------------------------------------------------


def test_tolerated_noise_of_a_half_space():
    network = half_space()
    around = nearest_failure(network, 0)
    assert float(around) == pytest.approx(1.2, rel=1e-3)
    for target, beta in ((1e-3, BETA), (1e-6, 4.753424)):
        sigma, confirmed = tolerated(network, around, target, 0)
        assert float(sigma) == pytest.approx(1.2 / beta, rel=0.04) and bool(confirmed), target


def test_a_crossing_is_found_by_every_example_at_once():
    wanted = torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = crossing(lambda s: s <= wanted, torch.full_like(wanted, 0.1), torch.full_like(wanted, 1.0), 16)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)


def test_steepness_is_the_derivative():
    log_p = lambda sigma: float(torch.special.log_ndtr(torch.tensor(-BETA / sigma, dtype=torch.float64)))
    assert steepness(1e-3) == pytest.approx((log_p(1.001) - log_p(0.999)) / 0.002, rel=1e-4)


def test_the_paper_s_radius_solves_the_paper_s_bound():
    for target in (1.0, 1e-3):
        r = paper_radius(0.2, 784, 256, target)
        assert paper_bound(0.2, r, 784, 256) == pytest.approx(target)
    a = torch.tensor(0.2, dtype=torch.float64)
    assert float(sharp_bound(a, 1.0, 784, 256)) < paper_bound(0.2, 1.0, 784, 256)
    assert float(sharp_bound(a, 0.19, 784, 256)) == 0, "noise shorter than the nearest wall"


# ---- the reductions ------------------------------------------------------------------------------------------------


def test_the_square_root_keeps_all_products():
    w = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    root = square_root(w)
    assert root.shape == (3, 3) and torch.allclose(root @ root.T, w @ w.T)
    assert square_root(w.T.contiguous()).shape == (7, 3)


def test_training_in_more_dimensions_is_training_in_the_span_of_the_data(monkeypatch):
    """The same steps written out in 256 dimensions, in float64."""
    from brittle.studies import _noise_nets as nets

    x = torch.rand(40, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 10
    monkeypatch.setattr(nets, "pictures", lambda source: (nets.Pictures(x, labels), nets.Pictures(x, labels)))
    monkeypatch.setattr(nets, "EPOCHS", {"digits": 3})
    network = digit_network(256, (12,), True, 5, 8)
    whole = rectifier([w.double() for w in initial_weights((256, 12, 10), 5)]).double()
    spread = x.double().repeat_interleave(4, 1) / 2
    descend(whole, spread, labels, 5, 3)
    with torch.no_grad():
        logits = whole(spread)
    right = (logits.argmax(1) == labels).nonzero()[:8, 0]
    assert torch.allclose(network.logits, logits[right], atol=1e-4)
    assert torch.allclose(network.factor @ network.factor.T, whole[0].weight @ whole[0].weight.T, atol=1e-4)


def small() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    module = rectifier(initial_weights((30, 6, 8, 3), 2)).double()
    x = torch.randn(5, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return module, x, module(x).argmax(1).detach()


def test_noise_and_distances_of_the_reduction_are_those_of_the_network():
    module, x, labels = small()
    network = reduced(30, module[0].weight.detach(), module, x, labels, 5)
    assert network.factor.shape == (6, 6) and network.units == 14
    problem = bt.Problem(module, x, labels, bt.Ball(p=2, radius=1.0))
    u = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weight = module[0].weight.detach()
    change = (
        u @ (torch.linalg.pinv(weight) @ network.factor).T
    )  # the shortest change of x that moves the sums as u does
    assert torch.allclose(change.norm(dim=1), u.norm(dim=1))
    point = {"x.u": u}
    assert torch.allclose(network.problem().logits(point), module(x + change))
    plain = {"draws": 20_000, "estimators": ["monte_carlo"], "ends": "lower", "level": 0.9999}
    direct = bt.probability(problem, bt.Gaussian(1.0), **plain)
    small_ = bt.probability(network.problem(1.0), {"x.u": bt.Gaussian(1.0)}, **plain)
    assert bool((direct.interval[:, 0] <= small_.interval[:, 1]).all()), "exact intervals of one probability meet"
    assert bool((small_.interval[:, 0] <= direct.interval[:, 1]).all()) and float(direct.estimate.max()) > 0.03
    assert torch.allclose(network.problem().margin(), network.margins)


def test_the_walls_are_those_of_the_library():
    module, x, labels = small()
    network = reduced(30, module[0].weight.detach(), module, x, labels, 5)
    found, problem = distances(network), bt.Problem(module, x, labels)
    for sigma in (0.003, 0.03):
        own = cell(problem, {"x": bt.Gaussian(sigma)}).upper
        union = torch.special.ndtr(-found.all / sigma).sum(1).clamp(max=1)
        assert own.tolist() == pytest.approx(union.tolist(), rel=1e-5, abs=1e-20)
        nearest = cell(problem, {"x": bt.Gaussian(sigma)}, distances="nearest").upper
        closed = ((network.units + 2) * torch.special.ndtr(-found.nearest / sigma)).clamp(max=1)
        assert nearest.tolist() == pytest.approx(closed.tolist(), rel=1e-5, abs=1e-20)
    certified = own_sigma(found, 1e-3)
    assert torch.special.ndtr(-found.all / certified[:, None]).sum(1).tolist() == pytest.approx([1e-3] * 5, rel=1e-6)


def test_draws_of_the_reduction_are_on_the_sphere():
    """A half-space at distance a: the share beyond it is the cap of the sphere in n dimensions, not in the reduced ones."""
    from brittle.tails import log_sphere

    network = half_space(0.5, 2)
    for n in (2, 10, 3000):
        _, changes = statement._shares(replace(network, dimension=n), torch.tensor([0.5 * sqrt(n)]), 0, 40_000)
        exact = float(log_sphere(torch.tensor(1 / sqrt(n), dtype=torch.float64), n).exp())
        assert float(changes) == pytest.approx(exact, abs=0.01), n


# ---- verdicts follow numbers ---------------------------------------------------------------------------------------


def challenge(leaves: float, bound: float = 0.05) -> dict:
    return {"step": [0.97], "bound": [bound], "sharp": [bound / 2], "leaves": [leaves], "changes": [0.0]}


def test_a_broken_bound_is_counted():
    held, broken = {"statement-n64-0": challenge(0.02)}, {"statement-n64-0": challenge(0.06)}
    assert statement.claim(held).verdict == "reproduced" and "0 violations in 1 cases" in statement.claim(held).evidence
    assert statement.claim(broken).verdict == "not reproduced"
    assert statement.claim({"statement-n64-0": challenge(0.0255)}).verdict == "reproduced", (
        "within chance of the sharp form"
    )


def sketch(
    seeds: int = 3, walls: float = 0.0, random_walls: float = -0.5, units: float = -1.0, layers: float = 1.0
) -> dict:
    """Cells of all sweeps by powers: how the nearest wall grows with n (trained, random), with units, and its factor per layer."""

    def made(n: int, hidden: int, a: float, k: int) -> dict:
        jitter = 1 + 0.01 * (k - 1)
        tolerated_ = [0.32 * sqrt(n) * 0.5 * jitter] * 3
        return {
            "units": hidden, "accuracy": 0.96, "nearest": [a * jitter] * 3, "own": [a] * 3, "attacked": [0.5] * 3,
            "tolerated": tolerated_, "checked": [True] * 3,
        }  # fmt: skip

    cells = {}
    for k in range(seeds):
        for n in scaling.DIMENSIONS:
            cells[f"trained-n{n}-{k}"] = made(n, 128, 0.004 * (n / 64) ** walls, k)
            cells[f"random-n{n}-{k}"] = made(n, 128, 0.004 * (n / 64) ** random_walls, k)
        for w in scaling.WIDTHS:
            cells[f"width{w}-{k}"] = made(64, 2 * w, 0.004 * (w / 16) ** units, k)
        for widths in scaling.ARRANGEMENTS:
            cells[f"layers{len(widths)}-{k}"] = made(64, 192, 0.004 * layers ** (len(widths) - 1), k)
    return cells


def verdicts(**options: float) -> list[str]:
    return [claim.verdict for claim in scaling.claims(sketch(**options))]


def test_scaling_verdicts_flip_with_the_numbers():
    usual = ["only when", "only when", "only when", "reproduced", "reproduced"]
    assert verdicts() == usual
    assert verdicts(random_walls=0.0)[1] == "reproduced" and verdicts(walls=-0.6)[1] == "not reproduced"
    assert verdicts(units=0.0)[2] == "reproduced"
    assert verdicts(layers=1.5)[3] == "only when"
    assert "come nearer like n^-0.50" in scaling.claims(sketch())[1].evidence
    assert "comes nearer like N^-1.00" in scaling.claims(sketch())[2].evidence


def test_the_square_root_is_checked():
    cells = sketch()
    for key, value in cells.items():
        if key.startswith("trained"):
            n = int(key.split("-")[1][1:])
            value["tolerated"] = [v * n**0.1 for v in value["tolerated"]]
    assert scaling.claims(cells)[4].verdict == "not reproduced"


def test_exponents_are_read_off_the_cells():
    sweep = scaling.sweeps(sketch(walls=0.25))["trained"]
    assert sweep.exponent("nearest")[0] == pytest.approx(0.25) and sweep.exponent("says")[0] == pytest.approx(0.75)
    assert sweep.exponent("ratio")[0] == pytest.approx(0.5)
    table = scaling.table(sketch())
    assert len(table.rows) == 2 * 6 + 5 + 5 and table.rows[0][4] == pytest.approx(0.004, rel=0.01)


def ranks(cell_: float, margin: float) -> dict:
    return {
        "cell": (cell_, cell_ - 0.1, cell_ + 0.1), "own": (cell_, cell_ - 0.1, cell_ + 0.1),
        "margin": (margin, margin - 0.05, margin + 0.05), "face": (0.97, 0.95, 0.99),
    }  # fmt: skip


def test_ranking_verdicts_flip_with_the_numbers():
    assert ranking.claim(ranks(0.12, 0.92)).verdict == "not reproduced"
    assert ranking.claim(ranks(0.6, 0.92)).verdict == "only when"
    assert ranking.claim(ranks(0.9, 0.92)).verdict == "reproduced"


def test_rank_correlations_against_scipy():
    from scipy.stats import spearmanr

    source = torch.Generator().manual_seed(0)
    a, b = torch.randint(9, (50,), generator=source).double(), torch.randn(50, generator=source).double()
    assert float(ranking.spearman(a, b)) == pytest.approx(spearmanr(a.numpy(), b.numpy()).statistic)
    cells = [{"cell": b.tolist(), "attacked": [*b[:-1].tolist(), inf]}]
    assert ranking.correlation(cells, "cell", 0)[:2] == (pytest.approx(1.0), pytest.approx(1.0))


def test_tightness_names_the_best_bound():
    names = tightness.available()
    cells = {f"tightness-embedded-{m}": {"0.001": [0.1, None, 0.2], "1e-06": [0.2, 0.1, 0.3]} for m in names}
    cells["tightness-embedded-probabilistic_crown"] = {"0.001": [0.6, 0.7], "1e-06": [0.7, 0.8]}
    paper, ours = tightness.claims(cells)
    assert paper.verdict == "not reproduced" and "D: probabilistic CROWN proves 65 %" in ours.evidence
    table = tightness.table(cells)
    assert table.rows[0] == ("A1: the paper's closed form", "0.15 / 0.2") and len(table.rows) == len(names)
    assert tightness.shares(cells, "nearest", 1e-3) == [0.1, 0.2]


def test_the_share_of_a_half_space_is_one():
    linear = nn.Linear(4, 1).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0, 0, 0]])), linear.bias.zero_()
    problem = bt.Problem(linear, torch.tensor([[1.2, 0, 0, 0]], dtype=torch.float64), torch.tensor([1]))
    assert tightness._share("probabilistic_crown", problem, 1.2 / BETA, 1e-3, 0) == pytest.approx(1.0, rel=0.03)


# ---- whole ---------------------------------------------------------------------------------------------------------


def test_tiny_cells_of_every_experiment(tmp_path):
    one = scaling.measured(64, (8,), True, 0, 2)
    assert one["units"] == 8 and all(
        t / a == pytest.approx(8 / BETA, rel=0.25) for t, a in zip(one["tolerated"], one["attacked"], strict=True)
    )
    both = statement.challenged(1024, (8,), False, 0, 2)
    assert (
        len(both["bound"]) == 10
        and statement.violations([dict(zip(both, v, strict=True)) for v in zip(*both.values(), strict=True)]) == 0
    )
    curve = statement.drawn_out(0, (0.05, 1.0))
    assert (
        len(curve["paper"]) == 2 and curve["own"][0] <= curve["paper"][0] and curve["leaves"][0] <= curve["leaves"][1]
    )
    scores = ranking.ranked((16,), 0, 20)
    assert (
        len(scores["attacked"]) == 20
        and float(ranking.spearman(torch.tensor(scores["margin"]), torch.tensor(scores["attacked"]))) > 0.3
    )


def test_the_study_joins_its_cells_into_a_page(tmp_path, monkeypatch):
    """The cells are stood in for; what is tested is that every claim, table and plot comes out of what they return."""
    made = sketch(5)
    for key in statement.calls(0, 3, 8):
        made[key] = challenge(0.02)
    points = len(statement.CURVE)
    made["statement-curve-0"] = {
        "nearest": [0.01],
        **{k: [0.1] * points for k in ("paper", "own", "leaves", "changes")},
    }
    numbers = [float(v) for v in range(1, 12)]
    for key in ranking.calls(0, 5, 150):
        made[key] = {"accuracy": 0.97, "attacked": numbers, **{s: numbers for s in ranking.SCORES}}
    for key in tightness.truths(0, 6, False):
        made[key] = {"0.001": [0.1], "1e-06": [0.05]}

    def each(self, calls, what="cells"):
        return {k: made.get(k, {"0.001": [0.3], "1e-06": [0.4]}) for k in calls}

    monkeypatch.setattr(Cells, "each", each)
    study = noise(Cells(tmp_path), seed=0)
    assert isinstance(study, Study) and len(study.claims) == 9 and len(study.plots) == 6 and len(study.tables) == 4
    page = study_report.render({"name": "noise", **study.facts()})
    assert "points at inputs" in page and "nan" not in page.lower().replace("resonan", "")


def test_the_full_study_says_how_to_get_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("BRITTLE_ASSETS", str(tmp_path))
    with pytest.raises(InputError, match="fetch_assets"):
        real.picture(0, 0)
    with pytest.raises(InputError, match="fetch_assets"):
        ranking.ranked((8,), 0, 2, "mnist")


def test_the_first_layer_s_wall_against_gradients():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(48, 2),
    ).double()
    network[1].running_var.uniform_(0.5, 2)
    network[1].weight.data.uniform_(-2, 2)
    x = torch.rand(1, 2, 8, 8, dtype=torch.float64).requires_grad_()
    scaled = nn.Sequential(nn.Module(), network).eval()
    scaled[0].forward = lambda v: 5 * v - 1  # preprocessing
    sums = network[1](network[0](5 * x - 1)).flatten()
    lengths = [float(torch.autograd.grad(s, x, retain_graph=True)[0].norm()) for s in sums]
    by_hand = min(min(abs(s), abs(s - 6)) / g for s, g in zip(sums.tolist(), lengths, strict=True))
    assert real.nearest_wall(scaled, x.detach()) == pytest.approx(by_hand, rel=1e-9)
    assert real.count_units(scaled, x.detach()) == 48


def test_real_claims_follow_their_numbers():
    cells = {}
    for k in range(3):
        for n in real.SIDES:
            cells[f"mnist-n{n}-{k}"] = {
                "units": 256, "accuracy": 0.97, "nearest": [0.003], "own": [0.01], "attacked": [1.0 + 0.01 * k],
                "tolerated": [0.32 * sqrt(n)], "checked": [True],
            }  # fmt: skip
        numbers = [float(v) for v in range(1, 12)]
        cells[f"mnistranking-{k}"] = {
            "attacked": numbers,
            **{s: numbers if s != "cell" else numbers[::-1] for s in ranking.SCORES},
        }
    cells["efficientnet-0"] = {
        "example": 1,
        "units": 6_000_000,
        "wall": 1e-7,
        "says": 1e-5,
        "attacked": 1.0,
        "tolerated": 120.0,
        "p": 1e-3,
        "n": 150528,
    }
    assert [c.verdict for c in real.claims(cells)] == ["reproduced", "not reproduced", "not reproduced", "reproduced"]
    cells["efficientnet-0"]["tolerated"] = 20.0
    assert real.claims(cells)[3].verdict == "not reproduced"
    assert len(real.tables(cells)) == 2
