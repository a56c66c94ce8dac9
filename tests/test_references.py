"""The references: against brute force, closed forms, and libraries that compute the same thing in another way."""

from itertools import combinations
from math import inf, sqrt

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.stats import norm
from sklearn.datasets import load_digits

import brittle as bt
from brittle.discovery import methods
from brittle.references._mixtures import Mixture
from brittle.references.conflict_error import conflict_error
from brittle.references.factor_analysers import factor_analysers
from brittle.references.gaussian import TwoGaussians, gaussian
from brittle.references.half_distance import half_distance
from brittle.references.nearest_neighbour import nearest_neighbour
from brittle.references.r_separation import r_separation
from brittle.sources.digits import digits
from reference.finite_sets import pairs, smallest_cover

NORMS = (1, 2, inf)


def random_set(seed: int, count: int, classes: int, features: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, features)), np.r_[np.arange(classes), rng.integers(0, classes, count - classes)]


def test_every_reference_says_what_it_promises():
    for found in methods("references"):
        assert found.about.cost and found.about.answers and found.about.leaves == ("input",)


# ---- distances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
def test_half_distances_and_separation_are_those_of_all_pairs(p):
    x, labels = random_set(0, 60, 4, features=5)
    i, j, distance = pairs(x, labels, p)
    expected = [distance[(i == k) | (j == k)].min() / 2 for k in range(60)]
    assert half_distance(x, labels, p=p).tolist() == pytest.approx(expected, rel=1e-12)
    assert r_separation(x, labels, p=p) == pytest.approx(distance.min() / 2, rel=1e-12)


@pytest.mark.parametrize("p", NORMS)
def test_the_nearest_neighbour_keeps_its_answer_within_the_certificate(p):
    x, labels = random_set(1, 30, 3, features=2)
    rng = np.random.default_rng(2)
    unseen = rng.normal(size=(20, 2))
    votes = nearest_neighbour(x, labels, p=p, at=unseen)
    ways = rng.normal(size=(200, 20, 2))
    ways *= (votes.radius.numpy() / np.linalg.norm(ways, ord=p, axis=2))[..., None]
    moved = nearest_neighbour(x, labels, p=p, at=(unseen + ways * (1 - 1e-9)).reshape(-1, 2))
    assert bool((moved.labels.reshape(200, 20) == votes.labels).all())
    own = nearest_neighbour(x, labels, p=p)
    assert own.labels.tolist() == labels.tolist()
    assert own.radius.tolist() == pytest.approx(half_distance(x, labels, p=p).tolist(), rel=1e-12)


def test_the_certificate_of_the_nearest_neighbour_is_tight_between_two_examples():
    answer = nearest_neighbour([[0.0], [1.0]], [0, 1], at=[[0.2]])
    assert float(answer.radius[0]) == pytest.approx(0.3)
    with pytest.raises(bt.InputError, match="at: expected finite points of 1 values"):
        nearest_neighbour([[0.0], [1.0]], [0, 1], at=[[0.2, 0.3]])


# ---- the least error at a radius -------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_least_error_is_the_smallest_cover(classes, p):
    for seed in range(5):
        x, labels = random_set(seed, 11, classes)
        i, j, distance = pairs(x, labels, p)
        for radius in np.quantile(distance, [0.1, 0.3, 0.6]) / 2 * 1.001:
            met = distance <= 2 * radius
            truth = smallest_cover(11, list(zip(i[met], j[met], strict=True))) / 11
            answer = conflict_error(x, labels, p=p, radius=float(radius))
            assert answer.lower.tolist() == answer.upper.tolist() == [pytest.approx(truth)]
            given_up = answer.diagnostics["given_up"][0].numpy()
            assert given_up.mean() == pytest.approx(truth) and not (met & ~given_up[i] & ~given_up[j]).any()


