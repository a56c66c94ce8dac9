"""Models that draw: the mean over fixed draws is one function, attacked and replayed like any; fresh draws judge what was found."""

import random
from math import inf
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import brittle as bt
from brittle import meter
from brittle.averaging import redrawn
from brittle.checks.fresh_draws import fresh_draws
from brittle.checks.random_forward import random_forward
from brittle.randomness import fold, seeded
from broken import dropout_left_on

SIGMA = 2.0


class Noisy(nn.Module):
    """A half-plane, 3 x1 - 4 x2 > 0, whose margin is blurred by noise: distance |3 x1 - 4 x2| / 5 of the mean."""

    def __init__(self, kind: str = "randn_like") -> None:
        super().__init__()
        self.weight, self.kind = nn.Parameter(torch.tensor([[3.0, -4.0], [0.0, 0.0]])), kind

    def forward(self, x):
        z = x @ self.weight.T
        return z + SIGMA * KINDS[self.kind](z)


class Wide(nn.Module):
    """Noise on 20 inputs: torch draws other numbers in float64 than in float32 once there are 16."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.head, self.kind = nn.Linear(20, 3), kind

    def forward(self, x):
        return self.head(x + KINDS[self.kind](x))


KINDS = {
    "randn_like": torch.randn_like,
    "randn": lambda z: torch.randn(z.shape[-1], dtype=z.dtype, device=z.device),
    "rand_like": torch.rand_like,
    "normal": lambda z: torch.normal(torch.zeros_like(z), 1.0),
    "normal_": lambda z: torch.empty_like(z).normal_(0.5, 2),
    "uniform_": lambda z: torch.empty_like(z).uniform_(-1, 1),
    "bernoulli": lambda z: torch.bernoulli(torch.full_like(z, 0.3)),
    "bernoulli_": lambda z: torch.empty_like(z).bernoulli_(0.3),
    "python": lambda z: z * random.random(),
    "numpy": lambda z: z * float(np.random.rand()),
    "stochastic depth": lambda z: z if torch.rand(1) < 0.5 else 0 * z,
    "dropout": lambda z: functional.dropout(z, 0.4, training=True),
    "dropout2d": lambda z: functional.dropout2d(z[:, :, None, None], 0.4, training=True)[:, :, 0, 0],
    "alpha_dropout": lambda z: functional.alpha_dropout(z, 0.4, training=True),
}


def half_plane(draws=16, **options):
    x, labels = torch.tensor([[1.0, 0.0], [0.4, -0.2], [2.0, 1.0]]), torch.tensor([0, 0, 0])
    return bt.Problem(bt.averaged(Noisy(), draws, **options), x, labels, bt.Ball(p=2, radius=1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_one_function_alone_in_any_batch_and_in_float64(kind):
    fixed, x = bt.averaged(Wide(kind), draws=5), torch.randn(6, 20)
    together, turned = fixed(x), fixed(x.flip(0)).flip(0)
    alone = torch.cat([fixed(row[None]) for row in x])
    torch.testing.assert_close(together, turned, rtol=0, atol=2e-6)
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-6)
    torch.testing.assert_close(together.double(), fixed.double()(x.double()), rtol=0, atol=2e-5)
    assert kind in ("stochastic depth",) or not fixed._loops


def test_the_mean_is_that_of_the_draws_that_the_seed_names():
    """The slow twin: one draw after another, by hand; noise that no example shares with another would differ in its rows."""
    x, module, total = torch.randn(4, 2), Noisy(), torch.zeros(4, 2)
    for number in range(7):
        with seeded(fold(3, "averaged", number)):
            total += x @ module.weight.T + SIGMA * torch.randn(1, 2)
    torch.testing.assert_close(bt.averaged(module, 7, seed=3)(x), total / 7)
    assert not torch.equal(bt.averaged(module, 7, seed=4)(x), bt.averaged(module, 7, seed=3)(x))


def test_probabilities_are_averaged_where_asked():
    x, module = torch.randn(4, 2), Noisy()
    draws = [bt.averaged(module, 1, seed=0)]
    network = bt.Problem(draws[0], x, torch.zeros(4).long()).network
    each = [redrawn(network, number + 1, 0).quiet(x) * (number + 1) for number in range(3)]
    logits = [each[0], each[1] - each[0], each[2] - each[1]]  # sums over the first draws -> single draws
    mean = torch.stack([z.softmax(1) for z in logits]).mean(0)
    torch.testing.assert_close(bt.averaged(module, 3, mean="probabilities")(x).softmax(1), mean, rtol=1e-5, atol=1e-6)
    lone = nn.Sequential(nn.Linear(2, 1), nn.Dropout(0.5))
    mean = bt.averaged(lone, 400, mean="probabilities")(x).sigmoid()
    torch.testing.assert_close(mean, (0.5 + (2 * lone[0](x)).sigmoid()) / 2, rtol=0, atol=0.06)


def test_plain_attacks_on_a_random_model_are_flagged_and_wrong_and_averaging_finds_the_distance():
    plain, truth = half_plane(), torch.tensor([0.6, 0.4, 0.4]).double()
    own = bt.Problem(Noisy(), plain.x, plain.labels, bt.Ball(p=2, radius=1.0))
    assert random_forward(own).consequence == "warn" and random_forward(plain).consequence == "none"
    found = bt.radius(plain, ends="upper", attacks=["fmn"])
    assert bool(found.witness.found.all())
    # the mean of 16 draws of the difference of two logits errs by sigma sqrt(2) / 4 / 5 in units of distance
    shift = found.upper - truth
    assert bool((shift.abs() < 4 * SIGMA * 2**0.5 / 4 / 5).all()) and float(shift.max() - shift.min()) < 1e-5
    assert bool((plain.margin(found.witness.point) <= 0).all())  # replayed to the last bit


def test_fresh_draws_judge_the_points_by_their_true_rate():
    """P(fail) is Phi(-margin / (sigma sqrt 2)) in closed form, at clean points and at witnesses."""
    problem = half_plane()
    clean = bt.failure_rate(problem, draws=300, level=0.999)
    for i, margin in enumerate((3.0, 2.0, 2.0)):
        truth = NormalDist().cdf(-margin / (SIGMA * 2**0.5))
        assert clean.lower[i] < truth < clean.upper[i]
    witness = bt.radius(problem, ends="upper", attacks=["fmn"]).witness
    rate = bt.failure_rate(problem, witness, draws=300, level=0.999)
    for i, at in enumerate(witness.point["x"]):
        truth = NormalDist().cdf(float(4 * at[1] - 3 * at[0]) / (SIGMA * 2**0.5))
        assert rate.lower[i] < truth < rate.upper[i] and 0.2 < truth < 0.8
    assert rate.guarantee == ("statistical", "statistical") and rate.quantity == "probability"
    few = [bt.failure_rate(problem, draws=40, seed=seed).estimate for seed in range(3)]
    assert any(not torch.equal(few[0], other) for other in few[1:])


def test_a_point_that_a_single_draw_calls_broken_does_not_generalise():
    """One draw is fooled at once; forty are not, and new draws tell the difference."""
    x, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    rates = {}
    for draws in (1, 40):
        seed = next(s for s in range(50) if draws > 1 or bt.averaged(Noisy(), 1, seed=s)(x).diff().item() > -0.5)
        problem = bt.Problem(bt.averaged(Noisy(), draws, seed=seed), x, labels, bt.Ball(p=2, radius=1.0))
        answer = bt.radius(problem, ends="upper", attacks=["fmn"])
        rates[draws] = bt.failure_rate(problem, answer.witness, draws=200)
        found = fresh_draws(problem, answer)
        assert found.consequence == ("warn" if draws == 1 else "none") and "points" in found.value
    assert rates[1].upper < rates[40].lower


def test_dropout_that_was_left_on():
    module, x, labels = dropout_left_on()
    x, labels = x[:4], labels[:4]
    assert random_forward(bt.Problem(module, x, labels)).consequence == "warn"
    problem = bt.Problem(bt.averaged(module, 4), x, labels, bt.Ball(p=inf, radius=1.0))
    assert random_forward(problem).consequence == "none"
    resting = nn.Sequential(nn.Dropout(0.5), nn.Linear(x.shape[1], int(labels.max()) + 2)).eval()
    asleep = random_forward(bt.Problem(bt.averaged(resting, 4), x, labels))
    assert asleep.consequence == "note" and "nothing in it is random" in asleep.note
    answer = bt.radius(problem, attacks=["fmn"], bounds=["ibp"])
    assert bool(answer.witness.found.any()) and bool((answer.lower == 0).all())
    assert all(s.startswith(("not certified", "misclassified")) for s in answer.status), answer.status
    assert any("a mean over draws of a random model" in s for s in answer.status), answer.status


def test_what_draws_in_training_mode_alone_is_awake_and_normalisation_is_not():
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2), nn.Dropout(0.5)).eval()
    model[2].train(), model[1].train()
    before = model[1].running_mean.clone()
    fixed = bt.averaged(model, 4)
    assert fixed.awake == ("2",)
    problem = bt.Problem(fixed, torch.randn(5, 3), torch.zeros(5).long(), bt.Ball(p=2, radius=1.0))
    first = problem.logits()
    assert torch.equal(first, problem.logits()) and not torch.allclose(first, model.eval()(problem.x))
    assert torch.equal(before, problem.network.quiet.module[1].running_mean) and torch.equal(
        before, model[1].running_mean
    )
    assert not any(part.training for part in problem.network.quiet.modules())


def test_features_are_dropped_whole():
    module = nn.Sequential(nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(36, 36, bias=False)).train()
    with torch.no_grad():
        module[2].weight.copy_(torch.eye(36))
    seen = set()
    for seed in range(6):
        out = bt.averaged(module, 1, seed=seed)(torch.ones(2, 4, 3, 3)).reshape(2, 4, 9)
        assert torch.equal(out, out[:, :, :1].expand_as(out)) and torch.equal(out[0], out[1])
        seen |= set(out.flatten().tolist())
    assert seen == {0.0, 2.0}  # kept features are scaled up


def test_recurrent_layers_are_evaluated_one_by_one():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(3, 4, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    fixed, x = bt.averaged(Text().train(), 3), torch.randn(4, 5, 3)
    together = fixed(x)
    torch.testing.assert_close(together[2:3], fixed(x[2:3]))
    torch.testing.assert_close(together.double(), fixed.double()(x.double()), rtol=1e-4, atol=1e-5)


def test_keyword_inputs_weights_and_passes():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a, b):
            return functional.dropout(self.layer(a), 0.5, True) + b

    fixed = bt.averaged(Named(), 6)
    inputs = {"a": torch.randn(4, 3), "b": torch.randn(4, 2)}
    problem = bt.Problem(fixed, inputs, torch.zeros(4).long(), {"module.layer.weight": bt.Ball(p=2, radius=1.0)})
    shifted = {"module.layer.weight": problem.centre["module.layer.weight"] + torch.randn(4, 2, 3)}
    rows, slope = problem.gradient(shifted)
    for i in range(4):
        one = problem.take(torch.tensor([i]))
        torch.testing.assert_close(
            one.rows({"module.layer.weight": shifted["module.layer.weight"][i : i + 1]}), rows[i : i + 1]
        )
    assert slope["module.layer.weight"].shape == (4, 2, 3)
    moved = problem.within({"x.a": bt.Ball(p=2, radius=1.0)})
    with meter.measure() as passes:
        moved.gradient(moved.centre)
    assert (passes.forward, passes.backward) == (24, 24)


def test_bad_requests_and_what_is_left_alone():
    state, numbers = torch.get_rng_state(), random.getstate()
    bt.averaged(Noisy("python"), 2)(torch.randn(2, 2, generator=torch.Generator()))
    assert torch.equal(state, torch.get_rng_state()) and numbers == random.getstate()
    for bad, words in (({"draws": 0}, "whole number"), ({"mean": "votes"}, "logits")):
        with pytest.raises(bt.InputError, match=words):
            bt.averaged(Noisy(), **bad)
    with pytest.raises(bt.InputError, match="torch.nn.Module"):
        bt.averaged(torch.relu)
    problem = half_plane(2)
    with pytest.raises(bt.InputError, match="bt.averaged"):
        bt.failure_rate(bt.Problem(Noisy(), problem.x, problem.labels))
    with pytest.raises(bt.InputError, match="whole number"):
        bt.failure_rate(problem, draws=0)
