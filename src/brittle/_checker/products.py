"""Planes around a product of two numbers, each in its own interval: McCormick, re-derived for any slopes."""

import numpy as np

from brittle._checker.arithmetic import EPSILON, FLOOR, Array


def product_intercepts(slope: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """(least, most) of ``x y - a x - b y`` over the box; all arguments (2, units): slopes (a, b), ends of (x, y).

    ``x y - a x - b y = (x - b)(y - a) - a b``, and the extremes of a product of two intervals are among the four products of their ends.
    The shifts round once each, as does everything after: a few units of the largest values that meet.
    """
    size = np.maximum(np.abs(low), np.abs(high)) + np.abs(slope[::-1])
    left, right = (side[0] - slope[1] for side in (low, high))
    down, up = (side[1] - slope[0] for side in (low, high))
    ends = np.stack([left * down, left * up, right * down, right * up])
    shift, slack = slope[0] * slope[1], 16 * EPSILON * size[0] * size[1] + FLOOR
    return ends.min(0) - shift - slack, ends.max(0) - shift + slack