def test_fours_and_nines_as_in_the_theory_page():
    x, y = load_digits(return_X_y=True)
    at = np.r_[np.flatnonzero(y == 4)[:150], np.flatnonzero(y == 9)[:150]]
    answer = conflict_error(x[at] / 16, y[at], radius=[0.5, 0.7, 0.9, 1.0, 1.1, 1.3])
    assert answer.lower.tolist() == answer.upper.tolist()
    assert answer.upper.tolist() == pytest.approx([0, 0, 0.003, 0.027, 0.047, 0.120], abs=5e-4)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_least_error_is_monotone_and_zero_below_half_the_separation(classes):
    """Acceptance 9, and the two ends stay close on ten classes of real digits."""
    data = digits("test")
    at = (data.labels < classes).nonzero()[:90, 0]
    x, labels = data.x[at], data.labels[at]
    half = r_separation(x, labels)
    radii = torch.cat([torch.tensor([0.0, half * 0.999999, half * 1.000001]), torch.linspace(0.8, 3, 8)])
    answer = conflict_error(x, labels, radius=radii)
    assert answer.upper[:2].tolist() == [0, 0] and float(answer.lower[2]) == pytest.approx(1 / len(at))
    order = radii.argsort()
    assert bool((answer.lower[order].diff() >= 0).all() and (answer.upper[order].diff() >= 0).all())
    assert float((answer.upper - answer.lower).max()) <= (0 if classes == 2 else 0.06)
    most = int(labels.bincount().max())
    assert float(answer.upper[-1]) == float(answer.lower[-1]) == pytest.approx(1 - most / len(at))  # all in conflict
    assert answer.kinds.lower[0] == "proved" and answer.kinds.upper[0] == "witnessed"


def test_an_odd_cycle_needs_more_than_half():
    """Three classes, mutually in conflict: the linear programme says 3/2, the truth is 2, and a fourth point far away is free."""
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.8], [9.0, 9.0]])
    assert conflict_error(x, [0, 1, 2, 0], radius=0.51).lower.tolist() == [0.5]


def graph_of(count: int, edges: list[tuple[int, int]]) -> csr_matrix:
    a, b = np.array(edges).T
    return csr_matrix((np.ones(2 * len(edges)), (np.r_[a, b], np.r_[b, a])), shape=(count, count))


def test_without_the_programme_halves_cliques_and_pruning_still_find_the_truth(monkeypatch):
    """A cycle of 5 by rounding 5/2 up, four mutual conflicts by a clique, two classes by matching, a spider by pruning its body."""
    from brittle.references import _cover

    monkeypatch.setattr(_cover, "PROGRAMME", 0)
    cycle, clique = [(k, (k + 1) % 5) for k in range(5)], list(combinations(range(4), 2))
    for count, edges, truth in [(5, cycle, 3), (4, clique, 3), (9, cycle + [(a + 5, b + 5) for a, b in clique], 6)]:
        lower, cover = _cover.vertex_cover(graph_of(count, edges), 0)
        assert lower == cover.sum() == truth and all(cover[a] or cover[b] for a, b in edges)
    spider = [(0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 6)]
    assert _cover._greedy(graph_of(7, spider).toarray().astype(bool)).nonzero()[0].tolist() == [1, 2, 3]
    for seed in (54, 107, 146):  # without the matching the cover would be one or two too large
        rng = np.random.default_rng(seed)
        side = rng.permutation(14) < 7
        edges = [(i, j) for i, j in combinations(range(14), 2) if side[i] != side[j] and rng.random() < 0.3]
        lower, cover = _cover.vertex_cover(graph_of(14, edges), 0)
        assert lower == cover.sum() == smallest_cover(14, edges)


@pytest.mark.parametrize("seed", range(3))
def test_large_open_kernels_are_bracketed_without_the_programme(seed, monkeypatch):
    from brittle.references import _cover

    x, labels = random_set(seed, 40, 5)
    exact = conflict_error(x, labels, radius=[0.15, 0.4, 0.8])
    assert exact.lower.tolist() == exact.upper.tolist()
    monkeypatch.setattr(_cover, "PROGRAMME", 0)
    rough = conflict_error(x, labels, radius=[0.15, 0.4, 0.8])
    assert bool((rough.lower <= exact.lower).all() and (rough.upper >= exact.upper).all())
    assert float((rough.upper - rough.lower).max()) < 0.2
    for radius, given_up in zip([0.15, 0.4, 0.8], rough.diagnostics["given_up"].numpy(), strict=True):
        i, j, distance = pairs(x, labels, 2)
        assert not ((distance <= 2 * radius) & ~given_up[i] & ~given_up[j]).any()


