"""The study of feature compression: every cell against a closed form, every verdict against numbers that should turn it."""

from math import inf, sqrt
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import brittle.studies._compression_codebooks as codebooks
import brittle.studies._compression_cures as cures
import brittle.studies._compression_imagenet as imagenet
import brittle.studies._compression_networks as networks
import brittle.studies._compression_paths as paths
import brittle.studies._compression_points as points
import brittle.studies._compression_probes as probes
import brittle.studies._compression_relu as relu
import brittle.studies._compression_training_time as training_time
from brittle.errors import InputError
from brittle.randomness import fold
from brittle.sources.embedded import embedded
from brittle.studies._codebooks import codebook, exponential_points, random_labels
from brittle.studies._compression_geometry import linear_radii
from brittle.studies._medians import Middle, mean_of, median_of
from brittle.studies._study import Study
from brittle.studies.compression import compression

sure = lambda value: Middle(value, value, value, 0.95, 20)


# ---- cells against closed forms ----------------------------------------------------------------------------------------


def test_the_interval_of_the_median_covers_as_often_as_it_says():
    values = torch.rand(4000, 11, generator=torch.Generator().manual_seed(0)).double()
    found = [median_of(row) for row in values.tolist()]
    covered = sum(m.low <= 0.5 <= m.high for m in found) / len(found)
    assert found[0].level >= 0.95 and abs(covered - found[0].level) < 0.01
    assert median_of([]).runs == 0 and mean_of([2.0]).level == 0


def test_linear_radii_end_exactly_where_the_answer_changes():
    random = torch.Generator().manual_seed(0)
    weights, x = (torch.randn(5, 4, generator=random, dtype=torch.float64) for _ in range(2))
    labels = (x @ weights.T).argmax(1)
    radii = linear_radii(weights, x, labels)
    rivals = torch.stack([torch.where(torch.arange(5) != y, (weights[y] - weights) @ v / (weights[y] - weights).norm(dim=1), inf).argmin() for v, y in zip(x, labels)])  # fmt: skip
    way = weights[rivals] - weights[labels]
    step = way / way.norm(dim=1, keepdim=True) * radii[:, None]
    assert ((x + step * (1 - 1e-9)) @ weights.T).argmax(1).equal(labels)
    assert not ((x + step * (1 + 1e-9)) @ weights.T).argmax(1).eq(labels).any()
    assert linear_radii(weights, x, (labels + 1) % 5).max() == 0


def test_codebook_cells_hold_the_exact_radii():
    book = codebook(9, seed=3)
    found = codebooks.oracles(book)
    pair = 1 / (book.weights[-1] - book.weights[-2]).norm()
    assert abs(found["pair"] - pair) < 1e-9 and found["radius"] <= found["pair"] <= found["bound"]
    assert found["ratio"] == found["radius"] / found["half"]
    assert abs(found["radius"] - linear_radii(book.weights, book.x, book.labels)[-1]) < 1e-9
    assert 2 * found["pair"] <= found["plane"] <= (book.x[-1] - book.x[-2]).norm()
    assert codebooks.codebooks(9, 9, 1, 2, 2, 0)["pair"] == codebooks.codebooks(9, 9, 1, 0, 4, 0)["pair"][2:]


def test_gradient_descent_in_closed_form_is_gradient_descent():
    book = codebook(8, seed=1)
    weights, step = torch.zeros(8, 8, dtype=torch.float64), 1 / torch.linalg.matrix_norm(book.x, 2) ** 2
    for _ in range(7):
        weights = weights - step * (book.x @ weights.T - torch.eye(8)).T @ book.x
    assert (training_time.descended(book.x, 7) - weights).abs().max() < 1e-12
    assert (training_time.descended(book.x, 10**12) - book.weights).abs().max() < 1e-6


def test_compression_is_built_during_training():
    """Acceptance: radius / optimum falls with steps at d >= 50 and begins above 0.9."""
    runs = [training_time.training_time(50, run, 0) for run in range(4)]
    falls = [median_of([r["squared"][k] for r in runs]).value for k in range(len(training_time.STEPS))]
    assert falls == sorted(falls, reverse=True) and falls[0] > 0.9 and falls[4] < 0.2
    assert 0.65 < median_of([r["cross-entropy"] for r in runs]).value < 0.9


