"""One change common to all examples: that it is one, that it lies in its region, and what it leaves right, replayed on every example."""

from collections.abc import Callable, Iterator, Mapping
from math import inf

import numpy as np
import torch
from torch import Tensor

from brittle.problem import Problem
from brittle.records import Common, Part
from brittle.region import Region
from brittle.spec import margin
from brittle.store import Run, damage
from brittle.verifying.recorded import tensors_of
from brittle.verifying.report import Report
from brittle.verifying.witnesses import size_of

OUTSIDE = 1e-12  # of rounding in a size that was measured by another sum
ADDED = 4  # units in the last place by which a change of inputs differs between examples after it was added to them


def replay_common(run: Run, unit: Common, ask: Callable[[Part], Problem], region: Region, report: Report) -> None:
    """Replay the stored change of one unit on all examples, chunk by chunk."""
    where, why = f"{unit.model}, {unit.region}", damage(run.folder, unit)
    if why:
        report.unusable(f"unit {unit.name}", why)
        return
    points = tensors_of(run, "points", unit, f"accuracy/{unit.region}/")
    rows = {row["example"]: row for row in run.brackets(unit.model, unit.region).to_dicts()}
    room: dict[str, list[Tensor]] = {}
    report.counts["witnesses"] += 1
    for part in (part for part in run.plan.parts() if part.model == unit.model and part.name not in run.missing):
        problem = ask(part).within(region)
        point = _point(problem, points, part, run.plan.count)
        if point is None:
            report.fail(
                where,
                "the stored change has other leaves, shapes or types than the region, or is not one for all examples",
            )
            return
        for i, size in _sizes(problem, point):
            if not size <= 1 + OUTSIDE:
                report.fail(
                    f"{where}, example {part.start + i}", f"the common change lies outside its region: size {size:.9g}"
                )
        for leaf, (least, most) in _room(problem, point).items():
            before = room.get(leaf, [least, most])
            room[leaf] = [torch.maximum(before[0], least), torch.minimum(before[1], most)]
        _judge(problem, point, [rows.get(n) for n in range(part.start, part.stop)], where, report)
    for leaf, (least, most) in room.items():
        if not bool((least <= most).all()):
            report.fail(where, f"no one change of {leaf!r} leads to all stored points")


def _point(problem: Problem, points: Mapping[str, np.ndarray], part: Part, count: int) -> dict[str, Tensor] | None:
    """The stored leaves of these examples; None where they are not of this region. A shared parameter has one value by its shape."""
    if set(points) != set(problem.leaves):
        return None
    point = {}
    for leaf, centre in problem.centre.items():
        whole = torch.from_numpy(np.array(points[leaf])).to(problem.device)
        parameter = leaf not in problem.inputs
        one = parameter and len(whole) == 1
        if (parameter and problem.region[leaf].shared and not one) or len(whole) != (1 if one else count):
            return None
        if whole.shape[1:] != centre.shape[1:] or whole.dtype != centre.dtype:
            return None
        point[leaf] = whole.expand(len(problem), *whole.shape[1:]) if one else whole[part.start : part.stop]
    return point


def _sizes(problem: Problem, point: Mapping[str, Tensor]) -> Iterator[tuple[int, float]]:
    """(place, size) of every leaf at every example; of a value that all share at the first alone, its centre being one too."""
    for leaf, value in point.items():
        once = leaf not in problem.inputs and value.stride(0) == 0
        for i in range(1 if once else len(problem)):
            yield i, size_of(problem, leaf, value[i], i)


def _room(problem: Problem, point: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Shared inputs: between which changes the common one must lie for these examples, cut off at their range, up to rounding."""
    found = {}
    for leaf, ball in problem.region.items():
        if not (ball.shared and leaf in problem.inputs):
            continue
        x, value = problem.inputs[leaf].double(), point[leaf].double()
        low, high = ball.exact_range(point[leaf])
        give = ADDED * torch.finfo(point[leaf].dtype).eps * torch.maximum(x.abs(), value.abs())
        least = torch.where((value - low).abs() <= give, -inf, value - x - give).amax(0)
        most = torch.where((value - high).abs() <= give, inf, value - x + give).amin(0)
        found[leaf] = (least, most)
    return found


def _judge(problem: Problem, point: Mapping[str, Tensor], rows: list[dict | None], where: str, report: Report) -> None:
    """The recorded margins are those of the change, and what is called broken is."""
    with torch.no_grad():
        logits = problem.logits(point)
        own = margin(problem.spec.rows(logits, problem.labels), problem.spec.rank).double()
        exact = problem.double().margin({k: v.double() for k, v in point.items()}).double()
    largest = logits.abs().amax(1).double()
    slack = (
        256 * torch.finfo(logits.dtype).eps * (1 + largest)
    )  # as for every witness: another batch may round otherwise
    for i, row in enumerate(rows):
        if row is None or row["found"] is None:
            report.fail(where, f"no row of the common change for example {int(problem.index[i])}")
            continue
        here, told = f"{where}, example {row['example']}", row["upper"]
        if row["found"] and not (own[i] <= slack[i] and exact[i] <= 1e-9 * (1 + largest[i])):
            report.fail(here, f"the common change does not break it: its margin is {float(exact[i]):.6g}")
        if told is not None and not abs(told - float(exact[i])) <= 1e-9 * (1 + float(largest[i])):
            report.fail(here, f"under the common change the margin is {float(exact[i]):.9g}, recorded {told:.9g}")
        if row["found"] and (row["lower"] or 0) > 0:
            report.fail(here, f"certified ({row['lower']:.6g}) and broken by the common change")
