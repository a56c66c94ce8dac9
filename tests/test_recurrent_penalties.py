"""Penalties of recurrent matrices and trajectories: exact gradients, closed forms, refusals, and training that does what it says."""

from math import log

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle.errors import InputError
from brittle.spectra import distance_to_instability, kreiss, pseudospectral_radius, spectral_radius
from brittle.spectra.cells import cells
from brittle.training import train
from test_penalties import RECURRENT, gradients, live, run

MATRIX = [name for name in RECURRENT if name not in ("lyapunov", "state_jacobian")]
SURE = {"every": 1}


class Reader(nn.Module):
    """A recurrent layer and a head on its last output."""

    def __init__(self, kind=nn.RNN, features=3, size=4, classes=3, **options):
        super().__init__()
        self.layer = kind(features, size, batch_first=True, **options)
        self.head = nn.Linear(size * (1 + self.layer.bidirectional), classes)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


def question(kind=nn.RNN, scale=1.0, **options):
    torch.manual_seed(0)
    module = Reader(kind, **options).double()
    with torch.no_grad():
        for name, p in module.layer.named_parameters():
            if "weight_hh" in name:
                p.mul_(scale)
    return live(module, torch.randn(5, 6, 3, dtype=torch.float64), torch.arange(5) % 3, None)


def number(name, problem, **options):
    return float(run(name, problem, **options).detach())


def options_of(name, of="blocks"):
    return {"of": of, **SURE} if name in MATRIX else {}


@pytest.mark.parametrize("of", ["blocks", "jacobian"])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("name", RECURRENT)
def test_the_gradient_is_that_of_the_value(name, kind, of):
    if name not in MATRIX and of == "jacobian":
        pytest.skip("along trajectories anyhow")
    problem = question(kind, 1.6, num_layers=2 if name == "lyapunov" else 1)
    extra = {
        "pseudospectral_radius": {"target": 0.3},
        "distance_to_instability": {"target": 0.9},
        "kreiss": {"tolerance": 1e-3},
    }.get(name, {})
    extra = {**options_of(name, of), **extra}
    value = run(name, problem, seed=3, **extra)
    parameters, generator = list(problem.module.parameters()), torch.Generator().manual_seed(1)
    ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = float(gradients(problem, value) @ torch.cat([w.flatten() for w in ways]))
    h = 1e-6

    def at(amount):
        with torch.no_grad():
            for p, w in zip(parameters, ways, strict=True):
                p.add_(w, alpha=amount)
        return number(name, problem, seed=3, **extra)

    ahead, behind = at(h), at(-2 * h)
    slow = abs((ahead - behind) / (2 * h) - slope)
    if name == "kreiss":  # the radius that an unstable matrix is divided by is held fixed
        stable = all(
            spectral_radius(m.detach().numpy()) < 1 / 1.02 for c in cells(problem.module) for m in c.blocks.values()
        )
        if of == "blocks" and not stable:
            return
    assert slow <= 2e-5 * abs(slope) + 1e-8
    if name not in ("kreiss", "transient"):
        assert abs(slope) > 1e-6


def test_every_is_fair_on_average():
    problem = question()
    whole = number("commutator", problem, every=1)
    values = [number("commutator", problem, seed=s, every=4) for s in range(400)]
    assert set(np.round(values, 12)) == {0.0, round(4 * whole, 12)}
    assert abs(np.mean(values) / whole - 1) < 4 * (3 / 400) ** 0.5


def test_closed_forms():
    problem = question()
    with torch.no_grad():
        problem.module.layer.weight_hh_l0.copy_(torch.diag(torch.tensor([1.5, 0.5, -0.2, 0.1])))
    assert number("pseudospectral_radius", problem, epsilon=0.1, every=1) == pytest.approx(0.6**2, rel=1e-9)
    assert number("distance_to_instability", problem, target=0.1, every=1) == pytest.approx(0.6**2, rel=1e-9)
    assert number("transient", problem, steps=3, every=1) == pytest.approx(3 * log(1.5), rel=1e-9)
    assert number("kreiss", problem, every=1) == pytest.approx(0, abs=0.02)  # normal
    assert number("commutator", problem) == pytest.approx(0, abs=1e-15)
    with torch.no_grad():
        problem.module.layer.weight_hh_l0.mul_(0.6)
    assert number("distance_to_instability", problem, target=0.3, every=1) == pytest.approx(0.2**2, rel=1e-6)
    assert number("pseudospectral_radius", problem, epsilon=0.05, every=1) == 0


