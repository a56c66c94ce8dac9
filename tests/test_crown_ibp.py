"""CROWN-IBP: between interval propagation and CROWN, sound under sampling, and its proofs hold for the independent checker."""

from importlib import import_module
from math import inf

import pytest
import torch
from torch import nn

import brittle as bt
from brittle.bounds.crown import crown
from brittle.bounds.crown_ibp import crown_ibp
from brittle.bounds.ibp import ibp
from brittle.errors import NotCertified
from brittle.problem import Problem
from brittle.region import Ball


def network(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def problem(module: nn.Module, p: float, radius: float = 0.1) -> Problem:
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(1))
    return Problem(module, x, module(x).argmax(1), Ball(p=p, radius=radius, low=0, high=1))


@pytest.mark.parametrize("p", [0, 1, 2, inf])
def test_one_hidden_layer_is_crown(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind one affine layer the boxes are exact for p = inf; there both bounds are one, but for the slopes that crown tilts."""
    monkeypatch.setattr(import_module("brittle.bounds.crown"), "tilted", lambda *_: None)
    asked = problem(network(6, 12, 4), p, 2.0 if p == 0 else 0.1)
    cheap, full = crown_ibp(asked).rows, crown(asked).rows
    assert bool((cheap <= full + 1e-9).all()) if p == inf else bool(cheap.isfinite().all())
    if p == inf:
        torch.testing.assert_close(cheap, full, rtol=0, atol=1e-9)


def test_between_intervals_and_crown() -> None:
    asked = problem(network(6, 16, 16, 16, 4), inf, 0.05)
    least, cheap, full = (bound(asked).rows.mean() for bound in (ibp, crown_ibp, crown))
    assert least < cheap < full


@pytest.mark.parametrize("p", [1, 2, inf])
def test_no_point_of_the_region_is_below(p: float) -> None:
    asked = problem(network(6, 10, 10, 4), p).double()
    rows, generator = crown_ibp(asked).rows, torch.Generator().manual_seed(2)
    for _ in range(200):
        change = torch.randn(5, 6, generator=generator, dtype=torch.float64)
        point = asked.project({"x": asked.inputs["x"] + change})
        assert bool((asked.rows(point) >= rows).all())


def test_affine_is_exact() -> None:
    asked = problem(nn.Linear(6, 3), inf, 0.01)
    torch.testing.assert_close(crown_ibp(asked).rows, crown(asked).rows, rtol=0, atol=1e-12)


def test_moving_parameters_are_refused() -> None:
    with pytest.raises(NotCertified, match="use crown"):
        crown_ibp(problem(nn.Linear(6, 3), inf).within({"weight": Ball(p=inf, radius=0.01)}))


def test_the_radius_it_proves_is_below_the_attacked_one() -> None:
    answer = bt.radius(problem(network(6, 12, 12, 4), inf, 1.0), bounds=["crown_ibp"], effort="quick")
    assert bool((answer.lower > 0).all()) and bool((answer.lower <= answer.upper).all())
    assert answer.proof is not None and set(answer.proof.methods) == {"crown_ibp"}


def test_the_checker_proves_it_again() -> None:
    from brittle._checker.walk import Model, rows_below
    from brittle.graph import graph_of
    from brittle.spec import matrix
    from brittle.verifying.proofs import moving

    asked = problem(network(6, 10, 10, 4), inf, 0.03)
    certificate, model = crown_ibp(asked), Model(graph_of(asked))
    coefficients, offsets = (v.numpy() for v in matrix(asked.spec, asked.labels, 4))
    for i in range(len(asked)):
        arrays = {name: value[i].numpy() for name, value in certificate.proof.items()}
        again = rows_below(model, {"x": moving(asked, "x", i, 1.0)}, {}, arrays, coefficients[:, i], offsets[:, i])
        assert (again >= certificate.rows[i].numpy() - 1e-9).all()
