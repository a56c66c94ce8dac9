"""Weights rounded to a shorter format, and the ball of weights that such a rounding stays in."""

from dataclasses import dataclass

import torch
from torch import Tensor

from brittle.errors import InputError

FLOATS = {  # torch's name of the type, bits of the fraction, exponent of the smallest normal number
    "fp16": ("float16", 10, -14),
    "bf16": ("bfloat16", 7, -126),
    "fp8_e4m3": ("float8_e4m3fn", 3, -6),
    "fp8_e5m2": ("float8_e5m2", 2, -14),
}
FORMATS = ("int8", *FLOATS)


@dataclass(frozen=True, eq=False)
class Rounded:
    """One tensor in a shorter format.

    value   the rounded weights, in the dtype they came in; ``step`` the width of an integer step (0 for floating formats)
    reach   per weight, how far *any* rounding to nearest in this format may move it: half a step, half a spacing
    fits    whether every weight stayed within its reach; outside the range of a floating format it does not
    """

    value: Tensor
    reach: Tensor
    step: float
    fits: bool

    def facts(self, weight: Tensor) -> dict[str, float | None]:
        """The balls around ``weight`` that hold the rounded tensor: ``radius`` (l-inf, for every rounding), the same over the weights' root
        mean square (``radius_rms``), and ``radius_element``, the smallest zeta with ``|rounded - w| <= zeta |w|`` here; ``change`` made."""
        change, size = (self.value - weight).double().abs(), weight.double().abs()
        rms, radius = float(size.square().mean().sqrt()), float(self.reach.max())
        nonzero = size > 0
        return {
            "radius": radius,
            "radius_rms": radius / rms if rms else None,
            "radius_element": float((change[nonzero] / size[nonzero]).max()) if bool(nonzero.any()) else 0.0,
            "change": float(change.max()),
        }


def rounded(weight: Tensor, name: str) -> Rounded:
    """Round one tensor to nearest, ties to even.

    "int8" is symmetric and per tensor: ``step = max|W| / 127``, integers -127 ... 127. "fp16", "bf16", "fp8_e4m3" and "fp8_e5m2" are torch's
    casts without a scale, so that what lies below the format's smallest numbers vanishes.

    Guarantee: where ``fits``, ``|value - weight| <= reach``, measured in float64; for int8 the reach is a little more than half a
    step, since code times step is rounded to the dtype of the weights.

    >>> found = rounded(torch.tensor([1.27, -0.014]), "int8")
    >>> [round(v, 4) for v in found.value.tolist()], round(found.step, 4), found.fits
    ([1.27, -0.01], 0.01, True)
    >>> rounded(torch.tensor([0.3]), "fp8_e5m2").value.item(), rounded(torch.tensor([1e6]), "fp16").fits
    (0.3125, False)
    """
    if name not in FORMATS:
        raise InputError("format", f"one of {', '.join(FORMATS)}", repr(name), "choose one of these")
    if name == "int8":
        step = float(weight.abs().max()) / 127
        value = codes(weight, step).to(weight.dtype) * step
        reach = step / 2 + weight.double().abs() * 2 * torch.finfo(weight.dtype).eps  # the product is rounded itself
    else:
        kind, bits, least = FLOATS[name]
        step, value = 0.0, weight.to(getattr(torch, kind)).to(weight.dtype)
        exponent = (torch.frexp(weight.double()).exponent - 1).clamp_min(least)
        reach = torch.ldexp(torch.ones_like(weight, dtype=torch.float64), exponent - bits - 1)
    fits = bool(((value - weight).double().abs() <= reach).all())
    return Rounded(value, reach, step, fits)


def codes(weight: Tensor, step: float) -> Tensor:
    """The int8 codes of a tensor: ``round(W / step)`` within -127 ... 127."""
    scaled = weight.double() / step if step else torch.zeros_like(weight, dtype=torch.float64)
    return scaled.round().clamp(-127, 127).to(torch.int8)
