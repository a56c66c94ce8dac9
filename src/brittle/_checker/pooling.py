"""Planes around a maximum of K numbers, each in its own interval."""

import numpy as np

from brittle._checker.arithmetic import EPSILON, FLOOR, Array


def pool_intercepts(lower: Array, upper: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """(least, most): ``max_j x_j >= lower . x + least`` and ``max_j x_j <= upper . x + most`` for all x in the box.

    All arguments (outputs, K). ``most`` is exact: the maximum of ``max_j x_j - s . x`` over a box is that of K linear forms,
    each maximal coordinate by coordinate. ``least``: for slopes s >= 0 with sum t,
    ``max_j x_j - s . x >= (1 - t) max_j x_j``, and the maximum lies between ``max_j low_j`` and ``max_j high_j``;
    a negative slope adds its least ``|s_j| low_j``.
    """
    outward = (
        8
        * (low.shape[1] + 4)
        * EPSILON
        * ((1 + np.abs(lower) + np.abs(upper)) * np.maximum(np.abs(low), np.abs(high))).sum(1)
    )
    rest = 1 - np.maximum(lower, 0).sum(1)
    least = np.minimum(rest * low.max(1), rest * high.max(1)) + (np.maximum(-lower, 0) * low).sum(1)
    others = np.maximum(-upper * low, -upper * high)
    own = np.maximum((1 - upper) * low, (1 - upper) * high)
    most = (others.sum(1)[:, None] - others + own).max(1)
    return least - outward - FLOOR, most + outward + FLOOR
