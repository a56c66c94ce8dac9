"""The exact radius of a tiny ReLU network of any depth: one mixed-integer program per rival (p = 0, 1, inf), by HiGHS."""

from itertools import combinations
from math import inf

import numpy as np
from torch import Tensor, nn

Layers = list[tuple[np.ndarray, np.ndarray]]


def layers_of(module: nn.Sequential) -> Layers:
    """Weights and offsets of ``Linear, ReLU, ..., Linear``."""
    linear = [m for m in module if isinstance(m, nn.Linear)]
    return [(m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in linear]


def radius(module: nn.Sequential, x: Tensor, label: int, p: float, low: float, high: float) -> float:
    """``min |v|_p`` over the failures ``x + v`` in the range; for p = 0 every set of features, smallest first."""
    layers, centre = layers_of(module), x.double().numpy()
    rivals = [k for k in range(len(layers[-1][1])) if k != label]
    down, up = centre - low, high - centre
    if p != 0:
        return min(_program(layers, centre, down, up, label, k, p) for k in rivals)
    for count in range(len(centre) + 1):
        for features in combinations(range(len(centre)), count):
            moving = np.isin(np.arange(len(centre)), features)
            if any(_program(layers, centre, down * moving, up * moving, label, k, inf) < inf for k in rivals):
                return float(count)
    return inf


def _program(
    layers: Layers, centre: np.ndarray, down: np.ndarray, up: np.ndarray, label: int, rival: int, p: float
) -> float:
    """Variables: v, its size (p = inf: one; p = 1: one an entry), then z, a = relu(z) and whether z >= 0, layer by layer."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    wide, sizes = len(centre), 1 if p == inf else len(centre)
    total = wide + sizes + sum(3 * len(b) for _, b in layers[:-1])
    eye = np.eye(total)
    low, high = np.full(total, -inf), np.full(total, inf)
    low[:wide], high[:wide] = -down, up
    rows, least, most = [], [], []

    def add(row: np.ndarray, at_least: float, at_most: float) -> None:
        rows.append(row), least.append(at_least), most.append(at_most)

    for i in range(wide):
        size = eye[wide + (0 if p == inf else i)]
        add(size - eye[i], 0, inf)
        add(size + eye[i], 0, inf)
    before, offset = eye[:wide], centre  # the layer's input is before @ variables + offset
    bottom, top = centre - down, centre + up
    at, whole = wide + sizes, np.zeros(total)
    for weight, bias in layers[:-1]:
        n = len(bias)
        z, a, on = eye[at : at + n], eye[at + n : at + 2 * n], eye[at + 2 * n : at + 3 * n]
        whole[at + 2 * n : at + 3 * n] = 1
        low[at + n : at + 2 * n], low[at + 2 * n : at + 3 * n], high[at + 2 * n : at + 3 * n] = 0, 0, 1
        least_z = np.maximum(weight, 0) @ bottom + np.minimum(weight, 0) @ top + bias
        most_z = np.maximum(weight, 0) @ top + np.minimum(weight, 0) @ bottom + bias
        for j in range(n):
            value = float(weight[j] @ offset + bias[j])
            add(z[j] - weight[j] @ before, value, value)
            add(a[j] - z[j], 0, inf)
            add(a[j] - z[j] - min(least_z[j], 0.0) * on[j], -inf, -min(least_z[j], 0.0))  # on: a <= z
            add(a[j] - max(most_z[j], 0.0) * on[j], -inf, 0)  # off: a <= 0
        before, offset = a, np.zeros(n)
        bottom, top = np.maximum(least_z, 0), np.maximum(most_z, 0)
        at += 3 * n
    weight, bias = layers[-1]
    apart = weight[label] - weight[rival]
    add(apart @ before, -inf, float(bias[rival] - bias[label] - apart @ offset))
    cost = np.zeros(total)
    cost[wide : wide + sizes] = 1
    constraints = LinearConstraint(np.array(rows), np.array(least), np.array(most))
    found = milp(cost, constraints=constraints, bounds=Bounds(low, high), integrality=whole, options={"mip_rel_gap": 0})
    return float(found.fun) if found.status == 0 else inf
