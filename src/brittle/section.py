"""Sections: the changes of a subspace whose l_p length, and whose range, is that of the change itself and not of its coordinates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from brittle import norms

Rooms = tuple[Tensor, Tensor] | None
NEAREST_STEPS = 60  # of splitting: lengths within 2 % of linear programs, 5 % with a range (measured, 10 to 226 of 64 to 256 dimensions)
PROJECT_STEPS = (
    8,
    40,
)  # of alternating projections, without and with a range; a rescaling follows, so that the result is always feasible
INSIDE = 1e-3  # of what a coordinate change of this length can do to a feature: a range is aimed at so much inside, or rescaling would undo all
PENALTY = {
    1: 1.0,
    2: 1.0,
    inf: 0.3,
}  # of the splitting, in its own units (measured: three times as much or as little costs a percent)


@dataclass(frozen=True, eq=False)
class Section:
    """``{c: |c B|_p <= radius, low <= base + c B <= high}`` with the orthonormal rows of B: a ball and a box, cut by a subspace.

    basis      (r, d) B, in the dtype of the coordinates
    p          1, 2 or inf: of the change ``c B``
    base       the leaf that the change is added to
    low, high  its valid range, as of a :class:`brittle.Ball`

    >>> diagonal = Section(torch.ones(1, 4) / 2, inf, "x")
    >>> diagonal.length(torch.tensor([[3.0]]))  # the change is (1.5, 1.5, 1.5, 1.5)
    tensor([1.5000], dtype=torch.float64)
    """

    basis: Tensor
    p: float
    base: str
    low: float | Tensor | None = None
    high: float | Tensor | None = None

    def change(self, coordinates: Tensor) -> Tensor:
        """(N, d), in the dtype of the coordinates."""
        return norms.flat(coordinates) @ self.basis.to(coordinates)

    def length(self, coordinates: Tensor) -> Tensor:
        """(N,) ``|c B|_p`` in float64."""
        return norms.norm(self.change(coordinates.detach().double()), self.p)

    def along(self, direction: Tensor) -> Tensor:
        """Directions (N, r) made one unit of l_p length long; zero stays zero."""
        length = norms.norm(self.change(direction), self.p)
        return direction / length.clamp_min(torch.finfo(direction.dtype).tiny)[:, None]

    def rooms(self, base: Tensor) -> Rooms:
        """How far each feature of the base (N, ...) may fall and rise, (N, d) each and float64; None without a range."""
        if self.low is None and self.high is None:
            return None
        wide = base.detach().double()
        low, high = (
            torch.as_tensor(end if side is None else side, dtype=torch.float64, device=base.device)
            for side, end in ((self.low, -inf), (self.high, inf))
        )
        return norms.flat((wide - low).expand(wide.shape)), norms.flat((high - wide).expand(wide.shape))

    def outside(self, coordinates: Tensor, base: Tensor) -> Tensor:
        """(N,) bool: whether the changed base leaves its range, judged in float64."""
        rooms = self.rooms(base)
        if rooms is None:
            return torch.zeros(len(coordinates), dtype=torch.bool, device=coordinates.device)
        change = self.change(coordinates.detach().double())
        return ((change < -rooms[0]) | (change > rooms[1])).any(1)

    def project(self, coordinates: Tensor, radius: Tensor, rooms: Rooms) -> Tensor:
        """A point of the section near the coordinates (N, r): alternating projections with Dykstra's corrections, then a rescaling.

        radius (N,). The nearest one in the limit of many steps; a point of the section after any number.
        """
        wide = coordinates.double()
        reach = radius.double()
        sets: list[Callable[[Tensor], Tensor]] = [lambda v: norms.project(v, self.p, reach)]
        if rooms is not None:
            aim = INSIDE * torch.minimum(wide.norm(dim=1), reach)[:, None] * self.basis.double().norm(dim=0)
            sets.append(lambda v: torch.maximum(torch.minimum(v, rooms[1] - aim), aim - rooms[0]))
        inside = (self.length(wide) <= reach) & ~_beyond(self.change(wide), rooms)
        if not bool(inside.all()):
            held = (lambda v: not bool(_beyond(v, rooms).any())) if rooms is not None else lambda v: False
            moved = _dykstra(self.change(wide), sets, self.basis.double(), PROJECT_STEPS[rooms is not None], held)
            wide = torch.where(inside[:, None], wide, moved @ self.basis.double().T)
        return (wide * self._allowed(wide, reach, rooms)[:, None]).to(coordinates)

    def nearest(self, descent: Tensor, gap: Tensor, rooms: Rooms) -> Tensor:
        """Coordinates c (N, r) of nearly the shortest change ``c B`` with ``<descent, c> = gap``, inside the range.

        ``min |u|_p`` over ``u = c B``, ``<descent, c> = gap`` and the range, by splitting (alternating direction method of multipliers):
        the coordinates keep the equation, one copy of the change has the norm, another the range. The equation holds exactly at last.
        With a range the result lies in it, and may keep the equation only nearly.
        """
        a, target = descent.double(), gap.double()
        square = a.square().sum(1)
        alive = (square > 0) & (target > 0)
        a = torch.where(alive[:, None], a / square.clamp_min(torch.finfo(a.dtype).tiny).sqrt()[:, None], 0.0)
        short = torch.where(
            alive, target / square.clamp_min(torch.finfo(a.dtype).tiny).sqrt(), 0.0
        )  # the shortest in l2
        unit = torch.ones_like(short)
        copies: list[Callable[[Tensor], Tensor]] = [_shrinking(self.p, self._pull() * unit)]
        if rooms is not None:
            scale = short.clamp_min(torch.finfo(short.dtype).tiny)[:, None]
            copies.append(lambda v: torch.minimum(torch.maximum(v, -rooms[0] / scale), rooms[1] / scale))
        c = _split(a, copies, self.basis.double()) * short[:, None]
        return (c if rooms is None else self.project(c, torch.full_like(short, inf), rooms)).to(descent)

    def _pull(self) -> float:
        """What makes the shrinking of each norm move an l2 unit vector by a like part of itself."""
        d = self.basis.shape[1]
        return PENALTY[self.p] * {1: d**-0.5, 2: 1.0, inf: d**0.5}[self.p]

    def _allowed(self, coordinates: Tensor, radius: Tensor, rooms: Rooms) -> Tensor:
        """(N,) the largest factor up to 1 that brings the change into ball and range: both hold 0 and are convex."""
        change = self.change(coordinates)
        length = norms.norm(change, self.p)
        factor = torch.where(length > radius, radius / length, 1.0)
        if rooms is not None:
            room = torch.where(change > 0, rooms[1], rooms[0])
            factor = torch.minimum(factor, torch.where(change.abs() > room, room / change.abs(), 1.0).amin(1))
        return factor


def _beyond(change: Tensor, rooms: Rooms) -> Tensor:
    if rooms is None:
        return torch.zeros(len(change), dtype=torch.bool, device=change.device)
    return ((change < -rooms[0]) | (change > rooms[1])).any(1)


def _dykstra(
    change: Tensor,
    sets: Sequence[Callable[[Tensor], Tensor]],
    basis: Tensor,
    steps: int,
    held: Callable[[Tensor], bool],
) -> Tensor:
    """Boyle and Dykstra 1986; the subspace needs no correction, being linear. Ends early where the range is ``held``."""
    corrections = [torch.zeros_like(change) for _ in sets]
    for _ in range(steps):
        for k, onto in enumerate(sets):
            moved = onto(change + corrections[k])
            corrections[k] = change + corrections[k] - moved
            change = moved
        change = (change @ basis.T) @ basis
        if held(change):
            break
    return change


def _split(a: Tensor, copies: Sequence[Callable[[Tensor], Tensor]], basis: Tensor) -> Tensor:
    """Boyd et al. 2011, section 7 (consensus): coordinates with ``<a, c> = 1``, a of length 1."""
    change = a @ basis
    duals = [torch.zeros_like(change) for _ in copies]
    kept = [change] * len(copies)
    c = a
    for _ in range(NEAREST_STEPS):
        kept = [shrink(change + dual) for shrink, dual in zip(copies, duals, strict=True)]
        duals = [dual + change - copy for dual, copy in zip(duals, kept, strict=True)]
        mean = sum((copy - dual for copy, dual in zip(kept, duals, strict=True)), torch.zeros_like(change)) / len(
            copies
        )
        c = mean @ basis.T
        c = c + (1 - (a * c).sum(1, keepdim=True)) * a
        change = c @ basis
    return c


def _shrinking(p: float, amount: Tensor) -> Callable[[Tensor], Tensor]:
    """The proximal operator of ``amount |v|_p``: by Moreau's identity what is left of v beyond the dual ball."""
    if p == 1:
        return lambda v: v.sign() * (v.abs() - amount[:, None]).clamp_min(0)
    return lambda v: v - norms.project(v, norms.dual(p), amount)
