"""The codebook laboratory: point sets whose best classifier and whose linear answers are known, so that a measurement has an oracle.

The generators of arXiv 2406.16200 (Theorems 1, 3 and 5) and the random-label set. All in float64, drawn from a seed alone; every
set holds ``x`` (N, d) and ``labels`` (N,), and its oracles, which are computed when first asked for. Formulas marked *derived*
were derived for this project and checked by simulation; the theorems themselves were read in a secondary source only.
"""

from dataclasses import dataclass
from functools import cached_property
from math import exp, lgamma, log, pi, sqrt

import torch
from torch import Tensor, nn

from brittle.errors import InputError
from brittle.randomness import generator
from brittle.references.finite_set import finite_set
from brittle.references.half_distance import half_distance

ENUMERATED = 13  # dimensions up to which 2^d points and 3^(d - 1) differences fit: 8,192 and 531,441


def linear(weights: Tensor) -> nn.Module:
    """Logits ``W x`` as a module, W (C, d); of one row w (d,) the logits ``-w x / 2, w x / 2``, whose margin is ``|w x|``."""
    rows = torch.stack([-weights / 2, weights / 2]) if weights.dim() == 1 else weights
    module = nn.Linear(rows.shape[1], rows.shape[0], bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(rows)
    return module.eval()


# ---- one codeword per class (Theorems 1 and 3) -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Codebook:
    """m codewords in d >= m dimensions, each its own class.

    weights        (m, d) rows of the minimum-norm linear map that is exactly one-hot on the codewords: ``weights @ x.T = I``
    radii          (m,) its exact l2 radii over all targets, ``min_j 1 / |w_i - w_j|`` (derived)
    last_pair      its exact distance between the last two classes, in closed form: ``|a h| / sqrt(h^2 + (a + c)^2)`` with
                   ``a, c, h`` the last entries of R in ``x.T = Q R`` (derived)
    last_bound     ``|a| + |c| + |h|``, the bound of the paper's Theorem 1 on that distance
    last_diagonal  ``|h| = |R_mm|``, distributed as chi with d - m + 1 degrees of freedom for depth 1
    compression    ``|R_mm| / |x_m|``: the share of the last codeword that its own readout sees; its square is
                   Beta((d - m + 1) / 2, (m - 1) / 2) for depth 1
    half_distance  (m,) half the distance to the nearest other codeword: what the minimum-distance rule tolerates
    optimum        the best mean radius of any classifier on the codewords
    """

    x: Tensor
    labels: Tensor

    @cached_property
    def weights(self) -> Tensor:
        factors = torch.linalg.qr(self.x.T)
        return torch.linalg.solve_triangular(factors.R, factors.Q.T, upper=True)

    @cached_property
    def radii(self) -> Tensor:
        gap = torch.cdist(self.weights, self.weights, compute_mode="donot_use_mm_for_euclid_dist")
        return 1 / gap.fill_diagonal_(0).amax(1)

    @cached_property
    def _corner(self) -> tuple[float, float, float]:
        corner = torch.linalg.qr(self.x.T).R[-2:, -2:]
        return float(corner[0, 0]), float(corner[0, 1]), float(corner[1, 1])

    @property
    def last_pair(self) -> float:
        a, c, h = self._corner
        return abs(a * h) / sqrt(h * h + (a + c) ** 2)

    @property
    def last_bound(self) -> float:
        return sum(abs(v) for v in self._corner)

    @property
    def last_diagonal(self) -> float:
        return abs(self._corner[2])

    @property
    def compression(self) -> float:
        return self.last_diagonal / float(self.x[-1].norm())

    @cached_property
    def half_distance(self) -> Tensor:
        return half_distance(self.x, self.labels)

    @cached_property
    def optimum(self) -> float:
        return finite_set(self.x, self.labels).mean


def codebook(dimension: int, count: int | None = None, *, depth: int = 1, seed: int = 0) -> Codebook:
    """``count`` codewords (default: as many as dimensions), one per class: the columns of a product of ``depth`` Gaussian matrices.

    depth 1 is the set of Theorem 1, standard normal codewords. More is the linear generative model of Theorem 3,
    ``x_i = G_t ... G_2 v_i`` with square ``G_s``: ``|R_mm|`` is then a product of independent chi variables, and with
    ``count = dimension`` the compression falls like ``d^(-depth / 2)`` (derived; ``.798^depth d^(-depth / 2)`` in the mean).

    >>> book = codebook(12)
    >>> torch.allclose(book.weights @ book.x.T, torch.eye(12, dtype=torch.float64)), bool((book.radii < book.half_distance).all())
    (True, True)
    """
    count = dimension if count is None else count
    if not 2 <= count <= dimension or depth < 1:
        raise InputError(
            "codebook", "2 <= count <= dimension and depth >= 1", (dimension, count, depth), "take fewer codewords"
        )
    draws = generator(seed, "codebook", dimension, count, depth)
    columns = torch.randn(dimension, count, generator=draws, dtype=torch.float64)
    for _ in range(depth - 1):
        columns = torch.randn(dimension, dimension, generator=draws, dtype=torch.float64) @ columns
    return Codebook(columns.T.contiguous(), torch.arange(count))


def median_half_distance(dimension: int) -> float:
    """A finite-d stand-in for the median half distance of ``codebook(dimension)``: ``sqrt(2 q) / 2`` with q the
    ``ln 2 / (d - 1)`` quantile of chi-squared with d degrees of freedom (derived; 1 to 3 % low).

    >>> [round(median_half_distance(d) / sqrt(d / 2), 3) for d in (12, 100, 1000)]
    [0.68, 0.828, 0.929]
    """
    from scipy.stats import chi2

    return sqrt(2 * float(chi2.ppf(log(2) / (dimension - 1), dimension))) / 2


# ---- exponentially many points (Theorem 5) ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ExponentialPoints:
    """``x = A z`` for sign vectors z, label 1 where the last entry of z is +1. ``matrix`` is A, ``signs`` (N, d) the z.

    probe          (d,) the last row of the inverse of A: the only linear rule that is exactly z_d on all points
    probe_radius   ``1 / |probe| = |R_dd|``, the distance of every point to its boundary; half-normal, free of d
    compression    ``phi = |R_dd| / |a_d|``, a_d the last column; phi^2 is Beta(1/2, (d - 1) / 2)
    linear_margin  the best margin of any linear rule: ``min {|a_d + A' u|: |u|_inf <= 1}``, A' the other columns
    separation     half the distance of the two classes, by enumeration: ``min {|a_d + A' u|: u in {-1, 0, 1}^(d - 1)}``
    """

    x: Tensor
    labels: Tensor
    matrix: Tensor
    signs: Tensor

    @cached_property
    def probe(self) -> Tensor:
        unit = torch.zeros(len(self.matrix), dtype=torch.float64)
        unit[-1] = 1
        return torch.linalg.solve(self.matrix.T, unit)

    @property
    def probe_radius(self) -> float:
        return 1 / float(self.probe.norm())

    @property
    def compression(self) -> float:
        return self.probe_radius / float(self.matrix[:, -1].norm())

    @cached_property
    def linear_margin(self) -> float:
        from scipy.optimize import lsq_linear

        found = lsq_linear(self.matrix[:, :-1].numpy(), -self.matrix[:, -1].numpy(), (-1, 1), method="bvls", tol=1e-12)
        return sqrt(2 * float(found.cost))

    @cached_property
    def separation(self) -> float:
        if len(self.matrix) > ENUMERATED:
            raise InputError(
                "separation",
                f"at most {ENUMERATED} dimensions",
                len(self.matrix),
                "use the norm of the last column, its limit",
            )
        ways = self.matrix[:, -1][None]
        for column in self.matrix[:, :-1].T:
            ways = torch.cat([ways - column, ways, ways + column])
        return float(ways.norm(dim=1).min())


def exponential_points(dimension: int, count: int | None = None, *, seed: int = 0) -> ExponentialPoints:
    """All ``2^d`` points ``A z`` of Theorem 5, A standard normal (d, d); or ``count`` random ones of them.

    The optimum is of order sqrt(d), every linear rule that equals the label stays at order 1, and no linear rule does much
    better (``linear_margin``): this gap is one of linear rules, not of training.

    >>> points = exponential_points(6)
    >>> len(points.x), points.probe_radius <= points.linear_margin <= points.separation
    (64, True)
    """
    if dimension < 2 or (count is None and dimension > ENUMERATED):
        raise InputError(
            "exponential_points", f"2 to {ENUMERATED} dimensions, or a count", dimension, "write for example count=2000"
        )
    draws = generator(seed, "exponential_points", dimension)
    matrix = torch.randn(dimension, dimension, generator=draws, dtype=torch.float64)
    if count is None:
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * dimension)
    else:
        signs = torch.randint(0, 2, (count, dimension), generator=draws).double() * 2 - 1
    return ExponentialPoints(signs @ matrix.T, (signs[:, -1] > 0).long(), matrix, signs)