def test_open_ends_for_several_radii_are_monotone_whatever_their_order(monkeypatch):
    from brittle.references import _cover

    monkeypatch.setattr(_cover, "PROGRAMME", 0)
    x, labels = random_set(1, 40, 5)
    radii = np.linspace(0.1, 1, 40)
    each = torch.cat([torch.stack([b.lower, b.upper]) for b in (conflict_error(x, labels, radius=r) for r in radii)], 1)
    assert bool((each.diff() < 0).any(1).all())  # one by one, both ends fall somewhere
    order = np.random.default_rng(0).permutation(40)
    answer = conflict_error(x, labels, radius=radii[order])
    joined = torch.stack([answer.lower, answer.upper])[:, torch.from_numpy(order.argsort())]
    assert bool((joined.diff() >= 0).all() and (joined[0] >= each[0]).all() and (joined[1] <= each[1]).all())
    given_up = answer.diagnostics["given_up"].double().mean(1)
    assert torch.allclose(given_up, answer.upper)


def test_radii_at_which_rounding_decides_are_bracketed():
    x = np.array([[0.1, 0.7], [0.4, 0.3]])
    answer = conflict_error(x, [0, 1], radius=np.sqrt(0.09 + 0.16) / 2)
    assert (answer.lower.tolist(), answer.upper.tolist()) == ([0.0], [0.5])
    for radius in (-1.0, inf, []):
        with pytest.raises(bt.InputError, match="radius: expected finite numbers >= 0"):
            conflict_error(x, [0, 1], radius=radius)


# ---- two Gaussians ---------------------------------------------------------------------------------------------------


def test_isotropic_gaussians_have_the_textbook_error():
    mean = torch.tensor([1.5, -2.0, 0.0]).double()
    rule = TwoGaussians(mean, 0.49 * torch.eye(3).double(), torch.zeros(3).double())
    for radius in (0.0, 0.3, 1.0, 2.4):
        assert rule.error(radius) == pytest.approx(norm.cdf(-(2.5 - radius) / 0.7), rel=1e-9)
    assert rule.error(2.5) == rule.error(9.0) == 0.5


def test_no_linear_rule_beats_the_robust_bayes_rule():
    """The rule's own robust error equals the formula, and 2,000 other normals, near ones among them, do worse."""
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=rng, dtype=torch.float64)
    rule = TwoGaussians(
        torch.tensor([2.0, 1, 0, -1]).double(), root @ root.T + 0.1 * torch.eye(4), torch.ones(4).double()
    )

    def error(w: torch.Tensor, radius: float) -> np.ndarray:
        spread = torch.einsum("nd,de,ne->n", w, rule.covariance, w).sqrt()
        return norm.cdf(-((w @ rule.mean - radius * w.norm(dim=1)) / spread).numpy())

    for radius in (0.0, 0.5, 1.5):
        w = rule.weights(radius)
        assert error(w[None], radius)[0] == pytest.approx(rule.error(radius), rel=1e-9)
        steps = torch.randn(2000, 4, generator=rng, dtype=torch.float64) * torch.logspace(-3, 1, 2000).double()[:, None]
        assert error(w / w.norm() + steps, radius).min() >= rule.error(radius) * (1 - 1e-12)
    assert abs(float(torch.nn.functional.cosine_similarity(rule.weights(0.0), rule.weights(1.5), dim=0))) < 0.99


