"""``audit``: every question about every model, chunk by chunk, into a run folder that survives being killed."""

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from brittle.chunks import Job, examine, work
from brittle.commons import agree, search
from brittle.errors import InputError
from brittle.executors._threads import one_thread
from brittle.files import LOCK, locked, read_json, remove_partial, write_json
from brittle.findings import after_checks, before_checks, explain
from brittle.laws import Law
from brittle.planning import make_plan, named_laws, named_models, named_regions
from brittle.progress import reporter
from brittle.records import SCHEMA, Common, Explanation, Part, plain
from brittle.region import Ball, Region
from brittle.smoothing import named_smoothed
from brittle.spec import Specification
from brittle.store import Run, checks_done, damage, load_run, read_finding, read_plan
from brittle.validation import as_labels, check_inputs

CHECKS = "checks.json"
ENVIRONMENT = ("torch", "numpy", "scipy", "polars", "safetensors")  # what has a hand in the records


def audit(
    module: Callable | Mapping[str, Callable],
    x: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    regions: Mapping[str, Ball | Region] | None = None,
    laws: Mapping[str, Law | Mapping[str, Law]] | None = None,
    out: str | Path = "runs/audit",
    effort: str = "standard",
    seed: int = 0,
    *,
    smoothed: Mapping[str, Law | Mapping[str, Law]] | None = None,
    spec: Specification | None = None,
    chunk: int = 25,
    level: float = 0.95,
    executor: str | Callable = "local",
    workers: int = 1,
    diagnostics: Sequence[str] | None = None,
    checks: bool = True,
    sources: Mapping[str, object] | None = None,
    progress: bool = True,
    report: str | None = "brittle.report:write",
) -> Run:
    """All questions about one or several models, stored in the folder ``out`` as records, witnesses, proofs and a report.

    For every region the bracket of the largest scale at which the property holds (:func:`brittle.questions.radius.radius`),
    for every law the bracket of the probability that it fails (:func:`brittle.questions.probability.probability`), one per
    example; for a region with ``shared=True`` the bracket of the accuracy under one change common to all examples
    (:func:`brittle.questions.accuracy.accuracy`), certified chunk by chunk, attacked in one unit of work that sees all examples; health checks before and after; diagnostics on the first examples.

    Guarantee: the records depend on the plan alone (weights and code of the models, data, regions, laws, effort, seed,
    chunk, level, methods, versions), never on the executor, the workers or the order. Run again, the same call resumes:
    whole parts are kept, absent or damaged ones are done again, and a finished folder is only read. An audit that was
    interrupted or killed loses no more than the units in flight.

    module    one model, or name -> model: several are audited side by side in one folder
    x         (N, ...) or keyword inputs; labels (N,)
    regions   name -> Ball (the input moves), or name -> leaf -> Ball
    laws      name -> noise law, or name -> leaf -> law
    smoothed  name -> noise law: the radius of another model, the given one *with this noise on top* (:func:`brittle.questions.smoothed_radius.smoothed_radius`), in the norm that
              the law certifies; told apart from radii of the given model everywhere
    effort    "quick", "standard" or "thorough": which methods run by themselves
    chunk     examples per unit of work. Part of the plan; memory only splits a chunk further, without a trace
    level     of the intervals of probabilities
    executor  "local", "processes" (with ``workers``), or any function like ``map``: ``f(function, items, workers=1)``
    diagnostics   names; default: all that run by themselves at this effort; ``[]`` for none
    checks    health checks of models and data; a model that cannot be measured ends the audit before it starts
    sources   plain values on where model and data came from, for the record
    report    "module:function", called with the folder at the end; None for none
    Errors: InputError for questions that cannot be asked, a folder of another plan, one with another audit at work, or a
    full disk. Nothing is left behind by a call that was refused.

    >>> import tempfile
    >>> import torch
    >>> model, x, labels = torch.nn.Linear(2, 2), torch.rand(3, 2), torch.tensor([0, 1, 0])
    >>> options = {"effort": "quick", "checks": False, "diagnostics": [], "progress": False, "report": None}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = audit(model, x, labels, {"l2": Ball(p=2, radius=1.0)}, out=f"{folder}/run", **options)
    ...     run.complete, run.samples["lower"].is_finite().all()
    (True, True)
    """
    labels = as_labels(labels)
    inputs = {"x": x} if not isinstance(x, Mapping) else {f"x.{name}": value for name, value in x.items()}
    check_inputs(inputs, labels)
    models, balls, noises = named_models(module), named_regions(regions or {}), named_laws(laws or {})
    asked = named_smoothed(smoothed or {}, effort)
    plan = make_plan(
        models, x, labels, balls, noises, spec,
        effort=effort, seed=seed, chunk=chunk, level=level, diagnostics=diagnostics, checks=checks, smoothed=asked,
    )  # fmt: skip
    job = Job(Path(out), plan, models, x, labels, balls, noises, spec, asked)
    mapped = _executor(executor, workers)
    _same_plan(job)
    absent = [folder for folder in job.folder.parents if not folder.exists()]
    with locked(job.folder):
        remove_partial(job.folder)
        if not _same_plan(job):
            _begin(job, sources or {}, absent)
        units = [*plan.stored(), *plan.explanations()]
        pending = [unit for unit in units if not _done(job, unit)]
        with reporter(len(units), len(units) - len(pending), progress) as advance:
            for name in mapped(partial(perform, job), pending, workers=workers):
                advance(name)
        agree(job.folder)
        worked = _finish_checks(job) or bool(pending)
    if report is not None and (worked or not (job.folder / "report.html").exists()):
        where, _, function = report.partition(":")
        getattr(import_module(where), function)(job.folder)
    return load_run(job.folder)


