"""The doctor: is this measurement to be believed? All health checks on one model, its inputs and labels."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brittle.digest import state_digest
from brittle.discovery import EFFORTS, Method, methods
from brittle.errors import InputError
from brittle.problem import Problem
from brittle.randomness import fold, generator
from brittle.region import Ball, Region, as_region
from brittle.results import Bracket, Finding
from brittle.validation import as_labels

CONSEQUENCES = ("none", "note", "warn", "invalid", "stop")
VERDICTS = {"none": "ok", "note": "ok", "warn": "doubtful", "invalid": "invalid", "stop": "stop"}
ROWS = 256  # examples looked at; the dearer checks take at most 64 of them
SUBJECT = {  # what an InputError is about -> the check whose business it is
    "labels": "labels",
    "specification": "labels",
    "model output": "labels",
    "logits": "gradients",
    "module": "pipeline",
    "model": "pipeline",
    "region": "input_range",
    "leaf": "input_range",
    "range of leaf": "input_range",
}


@dataclass(frozen=True)
class Health:
    """What the checks found, worst first in ``doubts``.

    verdict  "ok", "doubtful" (a warning), "invalid" (numbers would not mean what they say) or "stop" (nothing can be measured)
    worst    the gravest consequence: "none", "note", "warn", "invalid" or "stop"
    doubts   one plain sentence each: what is wrong and what to do
    """

    findings: tuple[Finding, ...]

    @property
    def worst(self) -> str:
        return max((f.consequence for f in self.findings), key=CONSEQUENCES.index, default="none")

    @property
    def verdict(self) -> str:
        return VERDICTS[self.worst]

    @property
    def doubts(self) -> tuple[str, ...]:
        graded = sorted(self.findings, key=lambda f: -CONSEQUENCES.index(f.consequence))
        return tuple(f.doubt for f in graded if f.doubt)

    def facts(self) -> dict[str, object]:
        """Plain values for a record."""
        return {"verdict": self.verdict, "worst": self.worst, "findings": [f.facts() for f in self.findings]}

    @staticmethod
    def of(facts: Mapping) -> "Health":
        """The Health of a record."""
        return Health(tuple(Finding.of(f) for f in facts["findings"]))

    def __repr__(self) -> str:
        width = max((len(f.title) for f in self.findings), default=0)
        lines = [f"{f.consequence:>7}  {f.title:<{width}}  {f.doubt or f.note}" for f in self.findings]
        return "\n".join([f"Health: {self.verdict}", *lines])

    def __rich__(self):
        from rich.markup import escape
        from rich.table import Table

        colour = {"none": "green", "note": "cyan", "warn": "yellow", "invalid": "red", "stop": "bold red"}
        table = Table("check", "result", "measured", "what it says", title=f"Health: {self.verdict}", show_lines=True)
        for f in self.findings:
            result = {"none": "passed"}.get(f.consequence, f.consequence)
            table.add_row(
                escape(f.title), f"[{colour[f.consequence]}]{result}[/]", escape(f.value), escape(f.doubt or f.note)
            )
        return table


def doctor(
    module: Callable,
    x: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    *,
    region: "Ball | Region | None" = None,
    seed: int = 0,
) -> Health:
    """Run every health check on (at most 256 of) these examples. Never raises for a sick model: what is wrong is in the answer.

    module, x, labels   as for :class:`brittle.Problem`; the module is never changed
    region              what is going to move and its valid range; without it the range checks know the data alone
    Returns a :class:`Health`. Cost: about 50 forward and 6 backward passes per example, on at most 64 examples each.

    >>> torch.manual_seed(0) and None
    >>> module, x = torch.nn.Linear(4, 3).eval(), torch.rand(8, 4)
    >>> doctor(module, x, module(x).argmax(1), region=Ball(p=2, radius=1.0, low=0, high=1)).verdict
    'ok'

    Reference: the checks H1-H15, each with its own reference in ``brittle list checks``.
    """
    before = state_digest(module) if callable(module) else ""
    try:
        free = None if region is None else {leaf: ball.unrestricted() for leaf, ball in as_region(region).items()}
        with _own_randomness(seed, "ask"):
            problem = _ask(module, x, labels, free, seed)
    except Exception as reason:  # whatever user code raises is a finding here
        return Health((_cannot_ask(reason), *_still_untouched(module, before)))
    problem.network._seal = before
    ordered = sorted(_checks("before"), key=lambda m: m.name == "untouched")  # that one judges all others
    return Health(tuple(_examine(m, seed, problem) for m in ordered))


def after(problem: Problem, bracket: Bracket, seed: int = 0, effort: str = "thorough") -> tuple[Finding, ...]:
    """The checks of a finished measurement: is the bracket consistent with its own evidence and with the data?

    Those that attack again declare the least ``effort`` at which they do.
    """
    from brittle.questions.diagnose import tools  # every family, which the doctor's own checks do without

    due = [m for m in _checks("after") if EFFORTS.index(m.about.effort or "quick") <= EFFORTS.index(effort)]
    return tuple(_examine(m, seed, problem, bracket, **tools(m.function, seed)) for m in due)


def _checks(moment: str) -> list[Method]:
    return [m for m in methods("checks") if m.about.answers == moment]


def _examine(method: Method, seed: int, *subject: object, **tools: Callable) -> Finding:
    """One check, with torch's global random state put back; one that raises becomes a warning that names the exception."""
    with _own_randomness(seed, method.name):
        try:
            return method.function(*subject, seed=seed, **tools)
        except Exception as reason:
            return Finding(
                method.name,
                f"{method.name.replace('_', ' ')} (could not run)",
                note=f"The check raised {type(reason).__name__}: {_first_line(reason)}.",
                doubt=f"The check {method.name} could not be made ({type(reason).__name__}: {_first_line(reason)}); "
                "make the model accept plain batches of any size, or report this.",
                consequence="warn",
                value=type(reason).__name__,
            )


