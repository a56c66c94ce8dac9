"""A part on which every unit has a known sign is a polytope cut out of the region, and the row is affine there: its exact least value, by a convex program.

The multipliers of the program's optimum prove it: they go into the same bound as those of any other leaf.
"""

from dataclasses import replace
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from brittle import backward, norms
from brittle.bounds._extremes import extreme
from brittle.bounds._tree import Items, Root, planes_of
from brittle.relaxation import pull_back

STEEP = 1e4  # multipliers in all, times the largest that one condition needs to outweigh the row: a part without points is proved by this many (folklore)

Array = NDArray[np.float64]
Ball = tuple[float, float, Array, Array]


def settled(root: Root, items: Items) -> tuple[Items, list[dict[str, Tensor]]]:
    """Items whose every unit is split or stable, with the best multipliers, and where the row is then least, by input node (1, *shape)."""
    found = [_one(root, items.take(torch.tensor([i]))) for i in range(len(items))]
    return Items.join([item for item, _ in found]), [point for _, point in found]


def _one(root: Root, item: Items) -> tuple[Items, dict[str, Tensor]]:
    state = root.narrowed(item)
    relaxed = planes_of(root, state, item.slope)
    names = list(state.graph.inputs.values())
    row, offset = _affine(state, state.graph.output, root.rows[item.base][None], relaxed, names)
    forms, constants, units = [], [], []
    for node in root.units.nodes:
        sign = root.units.part(item.sign, node)
        at = sign.flatten().nonzero()[:, 0]
        if not len(at):
            continue
        source = backward.source_of(node)
        one = torch.zeros(len(at), sign.numel(), dtype=torch.float64)
        one[torch.arange(len(at)), at] = sign.flatten()[at].double()
        if state.known[source].op == "input":  # the condition is about an input itself
            form, constant = _affine_input(state, source, one, names), np.zeros(len(at))
        else:
            form, constant = _affine(state, source, one.reshape(len(at), *sign.shape), relaxed, names)
        start = root.units.starts[root.units.nodes.index(node)]
        forms.append(form)
        constants.append(constant)
        units.extend((at + start).tolist())
    balls = [_ball(root, item, name) for name in names]
    a, b = np.concatenate(forms), np.concatenate(constants)
    centre = np.concatenate(
        [root.problem.inputs[leaf][item.base].detach().double().flatten().numpy() for leaf in state.graph.inputs]
    )
    b = b + a @ centre
    cost = float(np.abs(row[0]).sum()) / max(float(np.abs(a).sum(1).max()), 1e-300)
    worst = STEEP * max(cost, float(item.size.max()), 1e-12)
    conic = any(p == 2 and radius > 0 for p, radius, _, _ in balls)
    multipliers, change = (_conic if conic else _linear)(row[0], a, b, balls, worst)
    full = torch.zeros_like(item.multiplier)
    full[0, units] = torch.from_numpy(multipliers).float()
    point, place = {}, 0
    for leaf, name in state.graph.inputs.items():
        x = root.problem.inputs[leaf][item.base].detach().double()
        point[name] = x + torch.from_numpy(change[place : place + x.numel()]).reshape(x.shape)
        place += x.numel()
    return replace(item, multiplier=full, last=torch.zeros_like(item.last)), point


def _affine(state, name: str, rows: Tensor, relaxed, names: list[str]) -> tuple[Array, Array]:  # noqa: ANN001
    """Rows of a node as affine functions of all inputs together: coefficients (R, D) and constants."""
    pulled = pull_back(state, name, rows, relaxed)
    zero = lambda node: torch.zeros(len(rows), 1, *state.known[node].shape, dtype=torch.float64)
    parts = [pulled.coefficients.get(node, zero(node)).flatten(1) for node in names]
    return torch.cat(parts, 1).numpy(), pulled.constant[:, 0].numpy()


def _affine_input(state, source: str, one: Tensor, names: list[str]) -> Array:  # noqa: ANN001
    sizes = [state.known[node].shape.numel() for node in names]
    return torch.cat(
        [one if node == source else torch.zeros(len(one), n) for node, n in zip(names, sizes, strict=True)], 1
    ).numpy()


