"""One step of the slopes below kinks, taken where the tightest row of the specification is least."""

import torch
from torch import Tensor

from brittle import backward, meter, norms, ops
from brittle.bounds._extremes import extreme
from brittle.bounds._units import SPLIT, steepness
from brittle.graph import Node
from brittle.intervals import State
from brittle.planes import planes
from brittle.problem import Problem
from brittle.relaxation import Pulled, pull_back, read_by_pull_back


def tilted(
    problem: Problem, state: State, rows: Tensor, values: Tensor, relaxed: backward.Relaxed
) -> backward.Relaxed | None:
    """Planes for the rows (R, N or 1, *shape) of the specification whose least values (R, N) by ``relaxed`` are known; None where there is
    nothing to choose.

    The least row of an example is a linear form over the region, least at some x*. Under a unit with input z(x*) and a coefficient c > 0
    on its output the plane ``a z`` leaves ``c a z(x*)``: by the envelope theorem its derivative by a is ``c z(x*)``, so a moves to that
    end of its range. z is that of the network, not of its planes: it only chooses. Only the nodes that no interval depends on
    are tilted, since theirs are the slopes that the rows alone read. A second step gained nothing on two networks (measured).
    """
    nodes = _last(state)
    if state.wobble or not nodes or any(ball.p == 0 for ball in problem.region.values()):
        return None
    if not any(bool(backward.bent(state, node).any()) for node in nodes):
        return None
    count = state.count
    meter.count(forward=count, backward=count)
    one = rows.expand(-1, count, *rows.shape[2:])[values.argmin(0), torch.arange(count, device=rows.device)]
    inside = _forward(state, _lowest(problem, state, pull_back(state, state.graph.output, one[None], relaxed)))
    moved = dict(relaxed)
    for node in nodes:
        source, old = backward.source_of(node), relaxed[node.name]
        end = torch.where(inside[source] > 0, 1.0, steepness(node)).to(old.lower_slope)
        slope = torch.where(backward.bent(state, node), end, old.lower_slope)
        moved[node.name] = planes(state, node, lower_slope=slope, upper_slope=old.upper_slope)
    return moved


def _last(state: State) -> list[Node]:
    """The nodes whose planes no interval depends on; none unless every nonlinear operation has one kink."""
    nonlinear = [node for node in state.graph.nodes if node.varies and ops.is_nonlinear(node)]
    if not all(node.op in SPLIT and steepness(node) <= 1 for node in nonlinear):
        return []
    read: set[str] = set()
    for node in nonlinear:
        read |= read_by_pull_back(state.graph, backward.source_of(node), frozenset())
    return [node for node in nonlinear if node.name not in read]


def _lowest(problem: Problem, state: State, pulled: Pulled) -> dict[str, Tensor]:
    """By input node, where in the region the one row of every example is least."""
    points = {}
    for leaf, name in state.graph.inputs.items():
        centre = problem.inputs[leaf].detach()
        centre = centre.double() if centre.is_floating_point() else centre
        points[name] = centre
        if leaf in problem.region and name in pulled.coefficients:
            ball = problem.region[leaf]
            low, high = ball.exact_range(centre)
            down, up = ((side.expand_as(centre)).flatten(1) for side in (centre - low, high - centre))
            radius = norms.proof_radius(ball.p, problem.radius(leaf)).to(centre.device)
            change = extreme(-pulled.coefficients[name][0].flatten(1), ball.p, radius, down, up)
            points[name] = centre + change.reshape(centre.shape)
    return points


def _forward(state: State, points: dict[str, Tensor]) -> dict[str, Tensor]:
    values = {**state.constants, **points}
    for node in state.graph.nodes:
        if node.varies and node.op != "input":
            values[node.name] = (
                ops.activation(node, values, state.count).value(values[backward.source_of(node)])
                if ops.is_nonlinear(node)
                else ops.evaluate(node, values, state.count)
            )
    return values
