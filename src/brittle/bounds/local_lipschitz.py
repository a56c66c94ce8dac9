"""The clean margin less a local Lipschitz constant of it times the radius."""

from dataclasses import replace
from math import inf, prod

import torch
from torch import Tensor

from brittle import backward, intervals, meter, ops
from brittle.about import About
from brittle.bounds import _concrete
from brittle.bounds.crown import walked
from brittle.bounds.ibp import ibp
from brittle.errors import InputError
from brittle.gates import Gates, gates
from brittle.graph import Graph, Node, graph_of
from brittle.intervals import TINY, UNIT, State, gamma
from brittle.lipschitz import lipschitz
from brittle.norms import proof_radius
from brittle.problem import Problem
from brittle.relaxation import transposed
from brittle.results import Certificate

ABOUT = About(
    promise="lower bounds on every row of the specification, from enclosures of its gradient on the region, proved in float64 with outward rounding",
    reference="Hein and Andriushchenko, NeurIPS 2017; Weng et al., ICML 2018, arXiv 1804.09699 (Fast-Lip); ball and range: derived here",
    norms=(0, 1, 2, inf),
    answers="margin",
    leaves=("input",),
    cost="5 forward passes, 2 backward passes per row",
)
Enclosure = tuple[Tensor, Tensor]  # centre and radius >= 0, entry by entry


def local_lipschitz(problem: Problem, *, form: str = "interval", intermediate: str = "ibp") -> Certificate:
    """Lower bounds (N, R) on the rows: the clean rows less what their gradients, enclosed on the region, can take from them.

    ``row(x + v) = row(x) + <g, v>`` with g a mean of gradients on the way from x to x + v, which stays in the region. Where every unit stays in
    a known interval its slope does, so that interval arithmetic along the chain rule gives ``|g - c| <= r``, and

        row(x + v) >= row(x) - max over v in ball and range of max(<-c, v> + <r, |v|>, ...).

    Without a range the maximum is ``radius * |max(|c - r|, |c + r|)|_q``, q the dual norm: a local Lipschitz constant times the radius. A box is
    exact coordinate by coordinate; for other balls cut by a range, the better of two upper bounds.

    form          "interval": every entry of the gradient in an interval of its own. "joint": also the l2 length of the gradient over all slopes at
                  once (``brittle.lipschitz``), for balls of p = 1, 2; up to 600 units with unknown slopes, quadratic in their number
    intermediate  where the intervals of the units come from: "ibp" or "crown", which costs a crown evaluation and is much tighter

    Guarantee: sound for the real-arithmetic function of the stored weights. Exact on affine networks for every p, with and without a range.
    Not stored as a proof: ``brittle verify`` says so. ``bt.margin(problem, bounds=["local_lipschitz"])`` runs it, ``functools.partial``
    binds options. It lies between ``ibp`` and ``crown``, at the price of ``ibp``; no question runs it by itself, because ``crown`` bounds the
    function and not its slope. Measured, median attacked / certified radius, 10 examples inside [0, 1], with the ``ibp`` | ``crown`` intervals:

        784-200-200-10 on MNIST, l2      ibp 164   this 11.4 | 3.2, joint 1.88   crown 1.63   (12, 12 | 145, 1,400, 122 ms an example)
        784-200-200-10 on MNIST, l-inf   ibp 10.0  this 5.7 | 3.6                crown 1.63
        64-50-10 on digits, l2           ibp 12.8  this 1.59 | 1.23, joint 1.10  crown 1.05

    Errors: InputError for other options; :class:`NotCertified` for moving parameters, products of two moving values, functions without a
    steepest slope, and what ``ibp`` refuses.

    >>> from brittle.region import Ball
    >>> module = torch.nn.Linear(2, 2)
    >>> with torch.no_grad():
    ...     _ = module.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]])), module.bias.zero_()
    >>> problem = Problem(module, torch.tensor([[2.0, 0.0]]), torch.tensor([0]), Ball(p=2, radius=0.2))
    >>> round(float(local_lipschitz(problem).rows), 6)  # 6 - 0.2 * 5
    5.0
    """
    for name, value, allowed in (
        ("form", form, ("interval", "joint")),
        ("intermediate", intermediate, ("ibp", "crown")),
    ):
        if value not in allowed:
            raise InputError(name, " or ".join(f'"{a}"' for a in allowed), repr(value), "choose one of the two")
    moved = [leaf for leaf in problem.leaves if problem.parameter_name(leaf) is not None]
    graph = graph_of(problem)
    backward.check(graph, moved, 10**9 if intermediate == "ibp" else 20_000, "use crown or ibp")
    return _concrete.in_turns(problem, backward.entries(graph), lambda part: _bound(part, form, intermediate))