def test_directions_with_known_cosines():
    made = exponential_points(7, 2, seed=5)
    exact = probes.cosines(made.matrix, made.probe)
    assert abs(exact["cosine_2"] - 1) < 1e-12 and abs(exact["cosine_1"] - exact["phi"]) < 1e-12
    assert abs(exact["phi"] - made.compression) < 1e-12
    centroid = probes.cosines(made.matrix, made.matrix[:, -1])
    assert abs(centroid["cosine_1"] - 1) < 1e-12 and abs(centroid["cosine_2"] - exact["phi"]) < 1e-12
    assert probes.accuracy(made.matrix, made.probe) == 1 and probes.accuracy(made.matrix, -made.probe) == 0


def test_a_linear_network_finds_the_probe():
    found = probes.probe(4, 0, "squared", 50, 400, 0)
    assert found["accuracy"] == 1 and found["cosine_2"] > 0.99 and abs(found["cosine_1"] - found["phi"]) < 0.05
    other = probes.probe(4, 0, "logistic", 50, 400, 0)
    assert other["phi"] == found["phi"] and other["accuracy"] == 1


@pytest.mark.slow
def test_linear_networks_at_d_12_see_what_the_theory_says_with_the_squared_loss_only():
    """Acceptance: cos theta_2 > .98 and |cos theta_1 - phi| < .05 in the mean; logistic cos theta_1 > 1.5 phi."""
    runs = {loss: [probes.probe(12, k, loss, 1000, 800, 0) for k in range(14)] for loss in ("squared", "logistic")}
    right = {loss: [r for r in rows if r["accuracy"] == 1] for loss, rows in runs.items()}
    mean = lambda loss, name: mean_of([r[name] for r in right[loss]]).value
    assert len(right["squared"]) >= 10
    assert mean("squared", "cosine_2") > 0.98 and abs(mean("squared", "cosine_1") - mean("squared", "phi")) < 0.05
    assert mean("logistic", "cosine_1") > 1.5 * mean("logistic", "phi")


def test_point_cells_obey_their_laws():
    law = points.compressions(12, 400, 0)
    assert abs(mean_of(law["radius"]).value - sqrt(2 / torch.pi)) < 0.06 and points.beta_distance(law["phi"], 12) > 1e-3
    flat = points.compressions(2, 1000, 0)["phi"]  # phi^2 ~ Beta(1/2, 1/2), far from its neighbours
    assert points.beta_distance(flat, 2) > 1e-3 > points.beta_distance(flat, 3)
    for best, margin, probe, length in points.separations(6, 5, 0):
        assert probe <= margin * (1 + 1e-9) <= best * (1 + 1e-8) and best <= length
    labels = points.random_margins(40, 20, 100, 0)
    assert abs(mean_of([20 * m * m for m in labels["margin"]]).value / 21 - 1) < 0.1
    assert points.linear_margins(6, 1, 0) == [exponential_points(6, 2, seed=points.fold(0, "margin", 0)).linear_margin]


def test_the_largest_linear_margin_is_the_largest():
    sets = [random_labels(2, 2, seed=k) for k in range(5)]
    angles = torch.linspace(0, 2 * torch.pi, 100_001, dtype=torch.float64)
    directions = torch.stack([angles.cos(), angles.sin()])
    for made in sets:
        signed = made.x * (2 * made.labels[:, None] - 1)
        dense = float((signed @ directions).min(0).values.max())
        assert 0 <= points.largest_margin(signed) - dense < 1e-4
    made = random_labels(12, 6, seed=fold(0, "labels", 0))
    signed = made.x * torch.where(made.labels == 1, 1.0, -1.0)[:, None]
    assert points.best_margins(12, 6, 1, 0) == [points.largest_margin(signed) / float(made.half_distance.mean())]
    assert all(b >= m for b, m in zip(points.best_margins(12, 12, 3, 0), points.random_margins(12, 12, 3, 0)["ratio"]))


def test_relu_cells_measure_trained_networks(monkeypatch):
    found = relu.relu_network("codebook", 5, "cross-entropy", 0.0, 0, 32, 60, 0)
    assert found["accuracy"] == 1 and 0.3 < found["ratio"] <= 1 + 1e-6
    noisy = relu.relu_network("labels", 5, "cross-entropy", 0.5, 0, 16, 3, 0)
    assert 0 <= noisy["ratio"] < 1.2 and noisy["optimum"] > 0
    monkeypatch.setattr(relu, "optimum", lambda x, labels: SimpleNamespace(mean=2 * found["optimum"]))
    assert relu.relu_network("codebook", 5, "cross-entropy", 0.0, 0, 32, 60, 0)["ratio"] == found["ratio"] / 2


def test_path_identities_hold():
    assert paths.linear_identity(7, 50, 0) < 1e-9
    found = paths.path_identity("mlp", 5, 200)
    assert max(found["error"]) < 1e-3 and found["margin"][1][0] > 0.9 > found["margin"][1][100]


