"""What moving weights and biases of one layer can take from linear forms: the checker's own count of the worst change."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from brittle._checker.arithmetic import FLOOR, Array, gamma
from brittle._checker.stencils import Stencil

SQUARES = (
    2.0**-500
)  # times a factor of a product whose other factor is so small that its square is no number: what that may hide


@dataclass(frozen=True)
class Room:
    """``|change| <= box`` entry by entry, all of them flat; and ``|change / unit|_p <= radius`` where p is 1 or 2.

    ease  a number in [0, 1] by which corners count a weight less than it is: the bounds take it from a coarser radius, and a proof
          is evaluated as it was found
    """

    box: Array
    p: float = np.inf
    radius: float = np.inf
    unit: Array | float = 1.0
    ease: float = 1.0

    def cost(self, gradient: Array) -> Array:
        """``max <gradient, change>`` from the largest absolute values (R, entries) of a gradient."""
        size = np.abs(gradient)
        best = size @ self.box
        if self.p == 1:
            best = np.minimum(best, self.radius * (size * self.unit).max(1))
        if self.p == 2:
            best = np.minimum(best, self.radius * (np.sqrt(((size * self.unit) ** 2).sum(1)) + size.shape[1] * SQUARES))
        return best * (1 + gamma(size.shape[1])) + FLOOR


def bias_cost(taps: Stencil, room: Room, rows: Array) -> Array:
    """What a bias can take: it is one number for all positions of a channel. (R,)"""
    outputs = np.arange(taps.outputs)
    sums = csr_matrix((np.ones(taps.outputs), (outputs, taps.bias)), shape=(taps.outputs, len(room.box)))
    slack = gamma(taps.outputs) * (np.abs(rows) @ sums)
    return room.cost(np.abs(rows @ sums) + slack)


def most_by_output(taps: Stencil, room: Room, largest: Array) -> Array:
    """How far a weight can carry each output when the inputs are at most ``largest``. (outputs,)"""
    best = taps.matrix(room.box) @ largest
    unit = np.broadcast_to(room.unit, room.box.shape)
    if room.p == 2:
        vanished = taps.fan_in * SQUARES * (1 + unit.max() + largest.max())
        length = np.sqrt(taps.matrix(unit**2) @ largest**2) + vanished
        best = np.minimum(best, room.radius * length)
    if room.p == 1:
        best = np.minimum(best, room.radius * unit.max() * largest.max())
    return best * (1 + gamma(taps.fan_in)) + FLOOR


def corners(taps: Stencil, room: Room, weight: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """(down, up): how much further than with still weights the products ``(weight + change) h`` reach, summed per output.

    For weight >= 0 the top of ``weight h`` is at ``high``, where a change adds ``box |high|``. The top of ``(weight + change) h`` is there
    too, or at ``low``, which gains at most ``max(0, box - weight) max(0, |low| - |high|)`` over it. The other cases mirror this one.
    """
    rest = np.maximum(room.box - room.ease * np.abs(weight), 0.0)
    below_, above_ = np.abs(low), np.abs(high)
    down, up = np.zeros(taps.outputs), np.zeros(taps.outputs)
    for sign, first, last in ((weight >= 0, below_, above_), (weight < 0, above_, below_)):
        whole, part = taps.matrix(room.box * sign), taps.matrix(rest * sign)
        down += whole @ first + part @ np.maximum(last - first, 0.0)
        up += whole @ last + part @ np.maximum(first - last, 0.0)
    return down * (1 + gamma(taps.fan_in)) + FLOOR, up * (1 + gamma(taps.fan_in)) + FLOOR


def free_form(taps: Stencil, room: Room, rows: Array, low: Array, high: Array, width: int) -> tuple[Array, Array]:
    """(form (R, inputs), constant (R,)): a weight that may differ at every position takes at most ``form @ h + constant``.

    ``|change h| <= box |h|`` entry by entry, and |h| lies below its chord. p = 1 and 2: the product of the two lengths at each position
    where inputs do not overlap (``width`` features each), else output by output (``width`` 0).
    """
    if room.p == np.inf:
        return _chords(np.abs(rows) @ taps.matrix(room.box) * (1 + gamma(taps.outputs)), low, high)
    largest = np.maximum(np.abs(low), np.abs(high))
    by_output = np.abs(rows) @ most_by_output(taps, room, largest) * (1 + gamma(taps.outputs))
    if not width:
        return np.zeros((len(rows), taps.inputs)), by_output
    unit = np.broadcast_to(room.unit, room.box.shape)
    if room.p == 1:
        by_feature = unit.reshape(-1, width).max(0) * largest.reshape(-1, width)
        strongest = np.abs(rows).reshape(len(rows), len(by_feature), -1).max(2)
        return np.zeros((len(rows), taps.inputs)), room.radius * (strongest @ by_feature.max(1)) * (
            1 + gamma(len(by_feature))
        )
    weights = (rows**2) @ taps.matrix(unit**2) * (1 + gamma(taps.outputs))
    split = lambda v: v.reshape(*v.shape[:-1], -1, width)
    form, constant = _length(split(weights), split(low), split(high))
    vanished = SQUARES * (np.abs(rows).sum(1) + taps.outputs) * (1 + unit.max()) * largest.sum()
    return room.radius * form.reshape(len(rows), -1), room.radius * (constant.sum(1) + vanished)


def shared_form(taps: Stencil, room: Room, rows: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """The same where one change of the weight acts at all positions: through intervals of the gradient by each of its entries."""
    middle = (low + high) / 2
    largest = np.maximum(np.abs(low), np.abs(high))
    reach = np.maximum(high - middle, middle - low) + 2 * gamma(taps.outputs) * largest

    def gather(v: Array) -> csr_matrix:
        return csr_matrix((v[taps.inp], (taps.out, taps.weight)), shape=(taps.outputs, len(room.box)))

    centre, radius = rows @ gather(middle), np.abs(rows) @ gather(reach)
    least, most = centre - radius, centre + radius
    if room.p == 1:
        ends = np.maximum(np.abs(least), np.abs(most))
        return np.zeros((len(rows), taps.inputs)), room.cost(ends)
    unit = np.broadcast_to(room.unit, room.box.shape)
    if room.p == 2:
        kernel, constant = _length(np.broadcast_to(unit**2, least.shape), least, most)
        vanished = SQUARES * (1 + unit.max()) * np.maximum(np.abs(least), np.abs(most)).sum(1)
        kernel, constant = room.radius * kernel, room.radius * (constant + vanished)
    else:
        kernel, constant = _chords(np.broadcast_to(room.box, least.shape), least, most)
    taken = [
        np.bincount(taps.inp, k[taps.weight] * r[taps.out], taps.inputs) for k, r in zip(kernel, rows, strict=True)
    ]
    return np.asarray(taken, dtype=np.float64), constant


def _chords(weights: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """``sum weights |z|`` below ``form @ z + constant``: the line through both ends of |z|, its height taken anew for the slope as rounded."""
    crossing = (low < 0) & (high > 0)
    slope = np.where(crossing, (high + low) / np.where(crossing, high - low, 1.0), np.where(low >= 0, 1.0, -1.0))
    height = np.where(
        crossing, np.maximum(high - slope * high, -slope * low - low) + gamma(4) * (high - low) + FLOOR, 0.0
    )
    return weights * slope, (weights * height).sum(-1)


def _length(weights: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """``sqrt(sum weights z^2)`` below ``form . z + constant``: ``|v| <= |v|^2 / (2 s) + s / 2``, and ``z^2 <= (low + high) z - low high``."""
    largest = np.maximum(np.abs(low), np.abs(high))
    s = np.sqrt((weights * (low**2 + high**2)).sum(-1) / 2)
    plain = s < 1e-140  # too short for its squares: the sum of the parts is more than the length
    half = np.where(plain, 0.0, 0.5 / np.where(plain, 1.0, s))
    constant = s * s * half - (weights * low * high).sum(-1) * half
    return weights * (low + high) * half[..., None], np.where(plain, (np.sqrt(weights) * largest).sum(-1), constant)
