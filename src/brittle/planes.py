"""Planes around nonlinear operations.

A plane is chosen in two steps: first a slope, by whatever rule; then *the tightest intercept valid for exactly that floating-point
slope*, rounded outwards. So a slope may be good or bad, never wrong.
"""

from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor

from brittle import ops, products
from brittle.curves import AFFINE, CONCAVE, Piece
from brittle.graph import Node
from brittle.intervals import TINY, UNIT, State, gamma

FEW = 14  # halvings for a touching point where planes are only compared


@dataclass(frozen=True, eq=False)
class Planes:
    """``lower_slope z + lower <= f(z) <= upper_slope z + upper`` on the interval of every unit; all (N, *shape of the input).

    Product: slopes (N, 2, *shape of the output), the shape of the input; intercepts (N, *shape of the output).
    Max pooling: slopes are (N, *shape of the output, K), one for every pixel of a window; intercepts (N, *shape of the output).
    """

    lower_slope: Tensor
    lower: Tensor
    upper_slope: Tensor
    upper: Tensor


def planes(state: State, node: Node, lower_slope: Tensor | None = None, upper_slope: Tensor | None = None) -> Planes:
    """Planes of a nonlinear node over the present intervals of its input, with the given slopes or those of least area."""
    source = node.arguments["input"].name  # type: ignore[union-attr]
    low, high = state.low[source], state.high[source]
    if node.op in ops.POOLS:
        return _pool_planes(
            ops.max_pool(node, state.known[source].shape), low, high, node.shape, lower_slope, upper_slope
        )
    if node.op == ops.PRODUCT:
        below, above = products.slopes(low, high)
        below, above = (below if lower_slope is None else lower_slope, above if upper_slope is None else upper_slope)
        return Planes(below, products.intercepts(below, low, high)[0], above, products.intercepts(above, low, high)[1])
    function = ops.activation(node, {**state.constants, source: low}, state.count)
    if lower_slope is None or upper_slope is None:
        below, above = least_area(function, low, high)
        lower_slope, upper_slope = (
            below if lower_slope is None else lower_slope,
            above if upper_slope is None else upper_slope,
        )
    least, _ = intercepts(function, lower_slope, low, high)
    _, most = intercepts(function, upper_slope, low, high)
    return Planes(lower_slope, least, upper_slope, most)


