"""One unit of work: all questions about one model on one chunk of examples, answered and written."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from brittle.errors import InputError
from brittle.laws import Law
from brittle.network import Network
from brittle.problem import Problem
from brittle.questions._shared import each_its_own
from brittle.records import COLUMNS, Part, Plan
from brittle.region import Ball, Region
from brittle.results import Bracket
from brittle.rows import (
    bracket_columns,
    clean_columns,
    clean_points,
    identity_columns,
    join_brackets,
    join_columns,
    proof_arrays,
    vote_arrays,
    witness_points,
)
from brittle.smoothing import Smoothed
from brittle.spec import Specification
from brittle.store import write_part
from brittle.validation import is_out_of_memory

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Job:
    """What every worker holds: the folder, the plan, and the models and data that the plan describes."""

    folder: Path
    plan: Plan
    models: Mapping[str, Network]
    x: Tensor | Mapping[str, Tensor]
    labels: Tensor
    regions: Mapping[str, Region]
    laws: Mapping[str, Mapping[str, Law]]
    spec: Specification | None
    smoothed: Mapping[str, Smoothed] = field(default_factory=dict)

    def inputs(self, at: Tensor) -> Tensor | dict[str, Tensor]:
        """The inputs of the examples ``at``."""
        pick = lambda value: value[at.to(value.device)]
        return pick(self.x) if isinstance(self.x, Tensor) else {name: pick(value) for name, value in self.x.items()}

    def problem(self, model: str, at: Tensor, region: Ball | Region | None = None) -> Problem:
        """The question about the examples ``at``, which keep their global numbers."""
        network = self.models[model]
        spec = None if self.spec is None else self.spec.take(at)
        labels = self.labels[at.to(self.labels.device)]
        return Problem(network.original, self.inputs(at), labels, region, spec, index=at, network=network)

    def move(self, question: str, name: str) -> Region:
        """The region of a question; for a law, balls of radius 0 on the leaves that it moves."""
        if question == "probability":
            return {leaf: Ball(p=2, radius=0.0) for leaf in self.laws[name]}
        if question == "smoothed":
            return self.smoothed[name].region
        return self.regions[name]


def answer(job: Job, problem: Problem, question: str, name: str) -> Bracket:
    """One question put to the methods; of one change common to all examples the lower end alone, which is each example's own."""
    plan = job.plan
    if question == "accuracy":
        from brittle.questions.margin import margin

        return margin(each_its_own(problem), effort=plan.effort, ends="lower", seed=plan.seed)
    if question == "smoothed":
        return job.smoothed[name].answer(problem, plan.seed)
    if question == "radius":
        from brittle.questions.radius import radius

        return radius(problem, effort=plan.effort, ends="both", seed=plan.seed)
    from brittle.questions.probability import probability

    return probability(problem, job.laws[name], effort=plan.effort, seed=plan.seed, level=plan.level)


def work(job: Job, part: Part) -> str:
    """Answer every question about one part and write it. Returns the part's name."""
    at = torch.arange(part.start, part.stop)
    started = time.perf_counter()
    clean = in_memory(lambda some: clean_columns(job.problem(part.model, some)), at, join_columns)
    points = clean_points(job.inputs(at))
    rows: dict[str, list] = {name: [] for name in COLUMNS}
    proofs, seconds = {}, {}
    for question, name in job.plan.questions():
        region = job.move(question, name)
        ask = lambda some, q=question, n=name, r=region: answer(job, job.problem(part.model, some, r), q, n)
        bracket = in_memory(ask, at, join_brackets)
        seconds[f"{question}/{name}"] = bracket.cost.seconds
        columns = {**identity_columns(part, question, name), **clean, **bracket_columns(bracket)}
        if question == "accuracy":
            columns["upper"] = [None] * len(at)  # the unit of the common change knows it
        for column, values in rows.items():
            values.extend(columns[column])
        points |= witness_points(bracket, f"{question}/{name}")
        proofs |= proof_arrays(bracket, f"{question}/{name}")
        if question == "smoothed":
            proofs |= vote_arrays(bracket, f"{question}/{name}")
    timings = {"examples": len(at), "questions": seconds, "seconds": time.perf_counter() - started}
    write_part(job.folder, part, rows, points, proofs, timings)
    return part.name


def in_memory(ask: Callable[[Tensor], Result], at: Tensor, join: Callable[[Sequence[Result]], Result]) -> Result:
    """``ask(at)``; where memory runs out, the same in micro-batches half as large, joined.

    Examples do not influence each other and keep their identities, so only the cost of a failed try is lost.
    Errors: InputError where a single example does not fit.
    """
    size, start, parts = len(at), 0, []
    while start < len(at):
        try:
            parts.append(ask(at[start : start + size]))
            start += size
            continue
        except (RuntimeError, MemoryError) as reason:
            if not is_out_of_memory(reason):
                raise
            if min(size, len(at) - start) == 1:
                do = "use a machine with more memory, a smaller effort, or fewer moving leaves"
                raise InputError("memory", "room for one example", str(reason)[:200], do) from reason
        size = max(1, min(size, len(at) - start) // 2)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return parts[0] if len(parts) == 1 else join(parts)


def examine(job: Job) -> None:
    """Pass every example through every model once and check every region and law, so that bad input costs nothing else."""
    for network in job.models.values():
        outputs = in_memory(lambda at, n=network: _outputs(job, n, at), torch.arange(1), lambda parts: parts[0])
        if job.spec is not None:
            job.spec.check(job.labels, outputs)
    for part in job.plan.parts():
        at = torch.arange(part.start, part.stop)
        in_memory(lambda some, p=part: _examine(job, p.model, some), at, lambda parts: None)


def _outputs(job: Job, network: Network, at: Tensor) -> int:
    problem = Problem(network.original, job.inputs(at), job.labels[at.to(job.labels.device)], index=at, network=network)
    return problem.clean_logits().shape[1]


def _examine(job: Job, model: str, at: Tensor) -> None:
    problem = job.problem(model, at)
    for question, name in job.plan.questions():
        moved = problem.within(job.move(question, name))
        for leaf, law in job.laws.get(name, {}).items():
            law.check(leaf, tuple(moved.centre[leaf].shape[1:]))
    for asked in job.smoothed.values():
        asked.check(problem)
