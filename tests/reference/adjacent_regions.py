"""The nearest failure in the linear regions that touch a point, for ``Linear, ReLU, ..., Linear``: one convex program for each."""

from itertools import product
from math import inf

import numpy as np
from torch import Tensor, nn

from reference.regions import shortest
from reference.tiny_programs import layers_of

TOUCHES = 1e-6  # a unit this near to zero is on its wall


def nearest(module: nn.Sequential, x: Tensor, point: Tensor, label: int, p: float, low: float, high: float) -> float:
    """``min |v|_p`` over the failures ``x + v`` in the closure of every region that ``point`` touches."""
    layers, centre = layers_of(module), x.double().numpy()
    value, signs = point.double().numpy(), []
    for weight, bias in layers[:-1]:
        z = weight @ value + bias
        signs += [(0.0, 1.0) if abs(one) <= TOUCHES else (float(one > 0),) for one in z]
        value = np.maximum(z, 0)
    return min(_in(layers, centre, np.array(pattern), label, p, low, high) for pattern in product(*signs))


def _in(layers, centre: np.ndarray, pattern: np.ndarray, label: int, p: float, low: float, high: float) -> float:
    slope, value = np.eye(len(centre)), centre
    box = np.concatenate([np.eye(len(centre)), -np.eye(len(centre))])
    a, most = [box], [np.concatenate([high - centre, centre - low])]
    for weight, bias in layers[:-1]:
        on, pattern = pattern[: len(bias)], pattern[len(bias) :]
        slope, value = weight @ slope, weight @ value + bias
        a.append((1 - 2 * on)[:, None] * slope)  # on: z >= 0, off: z <= 0
        most.append((2 * on - 1) * value)
        slope, value = on[:, None] * slope, on * value
    weight, bias = layers[-1]
    slope, value = weight @ slope, weight @ value + bias
    best = inf
    for rival in set(range(len(bias))) - {label}:
        rows, limits = (slope[label] - slope[rival])[None], [value[rival] - value[label]]
        best = min(best, shortest(np.concatenate([*a, rows]), np.concatenate([*most, limits]), p))
    return best
