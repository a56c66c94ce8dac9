"""Curved activations for the checker: value, and stretches on which the slope is monotone; NumPy and SciPy alone.

Formulas and break points are stated here once more and share nothing with those of the bounds, so that a slip in one place
shows as a disagreement.
"""

from collections.abc import Callable
from math import sqrt, tau

import numpy as np

from brittle._checker.arithmetic import Array

Slope = Callable[[Array], Array]
Stretch = tuple[float, float, Slope]  # from, to, the slope in between
HALVINGS = 60


def stationary(stretches: tuple[Stretch, ...], slope: Array, low: Array, high: Array) -> list[Array]:
    """For every stretch a point of it in ``[low, high]`` where f' passes the slope, by bisection; else one of its ends."""
    found = []
    for first, last, derivative in stretches:
        left, right = np.clip(low, first, last), np.clip(high, first, last)
        rising = derivative(right) >= derivative(left)
        for _ in range(HALVINGS):
            middle = left + (right - left) / 2
            early = (derivative(middle) < slope) == rising
            left, right = np.where(early, middle, left), np.where(early, right, middle)
        found += [left, right]
    return found


def curved(
    op: str, parameters: tuple[float, ...]
) -> tuple[Callable[[Array], Array], tuple[Stretch, ...], float] | None:
    """(value, stretches, how far the operation may lie below the value) of an operation; None where it is not known here."""
    infinite = np.inf
    if op == "hardswish":
        ramp = (-3.0, 3.0, lambda z: z / 3 + 0.5)
        return lambda z: z * np.clip(z / 6 + 0.5, 0.0, 1.0), (ramp,), 0.0
    if op == "softplus":
        beta, threshold = parameters
        line = (-infinite, infinite, lambda z: _logistic(beta * z))
        return (
            lambda z: np.logaddexp(0.0, beta * z) / beta,
            (line,),
            np.log1p(np.exp(-threshold)) / beta * (1 + 2.0**-30),
        )
    if op == "log_sigmoid":
        return lambda z: -np.logaddexp(0.0, -z), ((-infinite, infinite, lambda z: _logistic(-z)),), 0.0
    if op in ("elu", "selu", "celu"):
        height, rate, straight = _exponential(op, parameters)
        value = lambda z: np.where(z > 0, straight * z, height * np.expm1(rate * np.minimum(z, 0.0)))
        return value, ((-infinite, 0.0, lambda z: height * rate * np.exp(rate * np.minimum(z, 0.0))),), 0.0
    if op in PARTS:
        value, derivative, first = PARTS[op]
        return value, ((first, infinite, derivative),), 0.0
    known = {"silu": _silu, "gelu": _gelu, "gelu tanh": _gelu_tanh, "mish": _mish}.get(op)
    if known is None:
        return None
    value, derivative, left, right = known()
    return value, ((-infinite, left, derivative), (left, right, derivative), (right, infinite, derivative)), 0.0


def _exponential(op: str, parameters: tuple[float, ...]) -> tuple[float, float, float]:
    """(height, rate, straight) of ``straight z`` above 0 and ``height (e^(rate z) - 1)`` below."""
    if op == "elu":
        alpha, scale, rate = parameters
        return alpha * scale, rate, scale
    if op == "celu":
        return parameters[0], 1 / parameters[0], 1.0
    return 1.0507009873554805 * 1.6732632423543772, 1.0, 1.0507009873554805


def _silu() -> tuple[Slope, Slope, float, float]:
    derivative = lambda z: _logistic(z) + z * _logistic(z) * _logistic(-z)
    return lambda z: z * _logistic(z), derivative, -2.3993572805154677, 2.3993572805154677


def _gelu() -> tuple[Slope, Slope, float, float]:
    from scipy.special import ndtr

    derivative = lambda z: ndtr(z) + z * np.exp(-np.square(z) / 2) / sqrt(tau)
    return lambda z: z * ndtr(z), derivative, -sqrt(2), sqrt(2)


def _gelu_tanh() -> tuple[Slope, Slope, float, float]:
    """``(1 + tanh u) / 2`` is the logistic function of 2 u."""
    inner = lambda z: sqrt(8 / np.pi) * (z + 0.044715 * z * z * z)
    steep = lambda z: sqrt(8 / np.pi) * (1 + 0.134145 * z * z)
    derivative = lambda z: _logistic(inner(z)) + z * steep(z) * _logistic(inner(z)) * _logistic(-inner(z))
    return lambda z: z * _logistic(inner(z)), derivative, -1.4185040087908284, 1.4185040087908284


def _mish() -> tuple[Slope, Slope, float, float]:
    gate = lambda z: np.tanh(np.logaddexp(0.0, z))
    derivative = lambda z: gate(z) + z * _logistic(z) / np.square(np.cosh(np.minimum(np.logaddexp(0.0, z), 300.0)))
    return lambda z: z * gate(z), derivative, -2.256376396360793, 1.4905711794854285


def _logistic(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def _above_zero(value: Callable[[Array], Array], z: Array) -> Array:
    """A function of positive numbers; not a number elsewhere, which proves nothing."""
    return np.where(z > 0, value(np.where(z > 0, z, 1.0)), np.nan)


def _no_overflow(z: Array) -> Array:
    """``e^z`` where it is finite: beyond, the walk stops at an unbounded value."""
    return np.where(z < 709.0, np.exp(np.minimum(z, 709.0)), np.inf)


# value, its derivative, where it begins: convex or concave all over
PARTS: dict[str, tuple[Slope, Slope, float]] = {
    "exp": (_no_overflow, lambda z: np.exp(np.minimum(z, 709.0)), -np.inf),
    "square": (lambda z: z * z, lambda z: z + z, -np.inf),
    "log": (lambda z: _above_zero(np.log, z), lambda z: _above_zero(lambda z: 1 / z, z), 0.0),
    "reciprocal": (lambda z: _above_zero(lambda z: 1 / z, z), lambda z: _above_zero(lambda z: -1 / (z * z), z), 0.0),
    "sqrt": (lambda z: np.where(z == 0, 0.0, _above_zero(np.sqrt, z)), lambda z: _above_zero(lambda z: 0.5 / np.sqrt(z), z), 0.0),
    "rsqrt": (lambda z: _above_zero(lambda z: 1 / np.sqrt(z), z), lambda z: _above_zero(lambda z: -0.5 / (z * np.sqrt(z)), z), 0.0),
}  # fmt: skip
