"""Scalar functions that are curved: their value, their pieces, and how far either may be off in floating point.

A *piece* is a stretch on which the function is convex, concave or affine. There a plane of any slope has its extremes at an end or
at one touching point, which needs not be exact (``brittle.planes.intercepts``). So all that a certificate believes of a function is
in the rows here: the value, the break points between pieces, the slope on every piece.

Break points. GELU: ``f'' = phi(z) (2 - z^2)``. SiLU: ``f''`` has the sign of ``2 - z tanh(z / 2)``, whose second term rises with |z|.
GELU by tanh, ``u = k (z + c z^3)``, ``s = 3 c z^2``: the sign of ``(1 + 2 s) / (k (1 + s)^2) - z tanh u``, falling in |z|. So each has
one break point on each side of 0. Mish: two roots of ``f''``, found to 40 digits by computer; that there are no others was looked at on a
fine grid, not derived. A break point stored off by w lets a curve of the wrong sense in over a width w, which costs ``sup|f'''| w^2`` per unit of
width: 1e-31 for a rounded one, far below the slack of a plane.

Accuracy of exp, erf, tanh, log1p: at most 2 units in the last place, as their libraries state (CUDA's erf and tanh are the worst). What cancels or
amplifies in a formula is bounded by a multiple of |z|, which ``input_ulps`` pays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, inf, log1p, nan, pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from brittle.errors import NotCertified

CONVEX, AFFINE, CONCAVE = 1, 0, -1


@dataclass(frozen=True)
class Piece:
    """A stretch ``[left, right]`` of one sense of curvature.

    shape     CONVEX, AFFINE or CONCAVE
    slope     f' on the stretch, to a few units of 2^-53 times the steepest slope of the function
    touching  where f' has a given slope, in closed form; None: by bisection
    """

    left: float
    right: float
    shape: int
    slope: Callable[[Tensor], Tensor]
    touching: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Activation:
    """A scalar function, monotone between its kinks.

    value       Tensor -> Tensor, off by at most ``ulps`` units of 2^-53 times |f|, and ``input_ulps`` units times |z|
    kinks       where the slope may jump or change its sign; between kinks it is affine, unless ``bend`` is given
    bend        the pieces of a function that is curved, from left to right, covering the line
    steep       at least |f'|, for functions that are curved; inf: it has no bound, and slopes are accurate relative to themselves
    dip         (z, amount): from z on, the operation may lie ``amount`` below ``value``
    rounds      halvings for a touching point: a plane is then off by 2^-rounds of curvature times width^2, or less
    """

    value: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] = ()
    bend: tuple[Piece, ...] | None = None
    ulps: float = 2.0
    input_ulps: float = 0.0
    steep: float = 1.0
    dip: tuple[float, float] | None = None
    rounds: int = 44

    @property
    def edges(self) -> tuple[float, ...]:
        """Kinks and the ends of pieces: where a function less a line may have an extreme that no piece has inside."""
        ends = {p.right for p in self.bend or () if p.right < inf}
        return tuple(sorted({*self.kinks, *ends}))


def s_shaped(
    value: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    where: Callable[[Tensor], Tensor],
    ulps: float,
) -> Activation:
    """Odd up to a constant, convex below 0 and concave above; ``where``: the z >= 0 with a given slope."""
    below = Piece(-inf, 0.0, CONVEX, slope, lambda s: -where(s))
    return Activation(value, (), (below, Piece(0.0, inf, CONCAVE, slope, where)), ulps)


def _hump(
    value: Callable[[Tensor], Tensor],
    slope: Callable[[Tensor], Tensor],
    breaks: tuple[float, float],
    turn: float,
    steep: float,
) -> Activation:
    """Concave, convex, concave, with one least value at ``turn``: the gates ``z p(z)``."""
    left, right = breaks
    pieces = (Piece(-inf, left, CONCAVE, slope), Piece(left, right, CONVEX, slope), Piece(right, inf, CONCAVE, slope))
    return Activation(value, (turn,), pieces, ulps=16.0, input_ulps=16.0, steep=steep)


# ---- z times a gate ------------------------------------------------------------------------------------------------------


def hard_swish(a: Mapping) -> Activation:
    """``z min(max(z + 3, 0), 6) / 6``."""
    flat, straight = torch.zeros_like, torch.ones_like
    pieces = (
        Piece(-inf, -3.0, AFFINE, flat),
        Piece(-3.0, 3.0, CONVEX, lambda z: (2 * z + 3) / 6, lambda s: 3 * s - 1.5),
        Piece(3.0, inf, AFFINE, straight),
    )
    return Activation(F.hardswish, (-1.5,), pieces, ulps=8.0, input_ulps=8.0, steep=1.5)


def silu(a: Mapping) -> Activation:
    """``z sigmoid(z)``."""

    def slope(z: Tensor) -> Tensor:
        z = z.clamp(-800, 800)
        up = torch.sigmoid(z)
        return up * (1 + z * torch.sigmoid(-z))

    return _hump(F.silu, slope, (-2.399357280515467668, 2.399357280515467668), -1.278464542761073795, 1.1)


def gelu(a: Mapping) -> Activation:
    """``z Phi(z)``, or its approximation by tanh."""
    if a["approximate"] == "tanh":
        return _gelu_tanh()
    if a["approximate"] != "none":
        raise NotCertified(f"operation gelu with approximate={a['approximate']!r}")

    def slope(z: Tensor) -> Tensor:
        z = z.clamp(-100, 100)
        return torch.erfc(-z / sqrt(2)) / 2 + z * torch.exp(-z.square() / 2) / sqrt(2 * pi)

    return _hump(F.gelu, slope, (-1.414213562373095049, 1.414213562373095049), -0.7517915246935644575, 1.13)


def _gelu_tanh() -> Activation:
    k, c = sqrt(2 / pi), 0.044715

    def slope(z: Tensor) -> Tensor:
        z = z.clamp(-100, 100)
        u = k * (z + c * z**3)
        return torch.sigmoid(2 * u) * (1 + 2 * z * torch.sigmoid(-2 * u) * k * (1 + 3 * c * z.square()))

    value = lambda z: F.gelu(z, approximate="tanh")
    return _hump(value, slope, (-1.418504008790828356, 1.418504008790828356), -0.752461422071016258, 1.13)


def mish(a: Mapping) -> Activation:
    """``z tanh(log(1 + e^z))``."""

    def slope(z: Tensor) -> Tensor:
        z = z.clamp(-800, 800)
        soft = torch.tanh(_softplus(z))
        return soft + z * torch.sigmoid(z) * (1 - soft) * (1 + soft)

    return _hump(F.mish, slope, (-2.256376396360793120, 1.490571179485428459), -1.192431214515495212, 1.09)


# ---- bent lines ----------------------------------------------------------------------------------------------------------


def elu(a: Mapping) -> Activation:
    """``scale z`` above 0, ``scale alpha (e^(input_scale z) - 1)`` below."""
    return _exponential(
        float(a["alpha"]) * float(a["scale"]),
        float(a["input_scale"]),
        float(a["scale"]),
        lambda z: F.elu(z, float(a["alpha"])) if a["scale"] == a["input_scale"] == 1 else _elu(z, a),
    )


def _elu(z: Tensor, a: Mapping) -> Tensor:
    return torch.ops.aten.elu.default(z, a["alpha"], a["scale"], a["input_scale"])


def selu(a: Mapping) -> Activation:
    """ELU with the two constants of self-normalisation."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return _exponential(alpha * scale, 1.0, scale, F.selu)