def intercepts(function: ops.Activation, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(below, above): rigorous bounds of the least and the largest value of ``f(z) - slope z`` on ``[low, high]``.

    The extremes lie at an end, at an edge of the function, or where f' equals the slope. There a concave piece obeys
    ``g(z) <= g(t) + g'(t) (z - t)`` for *any* t of the piece, so that an inexact touching point costs tightness only;
    a convex piece mirrors it.
    """
    points = [low, high] + [torch.minimum(torch.maximum(torch.full_like(low, k), low), high) for k in function.edges]
    values = [_gap(function, slope, point) for point in points]
    least = torch.stack([v for v, _ in values]).amin(0)
    most = torch.stack([v for _, v in values]).amax(0)
    for piece in function.bend or ():
        if piece.shape == AFFINE:
            continue
        inside = (low < piece.right) & (high > piece.left)
        left, right = (end.clamp(piece.left, piece.right) for end in (low, high))
        with torch.no_grad():  # the extreme moves with the slope as if its place stood still
            touch = _touching(piece, slope, left, right, function.rounds)
            tilt = piece.slope(touch) - slope
            steep = piece.slope(touch).abs() if function.steep == inf else function.steep
            wide = 64 * UNIT * (steep + slope.abs()) * (right - left)
        below, above = _gap(function, slope, touch)
        if piece.shape == CONCAVE:
            rise = torch.maximum(tilt * (right - touch), tilt * (left - touch)).clamp_min(0) + wide
            most = torch.where(inside, torch.maximum(most, above + rise), most)
        else:
            fall = torch.minimum(tilt * (right - touch), tilt * (left - touch)).clamp_max(0) - wide
            least = torch.where(inside, torch.minimum(least, below + fall), least)
    if function.dip is not None:
        start, amount = function.dip
        least = torch.where(high >= start, least - amount * (1 + UNIT) - 4 * UNIT * least.abs(), least)
    return least, most


def _touching(piece: Piece, slope: Tensor, left: Tensor, right: Tensor, rounds: int) -> Tensor:
    """A point of ``[left, right]`` near the one where f' equals the slope: an end where there is none."""
    if piece.touching is not None:
        return torch.minimum(torch.maximum(piece.touching(slope), left), right)
    near, far = left, right
    for _ in range(rounds):
        middle = (near + far) / 2
        early = (piece.slope(middle) - slope) * piece.shape < 0
        near, far = torch.where(early, middle, near), torch.where(early, far, middle)
    at_left = (piece.slope(left) - slope) * piece.shape >= 0
    at_right = (piece.slope(right) - slope) * piece.shape <= 0
    return torch.where(at_left, left, torch.where(at_right, right, (near + far) / 2))


def least_area(function: ops.Activation, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes (below, above) that leave the least area between plane and function, among a few candidates.

    The area of a plane on an interval is its value at the midpoint times the width. For relu this is the rule of CROWN:
    below 0 or 1, whichever is larger at the midpoint; above the chord.
    """
    middle = (low + high) / 2
    best_low = best_high = torch.zeros_like(low)
    height_low, height_high = torch.full_like(low, -torch.inf), torch.full_like(low, torch.inf)
    rough = replace(function, rounds=FEW)
    for slope in candidates(function, low, high):
        least, most = intercepts(rough, slope, low, high)
        here_low, here_high = slope * middle + least, slope * middle + most
        up, down = here_low > height_low, here_high < height_high
        best_low, height_low = torch.where(up, slope, best_low), torch.where(up, here_low, height_low)
        best_high, height_high = torch.where(down, slope, best_high), torch.where(down, here_high, height_high)
    return best_low, best_high


def chord(function: ops.Activation, low: Tensor, high: Tensor) -> Tensor:
    """The slope between the two ends; at a single point that of the function to the right of it."""
    wide = high - low
    step = torch.where(wide > 0, wide, 1.0)
    return (function.value(low + step) - function.value(low)) / step


def candidates(function: ops.Activation, low: Tensor, high: Tensor) -> list[Tensor]:
    """Slopes worth trying: the chord, the pieces of a piecewise-linear function, tangents of a smooth one."""
    straight = chord(function, low, high)
    if function.bend is not None:
        return [straight, slope_at(function, (low + high) / 2), *_secants(function, low, high)]
    found = [straight]
    edges = [torch.full_like(low, k) for k in function.kinks]
    for kink in edges:
        inside = (kink > low) & (kink < high)
        left = (function.value(kink) - function.value(low)) / torch.where(inside, kink - low, 1.0)
        right = (function.value(high) - function.value(kink)) / torch.where(inside, high - kink, 1.0)
        found += [torch.where(inside, left, straight), torch.where(inside, right, straight)]
    return found


def slope_at(function: ops.Activation, point: Tensor) -> Tensor:
    """f' of a curved function; at an edge that of the piece to its left."""
    found = torch.zeros_like(point)
    for piece in reversed(function.bend or ()):
        found = torch.where(point <= piece.right, piece.slope(point.clamp_max(piece.right)), found)
    return found


def _secants(function: ops.Activation, low: Tensor, high: Tensor) -> list[Tensor]:
    """The steepest and the flattest line through each end and another point of the graph: tangents that touch from one side.

    Looked for on a grid, then on a finer one around the best point. They choose slopes and need not be exact.
    """
    found = []
    for end in (low, high):
        height = function.value(end)
        for sense in (1.0, -1.0):
            centre, reach = (low + high) / 2, (high - low) / 2
            for cells in (16, 8, 8):
                best, at = torch.full_like(low, -torch.inf), centre
                for k in range(cells + 1):
                    point = torch.minimum(torch.maximum(centre + (2 * k / cells - 1) * reach, low), high)
                    away = point - end
                    steep = sense * (function.value(point) - height) / torch.where(away == 0, 1.0, away)
                    better = (away != 0) & (steep > best)
                    best, at = torch.where(better, steep, best), torch.where(better, point, at)
                centre, reach = at, reach * 2 / cells
            ends = ((at == low) | (at == high)) & (best > -torch.inf)
            found.append(torch.where(ends, sense * best, slope_at(function, at)))
    return found


def _gap(function: ops.Activation, slope: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """``f(z) - slope z`` at one point, rounded down and up."""
    value, linear = function.value(point), slope * point
    doubt = function.ulps * value.abs() + function.input_ulps * point.abs() + 2 * linear.abs()
    slack = 2 * UNIT * doubt + TINY
    gap = value - linear
    return gap - slack, gap + slack


# ---- max pooling ---------------------------------------------------------------------------------------------------------


def windows(pool: ops.MaxPool, value: Tensor, fill: float) -> Tensor:
    """(N, C, *space) -> (N, C, outputs, K): what every window sees, ``fill`` where it leaves the image."""
    index = pool.index.to(value.device)
    return torch.where(index >= 0, value.flatten(2)[..., index.clamp_min(0)], fill)


def _pool_planes(
    pool: ops.MaxPool, low: Tensor, high: Tensor, shape: tuple[int, ...], below: Tensor | None, above: Tensor | None
) -> Planes:
    """Below: the pixel with the largest lower end. Above: ``max(x1, rest) <= u2 + s (x1 - l1)`` for the pixel x1 with the largest
    upper end and the second largest upper end u2, ``s = (u1 - u2) / (u1 - l1)``: the chord of ``max(x1, u2)``.

    With slopes given, the intercepts are the extremes of ``max(x) - <s, x>`` over the box, which decompose as follows:
    the least value of ``max(x) - <s, x>`` is at least ``max_k min_box (x_k - <s, x>)``, the largest ``max_k max_box (x_k - <s, x>)``.
    """
    count = len(low)
    lows, highs = windows(pool, low, -torch.inf), windows(pool, high, -torch.inf)
    valid = (pool.index >= 0).to(low.device)
    if below is None:
        below = torch.nn.functional.one_hot(lows.argmax(-1), lows.shape[-1]).to(low)
    else:
        below = below.reshape(lows.shape)
    if above is None:
        top = highs.topk(min(2, highs.shape[-1]), -1)
        first = top.indices[..., :1]
        u1, l1 = top.values[..., :1], lows.gather(-1, first)
        u2 = top.values[..., 1:2] if highs.shape[-1] > 1 else l1
        slope = torch.where(u2 <= l1, 1.0, (u1 - u2) / torch.where(u1 > l1, u1 - l1, 1.0))
        above = torch.zeros_like(lows).scatter(-1, first, slope)
    else:
        above = above.reshape(lows.shape)
    lows, highs = torch.where(valid, lows, 0.0), torch.where(valid, highs, 0.0)
    below, above = torch.where(valid, below, 0.0), torch.where(valid, above, 0.0)
    least = _pool_extreme(below, lows, highs, valid, least=True)
    most = _pool_extreme(above, lows, highs, valid, least=False)
    full = (count, *shape)
    return Planes(below.reshape(*full, -1), least.reshape(full), above.reshape(*full, -1), most.reshape(full))


def _pool_extreme(s: Tensor, lows: Tensor, highs: Tensor, valid: Tensor, least: bool) -> Tensor:
    """``max_k`` of the least (largest) value of ``x_k - <s, x>`` over the box, rounded outwards.

    Every other pixel j contributes the extreme of ``-s_j x_j`` and k itself that of ``(1 - s_k) x_k``.
    """
    pick = torch.minimum if least else torch.maximum
    others = pick(-s * lows, -s * highs)
    own = pick((1 - s) * lows, (1 - s) * highs)
    value = torch.where(valid, others.sum(-1, keepdim=True) - others + own, -torch.inf).amax(-1)
    size = (s.abs() + 1) * torch.maximum(lows.abs(), highs.abs())
    slack = gamma(s.shape[-1] + 4) * 2 * size.sum(-1) + TINY
    return value - slack if least else value + slack