def test_of_a_linear_map_the_jacobian_is_the_block():
    torch.manual_seed(0)
    module = Reader(nn.RNN, bias=False).double()
    problem = live(
        module, torch.zeros(2, 5, 3, dtype=torch.float64), torch.tensor([0, 1]), None
    )  # at rest tanh is the identity
    for name in MATRIX:
        one, two = (number(name, problem, of=of, every=1) for of in ("blocks", "jacobian"))
        assert one == pytest.approx(two, rel=1e-9), name


def test_layers_and_directions_are_followed_as_torch_runs_them():
    from brittle.penalties._recurrent import paths

    for kind in (nn.RNN, nn.GRU, nn.LSTM):
        problem = question(kind, num_layers=2, bidirectional=True)
        followed = {c.name: (c, s, x) for c, s, x in paths(problem)}
        assert len(followed) == 4
        output = problem.module.layer(problem.x)[0]
        for name, part in (("layer.l1", output[..., :4]), ("layer.l1.reverse", output[..., 4:].flip(1))):
            cell, states, inputs = followed[name]
            after = torch.stack([cell.step(states[:, t], inputs[:, t]) for t in range(6)], 1)
            torch.testing.assert_close(after[..., :4], part, rtol=1e-12, atol=1e-13)


def test_training_moves_what_the_penalty_names():
    torch.manual_seed(0)
    x, labels = torch.randn(60, 8, 3), torch.arange(60) % 3
    x = x + nn.functional.one_hot(labels, 3)[:, None].float()
    module = Reader(size=8)
    with torch.no_grad():
        module.layer.weight_hh_l0.mul_(1.5)

    def trained(name, **options):
        done = train(
            module,
            x,
            labels,
            epochs=12,
            batch=30,
            rate=0.02,
            penalties={name: {"weight": 3.0, **options}} if name else None,
        )
        return next(iter(cells(done.module)[0].blocks.values())).numpy()

    plain = trained(None)
    assert pseudospectral_radius(trained("pseudospectral_radius", epsilon=0.2, every=1), 0.2) < pseudospectral_radius(
        plain, 0.2
    )
    assert distance_to_instability(trained("distance_to_instability", target=0.3, every=1)) > distance_to_instability(
        plain
    )
    shrunk = lambda a: a / max(1.0, 1.02 * spectral_radius(a))
    assert kreiss(shrunk(trained("kreiss", every=1))).lower < kreiss(shrunk(plain)).lower


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("pseudospectral_radius", {"epsilon": 2.0}, "epsilon < target"),
        ("kreiss", {"target": 0.5}, ">= 1"),
        ("distance_to_instability", {"target": 1.5}, "between 0 and 1"),
        ("transient", {"steps": 0}, "whole number"),
        ("commutator", {"of": "gates"}, "blocks | jacobian"),
        ("commutator", {"every": 0}, "whole number"),
        ("lyapunov", {"exponents": 0}, "whole number"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(InputError) as told:
        run(name, question(), **options)
    assert words in str(told.value)


def test_what_they_cannot_follow_is_refused_in_words():
    flat = live(nn.Linear(2, 2).double(), torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0]), None)
    for name in RECURRENT:
        with pytest.raises(InputError, match="a module that holds RNN"):
            run(name, flat, **({"every": 10**6} if name in MATRIX else {}))

    class Stepped(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNNCell(3, 4)

        def forward(self, x):
            return self.cell(x)

    stepped = live(Stepped(), torch.zeros(1, 3), torch.tensor([0]), None)
    assert number("commutator", stepped) > 0
    with pytest.raises(InputError, match="a cell"):
        run("lyapunov", stepped)
    assert bt.methods  # the names above are found by discovery