def test_along_a_linear_network_everything_is_constant():
    linear = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]]))
    x, other = torch.tensor([[2.0, 0.0, 0.0]]).double(), torch.tensor([[0.0, 0.0, 0.0]]).double()
    found = paths.along(linear, x, other, torch.tensor([0]), torch.tensor([1]), 4)
    assert torch.allclose(found.cosine, torch.tensor(0.6).double()) and torch.allclose(
        found.steepness, torch.tensor(5.0).double()
    )
    assert torch.allclose(found.slope, torch.tensor(6.0).double()) and found.margin[:, 0].tolist() == [
        5.25,
        3.75,
        2.25,
        0.75,
    ]


def test_networks_are_measured_on_what_they_get_right():
    x, labels = paths.held_out_digits()
    found = networks.measure(embedded("mlp"), x[80:120], labels[80:120], 0)
    assert found["accuracy"] == 0.9 and found["examples"] == 36 == len(found["attacked radii"])
    assert found["radius"] == pytest.approx(sum(found["attacked radii"]) / 36) and min(found["attacked radii"]) > 0
    assert 0.2 < found["measured"] < 0.7 and 0.9 < found["predicted"] / found["measured"] < 1.05
    assert networks.spearman(found["predicted radii"], found["attacked radii"]) > 0.9
    assert found["optimum"] >= found["half"] and found["dimension"] == 64


