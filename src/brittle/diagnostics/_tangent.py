"""The margin predicted by the tangent at the worst point of the first linearisation: one pass more, and curvature counts."""

import torch
from torch import Tensor

from brittle import norms
from brittle.diagnostics._slopes import support
from brittle.errors import InputError
from brittle.problem import NUMBERS, Problem


def tangent(problem: Problem, rank: int) -> Tensor:
    """(N,) float64: the least value over the balls of the linear function that touches the ``rank``-th smallest row at the worst point of its
    linearisation at the clean point. No bound.

    With g0 the gradient at the centre c, ``v = argmin <g0, v>`` over balls and ranges and g1 the gradient at c + v:
    ``m(c + v) - <g1, v> - max <-g1, u>``. Exact where both gradients point into the same corner, as for a linear layer whose input and
    weights keep their signs: then it is ``m(c + v)``. Where a range binds and p < inf, v is the projected steepest step.

    Errors: InputError for p = 0, whose worst point has no bounded size.
    """
    counted = [leaf for leaf, ball in problem.region.items() if ball.p == 0]
    if counted:
        do = "use linearisations=1"
        raise InputError("sources, linearisations=2", "p of 1, 2 or inf", f"p=0 for {counted[0]!r}", do)
    width = sum(v[0].numel() for v in problem.centre.values()) + sum(v[0].numel() for v in problem.inputs.values())
    pieces = torch.arange(len(problem)).split(max(1, NUMBERS // max(1, width)))
    return torch.cat([_of_some(problem.take(at), rank) for at in pieces])


def _of_some(part: Problem, rank: int) -> Tensor:
    """The same of as many examples as may have weights of their own at once."""
    centre = {leaf: v.detach().expand(len(part), *v.shape[1:]) for leaf, v in part.centre.items()}
    rows, slope = part.gradient(centre, lambda rows: rows.sort(dim=1, stable=True).values[:, rank - 1])
    which = rows.sort(dim=1, stable=True).indices[:, rank - 1 : rank]
    row = lambda rows: rows.gather(1, which)[:, 0]
    worst = {}
    for leaf, ball in part.region.items():
        step = norms.spread(part.radius(leaf).to(centre[leaf]), centre[leaf]) * ball.steepest(slope[leaf])
        worst[leaf] = part.project_leaf(leaf, centre[leaf] - step)
    rows, slope = part.gradient(worst, row)
    value = row(rows).double()
    for leaf, g in slope.items():
        value = value - ((worst[leaf] - centre[leaf]).double() * g.double()).flatten(1).sum(1)
        value = value - support(part, leaf, g).to(value)
    return value.cpu()
