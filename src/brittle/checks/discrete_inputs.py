"""A14: where inputs come in steps, do the stored points survive rounding to them?"""

from dataclasses import replace

import torch
from torch import Tensor

from brittle.about import About
from brittle.checks._shared import passed
from brittle.problem import Problem
from brittle.results import Bracket, Finding

ABOUT = About(
    promise="A14: the column tells for every point whether it still breaks the property on the grid that the inputs lie on",
    reference="points rounded to the grid and judged again; Carlini et al. 2019, checklist",
    answers="after",
    cost="4 forward passes",
)
TITLE = "inputs in steps (A14)"
STEPS = (1.0, 1 / 15, 1 / 16, 1 / 255, 1 / 256)  # whole numbers, 4-bit and 8-bit pixels; the largest that fits
LEVELS = 8  # distinct values, below which a grid may be chance


def discrete_inputs(problem: Problem, bracket: Bracket, *, seed: int = 0) -> Finding:
    """Inputs on a grid: every found point rounded to the nearest grid point, or away from the input where that fails; judged as a witness.

    For the margin of a region a point is rounded towards the input, so that it stays inside.
    Column ``valid after rounding``: True, False, or None without a point; ``size`` of what is valid.
    """
    witness = bracket.witness
    steps = {leaf: step for leaf in problem.leaves if (step := grid(problem, leaf)) is not None}
    if witness is None or not bool(witness.found.any()) or not steps:
        return passed("discrete_inputs", TITLE, "No point is claimed, or the inputs lie on no grid of 4 or 8 bits.")
    inward = bracket.quantity != "radius"
    at = witness.found.nonzero()[:, 0]
    part, point = problem.take(at), witness.take(at).point
    size = torch.full((len(at),), torch.inf, dtype=torch.float64)
    for outward in (False,) if inward else (False, True):
        tried = part.witness({k: _rounded(part, k, v, steps, inward, outward) for k, v in point.items()})
        size = torch.minimum(size, torch.where(tried.found, part.size(tried.point), torch.inf))
    valid = size.isfinite() & (size <= part.scale if inward else size >= 0)
    value = f"{int(valid.sum())} of {len(at)} points"
    grew = (size / witness.size[at])[valid & (witness.size[at] > 0)]
    times = f", at {float(grew.median()):.3g} times their size in the median" if len(grew) else ""
    told = ", ".join(f"{leaf} in steps of {_step(step)}" for leaf, step in steps.items())
    note = f"On the grid of the inputs ({told}) {value} still break the property{times}."
    columns: dict[str, list] = {"valid after rounding": [None] * len(problem), "size": [None] * len(problem)}
    for i, v, s in zip(at.tolist(), valid.tolist(), size.tolist(), strict=True):
        columns["valid after rounding"][i], columns["size"][i] = v, s if v else None
    finding = passed("discrete_inputs", TITLE, note, value=value, remark=not bool(valid.all()))
    return replace(finding, columns=columns)


def grid(problem: Problem, leaf: str) -> float | None:
    """The largest step of which every value of an input is a multiple; None for parameters, for reals, for few values.

    >>> from brittle.region import Ball
    >>> pixels = Problem(torch.nn.Linear(32, 2), torch.arange(64).reshape(2, 32) / 255, torch.tensor([0, 1]), Ball(p=2, radius=1.0))
    >>> round(1 / grid(pixels, "x"))
    255
    """
    x = problem.inputs.get(leaf)
    if x is None or not x.is_floating_point() or x.numel() == 0:
        return None
    x = x.double()
    fits = [s for s in STEPS if float((x / s - (x / s).round()).abs().max()) < 1e-3]
    return fits[0] if fits and len(x.unique()) >= LEVELS else None


def _rounded(part: Problem, leaf: str, value: Tensor, steps: dict[str, float], inward: bool, outward: bool) -> Tensor:
    """The point on the grid, in the dtype and range of its leaf; leaves without a grid as they are."""
    if leaf not in steps:
        return value
    step, centre = steps[leaf], part.centre[leaf].double()
    moved = (value.double() - centre) / step
    rounded = moved.trunc() if inward else moved.sign() * moved.abs().ceil() if outward else moved.round()
    low, high = part.region[leaf].range(value)
    return torch.minimum(torch.maximum((centre + rounded * step).to(value.dtype), low), high)


def _step(step: float) -> str:
    return "1" if step == 1 else f"1/{round(1 / step)}"
