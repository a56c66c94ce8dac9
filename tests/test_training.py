"""The training loop: the seed alone decides, the given module is untouched, every step is the one that was asked for."""

import math

import pytest
import torch
from torch import Tensor, nn

import brittle as bt
from brittle.digest import state_digest
from brittle.errors import InputError
from brittle.penalties.noise import noise
from brittle.problem import Problem
from brittle.randomness import fold
from brittle.training import Training, train


def data(count: int = 33, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = 2 * torch.randn((classes, 4), generator=generator)
    return centres[labels] + torch.randn((count, 4), generator=generator), labels


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def weights(done: Training) -> Tensor:
    return torch.cat([v.double().flatten() for v in done.module.state_dict().values()])


PENALTIES = {"noise": 0.5, "jacobian": 0.01, "adversarial": {"weight": 0.5, "radius": 0.1}, "path_alignment": 0.3}


def test_the_seed_alone_decides():
    module, (x, labels) = network(), data()
    run = lambda seed=0, **options: train(
        module, x, labels, epochs=2, batch=8, penalties=PENALTIES, seed=seed, **options
    )
    one = run()
    torch.manual_seed(99)
    torch.rand(7)
    two = run()
    assert torch.equal(weights(one), weights(two)), "torch's global random state must not matter"
    assert {k: v for k, v in one.history.items() if k != "seconds"} == {
        k: v for k, v in two.history.items() if k != "seconds"
    }
    assert not torch.equal(weights(one), weights(run(seed=1)))
    drawing = lambda epoch, trained: {"draw": float(torch.rand(()))}
    assert torch.equal(weights(one), weights(run(monitor=drawing))), "what a monitor draws must not matter"
    assert two.module.training is False and all(p.grad is None for p in two.module.parameters())


def test_nothing_of_the_user_is_changed():
    module, (x, labels) = network(), data()
    module[1].eval()
    before, state, threads = state_digest(module), torch.random.get_rng_state(), torch.get_num_threads()
    train(module, x, labels, epochs=1, penalties=PENALTIES)
    assert state_digest(module) == before and all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.random.get_rng_state(), state) and torch.get_num_threads() == threads


@pytest.mark.parametrize("decoupled", [True, False])
def test_full_batch_descent_is_the_recursion_of_the_books(decoupled):
    """Squared loss of a linear map, written out: W <- W - rate (gradient [+ decay W]) [and W <- (1 - rate decay) W before it]."""
    x, labels = data()
    x, target = x.double(), torch.nn.functional.one_hot(labels, 3).double()
    module = nn.Linear(4, 3, bias=False).double()
    w, velocity = module.weight.detach().clone(), torch.zeros(3, 4, dtype=torch.float64)
    for step in range(6):
        rate = 0.02 * 0.5 * (1 + math.cos(math.pi * (step + 0.5) / 6))
        slope = 2 / len(x) * (x @ w.T - target).T @ x
        if decoupled:
            w = w * (1 - rate * 0.3)
        else:
            slope = slope + 0.3 * w
        velocity = 0.9 * velocity + slope
        w = w - rate * velocity
    done = train(
        module, x, labels, loss="squared", epochs=6, batch=None, optimiser="sgd", momentum=0.9, rate=0.02, weight_decay=0.3,
        decoupled=decoupled,
    )  # fmt: skip
    torch.testing.assert_close(done.module.weight, w, rtol=1e-12, atol=1e-12)


