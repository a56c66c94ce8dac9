"""What an audit records beside the brackets: the health of the measurement, and why the network is brittle."""

import inspect
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from brittle.chunks import Job
from brittle.discovery import method
from brittle.errors import InputError, NotCertified
from brittle.files import write_json
from brittle.health import after, doctor
from brittle.questions.diagnose import tools
from brittle.records import Explanation
from brittle.region import Ball, Region
from brittle.results import Finding
from brittle.rows import recorded_bracket
from brittle.store import load_run

DIAGNOSED = (
    64  # examples per diagnostic, the first of the data: folklore, enough for shares and medians, cheap everywhere
)


def explain(job: Job, what: Explanation) -> str:
    """Run one diagnostic on one model and record its Finding. Returns the name of the record.

    A diagnostic asks about the first region, with a change for each example and without its subspace (without any region: a ball of radius 0) and, where it asks about noise, about the first law. One
    that refuses the model leaves a note, one that fails leaves a doubt; neither ends the audit.
    """
    started = time.perf_counter()
    at = torch.arange(min(DIAGNOSED, job.plan.count))
    name = next(iter(job.plan.questions()))
    try:
        free = {leaf: ball.unrestricted() for leaf, ball in _own(job.move(*name)).items()}
        problem = job.problem(what.model, at, free)
        found = method("diagnostics", what.method)
        finding = found(problem, seed=job.plan.seed, **_given(job, getattr(found, "function", found)))
    except (NotCertified, InputError) as reason:
        finding = Finding(what.method, f"{what.method}: not applicable", note=str(reason))
    except Exception as reason:  # a third party's diagnostic must not cost the brackets
        text = f"{type(reason).__name__}: {reason}"
        finding = Finding(
            what.method,
            f"{what.method}: failed",
            note=text,
            doubt=f"the diagnostic {what.method} failed ({text}); report it to its authors, the brackets do not depend on it",
            consequence="warn",
        )
    write_json(job.folder / "timings" / f"{what.name}.json", {"seconds": time.perf_counter() - started})
    write_json(job.folder / "findings" / f"{what.name}.json", finding.facts())
    return what.name


def _given(job: Job, function: Callable) -> dict[str, object]:
    """What a diagnostic needs besides the question: methods of other families, and the first law of the audit."""
    first = next(iter(job.laws.values()), None)
    laws = {"laws": first} if "laws" in inspect.signature(function).parameters else {}
    return {**tools(function, job.plan.seed), **laws}


def _own(region: Region) -> dict[str, Ball]:
    """The balls with a change for each example, which is what diagnostics and checks ask about."""
    return {leaf: replace(ball, shared=False) for leaf, ball in region.items()}


def before_checks(job: Job) -> dict[str, list[dict]]:
    """The doctor's findings on every model. Errors: InputError where one of them cannot be measured at all."""
    if not job.plan.checks:
        return {}
    region = next((_own(region) for region in job.regions.values()), None)
    found = {}
    for name, network in job.models.items():
        health = doctor(network.original, job.x, job.labels, region=region, seed=job.plan.seed)
        if health.verdict == "stop":
            reason = health.doubts[0].rstrip(".")
            raise InputError(f"model {name!r}", "one that can be measured", reason, "see brittle doctor for all checks")
        found[name] = [finding.facts() for finding in health.findings]
    return found


def after_checks(job: Job) -> dict[str, list[dict]]:
    """The checks that need the brackets, per model and region, on the first examples, as they were recorded."""
    if not job.plan.checks:
        return {}
    run = load_run(job.folder)
    at = torch.arange(min(DIAGNOSED, job.plan.count))
    found = {}
    for model in job.models:
        radii = [name for question, name in job.plan.questions() if question == "radius"]
        pairs = [(name, job.problem(model, at, job.regions[name])) for name in radii]
        found[model] = [
            {**finding.facts(), "title": f"{finding.title}, region {name}"}
            for name, problem in pairs
            for finding in after(problem, recorded_bracket(run, model, name, problem), job.plan.seed, job.plan.effort)
        ]
    return found