def _bound(problem: Problem, form: str, intermediate: str) -> Certificate:
    graph = graph_of(problem)
    state = walked(problem, "adaptive")[1] if intermediate == "crown" else _intervals(problem, graph)
    meter.count(forward=3 * len(problem))
    rows, _, _ = backward.specification(problem, state)
    drop = torch.cat([_drop(problem, state, part, form) for part in rows.split(backward.rows_at_once(state))])
    meter.count(backward=2 * len(rows) * len(problem))
    lower = ibp(problem.scaled(0.0)).rows.T - drop
    return _concrete.certificate(lower - 4 * UNIT * (lower.abs() + drop) - TINY, "local_lipschitz")


def _intervals(problem: Problem, graph: Graph) -> State:
    state = intervals.start(problem, graph)
    intervals.propagate(state, {node.name for node in graph.nodes})
    return state


# ---- gradients entry by entry -----------------------------------------------------------------------------------------------


def enclosures(state: State, rows: Tensor) -> dict[str, Enclosure]:
    """For every input node the gradients of rows (R, N, C) of the output, wherever the intervals of ``state`` hold: (R, N, *shape) each."""
    active: dict[str, Enclosure] = {state.graph.output: (rows, torch.zeros_like(rows))}
    found: dict[str, Enclosure] = {}
    for node in reversed(state.graph.nodes):
        if node.name not in active:
            continue
        arriving = active.pop(node.name)
        if node.op == "input":
            found[node.name] = arriving
            continue
        pulled = (
            _through_gates(state, node, arriving) if ops.is_nonlinear(node) else _through_affine(state, node, arriving)
        )
        for name, new in pulled.items():
            active[name] = _plus(active[name], new) if name in active else new
    return found


def _plus(one: Enclosure, other: Enclosure) -> Enclosure:
    centre = one[0] + other[0]
    return centre, (one[1] + other[1]) * (1 + 4 * UNIT) + UNIT * centre.abs() + TINY


def _through_affine(state: State, node: Node, arriving: Enclosure) -> dict[str, Enclosure]:
    moving = state.moving(node)
    if not moving:
        return {}
    centre, radius = arriving
    loss = gamma(state.terms(node) + prod(node.shape) + 8)
    centres = transposed(state, node, centre, moving)
    radii = _absolute(state, node, radius + loss * centre.abs(), moving)
    return {name: (centres[name], radii[name] * (1 + loss) + TINY) for name in moving}


def _absolute(state: State, node: Node, rows: Tensor, moving: list[str]) -> dict[str, Tensor]:
    """Rows through the transpose of the absolute values of the linear part of a node; every row of every example is one more example."""
    count, per = rows.shape[0] * rows.shape[1], rows.shape[:2]
    apply = lambda *values: ops.evaluate_absolute(
        node, {**state.constants, **dict(zip(moving, values, strict=True))}, count, moving, offset=False
    )
    origin = [rows.new_zeros(count, *state.known[name].shape) for name in moving]
    pull = torch.func.vjp(apply, *origin)[1]
    values = pull(rows.reshape(count, *node.shape))
    return {name: v.reshape(*per, *state.known[name].shape) for name, v in zip(moving, values, strict=True)}


