"""Backward linear bound propagation for the rows of the specification alone; intervals by interval propagation (CROWN-IBP)."""

from math import inf

import torch

from brittle import backward, intervals, meter, ops
from brittle.about import About
from brittle.bounds import _concrete
from brittle.graph import graph_of
from brittle.planes import Planes, planes
from brittle.problem import Problem
from brittle.relaxation import pull_back
from brittle.results import Certificate

ABOUT = About(
    promise="lower bounds on every row of the specification, proved in float64 with outward rounding",
    reference="Zhang et al., ICLR 2020, arXiv 1906.06316",
    norms=(0, 1, 2, inf),
    answers="margin",
    leaves=("input",),
    cost="3 forward passes; 1 backward pass per row",
    effort="",
)


def crown_ibp(problem: Problem) -> Certificate:
    """Lower bounds (N, R) on the rows of the specification over the whole region.

    The rows are pulled back to the inputs as in ``crown``; the intervals of the units are those of ``ibp``, so that no unit is pulled back.
    The cost of a few passes whatever the number of units, and between ``ibp`` and ``crown`` in what it proves.

    Guarantee: sound for the real-arithmetic function of the stored weights. Exact on affine networks for every p, with and without a
    range. ``proof`` as in ``crown``: whoever re-evaluates it with tighter intervals proves at least as much.

    Raises :class:`NotCertified`: ``operation <op>``, ``cannot export: ...``, ``parameter leaf NAME moves: use crown``.

    >>> from brittle.region import Ball
    >>> problem = Problem(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0]), Ball(p=2, radius=0.1))
    >>> crown_ibp(problem).rows.shape
    torch.Size([1, 1])
    """
    graph = graph_of(problem)
    moved = [leaf for leaf in problem.leaves if problem.parameter_name(leaf) is not None]
    backward.check(graph, moved, backward.nonlinear_units(graph), "use crown")
    return _concrete.in_turns(problem, backward.entries(graph), _bound)


def _bound(problem: Problem) -> Certificate:
    graph = graph_of(problem)
    state, relaxed = intervals.start(problem, graph), dict[str, Planes]()
    for node in graph.nodes:
        if ops.is_nonlinear(node):
            relaxed[node.name] = planes(state, node)
        if node.varies and node.op != "input":
            intervals.forward(state, node)
    rows, offsets, doubt = backward.specification(problem, state)
    meter.count(forward=3 * len(problem), backward=len(rows) * len(problem))
    parts = [
        _concrete.over_balls(problem, state, pull_back(state, graph.output, part, relaxed))
        for part in rows.split(backward.rows_at_once(state))
    ]
    proof = {
        f"{name}.{side}": getattr(plane, side)
        for name, plane in relaxed.items()
        for side in ("lower_slope", "upper_slope")
    }
    return _concrete.certificate(torch.cat(parts) + offsets - doubt, "crown_ibp", proof)
