"""The tightest valid plane of a given slope over an interval, for every activation the checker knows.

For a slope s the lowest plane above f on [l, u] is ``s z + max (f(z) - s z)`` and the highest below it ``s z + min (f(z) - s z)``.
Both extremes sit at an end, at a kink, or where ``f' = s``: the checker evaluates all of them. *Any* slope is valid with its
own intercept, so a wrong slope can make a proof fail but never make it false.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from brittle._checker.arithmetic import EPSILON, FLOOR, Array
from brittle._checker.curves import Stretch, curved, stationary


@dataclass(frozen=True)
class Activation:
    """A continuous scalar function: its value, where its slope may jump, and where its slope equals a given one.

    stretches  a curved function: the ranges on which its slope is monotone; its stationary points are found by bisection
    dip        how far the operation may lie below the value
    """

    value: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()
    touching: Callable[[Array], list[Array]] = lambda slope: []
    stretches: tuple[Stretch, ...] = ()
    dip: float = 0.0


def intercepts(f: Activation, slope: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """(smallest, largest) of ``f(z) - slope z`` on ``[low, high]``, rounded outwards.

    A stationary point that is off by a rounding error moves the value by its square only; the slack of a few units in the
    last place of ``|f| + |slope z|`` covers it together with the evaluation of f. A point found by bisection may lie further off
    where f' is flat, but there f' differs from the slope by rounding alone all the way: a few units of ``(1 + |slope| + |f'|) (high - low)``.
    """
    points = [low, high, *(np.full_like(low, kink) for kink in f.kinks), *f.touching(slope)]
    loose = 0.0
    if f.stretches:
        points += [end for first, last, _ in f.stretches for end in (np.full_like(low, first), np.full_like(low, last))]
        points += stationary(f.stretches, slope, low, high)
        steep = sum(np.abs(d(np.clip(end, a, b))) for a, b, d in f.stretches for end in (low, high))
        loose = (1 + np.abs(slope) + steep) * (high - low) + (1 + steep) * np.maximum(np.abs(low), np.abs(high))
    least, most = np.full_like(low, np.inf), np.full_like(low, -np.inf)
    for point in points:
        z = np.clip(point, low, high)  # outside the interval it is an end again
        value, linear = f.value(z), slope * z
        slack = 16 * EPSILON * (np.abs(value) + np.abs(linear) + loose) + FLOOR
        least = np.minimum(least, value - linear - slack)
        most = np.maximum(most, value - linear + slack)
    return least - f.dip * (1 + 8 * EPSILON) - EPSILON * np.abs(least) * (f.dip > 0), most


def image(f: Activation, low: Array, high: Array) -> tuple[Array, Array]:
    """The interval of values of f on ``[low, high]``."""
    return intercepts(f, np.zeros_like(low), low, high)


def bending(f: Activation, slope: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Slopes (below, above) of a function with one kink at 0: the given one and the chord where it bends, else its own."""
    one = np.ones_like(low)
    straight = np.where(low >= 0, f.value(one), -f.value(-one))
    bends = (low < 0) & (high > 0)
    chord = (f.value(high) - f.value(low)) / np.where(bends, high - low, 1.0)
    return np.where(bends, slope, straight), np.where(bends, chord, straight)


def activation(op: str, parameters: tuple[float, ...]) -> Activation | None:
    """The activation of an operation with its constants, None where the checker does not know it."""
    if op == "relu":
        return _piecewise((0.0,), lambda z: np.maximum(z, 0.0))
    if op == "leaky_relu":
        steep = parameters[0]
        return _piecewise((0.0,), lambda z: np.where(z > 0, z, steep * z))
    if op == "hardtanh":
        least, most = parameters
        return _piecewise((least, most), lambda z: np.clip(z, least, most))
    if op == "hardsigmoid":
        return _piecewise((-3.0, 3.0), lambda z: np.clip(z + 3, 0.0, 6.0) / 6)
    known = curved(op, parameters)
    if known is not None:
        return Activation(known[0], stretches=known[1], dip=known[2])
    return {
        "tanh": Activation(np.tanh, (), _tanh_touching),
        "sigmoid": Activation(_sigmoid, (), _sigmoid_touching),
    }.get(op)


def _piecewise(kinks: tuple[float, ...], value: Callable[[Array], Array]) -> Activation:
    return Activation(value, kinks)


def _tanh_touching(slope: Array) -> list[Array]:
    """``1 / cosh^2 z = s``: two points for 0 < s <= 1. Elsewhere 0, which is harmless: one more point is one more true value."""
    inside = (slope > 0) & (slope <= 1)
    z = np.arccosh(np.maximum(1.0, 1 / np.sqrt(np.where(inside, slope, 1.0))))
    return [z, -z]


def _sigmoid_touching(slope: Array) -> list[Array]:
    """``sigmoid(z) = (1 + tanh(z / 2)) / 2``, so ``1 / (4 cosh^2(z / 2)) = s``."""
    return [2 * z for z in _tanh_touching(4 * slope)]


def _sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))
