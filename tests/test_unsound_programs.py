"""Programs that look affine, one example at a time, and are not: refused or right, never silently wrong."""

from collections.abc import Callable
from math import inf

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brittle.bounds.crown import crown
from brittle.bounds.ibp import ibp
from brittle.errors import NotCertified
from brittle.problem import Problem
from brittle.region import Ball


class Program(nn.Module):
    """A forward written in one line; ``weight`` is square, so that every axis could be the batch axis."""

    def __init__(self, forward: Callable[["Program", Tensor], Tensor], inner: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight, self.head, self.inner = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3), inner
        self.rule = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.rule(self, x)


def problem_of(module: nn.Module, count: int = 4, radius: float = 0.1) -> Problem:
    torch.manual_seed(2)
    return Problem(module, torch.rand(count, 4) - 0.5, torch.zeros(count, dtype=torch.long), Ball(inf, radius))


WRONG = {
    "division that rounds down": lambda s, x: s.head(torch.div(x, 0.05, rounding_mode="floor")),
    "division that truncates": lambda s, x: s.head(torch.div(x, 0.05, rounding_mode="trunc")),
    "times the number of examples": lambda s, x: s.head(x * x.shape[0]),
    "divided by the number of examples": lambda s, x: s.head(x / x.shape[0]),
    "plus the number of the example": lambda s, x: s.head(x + torch.arange(x.shape[0])[:, None]),
    "padding that shifts the batch": lambda s, x: s.head(F.pad(x, (0, 0, 1, -1))),
    "mm from the left": lambda s, x: s.head(torch.mm(s.weight, x)),
    "matmul from the left": lambda s, x: s.head(s.weight @ x),
    "linear with the input as weight": lambda s, x: s.head(F.linear(s.weight, x)),
    "a bias for every example": lambda s, x: F.linear(x, s.head.weight, s.weight[:, :3]),
    "mean over the batch": lambda s, x: s.head(x - x.mean(0)),
    "sum over no axis is over all": lambda s, x: s.head(x + x.sum(dim=[])),
    "transposed": lambda s, x: s.head(x.permute(1, 0)),
    "first example for all": lambda s, x: s.head(x[:1].expand(x.shape[0], -1)),
    "dropout that stays on": lambda s, x: s.head(F.dropout(x, 0.5, True)),
    "negative divisor": lambda s, x: s.head(F.avg_pool2d(x.reshape(-1, 4, 1, 1), 1, divisor_override=-3).flatten(1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name: str) -> None:
    problem = problem_of(Program(WRONG[name]))
    for bound in (crown, ibp):
        with pytest.raises(NotCertified):
            bound(problem)


def test_an_unbatched_convolution_is_refused() -> None:
    program = Program(lambda s, x: s.head(s.inner(x)), nn.Conv1d(4, 4, 1))
    with pytest.raises(NotCertified, match="mixes examples"):
        crown(problem_of(program))


def test_a_negative_variance_is_refused() -> None:
    norm = nn.BatchNorm1d(4).eval()
    norm.running_var.fill_(-0.9e-5)
    with pytest.raises(NotCertified, match="negative variance"):
        ibp(problem_of(Program(lambda s, x: s.head(s.inner(x)), norm).eval()))


@pytest.mark.parametrize("limit", [3, 4, 7])
def test_a_branch_on_the_number_of_examples_is_that_of_these_examples(limit: int) -> None:
    def forward(s: Program, x: Tensor) -> Tensor:
        return s.head(x) if x.shape[0] < limit else s.head(-x)

    for count in (2, 4, 7):
        problem = problem_of(Program(forward), count, radius=0.0)
        assert torch.allclose(crown(problem).rows, problem.double().rows(), atol=1e-9)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_paddings_given_as_words(padding: str) -> None:
    convolution = nn.Conv1d(1, 1, 3, padding=padding)
    program = Program(lambda s, x: F.pad(s.inner(x[:, None])[:, 0], (0, 1)), convolution)
    problem = problem_of(program, radius=0.0)
    assert torch.allclose(crown(problem).rows, problem.double().rows(), atol=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_of_an_even_kernel_is_refused() -> None:
    program = Program(lambda s, x: s.inner(x[:, None])[:, 0], nn.Conv1d(1, 1, 2, padding="same"))
    with pytest.raises(NotCertified, match="even kernel"):
        crown(problem_of(program))


def test_a_parameter_that_moves_in_a_denominator_is_refused() -> None:
    """x / v with v in [0.01, 1.99]: the change of the quotient is no product of the changes."""
    program = Program(lambda s, x: s.head(x / s.inner.bias), nn.Linear(1, 4))
    torch.nn.init.ones_(program.inner.bias)
    problem = problem_of(program).within({"inner.bias": Ball(inf, 0.99)})
    with pytest.raises(NotCertified, match="div"):
        ibp(problem)