def test_the_total_is_the_weighted_sum():
    module, (x, labels) = nn.Linear(4, 3).double(), data()
    x = x.double()
    penalties = {"noise": {"weight": 2.0, "warm_up": 4, "sigma": 0.3}, "gradient": 0.7}
    done = train(module, x, labels, epochs=3, batch=None, rate=0.0, penalties=penalties, clean_weight=0.5)
    clean = done.history["loss"][0]
    for epoch in range(3):  # the rate is 0: the terms stay what they are, but for the draws of the noise
        expected = 0.5 * clean + 2.0 * epoch / 4 * done.history["noise"][epoch] + 0.7 * done.history["gradient"][epoch]
        assert done.history["total"][epoch] == pytest.approx(expected, rel=1e-12)
        drawn = noise(Problem(module, x, labels), sigma=0.3, seed=fold(0, "noise", epoch))
        assert done.history["noise"][epoch] == pytest.approx(float(drawn.detach()), rel=1e-12)
    pure = train(module, x, labels, epochs=1, batch=None, rate=0.0, penalties={"gradient": 1.0}, clean_weight=0.0)
    assert pure.history["total"] == pure.history["gradient"]


def test_rates_follow_the_schedule():
    module, (x, labels) = nn.Linear(4, 3), data(32)
    rates = lambda **options: train(module, x, labels, epochs=4, batch=32, rate=0.1, **options).history["rate"]
    assert rates(schedule="constant") == pytest.approx([0.1] * 4)
    assert rates() == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 8)) for t in (1, 3, 5, 7)])
    assert rates(schedule="constant", warm_up=2) == pytest.approx([0.025, 0.075, 0.1, 0.1])
    assert rates(schedule=lambda t: 1 - t) == pytest.approx([0.0875, 0.0625, 0.0375, 0.0125])
    own = lambda parameters: torch.optim.SGD(parameters, lr=0.3)
    assert rates(optimiser=own, schedule="constant") == pytest.approx([0.3] * 4), (
        "an optimiser of one's own has its own rate"
    )


def test_early_stopping_keeps_the_best_epoch():
    x, labels = data(60)
    other, truth = data(30)
    noisy = labels.clone()
    noisy[::3] = (noisy[::3] + 1) % 3  # a third of the labels is wrong: it will overfit
    module = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    options = {"epochs": 60, "rate": 0.01, "schedule": "constant", "validation": (other, truth)}
    done = train(module, x, noisy, patience=4, **options)
    losses = done.history["loss"]
    assert len(losses) < 60 and done.epoch == 1 + losses.index(min(losses)) == len(losses) - 4
    measured = torch.nn.functional.cross_entropy(done.module(other), truth)
    assert float(measured.detach()) == pytest.approx(min(losses), rel=1e-5)
    without = train(module, x, noisy, **options)
    assert without.epoch == 60 and without.history["loss"][: len(losses)] == losses
    assert f"{done.epoch} epochs" in repr(done)


def test_judging_seldom_changes_what_is_known_and_not_what_is_learnt():
    """Batch statistics, dropout and penalties that draw: judging leaves no trace in any of them."""
    x, labels = data()
    seen = []
    options = {
        "epochs": 7,
        "batch": 11,
        "penalties": PENALTIES,
        "monitor": lambda epoch, module: seen.append(epoch) or {},
    }
    every, seldom = train(network(), x, labels, **options), train(network(), x, labels, judge_every=3, **options)
    assert torch.equal(weights(every), weights(seldom)) and seen == [1, 2, 3, 4, 5, 6, 7, 3, 6, 7]
    assert seldom.history["epoch"] == [3.0, 6.0, 7.0] and seldom.epoch == 7 and "7 epochs" in repr(seldom)
    for name, column in every.history.items():
        assert name == "seconds" or seldom.history[name] == [column[2], column[5], column[6]], name
    assert every.cost.forward - seldom.cost.forward == 4, "four judgements of every example less"
    stopped = train(network(), x, labels, judge_every=2, validation=0.3, patience=2, epochs=40, rate=0.1)
    assert stopped.epoch % 2 == 0 and repr(stopped)


def test_a_held_out_fraction_is_not_trained_on():
    x, labels = data(40)
    seen: list[int] = []
    count = lambda logits, labels: (seen.append(len(labels)), nn.functional.cross_entropy(logits, labels))[1]
    train(nn.Linear(4, 3), x, labels, loss=count, epochs=2, batch=16, validation=0.25)
    assert seen == [15, 15, 10, 15, 15, 10]  # two batches of the 30, then the 10