def celu(a: Mapping) -> Activation:
    """``z`` above 0, ``alpha (e^(z / alpha) - 1)`` below."""
    alpha = float(a["alpha"])
    if alpha <= 0:
        raise NotCertified(f"operation celu with alpha={alpha:g}: not continuous there")
    return _exponential(alpha, 1 / alpha, 1.0, lambda z: F.celu(z, alpha))


def _exponential(height: float, rate: float, straight: float, value: Callable[[Tensor], Tensor]) -> Activation:
    """``straight z`` above 0, ``height (e^(rate z) - 1)`` below."""
    if rate < 0:
        raise NotCertified("operation elu with a negative input_scale")
    slope = lambda z: height * rate * torch.exp(rate * z.clamp_max(0))
    sense = CONVEX if height > 0 else CONCAVE if height < 0 else AFFINE
    pieces = (Piece(-inf, 0.0, sense, slope), Piece(0.0, inf, AFFINE, lambda z: torch.full_like(z, straight)))
    steep = max(abs(height * rate), abs(straight))
    # e^x - 1 for small x: off relative to 1 where a library subtracts, so relative to the height, and to |z| through the slope
    return Activation(value, (0.0,), pieces, ulps=16.0, input_ulps=16.0 * max(1.0, steep), steep=steep)