def test_the_rule_as_a_module_is_what_brittle_measures():
    rule = TwoGaussians(
        torch.tensor([1.0, 0.5]).double(),
        torch.tensor([[1.0, 0.6], [0.6, 2.0]]).double(),
        torch.tensor([3.0, 0]).double(),
    )
    x, labels = rule.sample(4000, torch.Generator().manual_seed(1))
    for radius in (0.0, 0.4):
        module, w = rule.module(radius), rule.weights(radius)
        signed = (2 * labels - 1) * ((x - rule.centre) @ w) / w.norm()
        assert float((signed <= radius).double().mean()) == pytest.approx(rule.error(radius), abs=4 * sqrt(0.25 / 4000))
        assert torch.allclose(module(x)[:, 1] - module(x)[:, 0], 2 * (x - rule.centre) @ w)
    right = (signed > 0).nonzero()[:5, 0]
    measured = bt.radius(bt.Problem(module, x[right], labels[right], bt.Ball(p=2, radius=1.0)), ends="upper").upper
    assert torch.allclose(measured, signed[right], rtol=1e-3)


def test_a_fit_finds_the_gaussians_and_refuses_what_it_cannot_answer():
    truth = TwoGaussians(
        torch.tensor([1.0, -1.0]).double(),
        torch.diag(torch.tensor([1.0, 0.25]).double()),
        torch.tensor([0.0, 5.0]).double(),
    )
    x, labels = truth.sample(20_000, torch.Generator().manual_seed(2))
    fitted = gaussian(x, labels, floor=0.0)
    assert torch.allclose(fitted.mean, truth.mean, atol=0.05) and torch.allclose(
        fitted.covariance, truth.covariance, atol=0.05
    )
    assert torch.allclose(fitted.centre, truth.centre, atol=0.05)
    flat = torch.cat([x, torch.zeros(len(x), 1)], 1)
    assert gaussian(flat, labels).error(0.5) == pytest.approx(truth.error(0.5), abs=0.01)
    with pytest.raises(bt.InputError, match="add a noise floor"):
        gaussian(flat, labels, floor=0.0).error(0.5)
    for options, words in (({"p": inf}, "no closed form"), ({"floor": -1.0}, "floor")):
        with pytest.raises(bt.InputError, match=words):
            gaussian(x, labels, **options)
    with pytest.raises(bt.InputError, match="exactly two classes, got 3"):
        gaussian(x[:6], [0, 1, 2, 0, 1, 2])


# ---- mixtures of factor analysers ------------------------------------------------------------------------------------


def test_densities_are_those_of_full_covariances():
    torch.manual_seed(0)
    mixture = Mixture(
        torch.tensor([0.3, 0.7]).double(),
        torch.randn(2, 5).double(),
        torch.randn(2, 5, 2).double(),
        torch.rand(2, 5).double() + 0.1,
    )
    x = torch.randn(7, 5).double()
    parts = [
        torch.distributions.MultivariateNormal(m, w @ w.T + torch.diag(v)).log_prob(x) + s.log()
        for s, m, w, v in zip(mixture.share, mixture.mean, mixture.load, mixture.noise, strict=True)
    ]
    assert torch.allclose(mixture.log_density(x), torch.stack(parts).logsumexp(0))
    draws = mixture.sample(20_000, torch.Generator().manual_seed(1))
    expected = (mixture.share[:, None] * mixture.mean).sum(0)
    assert torch.allclose(draws.mean(0), expected, atol=0.06)


def test_one_component_is_what_scikit_learn_fits():
    from sklearn.decomposition import PCA, FactorAnalysis

    x = digits("train").x[:400].double()
    x = x[:, x.std(0) > 0.05]
    labels = torch.arange(400) % 2
    alike, free = (
        factor_analysers(x, labels, factors=5, floor=1e-6, noise=n, steps=400) for n in ("isotropic", "diagonal")
    )
    one = x[labels == 1]
    pca = PCA(5).fit(one.numpy())
    covariance = torch.from_numpy(pca.get_covariance()) * (len(one) - 1) / len(one)  # its variances are unbiased
    twin = torch.distributions.MultivariateNormal(one.mean(0), covariance)
    assert torch.allclose(alike.mixture(1).log_density(x), twin.log_prob(x), rtol=1e-6)
    expected = FactorAnalysis(5, max_iter=2000, tol=1e-6, svd_method="lapack").fit(one.numpy()).score(one.numpy())
    assert float(free.mixture(1).log_density(one).mean()) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("noise", ["isotropic", "diagonal"])