def test_no_batch_is_left_with_a_single_example():
    """33 examples in batches of 16: three of 11, since batch normalisation refuses one example."""
    sizes: list[int] = []
    spy = lambda logits, labels: (sizes.append(len(labels)), nn.functional.cross_entropy(logits, labels))[1]
    done = train(network(), *data(33), loss=spy, epochs=1, batch=16)
    assert sizes[:3] == [11, 11, 11]
    assert done.cost.forward == pytest.approx(2.0), "one pass to learn, one to measure"
    assert done.cost.backward == pytest.approx(1.0)


def test_batch_statistics_learn_and_penalties_that_read_at_rest_leave_them():
    module, (x, labels) = network(), data()
    plain = train(module, x, labels, epochs=1, batch=None, rate=0.0)
    penalised = train(module, x, labels, epochs=1, batch=None, rate=0.0, penalties={"jacobian": 0.0, "row_space": 0.0})
    moved = lambda done: done.module[1].running_mean
    assert not torch.equal(moved(plain), module[1].running_mean) and torch.equal(moved(plain), moved(penalised))
    assert int(plain.module[1].num_batches_tracked) == 1


def test_monitors_become_columns():
    calls: list[tuple[int, bool]] = []

    def monitor(epoch: int, module: nn.Module) -> dict[str, float]:
        calls.append((epoch, module.training))
        return {"norm": float(module.weight.detach().norm())}

    done = train(nn.Linear(4, 3), *data(), epochs=3, monitor=monitor)
    assert calls == [(1, False), (2, False), (3, False)] and len(done.history["norm"]) == 3
    assert done.history["epoch"] == [1, 2, 3] and len(done.history["seconds"]) == 3
    with pytest.raises(InputError, match="return the same names every epoch"):
        train(nn.Linear(4, 3), *data(), epochs=2, monitor=lambda epoch, module: {f"m{epoch}": 0.0})


def test_a_gradient_is_clipped():
    module, (x, labels) = nn.Linear(4, 3, bias=False).double(), data()
    step = lambda clip: train(
        module,
        100 * x.double(),
        labels,
        epochs=1,
        batch=None,
        optimiser="sgd",
        rate=1.0,
        schedule="constant",
        clip=clip,
    )
    moved = lambda clip: float((step(clip).module.weight - module.weight).detach().norm())
    assert moved(0.5) == pytest.approx(0.5, rel=1e-5) and moved(None) > 10


def test_keyword_inputs_frozen_parts_and_one_logit():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 4), nn.Linear(6, 1)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.b(torch.cat([torch.relu(self.a(left)), right], 1))[:, 0]

    module, (x, _) = Two(), data(40)
    labels = (x[:, 0] > x[:, 0].median()).long()
    module.a.requires_grad_(False)
    done = train(
        module,
        {"left": x[:, :2], "right": x[:, 2:]},
        labels,
        epochs=150,
        rate=0.02,
        penalties={"gradient": 0.001, "noise": 0.1},
    )
    assert done.history["accuracy"][-1] > 0.9
    assert torch.equal(done.module.a.weight, module.a.weight) and not torch.equal(done.module.b.weight, module.b.weight)