def _through_gates(state: State, node: Node, arriving: Enclosure) -> dict[str, Enclosure]:
    gate, source = gates(state, node), backward.source_of(node)
    shape = state.known[source].shape
    centre, radius = (part.flatten(2)[..., gate.out].expand(-1, state.count, -1) for part in arriving)
    low, high = _times(centre, radius, gate)
    middle = (low + high) / 2
    around = torch.maximum(high - middle, middle - low) * (1 + 4 * UNIT)
    around = around + 4 * UNIT * torch.maximum(low.abs(), high.abs()) * (gate.radius > 0) + UNIT * middle.abs()
    gathered = [middle.new_zeros(*middle.shape[:2], prod(shape)).index_add(2, gate.into, p) for p in (middle, around)]
    shared = gamma(int(gate.into.bincount().max()))
    size = middle.new_zeros(*middle.shape[:2], prod(shape)).index_add(2, gate.into, middle.abs())
    form = lambda flat: flat.reshape(*flat.shape[:2], *shape)
    return {source: (form(gathered[0]), form(gathered[1] * (1 + shared) + shared * size + TINY))}


def _times(centre: Tensor, radius: Tensor, gate: Gates) -> tuple[Tensor, Tensor]:
    """The ends of ``[centre -+ radius] * [middle -+ radius of the gate]``, each within two roundings."""
    least, most = gate.middle - gate.radius, gate.middle + gate.radius
    low, high = centre - radius, centre + radius
    ends = torch.stack([low * least, low * most, high * least, high * most])
    return ends.amin(0), ends.amax(0)


# ---- from gradients to numbers ----------------------------------------------------------------------------------------------


def _drop(problem: Problem, state: State, rows: Tensor, form: str) -> Tensor:
    """(R, N): what moving all inputs within their balls can take from rows."""
    balls, found = _concrete.around(problem, state), enclosures(state, rows)
    leaf_of = {name: leaf for leaf, name in state.graph.inputs.items()}
    total = rows.new_zeros(len(rows), state.count)
    for name, (centre, radius) in found.items():
        ball = balls[name]
        if ball.radius is None:
            continue
        most = _most(ball, centre, radius)
        if form == "joint" and ball.p in (1, 2):  # no change is longer in l2 than in l1
            reach = proof_radius(ball.p, problem.radius(leaf_of[name])).to(rows.device)
            most = torch.minimum(most, lipschitz(state, rows, name) * reach * (1 + 4 * UNIT))
        total = total + most
    return total * (1 + gamma(len(found)))


def _most(ball: _concrete.Around, centre: Tensor, radius: Tensor) -> Tensor:
    """``max <-g, v>`` over the ball, cut by its range, and ``|g - centre| <= radius``, (R, N)."""
    rise = (radius - centre).clamp_min(0) * (1 + 2 * UNIT)  # what a step upwards gains at most, and downwards
    fall = (radius + centre).clamp_min(0) * (1 + 2 * UNIT)
    if ball.box:
        assert ball.radius is not None and ball.down is not None and ball.up is not None
        down, up = (torch.minimum(side.flatten(1), ball.radius[:, None]) for side in (ball.down, ball.up))
        gain = torch.maximum(rise.flatten(2) * up, fall.flatten(2) * down)
        return gain.sum(-1) * (1 + gamma(gain.shape[-1]))
    wide = ball
    if ball.down is not None and ball.up is not None:  # either way as far as the further of the two
        wide = replace(ball, down=torch.maximum(ball.down, ball.up), up=torch.maximum(ball.down, ball.up))
    apart = _concrete.reach(ball, centre) + _concrete.reach(wide, radius)
    return torch.minimum(apart * (1 + 4 * UNIT), _concrete.reach(wide, torch.maximum(rise, fall)))