def expected_compression(dimension: int) -> float:
    """``E phi = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))`` for :func:`exponential_points` (derived); 0.798 / sqrt(d) for large d.

    >>> [round(expected_compression(d), 4) for d in (7, 12, 100)]
    [0.3125, 0.2352, 0.08]
    """
    return exp(lgamma(dimension / 2) - lgamma((dimension + 1) / 2)) / sqrt(pi)


# ---- random labels ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RandomLabels:
    """m standard normal points in d >= m dimensions with random signs: the set on which trained networks collapse too.

    weights        (d,) the minimum-norm linear rule with ``w x_i = sign_i`` on all points
    margin         ``1 / |w|``, the distance of every point to its boundary; ``m margin^2`` is chi-squared with d - m + 1
                   degrees of freedom (derived)
    expected_square_margin  ``(d - m + 1) / m``
    half_distance  (m,) half the distance to the nearest point of the other label, about sqrt(d / 2)
    optimum        the best mean radius of any classifier on the points
    """

    x: Tensor
    labels: Tensor

    @cached_property
    def weights(self) -> Tensor:
        factors = torch.linalg.qr(self.x.T)
        signs = 2 * self.labels.double()[:, None] - 1
        return (factors.Q @ torch.linalg.solve_triangular(factors.R.T, signs, upper=False))[:, 0]

    @property
    def margin(self) -> float:
        return 1 / float(self.weights.norm())

    @property
    def expected_square_margin(self) -> float:
        count, dimension = self.x.shape
        return (dimension - count + 1) / count

    @cached_property
    def half_distance(self) -> Tensor:
        return half_distance(self.x, self.labels)

    @cached_property
    def optimum(self) -> float:
        return finite_set(self.x, self.labels).mean


def random_labels(dimension: int, count: int, *, seed: int = 0) -> RandomLabels:
    """``count`` standard normal points and fair random labels 0 or 1, both present.

    >>> points = random_labels(50, 20)
    >>> bool(((points.x @ points.weights - (2 * points.labels - 1)).abs() < 1e-12).all()), points.margin < points.optimum
    (True, True)
    """
    if not 2 <= count <= dimension:
        raise InputError("random_labels", "2 <= count <= dimension", (dimension, count), "take fewer points")
    draws = generator(seed, "random_labels", dimension, count)
    x = torch.randn(count, dimension, generator=draws, dtype=torch.float64)
    labels = torch.randint(0, 2, (count,), generator=draws)
    while len(labels.unique()) < 2:
        labels = torch.randint(0, 2, (count,), generator=draws)
    return RandomLabels(x, labels)
