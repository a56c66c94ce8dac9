"""Which estimator speaks for which example: plain draws where they saw enough failures, else the methods for rare ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from brittle.noise._rare import MISSED
from brittle.problem import Problem
from brittle.results import Bracket, bracket_of

ENOUGH = 10  # failures seen: plain Monte Carlo is then good to about 30 %
Part = tuple[str, Bracket]
NAMES = {"monte_carlo": "Monte Carlo"}  # as a reader says it; other methods go by their names


def rare(bracket: Bracket) -> Tensor:
    """(N,) bool: where the plain draws saw too few failures for an estimate, or no plain draws were made."""
    seen = bracket.diagnostics.get("failures")
    return torch.ones(len(bracket), dtype=torch.bool) if seen is None else seen < ENOUGH


def on_some(ask: Callable[[Problem], Bracket], problem: Problem, where: Tensor) -> Bracket | None:
    """The bracket of the examples ``where`` (N,), written over one that says nothing of the others; None where there are none."""
    at, rest = where.nonzero()[:, 0], (~where).nonzero()[:, 0]
    if not len(at):
        return None
    part = ask(problem.take(at))
    if not len(rest):
        return part
    silent = replace(
        bracket_of("probability", len(rest)),
        estimate=torch.full((len(rest),), torch.nan, dtype=torch.float64),
        interval=torch.full((len(rest), 2), torch.nan, dtype=torch.float64),
        level=part.level,
        diagnostics={
            k: torch.full((len(rest), *v.shape[1:]), torch.nan, dtype=v.dtype) for k, v in part.diagnostics.items()
        },
    )
    return Bracket.join([part, silent]).take(torch.cat([at, rest]).argsort())


def merged(answer: Bracket, estimators: Sequence[Part]) -> tuple[Bracket, list[str]]:
    """``answer`` with the estimate of every example taken from the method that is to be believed there, and that method's name.

    The first estimator speaks where it has enough failures; else the first of the others that does not refuse and whose interval meets the exact
    interval of the plain draws. One that does not is said to be doubtful: it has probably missed failures.
    """
    names = [""] * len(answer)
    if not estimators or estimators[0][1].estimate is None:
        return answer, names
    (plain, first), *others = estimators
    assert first.estimate is not None and first.interval is not None
    estimate, interval = first.estimate.clone(), first.interval.clone()
    names, open_, doubts = [plain] * len(answer), rare(first) | estimate.isnan(), list(answer.doubts)
    for name, other in others:
        if other.estimate is None or other.interval is None:
            continue
        spoken = ~other.estimate.isnan()
        apart = spoken & ((other.interval[:, 1] < first.lower) | (other.interval[:, 0] > first.upper))
        if bool((apart & open_).any()):
            doubts.append(
                f"{name} and {NAMES.get(plain, plain)} contradict each other on {int((apart & open_).sum())} of {len(apart)} examples: failures far "
                "from every direction searched are likely; the estimate of the plain draws is kept there"
            )
        taken = open_ & spoken & ~apart
        estimate[taken], interval[taken] = other.estimate[taken], other.interval[taken]
        for i in taken.nonzero()[:, 0].tolist():
            names[i] = name
        open_ &= ~taken
    return replace(answer, estimate=estimate, interval=interval, doubts=tuple(doubts)), names


def unanswered(parts: Mapping[str, Bracket]) -> Tensor:
    """(N,) bool: examples that a method for rare failures was asked about and refused."""
    bracket = parts["importance_sampling"]
    return torch.tensor([s.startswith("not estimated") for s in bracket.status], dtype=torch.bool)


def undecided(bracket: Bracket) -> Tensor:
    """(N,) bool: where a sequential method has not decided; everywhere for other methods."""
    decision = bracket.diagnostics.get("decision")
    return torch.ones(len(bracket), dtype=torch.bool) if decision is None else decision == 0


def statuses(
    answer: Bracket, wrong: Sequence[bool], speakers: Sequence[str], sought: bool, threshold: float | None
) -> tuple[str, ...]:
    """One status per example, in which nothing hides anything else: what is not proved (where ``sought``), then what is not estimated."""
    first = next((part for _, part in answer.parts if part.estimate is not None), None)
    few = [False] * len(answer) if first is None else rare(first).tolist()
    plain = next((name for name, part in answer.parts if part is first), "")
    said = []
    for i, speaker in enumerate(speakers):
        every = [(name, part.status[i]) for name, part in answer.parts]
        words = _first(every, "not certified") if sought and answer.kinds.upper[i] != "proved" else []
        words += _first(every, "not estimated") if speaker == plain and few[i] else []
        words += [s for name, s in every if name == speaker and s.startswith("below")]
        inside = threshold is not None and float(answer.lower[i]) <= threshold <= float(answer.upper[i])
        words += _first(every, "undecided") if inside else []
        broken = any(s == "nan" for _, s in every)
        said.append("misclassified" if wrong[i] else "nan" if broken else "; ".join(words) or "ok")
    return tuple(said)


def _first(said: Sequence[tuple[str, str]], start: str) -> list[str]:
    return [status for _, status in said if status.startswith(start)][:1]


def warnings(answer: Bracket, speakers: Sequence[str]) -> tuple[str, ...]:
    """The doubts of all parts, each once; what a search may miss only where an estimate that rests on it is the answer."""
    rests = any(MISSED in part.doubts and name in speakers for name, part in answer.parts)
    return tuple(d for d in answer.doubts if d != MISSED or rests)


def contradiction(answer: Bracket, names: list[str]) -> tuple[str, ...]:
    """An estimator's interval above a proved upper end: a doubt, since an interval may miss, but not often."""
    if answer.interval is None or answer.level is None:
        return ()
    proved = torch.tensor([kind == "proved" for kind in answer.kinds.upper])
    above = proved & (answer.interval[:, 0] > answer.upper)
    if not bool(above.any()):
        return ()
    spoke = {name for name, yes in zip(names, above.tolist(), strict=True) if yes}
    who = " and ".join(sorted(NAMES.get(name) or name for name in spoke))
    return (
        f"analytic bound contradicts {who} on {int(above.sum())} of {len(above)} examples: the interval lies above the "
        f"proved upper end, which chance explains in {50 * (1 - answer.level):.3g} % of the cases; else one of the two has a bug",
    )