@contextmanager
def _own_randomness(seed: int, name: str) -> Iterator[None]:
    """Torch's global generators, seeded for whoever draws from them inside, and put back afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(fold(seed, "check", name))
        yield


def _ask(
    module: Callable, x: "Tensor | Mapping[str, Tensor]", labels: Tensor, region: "Ball | Region | None", seed: int
) -> Problem:
    """The problem on a random subset. The cheap conditions are checked on all examples."""
    every = as_labels(labels)
    parts = x if isinstance(x, Mapping) else {"x": x}
    uneven = [n for n, v in parts.items() if not isinstance(v, Tensor) or v.dim() < 1 or len(v) != len(every)]
    if uneven or len(every) == 0 or every.dim() != 1:
        return Problem(module, x, labels, region)  # which raises and says why
    finite = all(bool(v.isfinite().all()) for v in parts.values() if v.is_floating_point())
    if not finite:
        return Problem(module, x, labels, region)
    features = sum(v[0].numel() for v in parts.values())
    count = min(len(every), ROWS, max(16, 4_000_000 // max(1, features)))
    at = torch.randperm(len(every), generator=generator(seed, "doctor"))[:count].sort().values
    pick = lambda v: v[at.to(v.device)]
    subset = {n: pick(v) for n, v in parts.items()} if isinstance(x, Mapping) else pick(parts["x"])
    problem = Problem(module, subset, pick(every), region)
    problem.spec.check(every, problem.clean_logits().shape[1])
    if len(problem) > 2:
        problem.take(
            torch.arange((len(problem) + 1) // 2)
        ).clean_logits()  # raises for a fixed batch size: nothing works then
    return replace(problem, index=at)


def _cannot_ask(reason: Exception) -> Finding:
    """The finding of a question that cannot even be asked."""
    if isinstance(reason, InputError):
        key = next((k for k in sorted(SUBJECT, key=len, reverse=True) if reason.what.startswith(k)), "")
        name = SUBJECT.get(key, "input_range")
        note = f"{reason.what[0].upper()}{reason.what[1:]}: expected {reason.expected}, got {reason.got}."
        doubt = f"Nothing can be measured. {note.removesuffix('.')}; {_advice(reason)}."
    else:
        name = "pipeline"
        note = f"The model raises {type(reason).__name__} on these inputs: {_first_line(reason)}."
        doubt = (
            f"The model cannot be evaluated on these inputs ({type(reason).__name__}: {_first_line(reason)}); give inputs of the "
            "shape and dtype of its weights, and a model that takes any batch size."
        )
    return Finding(
        name, f"{name.replace('_', ' ')} (nothing could be asked)", note=note, doubt=doubt, consequence="stop"
    )


def _advice(reason: InputError) -> str:
    """What the error says to do, sharper where labels count from one."""
    if reason.what == "labels" and str(reason.expected).startswith("classes 0..") and isinstance(reason.got, int):
        return f"{reason.do}; where classes count from 1, subtract 1"
    return reason.do


def _still_untouched(module: object, before: str) -> tuple[Finding, ...]:
    if not callable(module) or state_digest(module) == before:
        return ()
    return (
        Finding(
            "untouched",
            "module left unchanged (H12)",
            note="The digest of the module has changed while it was examined.",
            doubt="The module was changed by its own forward; find what writes to it before measuring anything.",
            consequence="stop",
        ),
    )


def _first_line(reason: BaseException) -> str:
    text = str(reason).strip().rstrip(".")
    return text.splitlines()[0][:160] if text else "no message"