def test_the_theory_column_is_exact_for_a_linear_network(monkeypatch):
    """For two classes: theory x L/2 = (r(x) + r(x')) / 2, and the attack towards the other class finds r(x)."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        linear[1].weight.copy_(torch.tensor([[1.0, 1.0, 0.5, 0.5], [0.4, 0.4, 0.4, 0.4]]))
        linear[1].bias.copy_(torch.tensor([-0.6, 0.0]))
    images = {0: torch.full((1, 1, 2, 2), 0.7), 1: torch.tensor([[[[0.2, 0.3], [0.1, 0.2]]]])}
    monkeypatch.setattr(imagenet, "efficientnet", lambda: linear)
    monkeypatch.setattr(imagenet, "images", lambda: images)
    found = imagenet.image_pair(0, 1, 4, "quick", 0)
    w = (linear[1].weight[0] - linear[1].weight[1]).detach()
    g = lambda v: float((v.flatten() @ w - 0.6) / w.norm())
    assert abs(found["theory"] * found["length"] / 2 - (g(images[0]) - g(images[1]))) < 1e-5
    assert (
        abs(found["targeted"] * found["length"] / 2 - g(images[0])) < 1e-4 and found["untargeted"] == found["targeted"]
    )
    assert abs(found["predicted"] * found["length"] / 2 - g(images[0])) < 1e-5


# ---- verdicts turn with the numbers ------------------------------------------------------------------------------------


class Canned:
    """Cells that compute nothing: every function has one made-up result."""

    def each(self, calls, what=""):
        return {key: canned(function.__name__, arguments) for key, (function, *arguments) in calls.items()}


def canned(name: str, arguments: list):
    network = {
        "accuracy": 0.9, "dimension": 64, "examples": 3, "optimum": 1.0, "half": 0.9, "radius": 0.4, "measured": 0.4, "predicted": 0.39,
        "attacked radii": [0.3, 0.4, 0.5], "predicted radii": [0.29, 0.4, 0.48], **dict.fromkeys(networks.MEASURES, 0.5),
    }  # fmt: skip
    way = {"error": [1e-4], "mean cosine": [0.5], "cosine": [[0.4] * 200] * 3, "margin": [[0.1] * 200] * 3}
    pair = {
        "length": 100.0,
        "theory": 0.01,
        "targeted": 0.01,
        "untargeted": 0.001,
        "predicted": 0.01,
        "dimension": 150528,
        "cosine": [0.1],
        "margin": [1.0],
    }
    return {
        "codebooks": dict.fromkeys(codebooks.NAMES, [0.5, 0.6]),
        "products": [0.1, 0.2],
        "compressions": {"phi": [0.2, 0.3], "radius": [0.7, 0.9]},
        "separations": [[3.0, 1.0, 0.5, 4.0]] * 2,
        "linear_margins": [1.0, 1.2],
        "random_margins": {"margin": [0.5, 0.6], "ratio": [0.1, 0.2]},
        "best_margins": [0.2, 0.3],
        "probe": {"phi": 0.2, "cosine_1": 0.21, "cosine_2": 0.99, "accuracy": 1.0},
        "training_time": {"squared": [0.9, 0.8, 0.5, 0.3, 0.1, 0.05, 0.04], "cross-entropy": 0.7},
        "relu_network": {"ratio": 0.8, "optimum": 1.0, "accuracy": 1.0},
        "linear_identity": 1e-14,
        "path_identity": way,
        "embedded_network": network,
        "mnist_network": {**network, "dimension": 784},
        "image_pair": pair,
        "cure": {"accuracy": 0.9, "median": 0.5, "forward": 10.0, "backward": 10.0},
    }[name]  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
def test_the_study_puts_its_parts_together(full, monkeypatch):
    from brittle import study_report

    monkeypatch.setattr("brittle.studies._parts.asset", lambda package, name: None)

    study = compression(Canned(), full=full)  # type: ignore[arg-type]
    assert Study.of(study.facts()) == study and len(study.claims) >= 18 + 2 * full
    titles = " ".join(p.title for p in study.plots) + " ".join(t.title for t in study.tables)
    assert {c.figure for c in study.claims} <= {p.title for p in study.plots}, "every claim has its figure"
    assert ("ImageNet" in titles) == full and ("MNIST" in str(study.tables)) == full
    page = study_report.render({"name": "compression", **study.facts()})
    assert page.count('<svg class="plot"') == len(study.plots) and all(
        v in page for v in ("0.1480", "0.1665", "0.9942", "0.3280", "0.3645", "0.0367")
    ), "the published numbers stand beside ours"
    assert not any("reproduced" == c.verdict and "1/√d of the optimum" in c.statement for c in study.claims)


def test_the_full_study_asks_for_its_assets_first(tmp_path, monkeypatch):
    monkeypatch.setenv("BRITTLE_ASSETS", str(tmp_path))
    with pytest.raises(InputError, match="fetch_assets.py mnist"):
        compression(None, full=True)  # type: ignore[arg-type]


def verdicts(claims) -> list[str]:
    return [c.verdict for c in claims]


def test_verdicts_on_codebooks():
    row = lambda d: {
        n: [v] * 9 for n, v in zip(codebooks.NAMES, (sqrt(d) * 0.67, 0.4, 2.0, 0.2, d**-0.6, 0.8, d**-0.5, 1.0))
    }
    said = lambda rows: verdicts(
        codebooks.square_claims(rows, {d: {n: median_of(v) for n, v in r.items()} for d, r in rows.items()})
    )
    rows = {d: row(d) for d in (12, 100, 1000)}
    shares = {d: {**r, "half": [sqrt(d / 2) * (1 - d**-0.4)] * 9} for d, r in rows.items()}
    assert said(shares) == ["reproduced"] * 4
    grows = {d: {**r, "pair": [0.02 * d**0.5] * 9} for d, r in shares.items()}
    assert said(grows)[1] == "not reproduced"
    over = {d: {**r, "bound": [0.3] * 9} for d, r in shares.items()}
    assert said(over)[1] == "not reproduced"
    level = {d: {**r, "ratio": [0.1] * 9} for d, r in shares.items()}
    assert said(level)[2] == "not reproduced"
    assert said({d: {**r, "plane": [0.7] * 9} for d, r in shares.items()})[3] == "not reproduced"
    products = lambda exponent: {t: {d: sure(d ** (exponent * t)) for d in (10, 100)} for t in (1, 2)}
    assert codebooks.product_claim(products(-0.5)).verdict == "reproduced"
    assert codebooks.product_claim(products(-0.3)).verdict == "not reproduced"
    wide = {n: {"diagonal": [sqrt(n - 99)], "ratio": [0.02 + (n - 100) / 400]} for n in codebooks.WIDE}
    assert codebooks.wide_claim(wide).verdict == "ours"
    assert codebooks.wide_claim({n: {**r, "diagonal": [sqrt(n)]} for n, r in wide.items()}).verdict == "not reproduced"


def test_verdicts_on_points():
    from scipy.stats import beta

    quantiles = torch.linspace(0.0025, 0.9975, 200).tolist()
    law = {12: {"phi": [sqrt(beta(0.5, 5.5).ppf(q)) for q in quantiles], "radius": [0.798] * 2}}
    assert points.law_claim(law).verdict == "reproduced"
    assert points.law_claim({12: {**law[12], "phi": [2 * v for v in law[12]["phi"]]}}).verdict == "not reproduced"
    small, large = {6: [[2.0, 1.0, 0.5, 3.0]]}, {50: [1.4], 200: [1.5]}
    assert verdicts(points.gap_claims(law, small, large)) == ["reproduced", "ours"]
    assert verdicts(points.gap_claims(law, {6: [[1.0, 0.9, 0.5, 3.0]]}, large))[0] == "not reproduced"
    assert verdicts(points.gap_claims(law, small, {50: [1.4], 200: [2.8]}))[1] == "not reproduced"
    labels = {(100, m): {"margin": [sqrt((101 - m) / m)] * 2, "ratio": [0.1], "best": [0.2]} for m in (50, 100)}
    assert points.labels_claim(labels).verdict == "ours"
    wrong = {**labels, (100, 50): {**labels[100, 50], "margin": [1.2]}}
    assert points.labels_claim(wrong).verdict == "not reproduced"


def test_verdicts_on_probes():
    run = lambda phi, first, second: [{"phi": phi, "cosine_1": first, "cosine_2": second}] * 3
    said = lambda squared, logistic: verdicts(probes.claims(squared, logistic, {7: squared, 12: squared}))
    good, loose = run(0.2, 0.22, 0.99), run(0.2, 0.45, 0.6)
    assert said(good, loose) == ["reproduced", "reproduced", "only when"]
    assert (
        said(run(0.2, 0.22, 0.9), loose)[0] == "only when" and said(run(0.2, 0.3, 0.99), loose)[:2] == ["only when"] * 2
    )
    assert said(good, good)[2] == "ours"


def test_verdicts_on_training_time_and_loss():
    falling = [0.95, 0.85, 0.5, 0.3, 0.1, 0.05]
    squared = {d: [sure(v) for v in (*falling, d**-0.8 * 0.5)] for d in (50, 100)}
    level, steep = {50: sure(0.75), 100: sure(0.74)}, {50: sure(0.75), 100: sure(0.4)}
    assert verdicts(training_time.claims(squared, level)) == ["ours", "only when"]
    assert verdicts(training_time.claims(squared, steep))[1] == "reproduced"
    dips = {d: [row[0], row[2], row[1], *row[3:]] for d, row in squared.items()}
    assert verdicts(training_time.claims(dips, level))[0] == "only when"
    assert verdicts(training_time.claims({d: row[::-1] for d, row in squared.items()}, level))[0] == "only when"


def test_verdicts_on_trained_networks():
    rows = lambda book, label: {
        n: {d: sure(d ** (book if "codebook" in n else label)) for d in (12, 100)} for n in relu.KINDS
    }
    assert verdicts(relu.claims(rows(-0.1, -0.4))) == ["not reproduced", "ours"]
    assert verdicts(relu.claims(rows(-0.5, -0.1))) == ["reproduced", "not reproduced"]
    row = canned("embedded_network", [])
    assert verdicts(networks.claims({"a": [row]})) == ["reproduced", "only when"]
    off = {**row, "predicted radii": [0.6, 0.8, 1.0]}
    assert verdicts(networks.claims({"a": [row], "b": [off]}))[0] == "only when"
    assert verdicts(networks.claims({"b": [{**off, "measured": 0.125}]})) == ["not reproduced", "reproduced"]


def test_verdicts_on_paths_images_and_cures():
    found = {f"identity-linear-d{d}": 1e-14 for d in (12, 100, 1000)}
    way = canned("path_identity", [])
    both = {"identity-path-mlp": {**way, "mean cosine": [0.4]}, "identity-path-hardened": way}
    assert verdicts(paths.part({**found, **both}).claims) == ["reproduced", "ours"]
    assert verdicts(paths.part({**found, **both, "identity-linear-d12": 1e-3}).claims)[0] == "not reproduced"
    assert (
        verdicts(paths.part({**found, **both, "identity-path-hardened": both["identity-path-mlp"]}).claims)[1]
        == "not reproduced"
    )
    pair = canned("image_pair", [])
    assert verdicts(imagenet.claims({"a": pair})) == ["reproduced", "only when"]
    assert verdicts(imagenet.claims({"a": {**pair, "targeted": 0.2}, "b": pair}))[0] == "only when"
    assert verdicts(imagenet.claims({"a": {**pair, "targeted": 0.2, "untargeted": 0.1}})) == [
        "not reproduced",
        "reproduced",
    ]
    gains = lambda ours, cheap: {"path_ratio": ours, "noise": cheap}
    assert cures.claim(gains(sure(2.0), sure(1.5))).verdict == "ours"
    assert cures.claim(gains(sure(1.4), sure(1.5))).verdict == "only when"
    assert cures.claim(gains(sure(0.9), sure(1.5))).verdict == "not reproduced"
