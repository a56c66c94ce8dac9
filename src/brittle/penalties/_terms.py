"""What a user wrote under ``penalties=``, read into terms of the objective: a function, its options, a weight that may grow."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite

from torch import Tensor

from brittle.discovery import check_options, method
from brittle.errors import InputError
from brittle.penalties._losses import Loss
from brittle.problem import Problem
from brittle.randomness import fold

Penalties = Mapping[str, float | Mapping[str, object]]
OURS = ("weight", "warm_up", "radius_warm_up")


@dataclass(frozen=True)
class Term:
    """One penalty of the objective.

    weight          factor of the penalty
    warm_up         epochs over which the weight grows linearly from 0
    radius_warm_up  epochs over which the region grows linearly from nothing (``problem.scale`` from 0 to 1)
    """

    name: str
    function: Callable[..., Tensor]
    options: Mapping[str, object] = field(default_factory=dict)
    weight: float = 1.0
    warm_up: float = 0.0
    radius_warm_up: float = 0.0

    def weight_at(self, time: float) -> float:
        """The weight after ``time`` epochs."""
        return self.weight * _ramp(time, self.warm_up)

    def value(self, problem: Problem, time: float, seed: int, step: int) -> Tensor:
        """The penalty of one mini-batch, unweighted."""
        grown = _ramp(time, self.radius_warm_up)
        problem = problem if grown == 1 else problem.scaled(grown)
        value = self.function(problem, seed=fold(seed, self.name, step), **self.options)
        if value.dim():
            raise InputError(f"penalty {self.name}", "a scalar", tuple(value.shape), "let it return the mean")
        return value


def read_terms(penalties: Penalties | None, loss: Loss) -> tuple[Term, ...]:
    """``{"jacobian": 0.1, "adversarial": {"weight": 1.0, "radius": 0.1, "p": inf}}`` as terms.

    A penalty that is a loss elsewhere (it has an option ``loss``) takes the loss that is trained, unless it is told another.
    """
    if penalties is not None and not isinstance(penalties, Mapping):
        hint = 'write {"jacobian": 0.1} or {"adversarial": {"weight": 1.0, "radius": 0.1}}'
        raise InputError("penalties", "a mapping from names to weights", repr(penalties), hint)
    return tuple(_term(name, given, loss) for name, given in (penalties or {}).items())


def _term(name: str, given: float | Mapping[str, object], loss: Loss) -> Term:
    found = method("penalties", name)
    options: dict[str, object] = {**given} if isinstance(given, Mapping) else {"weight": given}
    numbers = {key: _number(name, key, options.pop(key)) for key in OURS if key in options}
    check_options(found.function, {k: v for k, v in options.items() if k != "seed"})
    if "loss" in inspect.signature(found.function).parameters:
        options.setdefault("loss", loss)
    return Term(name, found, options, **numbers)


def _number(name: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < 0:
        raise InputError(f"{key} of penalty {name}", "a finite number >= 0", repr(value), "correct it")
    return float(value)


def _ramp(time: float, length: float) -> float:
    return 1.0 if length <= 0 else min(1.0, time / length)
