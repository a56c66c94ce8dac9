"""What happens on the way to another class: margin and compression factor along the segments of the most compressed examples."""

from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.about import About
from brittle.errors import InputError
from brittle.partners import Examples, Partners, find_partners, moving_input, rivals
from brittle.paths import REASONS, Walk, walk
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="margin, steepness and cosine between gradient and way, along the segment to the nearest example of another class",
    reference="arXiv 2406.16200, section 5: the path integral of the gradient",
    norms=(1, 2, inf),
    leaves=("input",),
    cost="at most 14 forward and 12 backward passes, and points more of each for the examples shown; one forward per partner",
    effort="standard",
)


def compression_path(
    problem: Problem, *, seed: int = 0, partners: Examples | None = None, examples: int = 3, points: int = 40
) -> Finding:
    """The segments from the ``examples`` most compressed examples to their nearest correctly classified partners.

    Most compressed: with the smallest radius, predicted by a coarse walk, in units of half the distance to another class. At ``points`` midpoints t:
    ``margin`` g, ``steepness`` ``|grad g|_2`` and ``cosine`` ``cos(-grad g, Delta)``. The drop of g over the whole segment is
    ``|Delta|_2`` times the mean of steepness x cosine, exactly for piecewise linear g with kinks at the ends of cells.

    One row per example and midpoint: ``example``, ``rival`` (class), ``partner``, ``share`` t, ``distance`` t |Delta|_p, and, the same in all
    rows of an example, ``predicted_radius`` and ``length`` |Delta|_p. Errors as for ``compression``.

    >>> linear = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), linear.bias.zero_()
    >>> problem = Problem(linear, torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([0, 1]))
    >>> found = compression_path(problem, examples=1, points=4)
    >>> found.columns["margin"].tolist(), found.columns["cosine"].tolist()
    ([1.5, 0.5, -0.5, -1.5], [1.0, 1.0, 1.0, 1.0])
    """
    if examples < 1 or points < 1:
        raise InputError("compression_path", "examples and points >= 1", (examples, points), "correct them")
    leaf, ball = moving_input(problem)
    others = find_partners(problem, partners)
    coarse = walk(problem, others, classes=3, midpoints=4)
    chosen = _most_compressed(coarse, others, examples)
    if not len(chosen):
        reason = REASONS[max(set(coarse.status), key=coarse.status.count)]
        return Finding("compression_path", TITLE, note=f"No path could be followed: {reason}.")
    at, t = chosen.repeat_interleave(points), ((torch.arange(points) + 0.5) / points).repeat(len(chosen))
    part = problem.take(at)
    way = others.values[coarse.nearest[at]] - part.inputs[leaf]
    which = coarse.nearest_row[at][:, None]
    here = part.inputs[leaf] + norms.spread(t.to(way), way) * way
    rows, gradients = part.gradient({leaf: here}, lambda rows: rows.gather(1, which)[:, 0])
    descent, way = norms.flat(-gradients[leaf].double()), norms.flat(way.double())
    steepness, length = norms.norm(descent, 2), norms.norm(way, ball.p)
    cosine = (descent * way).sum(1) / (steepness * norms.norm(way, 2)).clamp_min(torch.finfo(torch.float64).tiny)
    kinds = rivals(part, others.outputs).gather(1, which)[:, 0]
    columns: dict[str, Tensor | list] = {
        "example": part.index,
        "rival": kinds.cpu(),
        "partner": coarse.nearest[at].cpu(),
        "share": t,
        "distance": t * length.cpu(),
        "margin": rows.gather(1, which)[:, 0].double().cpu(),
        "steepness": steepness.cpu(),
        "cosine": cosine.cpu(),
        "predicted_radius": coarse.radius[at].cpu(),
        "length": length.cpu(),
    }
    return Finding("compression_path", TITLE, columns, ("distance", "margin"), "logits", _sentence(columns))


TITLE = "On the way to another class"


def _most_compressed(coarse: Walk, others: Partners, most: int) -> Tensor:
    """The examples, the most compressed first; those with a twin of another class have no ratio and are left out."""
    good = torch.tensor([s == "ok" for s in coarse.status], device=others.other.device) & (others.other > 0)
    ratio = torch.where(good, coarse.radius / others.other, inf)
    order = ratio.argsort(stable=True)[: int(good.sum())]
    return order[:most]


def _sentence(columns: dict[str, Tensor | list]) -> str:
    """The most compressed example in words."""
    size, length = (float(columns[name][0]) for name in ("predicted_radius", "length"))
    before = torch.as_tensor(columns["margin"]) > 0
    mine = (torch.as_tensor(columns["example"]) == columns["example"][0]) & before
    cosine = float(torch.as_tensor(columns["cosine"])[mine].mean()) if bool(mine.any()) else 0.0
    return (
        f"Example {int(columns['example'][0])} lies {length:.3g} from its nearest partner of another class, yet a change of {size:.3g} is "
        f"predicted to flip it: before the crossing, gradient and way agree to {cosine:.2f} only."
    )
