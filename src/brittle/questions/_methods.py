"""Which attacks and bounds a question runs: those named by the caller, else the portfolio of the effort."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial

from brittle.discovery import EFFORTS, Method, method, portfolio
from brittle.errors import InputError, NotCertified
from brittle.problem import Problem
from brittle.results import Certificate

Choice = Sequence[str | Callable] | None
VACUOUS = "vacuous: no bound says anything at this radius"


def chosen(family: str, choice: Choice, problem: Problem, effort: str, answers: str) -> list[tuple[str, Callable]]:
    """(name, function) of every method to run.

    choice : None for the portfolio of the effort; else names ("crown") or callables (a function, or a ``functools.partial``
    that binds its options), tried in the given order.
    """
    if family == "bounds" and any(ball.section is not None for ball in problem.region.values()):
        return [("restricted", _restricted)]
    if choice is None:
        norms = tuple(ball.p for ball in problem.region.values())
        leaves = tuple("input" if problem.parameter_name(leaf) is None else "parameter" for leaf in problem.leaves)
        return [(m.name, m) for m in portfolio(family, effort, answers, norms, leaves)]
    if isinstance(choice, str) or not isinstance(choice, Sequence):
        raise InputError(family, "a list of names or functions", repr(choice), f'write {family}=["name"]')
    return [_named(family, entry) for entry in choice]


def reserve(family: str, choice: Choice, problem: Problem, effort: str, answers: str) -> list[tuple[str, Callable]]:
    """The methods of the next effort, kept for examples on which those of this one find nothing at all."""
    later = EFFORTS[min(EFFORTS.index(effort) + 1, len(EFFORTS) - 1)]
    if choice is not None or later == effort:
        return []
    now = {name for name, _ in chosen(family, None, problem, effort, answers)}
    return [entry for entry in chosen(family, None, problem, later, answers) if entry[0] not in now]


def check_verb(problem: Problem, ends: str, quantity: str) -> None:
    """What every verb asks of its arguments."""
    if ends not in ("both", "lower", "upper"):
        raise InputError("ends", '"both", "lower" or "upper"', repr(ends), "choose one of these")
    if not problem.region:
        raise InputError(
            quantity, "a region: what moves, and how far", "none", "pass bt.Ball(p=2, radius=1.0) to the Problem"
        )
    shared = [leaf for leaf, ball in problem.region.items() if ball.shared]
    if shared and quantity != "accuracy":
        raise InputError(
            f"{quantity} of leaf {shared[0]!r}",
            "a change of each example's own",
            "shared=True, one change common to all examples",
            "ask bt.accuracy: one common change has one answer for the whole set; or use shared=False",
        )


def _restricted(problem: Problem) -> Certificate:
    """No bound knows the section of an l1 or l-inf ball, or of a range, by a subspace."""
    raise NotCertified("a subspace together with a range or with p other than 2")


def _named(family: str, entry: str | Callable) -> tuple[str, Callable]:
    if isinstance(entry, str):
        return entry, method(family, entry)
    if isinstance(entry, Method):
        return entry.name, entry
    function = entry.func if isinstance(entry, partial) else entry
    name = getattr(function, "__name__", type(function).__name__)
    if family == "attacks" and not _takes_seed(entry):
        hint = f"an attack called with (model, inputs, labels) goes into bt.foreign({name})"
        raise InputError("attacks", "names, or functions of (problem, *, seed)", name, hint)
    return name, entry


def _takes_seed(function: object) -> bool:
    """False only where it is sure that the function would refuse a seed."""
    if not callable(function):
        return False
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return True
    return "seed" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
