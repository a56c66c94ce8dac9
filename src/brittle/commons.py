"""One unit of work: the change common to all examples that breaks most of them, of one model and one region, found and written."""

import gc
import time
from pathlib import Path

import torch

from brittle import meter
from brittle.chunks import Job
from brittle.errors import BracketError, InputError
from brittle.problem import Problem, alike
from brittle.questions._methods import chosen
from brittle.questions._shared import attack_together
from brittle.questions.accuracy import SLACK
from brittle.records import COLUMNS, Common
from brittle.results import Witness
from brittle.rows import array, numbers, witness_columns
from brittle.store import load_run, write_part
from brittle.validation import is_out_of_memory

TOLD = ("rounding-only", "nan")  # what a witness says of an example that its certificate does not know


def search(job: Job, unit: Common) -> str:
    """Find the common change, judge it on every example, and write it once. Returns the unit's name.

    The certificates of the same question are the chunks' business; the two meet in ``Run.samples``. Errors: InputError where all examples together do
    not fit into memory: one change is searched for by the gradients of all of them.
    """
    started = time.perf_counter()
    at = torch.arange(job.plan.count)
    problem = job.problem(unit.model, at, job.regions[unit.region])
    with meter.measure() as passes:
        witness, used = _together(problem, job)
    count, said = len(at), witness_columns(witness, len(at))
    exact = witness.margin if witness.margin64 is None else witness.margin64
    rows = {name: [None] * count for name in COLUMNS} | {
        "model": [unit.model] * count,
        "question": ["accuracy"] * count,
        "name": [unit.region] * count,
        "example": at.tolist(),
        "upper": numbers(exact),
        "upper_kind": ["witnessed"] * count,
        "upper_method": [used] * count,
        "status": [status if status in TOLD else None for status in witness.status],
        "forward": [passes.forward / count] * count,
        "backward": [passes.backward / count] * count,
        **said,
    }
    points = {
        f"accuracy/{unit.region}/{leaf}": array(v[:1] if _one(problem, leaf, v) else v)
        for leaf, v in witness.point.items()
    }
    seconds = time.perf_counter() - started
    timings = {"examples": count, "questions": {f"accuracy/{unit.region}": passes.seconds}, "seconds": seconds}
    write_part(job.folder, unit, rows, points, {}, timings)
    return unit.name


def agree(folder: Path) -> None:
    """No example that is certified is broken by the stored common change. Errors: BracketError where one is: a method has a bug."""
    run = load_run(folder)
    for unit in run.plan.commons():
        for row in run.brackets(unit.model, unit.region).filter("found").to_dicts():
            if row["lower"] is not None and row["lower"] > max(0.0, row["upper"] + SLACK * (1 + abs(row["upper"]))):
                raise BracketError(
                    f"{unit.name}: the proved margin {row['lower']:.9g} of example {row['example']} ({row['lower_method']}) lies above the "
                    f"witnessed {row['upper']:.9g} ({row['upper_method']}); one of the two has a bug, please report it together with the model"
                )


def _together(problem: Problem, job: Job) -> tuple[Witness, str]:
    try:
        return attack_together(problem, chosen("attacks", None, problem, job.plan.effort, "accuracy"), job.plan.seed)
    except (RuntimeError, MemoryError) as reason:
        if not is_out_of_memory(reason):
            raise
        gc.collect()
        do = "use fewer examples, a smaller effort, or a machine with more memory: one change is searched for over all examples at once"
        raise InputError("memory", f"room for {len(problem)} examples together", str(reason)[:200], do) from reason


def _one(problem: Problem, leaf: str, value: torch.Tensor) -> bool:
    """Whether a leaf is a parameter that has one value for all examples."""
    return leaf not in problem.inputs and (alike(value) or bool((value == value[:1]).all()))
