"""Interval bound propagation: every value gets an interval, operation by operation."""

from math import inf, prod

import torch

from brittle import backward, intervals, meter, ops
from brittle.about import About
from brittle.bounds import _concrete
from brittle.graph import graph_of
from brittle.problem import Problem
from brittle.relaxation import PIECE, pull_back, read_by_pull_back
from brittle.results import Certificate

ABOUT = About(
    promise="lower bounds on every row of the specification, proved in float64 with outward rounding",
    reference="Gowal et al., arXiv 1810.12715; intervals on weights: centre and radius with the second-order term",
    norms=(0, 1, 2, inf),
    answers="margin",
    leaves=("input", "parameter"),
    cost="3 forward passes",
    effort="quick",
)


def ibp(problem: Problem) -> Certificate:
    """Lower bounds (N, R) on the rows of the specification over the whole region.

    Every moving leaf is enclosed in a box (radius per feature for p = 1, 2, inf; the whole range for p = 0). An affine
    operation maps centre c and radius r to ``W c + b`` and ``|W| r``; with moving weights the radius is
    ``|W| r + dW max|h| + db``. The rows of the specification are merged into the affine operations at the end: they are pulled
    back to the last nonlinear values (or inputs) and bounded over the box there.

    Guarantee: sound for the real-arithmetic function of the stored weights. Exact on affine networks in l-inf; it loosens
    with depth. Several leaves, inputs and parameters of linear, convolution, addition and multiplication, may move together.

    Raises :class:`NotCertified`: ``operation <op>``, ``cannot export: ...``, ``parameter leaf NAME moves inside operation <op>``.

    >>> from brittle.region import Ball
    >>> module = torch.nn.Linear(2, 2)
    >>> problem = Problem(module, torch.zeros(1, 2), torch.tensor([0]), Ball(p=inf, radius=0.1, low=0, high=1))
    >>> ibp(problem).rows.shape
    torch.Size([1, 1])
    """
    graph = graph_of(problem)
    ops.check(graph)
    return _concrete.in_turns(problem, backward.entries(graph), _bound)


def _bound(problem: Problem) -> Certificate:
    graph = graph_of(problem)
    state = intervals.start(problem, graph)
    frontier = frozenset(node.name for node in graph.nodes if ops.is_nonlinear(node))
    read = read_by_pull_back(graph, graph.output, frontier)
    intervals.propagate(state, read)
    meter.count(forward=3 * len(problem))
    rows, offsets, doubt = backward.specification(problem, state)
    widest = max(prod(graph.by_name[name].shape) for name in read)
    parts = [
        _concrete.over_boxes(state, pull_back(state, graph.output, part, {}, frontier))
        for part in rows.split(max(1, PIECE // (state.count * widest)))
    ]
    return _concrete.certificate(torch.cat(parts) + offsets - doubt, "ibp")