def softplus(a: Mapping) -> Activation:
    """``log(1 + e^(beta z)) / beta``; the operation returns z itself beyond ``threshold / beta``, which is less by the dip."""
    beta, threshold = float(a["beta"]), float(a["threshold"])
    if beta <= 0 or threshold < 1:
        raise NotCertified(f"operation softplus with beta={beta:g}, threshold={threshold:g}")
    dip = (threshold / beta * (1 - 2.0**-50), log1p(exp(-threshold)) / beta * (1 + 2.0**-40))
    slope, value = lambda z: torch.sigmoid(beta * z), lambda z: _softplus(beta * z) / beta
    return Activation(value, (), (Piece(-inf, inf, CONVEX, slope),), ulps=16.0, input_ulps=16.0, dip=dip)


def log_sigmoid(a: Mapping) -> Activation:
    """``-log(1 + e^-z)``."""
    slope = lambda z: torch.sigmoid(-z)
    return Activation(F.logsigmoid, (), (Piece(-inf, inf, CONCAVE, slope),), ulps=16.0, input_ulps=16.0)


# ---- parts of softmax, normalisation and division ---------------------------------------------------------------------------


def _part(
    value: Callable[[Tensor], Tensor],
    left: float,
    shape: int,
    slope: Callable[[Tensor], Tensor],
    touching: Callable[[Tensor], Tensor],
) -> Activation:
    """One piece from ``left`` on. Before it the value is not a number, which no bound survives: an interval that reaches there proves nothing."""
    return Activation(value, (), (Piece(left, inf, shape, slope, touching),), ulps=8.0, steep=inf)


def _positive(condition: Tensor, value: Callable[[Tensor], Tensor], argument: Tensor, otherwise: float) -> Tensor:
    """``value(argument)`` where the condition holds, without a warning or an infinity from elsewhere."""
    return torch.where(condition, value(torch.where(condition, argument, 1.0)), otherwise)


def exponential(a: Mapping) -> Activation:
    """``e^z``."""
    return _part(torch.exp, -inf, CONVEX, torch.exp, lambda s: _positive(s > 0, torch.log, s, -inf))


def logarithm(a: Mapping) -> Activation:
    """``log z`` on z > 0."""
    value = lambda z: _positive(z > 0, torch.log, z, nan)
    return _part(value, 0.0, CONCAVE, lambda z: 1 / z, lambda s: _positive(s > 0, torch.reciprocal, s, inf))


def reciprocal(a: Mapping) -> Activation:
    """``1 / z`` on z > 0."""
    value = lambda z: _positive(z > 0, torch.reciprocal, z, nan)
    return _part(value, 0.0, CONVEX, lambda z: -1 / z.square(), lambda s: _positive(s < 0, torch.rsqrt, -s, inf))


def square_root(a: Mapping) -> Activation:
    """``sqrt z`` on z >= 0."""
    value = lambda z: _positive(z >= 0, torch.sqrt, z, nan)
    where = lambda s: _positive(s > 0, lambda s: (2 * s) ** -2, s, inf)
    return _part(value, 0.0, CONCAVE, lambda z: 0.5 / z.sqrt(), where)


def inverse_root(a: Mapping) -> Activation:
    """``1 / sqrt z`` on z > 0."""
    value = lambda z: _positive(z > 0, lambda z: 1 / z.sqrt(), z, nan)
    where = lambda s: _positive(s < 0, lambda s: s ** (-2 / 3), -2 * s, inf)
    return _part(value, 0.0, CONVEX, lambda z: -0.5 / (z * z.sqrt()), where)


def square(a: Mapping) -> Activation:
    """``z^2``."""
    piece = Piece(-inf, inf, CONVEX, lambda z: 2 * z, lambda s: s / 2)
    return Activation(torch.square, (0.0,), (piece,), steep=inf)


def _softplus(z: Tensor) -> Tensor:
    return z.clamp_min(0) + torch.log1p(torch.exp(-z.abs()))


ROWS: dict[str, Callable[[Mapping], Activation]] = {
    "hardswish": hard_swish,
    "silu": silu,
    "gelu": gelu,
    "mish": mish,
    "elu": elu,
    "selu": selu,
    "celu": celu,
    "softplus": softplus,
    "log_sigmoid": log_sigmoid,
    "exp": exponential,
    "log": logarithm,
    "reciprocal": reciprocal,
    "sqrt": square_root,
    "rsqrt": inverse_root,
    "square": square,
}