def perform(job: Job, unit: Part | Common | Explanation) -> str:
    """Do one unit of work, whichever it is, and return its name."""
    if isinstance(unit, Common):
        return search(job, unit)
    return work(job, unit) if isinstance(unit, Part) else explain(job, unit)


def _same_plan(job: Job) -> bool:
    """Whether the folder holds this plan already; refuses a folder that holds anything else."""
    what, do = f"run folder {job.folder}", "choose another out=, or delete it"
    if not (job.folder / "run.json").exists():
        others = [f.name for f in job.folder.glob("*") if not f.name.startswith(".")] if job.folder.is_dir() else []
        if others:
            raise InputError(what, "a new folder or one of the same audit", f"other files ({others[0]})", do)
        return False
    facts, plan = read_plan(job.folder)
    if facts["key"] == job.plan.key:
        return True
    different = job.plan.differences(plan)
    raise InputError(what, "the folder of the same plan", f"another plan: {'; '.join(different[:4])}", do)


def _begin(job: Job, sources: Mapping[str, object], absent: Sequence[Path]) -> None:
    """Check everything, then make the folder a run. A call that is refused leaves nothing behind."""
    try:
        with one_thread():
            examine(job)
            checks = before_checks(job)
    except BaseException:
        _remove_empty(job.folder, absent)
        raise
    facts = {
        "schema": SCHEMA,
        "key": job.plan.key,
        "plan": job.plan.facts(),
        "environment": _environment(),
        "sources": plain(sources),
    }
    write_json(job.folder / "run.json", facts)
    write_json(job.folder / CHECKS, {"before": checks, "after": None})


def _environment() -> dict[str, str]:
    """Versions; never where or when."""
    system = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    return {**system, **{name: version(name) for name in ENVIRONMENT}}


def _finish_checks(job: Job) -> bool:
    """The checks that need the brackets, and those that a kill has cost. Whether there was anything to do."""
    if checks_done(job.folder):
        return False
    stored = read_json(job.folder / CHECKS)
    with one_thread():
        before = before_checks(job) if stored is None else stored["before"]
        write_json(job.folder / CHECKS, {"before": before, "after": after_checks(job)})
    return True


def _done(job: Job, unit: Part | Common | Explanation) -> bool:
    if isinstance(unit, Explanation):
        return read_finding(job.folder, unit.model, unit.method) is not None
    return not damage(job.folder, unit)


def _executor(choice: str | Callable, workers: int) -> Callable:
    """A function like ``map``: given, or the one file of its name among the executors."""
    if callable(choice):
        return choice
    known = sorted(f.stem for f in (Path(__file__).parent / "executors").glob("[a-z]*.py"))
    if choice not in known:
        raise InputError(
            "executor", " | ".join(known), repr(choice), "choose one of these, or pass a function like map"
        )
    if workers < 1 or (choice == "local" and workers > 1):
        raise InputError("workers", "1 with executor='local', 1 or more otherwise", workers, 'use executor="processes"')
    return getattr(import_module(f"brittle.executors.{choice}"), choice)


def _remove_empty(folder: Path, absent: Sequence[Path]) -> None:
    """Take back a folder that holds nothing yet, and the parents made for it."""
    if all(file.name == LOCK for file in folder.iterdir()):
        (folder / LOCK).unlink(missing_ok=True)
        for made in (folder, *absent):
            if not any(made.iterdir()):
                made.rmdir()
