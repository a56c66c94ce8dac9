"""What may move, and how far: a ball on every moving leaf, intersected with the valid range of that leaf."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, nan

import torch
from torch import Tensor

from brittle import norms
from brittle.errors import InputError
from brittle.section import Section
from brittle.subspace import Subspace


@dataclass(frozen=True, eq=False)
class Ball:
    """The points ``v`` of a leaf with ``|v - centre|_p <= radius`` and ``low <= v <= high``.

    p          0, 1, 2 or inf. p = 0 counts changed features; its radius is a number of changes.
    radius     in the units of the leaf. A region of several leaves scales all its radii together.
    low, high  the valid range: numbers, or tensors that broadcast against one example of the leaf (per-feature boxes).
    groups     p = 0 only: ``"channels"`` counts positions of an image of shape (channel, ...), all channels at once.
    shared     one change common to all examples, instead of one change each; where the leaf has a range, each changed example is
               then cut off at it. Answered by :func:`brittle.questions.accuracy.accuracy` alone.
    relative   parameters only: the radius is a multiple of the stored weight, ``"element"`` of each entry (``|v - W| <= radius |W|`` for
               p = inf; an entry of 0 stays), ``"rms"`` of the root mean square of the leaf. For p = 1 and 2 the length
               ``|(v - W) / unit|_p`` of the change in these units is bounded. Scaling a layer up and the next one down, which
               leaves a ReLU network the same function, changes no relative answer.
    unit       parameters only: what the radius is a multiple of, a number or one for each entry (steps of a quantisation, for example).
               A problem fills it in where ``relative`` is given.
    within, orthogonal_to  a :class:`Subspace`: only changes inside it, or orthogonal to it. The leaf becomes their coordinates
               (``"x.coordinates"``); inputs, p of 1, 2 or inf. For p = 2 without a range both ends are as for any ball; else the length
               and the range are those of the change in the input, which attacks keep to and no bound certifies.
    section    filled in by a problem where ``within`` or ``orthogonal_to`` is given: how coordinates become changes.

    >>> Ball(p=2, radius=1.0, low=0, high=1)
    Ball(p=2, radius=1.0, low=0, high=1)
    """

    p: float
    radius: float
    low: float | Tensor | None = None
    high: float | Tensor | None = None
    groups: str | None = None
    shared: bool = False
    within: Subspace | None = None
    orthogonal_to: Subspace | None = None
    relative: str | None = None
    unit: Tensor | float | None = None  # kept as a float64 tensor
    section: Section | None = None

    def __post_init__(self) -> None:
        if self.p not in (0, 1, 2, inf):
            raise InputError("Ball.p", "0, 1, 2 or inf", repr(self.p), "choose one of these numbers; inf is math.inf")
        try:
            radius = float(self.radius)
        except (TypeError, ValueError, RuntimeError):
            radius = nan
        if not 0 <= radius < inf:
            raise InputError(
                "Ball.radius", "a finite number >= 0", self.radius, "give the radius in the units of the leaf"
            )
        object.__setattr__(self, "radius", radius)
        if self.groups not in (None, "channels") or (self.groups and self.p != 0):
            raise InputError("Ball.groups", '"channels" together with p = 0, or None', self.groups, "leave groups out")
        if self.within is not None and self.orthogonal_to is not None:
            raise InputError("Ball", "within or orthogonal_to", "both", "leave one out")
        for name, given in (("within", self.within), ("orthogonal_to", self.orthogonal_to)):
            if given is not None and not isinstance(given, Subspace):
                do = "write bt.Subspace.pca(data) or bt.Subspace.given(vectors)"
                raise InputError(f"Ball.{name}", "a bt.Subspace", type(given).__name__, do)
        self._check_units()
        if self.low is not None and self.high is not None:
            low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
            if not bool((low <= high).all()):
                raise InputError(
                    "Ball range", "low <= high everywhere", f"low={self.low}, high={self.high}", "swap them"
                )

    def _check_units(self) -> None:
        if self.relative not in (None, "element", "rms"):
            raise InputError("Ball.relative", '"element", "rms" or None', repr(self.relative), "choose one of these")
        if self.unit is not None:
            unit = torch.as_tensor(self.unit, dtype=torch.float64)
            object.__setattr__(self, "unit", unit)
            if not bool((unit.isfinite() & (unit >= 0)).all()):
                raise InputError("Ball.unit", "finite numbers >= 0", self.unit, "an entry of unit 0 stays")
        if self.relative is None and self.unit is None:
            return
        if self.p == 0:
            raise InputError("Ball", "p of 1, 2 or inf with relative or unit", "p=0", "counted changes have no size")
        if self.within is not None or self.orthogonal_to is not None:
            raise InputError(
                "Ball", "a subspace, or relative", "both", "subspaces are of inputs, relative balls of parameters"
            )

    def __repr__(self) -> str:
        parts = [f"p={self.p}", f"radius={self.radius}"]
        parts += [
            f"{name}={_short(value)}" for name, value in (("low", self.low), ("high", self.high)) if value is not None
        ]
        parts += [f"groups={self.groups!r}"] * bool(self.groups) + ["shared=True"] * self.shared
        parts += [f"relative={self.relative!r}"] if self.relative else []
        parts += [f"unit={_short(self.unit)}"] if self.unit is not None and not self.relative else []
        parts += [
            f"{n}={s}" for n, s in (("within", self.within), ("orthogonal_to", self.orthogonal_to)) if s is not None
        ]
        return f"Ball({', '.join(parts)})"

    def with_radius(self, radius: float) -> "Ball":
        """The same ball with another radius."""
        return replace(self, radius=radius)

    def unrestricted(self) -> "Ball":
        """The same ball without its subspace: what moves and in which range, for questions about the inputs themselves."""
        return replace(self, within=None, orthogonal_to=None)

    def at(self, weight: Tensor) -> "Ball":
        """The same ball around a stored weight: ``relative`` as units of that weight."""
        if self.relative is None:
            return self
        wide = weight.detach().to(torch.float64)
        return replace(self, unit=wide.abs() if self.relative == "element" else wide.square().mean().sqrt())

    def measured(self, change: Tensor) -> Tensor:
        """A change (N, ...) in units of the ball; where the unit is 0, nothing for no change and infinity for any other.

        Coordinates of a subspace become the change that they stand for.
        """
        if self.section is not None:
            return self.section.change(change)
        if self.unit is None:
            return change
        unit = self._unit(change)
        safe = torch.where(unit > 0, unit, 1.0)
        return torch.where((unit > 0) | (change == 0), change / safe, inf)

    def stretched(self, change: Tensor) -> Tensor:
        """The inverse of :meth:`measured`: a change (N, ...) told in units of the ball as one of the leaf. Also the gradient by units."""
        return change if self.unit is None else change * self._unit(change)

    def _unit(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.unit, dtype=torch.float64).to(like)

    def steepest(self, gradient: Tensor) -> Tensor:
        """A change of size 1 that maximises ``<gradient, change>`` (of coordinates: along the gradient); zero where the gradient is."""
        if self.section is not None:
            return self.section.along(gradient)
        return self.stretched(norms.steepest(self.stretched(gradient), self.p))

    def size(self, change: Tensor) -> Tensor:
        """|change|_p of every example (N, ...), in float64; for p = 0 the number of changed features or groups."""
        change = self.measured(change.to(torch.float64))
        if self.groups == "channels":
            change = (change != 0).any(1).to(torch.float64)
        return norms.norm(change, self.p)

    def project(self, change: Tensor, radius: Tensor) -> Tensor:
        """Bring each example's change into the l_p ball of its own ``radius`` (N,); the range is not looked at."""
        if self.section is not None:
            return self.section.project(change, radius, None)
        if self.groups == "channels":
            strength = torch.linalg.vector_norm(change, 2, dim=1)
            kept = norms.project(strength, 0, radius) != 0
            return change * kept.unsqueeze(1).to(change.dtype)
        if self.unit is None:
            return norms.project(change, self.p, radius)
        movable = self._unit(change) > 0
        told = torch.where(movable, self.measured(change), 0.0)
        kept = norms.project(told, self.p, radius)
        inside = movable & (kept == told)  # stays to the last bit
        return torch.where(inside, change, self.stretched(kept))

    def corners(self, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """p = inf: the least and the largest value of each entry in the ball of each example's own ``radius`` (N,), as numbers of the
        dtype of ``centre`` that lie inside (for float64 up to one rounding)."""
        wide = centre.detach().to(torch.float64)
        reach = self.stretched(norms.spread(radius.to(wide), wide))
        if centre.dtype == torch.float64:
            up, down = torch.full_like(wide, inf), torch.full_like(wide, -inf)
            moved = reach > 0
            low, high = wide - reach, wide + reach
            return torch.where(moved, torch.nextafter(low, up), wide), torch.where(
                moved, torch.nextafter(high, down), wide
            )
        return _representable(wide - reach, centre, up=True), _representable(wide + reach, centre, up=False)

    def range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """low and high for one example, as representable values of the dtype of ``like`` that lie inside the stated range."""
        low = _representable(-inf if self.low is None else self.low, like, up=True)
        high = _representable(inf if self.high is None else self.high, like, up=False)
        return low, high

    def exact_range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """low and high for one example in float64, as stated."""
        low = torch.as_tensor(-inf if self.low is None else self.low, dtype=torch.float64, device=like.device)
        high = torch.as_tensor(inf if self.high is None else self.high, dtype=torch.float64, device=like.device)
        return low, high

    def facts(self) -> dict[str, object]:
        """Everything that defines the ball, as plain values for a record."""
        from brittle.digest import tensor_digest

        def plain(bound: float | Tensor | None) -> object:
            if isinstance(bound, Tensor):
                return (
                    float(bound) if bound.numel() == 1 else {"tensor": tensor_digest(bound), "shape": list(bound.shape)}
                )
            return bound

        return {
            "p": "inf" if self.p == inf else self.p,
            "radius": self.radius,
            "low": plain(self.low),
            "high": plain(self.high),
            "groups": self.groups,
            "shared": self.shared,
            **({"relative": self.relative} if self.relative else {}),
            **({"unit": plain(self.unit)} if self.unit is not None and not self.relative else {}),
            **({"within": self.within.facts()} if self.within is not None else {}),
            **({"orthogonal_to": self.orthogonal_to.facts()} if self.orthogonal_to is not None else {}),
        }


Region = Mapping[str, Ball]


def as_region(region: "Ball | Region | None") -> dict[str, Ball]:
    """A region as a mapping of leaves; a lone ball moves the input ``"x"``."""
    if region is None:
        return {}
    if isinstance(region, Ball):
        return {"x": region}
    if isinstance(region, Mapping) and all(isinstance(b, Ball) for b in region.values()) and region:
        return dict(region)
    raise InputError(
        "region",
        "a Ball, or a mapping from leaf names to Balls",
        type(region).__name__,
        'write bt.Ball(p=2, radius=1.0) or {"x": bt.Ball(...), "fc1.weight": bt.Ball(...)}',
    )


def _representable(bound: float | Tensor, like: Tensor, up: bool) -> Tensor:
    exact = torch.as_tensor(bound, dtype=torch.float64, device=like.device)
    cast = exact.to(like.dtype)
    wrong = cast.to(torch.float64) < exact if up else cast.to(torch.float64) > exact
    return torch.where(wrong, torch.nextafter(cast, torch.full_like(cast, inf if up else -inf)), cast)


def _short(value: float | Tensor | None) -> str:
    if not isinstance(value, Tensor):
        return str(value)
    return f"<tensor {tuple(value.shape)}>" if value.numel() > 1 else str(float(value))
