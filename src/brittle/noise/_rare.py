"""What the estimators of rare failures share: a bracket without ends, NaN and a status where the method refuses."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from brittle.laws import Law
from brittle.noise._moving import sizes
from brittle.noise._weights import FLOOR
from brittle.problem import Problem
from brittle.results import Bracket, Cost, Ends

NUMBERS = (
    2**20
)  # numbers drawn at once: 8 MiB in float64, what a cache holds (2^22 takes 1.1 to 1.4 times as long, measured)
MISSED = (
    "estimates by importance or line sampling can miss failures far from every direction they searched: where that matters rely on the upper "
    'end, or compare with estimators=["splitting"], which needs no gradient'
)


def refused_laws(
    problem: Problem, laws: Mapping[str, Law], knows: Callable[[Law], bool], method: str
) -> Bracket | None:
    """The bracket that says nothing, where a law is out of the method's reach."""
    strange = [f"{type(law).__name__} of leaf {leaf!r}" for leaf, law in laws.items() if not knows(law)]
    if not strange:
        return None
    count = len(problem)
    nothing = torch.full((count,), -torch.inf, dtype=torch.float64)
    status = (f"not estimated: {method} does not handle {strange[0]}",) * count
    return estimated(method, nothing, torch.zeros(count, 2, dtype=torch.float64), 0.95, status, Cost(), {})


def estimated(
    method: str,
    log_mean: Tensor,
    interval: Tensor,
    level: float,
    status: tuple[str, ...],
    cost: Cost,
    diagnostics: Mapping[str, Tensor],
    searched: bool = True,
) -> Bracket:
    """The bracket of an estimator: ends 0 and 1 of kind "none"; status "" becomes "ok", any other refuses the estimate.

    searched : the draws lean towards points that a search has found
    """
    count = len(status)
    tiny = log_mean < FLOOR
    said = tuple(s or ("below 1e-300" if t else "ok") for s, t in zip(status, tiny.tolist(), strict=True))
    refused = torch.tensor([bool(s) for s in status], dtype=torch.bool)
    value = torch.where(tiny, 1e-300, rounded(log_mean.exp().clamp_max(1)))
    ends = torch.where(tiny[:, None], torch.tensor([0.0, 1e-300], dtype=torch.float64), rounded(interval))
    doubts = () if bool(refused.all()) or not searched else (MISSED,)
    none, blank = ("none",) * count, ("",) * count
    return Bracket(
        "probability",
        torch.zeros(count, dtype=torch.float64),
        torch.ones(count, dtype=torch.float64),
        Ends(none, none),
        said,
        Ends(blank, blank),
        cost=cost,
        doubts=(*doubts, *_refusals(method, status)),
        estimate=torch.where(refused, torch.nan, value),
        interval=torch.where(refused[:, None], torch.nan, ends),
        level=level,
        diagnostics=dict(diagnostics),
    )


def block(problem: Problem, draws: int) -> int:
    """How many examples with so many draws each are held at once: it depends on shapes alone."""
    return max(1, NUMBERS // max(1, draws * sum(sizes(problem).values())))


def rounded(value: Tensor) -> Tensor:
    """To 26 bits: the order of summation, which depends on the batch, does not show."""
    mantissa, exponent = torch.frexp(value)
    return torch.ldexp((mantissa * 2**26).round() / 2**26, exponent)


def _refusals(method: str, status: tuple[str, ...]) -> tuple[str, ...]:
    refused = [s.removeprefix("not estimated: ") for s in status if s.startswith("not estimated")]
    if not refused:
        return ()
    return (f"{method} refused {len(refused)} of {len(status)} examples, the first because {refused[0]}",)
