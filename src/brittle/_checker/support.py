"""How far a linear form can rise inside an l_p ball cut by a box: the checker's own upper bound."""

from math import inf

import numpy as np

from brittle._checker.arithmetic import EPSILON, FLOOR, Array, above

HALVINGS = (
    60  # bisection steps: the multiplier is then exact to the last bits; fewer would cost tightness, never soundness
)


def support(a: Array, p: float, radius: float, down: Array, up: Array, channels: int = 0) -> Array:
    """An upper bound on ``max <a_r, v>`` over ``|v|_p <= radius``, ``-down <= v <= up``, for every row r.

    a        : (R, D); down, up : (D,) room below and above, >= 0, infinite where the range does not bind
    channels : for p = 0, count groups of this many entries, ``v`` being read as (channels, D / channels); 0 counts entries
    Returns (R,).

    Only the room on the side to which ``a`` points matters. For p = 1 and 2 the norm constraint is priced by a multiplier,
    and every multiplier >= 0 gives an upper bound (weak duality); bisection on the derivative finds the cheapest.
    """
    size = np.abs(a)
    room = np.where(a > 0, up, down)
    outward = 1 + (a.shape[1] + 32) * EPSILON
    if p == 0:
        value = _count(size, room, radius, channels)
    else:
        room = np.minimum(room, radius)  # |v_i| <= |v|_p for every p >= 1
        value = {1: _l1, 2: _l2, inf: _box}[p](size, room, radius)
    return value * outward + FLOOR


def rooms(centre: Array, low: Array | float, high: Array | float) -> tuple[Array, Array]:
    """Room below and above a centre, never too small: subtraction is rounded up wherever it may have rounded."""
    down, up = centre - low, high - centre
    return np.where(down > 0, above(down), 0.0), np.where(up > 0, above(up), 0.0)


def _box(size: Array, room: Array, radius: float) -> Array:
    return (size * room).sum(1)


def _l1(size: Array, room: Array, radius: float) -> Array:
    """Dual ``t radius + sum_i room_i max(0, size_i - t)``: its slope in t is ``radius - sum of the rooms still open``."""
    low, high = np.zeros(len(size)), size.max(1, initial=0.0)
    for _ in range(HALVINGS):
        t = (low + high) / 2
        falling = np.where(size > t[:, None], room, 0.0).sum(1) > radius
        low, high = np.where(falling, t, low), np.where(falling, high, t)
    price = lambda t: t * radius + (np.maximum(size - t[:, None], 0) * room).sum(1)
    return np.minimum(np.minimum(price(low), price(high)), _box(size, room, radius))


def _l2(size: Array, room: Array, radius: float) -> Array:
    """Dual ``sum_i max_v (size_i v - s v^2) + s radius^2``, s > 0, ``0 <= v <= room_i``; the best s makes ``|v|_2 = radius``.

    Written in ``t = 1 / (2 s)``, so that ``v_i = min(room_i, t size_i)`` and |v| grows with t. t is bracketed by the
    solution without rooms and bisected on its logarithm.
    """
    length = np.sqrt((size * size).sum(1))
    low = np.log(radius / np.maximum(length, 1e-200)) if radius > 0 else np.zeros(len(size))
    high = low + 200.0  # a factor of 10^86 in the multiplier; where that is not enough the box alone decides
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        v = np.minimum(room, size * np.exp(middle)[:, None])
        short = (v * v).sum(1) < radius * radius
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return np.minimum(
        np.minimum(_priced(size, room, radius, low), _priced(size, room, radius, high)), _box(size, room, radius)
    )


def _priced(size: Array, room: Array, radius: float, log_t: Array) -> Array:
    s = 0.5 * np.exp(-log_t)[:, None]
    v = np.minimum(room, size / (2 * s))
    return (size * v - s * v * v).sum(1) + s[:, 0] * radius * radius


def _count(size: Array, room: Array, radius: float, channels: int) -> Array:
    allowed = int(np.floor(radius))
    gain = np.where(size > 0, size * np.where(size > 0, room, 0.0), 0.0)
    if channels:
        gain = gain.reshape(len(gain), channels, -1).sum(1)
    if allowed >= gain.shape[1]:
        return gain.sum(1)
    return np.sort(gain, 1)[:, gain.shape[1] - allowed :].sum(1)