def test_a_planted_mixture_is_found(noise):
    rng = torch.Generator().manual_seed(3)
    mean = torch.tensor([[-6.0, 0, 0], [6.0, 3, 0]]).double()
    load = torch.tensor([[[0.0], [1.5], [0.0]], [[0.0], [0.0], [2.0]]]).double()
    truth = Mixture(torch.tensor([0.25, 0.75]).double(), mean, load, torch.full((2, 3), 0.04).double())
    x = torch.cat([truth.sample(2000, rng), truth.sample(500, rng) + 20])
    labels = (torch.arange(2500) >= 2000).long()
    found = factor_analysers(x, labels, components=2, factors=1, noise=noise, seed=1).mixture(0)
    order = found.mean[:, 0].argsort()
    assert torch.allclose(found.mean[order], mean, atol=0.15) and torch.allclose(
        found.share[order], truth.share, atol=0.02
    )
    cover = found.load[order] @ found.load[order].mT + torch.diag_embed(found.noise[order])
    assert torch.allclose(cover, load @ load.mT + 0.04 * torch.eye(3), atol=0.25)
    fit = float(found.log_density(x[:2000]).mean() - truth.log_density(x[:2000]).mean())
    assert -0.001 < fit < 0.02  # a fit explains its own sample a little better than the truth does


def test_the_bayes_rule_of_equal_isotropic_classes_is_a_hyperplane_that_brittle_measures():
    rule = factor_analysers(
        torch.tensor([[0.0, 0, 0], [0, 0, 0.1], [4, 0, 0], [4, 0, 0.1]]), [0, 0, 1, 1], factors=1, floor=1.0
    )
    problem = bt.Problem(
        rule, torch.tensor([[0.5, 1, 0], [3.0, -1, 0]]), torch.tensor([0, 1]), bt.Ball(p=2, radius=1.0)
    )
    measured = bt.radius(problem, ends="upper").upper
    assert measured.tolist() == pytest.approx([1.5, 1.0], rel=2e-3)  # the attacks stop within 1e-3 beyond the boundary


def test_the_bayes_rule_of_digits_is_a_good_classifier_and_the_best_on_its_own_samples():
    train, test = digits("train", image=True), digits("test", image=True)
    rule = factor_analysers(train.x, train.labels, factors=10, floor=0.01)
    accuracy = lambda module, x, labels: float((module(x).argmax(1) == labels).double().mean())
    assert accuracy(rule, test.x, test.labels) > 0.95
    x, labels = rule.sample(2000, seed=4)
    assert x.shape == (2000, 1, 8, 8) and torch.equal(rule.sample(2000, seed=4)[0], x)
    other = factor_analysers(train.x, train.labels, factors=3, floor=0.01)
    assert accuracy(rule, x, labels) >= accuracy(other, x, labels) > 0.9
    assert len(labels.unique()) == 10


def test_the_prior_is_the_share_of_the_examples():
    """Three copies of every example in class 0, one in class 1: equal densities, odds of three to one."""
    one = torch.randn(10, 3, generator=torch.Generator().manual_seed(5))
    rule = factor_analysers(one.repeat(4, 1), torch.arange(40) // 30, factors=1)
    logits = rule(one)
    assert torch.allclose(logits[:, 0] - logits[:, 1], torch.tensor(3.0).double().log())
    assert float(rule.sample(4000)[1].double().mean()) == pytest.approx(0.25, abs=4 * sqrt(0.1875 / 4000))


def test_bad_options_are_refused():
    x, labels = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])
    for options in ({"noise": "white"}, {"floor": 0.0}, {"factors": 3}, {"components": 0}, {"components": 4}):
        with pytest.raises(bt.InputError, match="components|options"):
            factor_analysers(x, labels, **{"factors": 1, **options})
    with pytest.raises(bt.InputError, match="an example of every class 0..2"):
        factor_analysers(x, labels * 2, factors=1)


def test_covers_by_trying_all_sets_are_what_they_say():
    assert smallest_cover(4, []) == 0 and smallest_cover(4, list(combinations(range(4), 2))) == 3
