"""Linear upper bounds of absolute values and lengths over a box: what turns the cost of a worst change into a linear form."""

import torch
from torch import Tensor

from brittle.intervals import TINY, UNIT

SQUARES = (
    2.0**-500
)  # times a factor of a product whose other factor is so small that its square is no number: what that may hide


def chord(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(slope, intercept) with ``|z| <= slope z + intercept`` on [low, high]; slope 1 or -1 and intercept 0 where the sign is known.

    The least such line at every z: |z| is convex, so its chord lies above it and touches at both ends.

    >>> [v.item() for v in chord(torch.tensor(-1.0), torch.tensor(3.0))]
    [0.5, 1.5]
    """
    slope = torch.where(low >= 0, 1.0, torch.where(high <= 0, -1.0, (high + low) / (high - low)))
    # the largest value of the convex |z| - slope z, whatever the slope has become by rounding, is at an end
    most = torch.maximum(-low * (1 + slope), high * (1 - slope)) * (1 + 8 * UNIT) + TINY
    return slope, torch.where((low < 0) & (high > 0), most, 0.0)


def chord_around(centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """(slope, intercept) with ``|z| <= slope z + intercept`` on [centre - radius, centre + radius]; few passes, for large tensors.

    The slope s is ``centre / radius`` between -1 and 1. Where the sign is not known ``|z| - s z`` is at an end at most
    ``radius - s centre + |centre - s radius|``, of which the last term is rounding, below ``2 u radius``, and so is that of the rest;
    where it is known s is 1 or -1 exactly, because division is monotone.

    >>> [v.item() for v in chord_around(*torch.tensor([1.0, 2.0], dtype=torch.float64))]
    [0.5, 1.5000000000000018]
    """
    radius = radius.clamp_min(TINY)
    slope = (centre / radius).clamp_(-1, 1)
    return slope, torch.addcmul(radius.mul_(1 + 8 * UNIT), slope, centre, value=-1).clamp_min_(0)


def tangent(weight: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """(slope, intercept (...)) with ``sqrt(sum w z^2) <= <slope, z> + intercept`` on the box [low, high] (..., D), weights w >= 0.

    ``|v| <= (|v|^2 + s^2) / (2 s)`` for every s > 0, and ``z^2 <= (l + u) z - l u`` on [l, u]. With ``s^2 = sum w (l^2 + u^2) / 2``
    it touches where z is at a corner of that length: everywhere when the box is a point. Rounding is not paid here: no term
    exceeds ``sqrt(sum w max(l^2, u^2))``, and all together not three of them.
    """
    length = (weight * (low.square() + high.square()) / 2).sum(-1, keepdim=True).sqrt()
    plain = length < 1e-140  # too short for its squares: the sum of the parts is more than the length
    half = torch.where(plain, 0.0, 1 / torch.where(plain, 1.0, 2 * length))
    rest = half * (length.square() - (weight * low * high).sum(-1, keepdim=True))
    parts = (weight.sqrt() * torch.maximum(low.abs(), high.abs())).sum(-1, keepdim=True)
    return weight * (low + high) * half, torch.where(plain, parts, rest)[..., 0]