def _ball(root: Root, item: Items, name: str) -> Ball:
    """(p, radius, down, up) of an input; radius 0 where it does not move."""
    leaf = next(leaf for leaf, node in root.state.graph.inputs.items() if node == name)
    centre = root.problem.inputs[leaf][item.base].detach().double()
    if leaf not in root.problem.region:
        return inf, 0.0, np.zeros(centre.numel()), np.zeros(centre.numel())
    ball = root.problem.region[leaf]
    low, high = ball.exact_range(centre)
    down, up = (side.expand_as(centre).flatten().numpy() for side in (centre - low, high - centre))
    return ball.p, float(norms.proof_radius(ball.p, root.problem.radius(leaf))[item.base]), down, up


def _linear(row: Array, a: Array, b: Array, balls: list[Ball], worst: float) -> tuple[Array, Array]:
    """(multipliers, change): the least ``row v + worst t`` with ``a v + b + t >= 0``, balls of p = 1 and inf; v = plus - minus for p = 1."""
    from scipy.optimize import linprog

    small = [(np.minimum(down, radius), np.minimum(up, radius)) for _, radius, down, up in balls]
    low, high = (np.concatenate(side) for side in zip(*small, strict=True))
    count = len(row)
    kinds = np.concatenate([np.full(len(down), p) for p, _, down, _ in balls])
    doubled = kinds == 1
    # variables: t, what goes up, what goes down
    cost = np.concatenate([[worst], row, -row[doubled]])
    conditions = [np.column_stack([-np.ones(len(a)), -a, a[:, doubled]])]
    ends, place = [b], 0
    for p, radius, down, _ in balls:
        if p == 1:
            mine = np.zeros(count)
            mine[place : place + len(down)] = 1
            conditions.append(np.concatenate([[0.0], mine, mine[doubled]])[None])
            ends.append(np.array([radius]))
        place += len(down)
    bottom = np.concatenate([[0.0], np.where(doubled, 0.0, -low), np.zeros(doubled.sum())])
    top = np.concatenate([[inf], high, low[doubled]])
    found = linprog(
        cost, A_ub=np.concatenate(conditions), b_ub=np.concatenate(ends), bounds=np.column_stack([bottom, top])
    )
    if found.x is None:
        return np.zeros(len(a)), np.zeros(count)
    change = found.x[1 : count + 1].copy()
    change[doubled] -= found.x[count + 1 :]
    return np.maximum(-found.ineqlin.marginals[: len(a)], 0), change


def _conic(row: Array, a: Array, b: Array, balls: list[Ball], worst: float) -> tuple[Array, Array]:
    """The same where a ball is round: the dual, concave and smooth but for corners, by a quasi-Newton method within bounds."""
    from scipy.optimize import minimize

    places = np.cumsum([0, *(len(down) for _, _, down, _ in balls)])

    def lowest(form: Array) -> Array:
        parts = []
        for (p, radius, down, up), start, stop in zip(balls, places, places[1:], strict=False):
            wide = lambda v: torch.from_numpy(np.asarray(v))[None]
            parts.append(
                extreme(wide(-form[start:stop]), p, torch.tensor([radius]).double(), wide(down), wide(up))[0].numpy()
            )
        return np.concatenate(parts)

    # in units in which every condition is as steep as the row
    unit = np.linalg.norm(row) / np.maximum(np.linalg.norm(a, axis=1), 1e-300)
    unit = np.minimum(unit, worst) + 1e-300

    def dual(weights: Array) -> tuple[float, Array]:
        multipliers = weights * unit
        form = row - multipliers @ a
        change = lowest(form)
        value = form @ change - multipliers @ b
        return -value, (a @ change + b) * unit

    found = minimize(
        dual,
        np.zeros(len(a)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, STEEP)] * len(a),
        options={"maxiter": 500, "maxfun": 1000, "ftol": 1e-15, "gtol": 1e-10, "maxcor": 30},
    )
    multipliers = np.maximum(found.x, 0) * unit
    return multipliers, lowest(row - multipliers @ a)