def test_settings_are_plain():
    import json

    done = train(nn.Linear(4, 3), *data(), epochs=1, penalties=PENALTIES, region=bt.Ball(p=2, radius=0.1), validation=data(9),
                 loss=nn.functional.cross_entropy)  # fmt: skip
    told = json.loads(json.dumps(done.settings))
    assert told["penalties"] == PENALTIES and told["validation"] == "9 examples" and told["loss"] == "cross_entropy"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs, batch and patience >= 1"),
        ({"batch": 0}, "epochs, batch and patience >= 1"),
        ({"judge_every": 0}, "judge_every: expected a number of epochs >= 1"),
        ({"rate": -1.0}, "rate: expected a finite number"),
        ({"clean_weight": math.nan}, "clean_weight: expected a finite number"),
        ({"optimiser": "lbfgs"}, '"adam", "sgd"'),
        ({"schedule": "step"}, '"cosine", "constant"'),
        ({"loss": "hinge"}, "cross-entropy | squared"),
        ({"patience": 3}, "validation data to judge by"),
        ({"validation": 1.0}, "a fraction that leaves examples on both sides"),
        ({"penalties": {"jacobin": 1.0}}, "expected one of adversarial"),
        ({"penalties": {"jacobian": {"weight": 1.0, "rank": 2}}}, "some of seed, projections"),
        ({"penalties": {"adversarial": 1.0}}, "how far the input moves"),
        ({"clean_weight": 0.0}, "something to minimise"),
        ({"region": bt.Ball(p=2, radius=1.0, low=0, high=0.1)}, "values inside low=0"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(options, words):
    with pytest.raises(InputError, match=words.replace("|", r"\|")):
        train(nn.Linear(4, 3), *data(), **options)


def test_modules_that_cannot_be_trained_are_refused():
    x, labels = data()
    with pytest.raises(InputError, match="parameters that require gradients"):
        train(nn.Linear(4, 3).requires_grad_(False), x, labels)
    with pytest.raises(InputError, match=r"a torch.nn.Module"):
        train(lambda x: x, x, labels)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="classes 0..2"):
        train(nn.Linear(4, 3), x, labels + 1)


def test_a_loss_that_explodes_says_what_to_do():
    with pytest.raises(InputError, match=r"finite objective, got loss .* in epoch \d+; lower rate, clip"):
        train(nn.Linear(4, 3), *data(), loss="squared", optimiser="sgd", rate=1e30, epochs=9)


def test_a_cell_of_the_comparison_of_cures_is_plain():
    import json

    from brittle.penalties._terms import read_terms
    from brittle.studies._cures import CURES, choose, cure

    found = cure("early_stopping", 0, epochs=2, examples=3, effort="quick")
    assert json.loads(json.dumps(found)) == found and len(found["radii"]) == 3  # type: ignore[arg-type]
    assert "radii" not in cure("path_alignment", 0, strength=0.5, epochs=1, examples=0)
    for method in CURES.values():
        assert method.strength in (*method.grid, None) and (method.strength is None) == (method.grid == ())
        arguments = method.arguments(method.strength)
        read_terms(arguments.get("penalties"), "cross-entropy")  # type: ignore[arg-type]
    tried = {0.1: [0.97, 0.97], 0.3: [0.95, 0.96], 1.0: [0.96, 0.97], 3.0: [0.9, 0.9]}
    assert choose("weight_decay", tried, [0.97, 0.97]) == 1.0 and choose("weight_decay", tried, [1.0, 1.0]) is None


@pytest.mark.slow
def test_cures_cure():
    """On real digits, every kind of cure raises the attacked radius well over plain training, at no great cost in accuracy."""
    from brittle.sources.digits import digits

    x, labels = (part[:400] for part in digits("train"))
    test, truth = (part[:60] for part in digits("test"))
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    ball = bt.Ball(p=2, radius=1.0, low=0, high=1)

    def trained(**penalties: object) -> tuple[float, float]:
        done = train(module, x, labels, epochs=80, rate=5e-3, region=ball, penalties=penalties)  # type: ignore[arg-type]
        found = bt.radius(Problem(done.module, test, truth, ball), effort="quick", ends="upper").upper
        return float(found.median()), float((found > 0).double().mean())

    plain, accuracy = trained()
    for cure in ({"jacobian": 0.01}, {"path_alignment": 1.0}, {"adversarial": {"radius": 0.4, "p": 2, "steps": 3}}):
        median, kept = trained(**cure)
        assert median > 1.15 * plain and kept >= accuracy - 0.05, (cure, median, plain, kept, accuracy)
