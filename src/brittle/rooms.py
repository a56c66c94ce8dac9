"""How far a moving parameter may lie from its stored value, kept as small as the ball that says so."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from brittle import norms
from brittle.region import Ball


@dataclass(frozen=True, eq=False)
class Room:
    """``|change / pattern|_p <= scale`` for every example, p = 1, 2 or inf; so every entry changes by at most ``scale * pattern``.

    pattern  (1, *shape), or (1, 1, ..., 1) where every entry has the same room; (N, *shape) where a range cuts the balls of
             different examples differently. An entry of 0 stays.
    scale    (N,), or (1,) where all examples share one
    one      the scale that the ball itself has, before a problem scales it
    """

    pattern: Tensor
    scale: Tensor
    p: float
    one: float = 1.0

    @property
    def uniform(self) -> bool:
        """Every entry has the same room."""
        return self.pattern.numel() == 1


def room(ball: Ball, weight: Tensor, radius: Tensor) -> Room:
    """The room of a parameter (*shape) in a ball of per-example ``radius`` (N,), which a proof must hold for.

    Balls without a range stay what they are. Where there is a range, or p = 0, the room is the box around the ball and the range.
    """
    alike = bool((radius == radius[0]).all())
    radius = radius[:1] if alike else radius
    wide = weight.detach().to(torch.float64)
    if ball.low is not None or ball.high is not None or ball.p == 0:
        low, high = enclosing(ball, wide.expand(len(radius), *wide.shape), radius)
        away = torch.maximum(high - wide, wide - low)
        return Room(_up(away) * (low < high), torch.ones_like(radius[:1]), inf)
    if isinstance(ball.unit, Tensor) and ball.unit.numel() > 1:
        pattern = ball.unit.to(wide).expand(wide.shape)[None]
    else:
        pattern = torch.as_tensor(1.0 if ball.unit is None else ball.unit).to(wide).reshape(1, *[1] * wide.dim())
    return Room(pattern, radius, ball.p, ball.radius)


def enclosing(ball: Ball, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """(low, high) (N, ...), float64: the smallest box known to hold a ball of per-example ``radius`` (N,), cut by its range."""
    spread = norms.spread(radius, centre)
    if ball.p == 0:
        spread = torch.where(spread >= 1, inf, 0.0).expand_as(centre)
    elif ball.unit is not None:
        spread = (
            _up(spread * torch.as_tensor(ball.unit).to(centre))
            * (spread > 0)
            * (torch.as_tensor(ball.unit).to(centre) > 0)
        )
    low, high = ball.exact_range(centre)
    still = spread == 0
    lower = torch.where(still, centre, torch.maximum(_down(centre - spread), low))
    upper = torch.where(still, centre, torch.minimum(_up(centre + spread), high))
    return lower, upper


def _up(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, inf))


def _down(value: Tensor) -> Tensor:
    return torch.nextafter(value, torch.full_like(value, -inf))
