"""Where the data live: linear and affine subspaces of the inputs, and tangent spaces that change from point to point."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor

from brittle.errors import InputError

EXACT = (
    1e-6  # of the largest singular value: below, a direction is rounding of float32 data (2^-23 = 1.2e-7, accumulated)
)
GRAM_EXACT = 1e-7  # squares of singular values lose half the digits, so a streamed span cannot see below 1e-8


@dataclass(frozen=True, eq=False)
class Subspace:
    """An r-dimensional subspace of the inputs of one example, with the rule that chose it.

    basis     (r, d) float64, orthonormal rows; d counts the features of an example
    mean      (d,) the point that it passes through; zero for a linear subspace
    shape     of one example
    rule      how the dimension was chosen, in words
    spectrum  energies (squared singular values) of all directions that were seen, largest first; empty for a given basis
    axes      (k, d) the directions of the spectrum: the first r are the basis
    points    for a local subspace: the examples whose neighbourhoods are the tangent spaces, else None

    Make one with :meth:`span`, :meth:`pca`, :meth:`local` or :meth:`given`.

    >>> data = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    >>> Subspace.span(data).dimension, Subspace.pca(data, dimension=1).dimension
    (2, 1)
    """

    basis: Tensor
    mean: Tensor
    shape: tuple[int, ...]
    rule: str
    spectrum: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    axes: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    points: Tensor | None = None
    neighbours: int = 0

    # ---- ways to make one ------------------------------------------------------------------------------------------

    @staticmethod
    def span(data: Tensor | Iterable[Tensor]) -> "Subspace":
        """The exact linear span of the data (N, ...): singular values above 1e-6 of the largest. ``data`` may be an iterable of batches."""
        shape, mean, spectrum, axes, streamed = _principal(data, centred=False)
        cut = (GRAM_EXACT if streamed else EXACT) ** 2
        rank = int((spectrum > cut * spectrum[0]).sum()) if len(spectrum) and float(spectrum[0]) > 0 else 0
        rule = f"span: {rank} singular values above {cut**0.5:g} of the largest"
        return Subspace(axes[:rank], torch.zeros_like(mean), shape, rule, spectrum, axes)

    @staticmethod
    def pca(data: Tensor | Iterable[Tensor], energy: float = 0.99, dimension: int | None = None) -> "Subspace":
        """The affine subspace through the mean that holds a share ``energy`` of the variance, or has the given ``dimension``.

        ``data`` (N, ...), or an iterable of batches, whose covariance is summed batch by batch in d x d numbers: bounded memory.
        """
        if not 0 < energy <= 1:
            raise InputError(
                "Subspace.pca energy",
                "a share in (0, 1]",
                energy,
                "0.99 keeps 99 % of the variance, dimension=10 ten directions",
            )
        shape, mean, spectrum, axes, _ = _principal(data, centred=True)
        total = float(spectrum.sum())
        if dimension is None:
            reached = spectrum.cumsum(0) >= energy * total * (1 - 1e-12)
            dimension = 0 if total == 0 else int((~reached).sum()) + 1
            rule = f"principal components: the fewest with {100 * energy:g} % of the variance"
        else:
            rule = "principal components: dimension given"
        if not 0 <= dimension <= len(axes):
            raise InputError(
                "Subspace.pca dimension",
                f"0 to {len(axes)}",
                dimension,
                "more directions than the data have cannot be found",
            )
        return Subspace(axes[:dimension], mean, shape, rule, spectrum, axes)

    @staticmethod
    def given(basis: Tensor, mean: Tensor | None = None, shape: tuple[int, ...] | None = None) -> "Subspace":
        """The subspace spanned by the rows of ``basis`` (r, ...), orthonormalised if they are not.

        Errors: InputError where the rows are linearly dependent.
        """
        rows = basis.detach().to(torch.float64).reshape(len(basis), -1).cpu()
        if not bool(rows.isfinite().all()):
            raise InputError("Subspace.given basis", "finite numbers", "NaN or infinity", "check the basis")
        singular = torch.linalg.svdvals(rows) if len(rows) else torch.zeros(0)
        if len(rows) > rows.shape[1] or (len(rows) and float(singular[-1]) <= EXACT * float(singular[0])):
            raise InputError(
                "Subspace.given basis",
                "linearly independent rows",
                f"{len(rows)} rows of rank {int((singular > EXACT * singular.max()).sum()) if len(singular) else 0}",
                "drop the dependent ones, or use Subspace.span",
            )
        orthonormal = torch.allclose(rows @ rows.T, torch.eye(len(rows), dtype=rows.dtype), atol=1e-12)
        made = rows if orthonormal else torch.linalg.qr(rows.T).Q.T.contiguous()
        centre = (
            torch.zeros(rows.shape[1], dtype=rows.dtype) if mean is None else mean.detach().to(rows).reshape(-1).cpu()
        )
        rule = "given" if orthonormal else "given, orthonormalised"
        return Subspace(made, centre, shape or tuple(basis.shape[1:]), rule)

    @staticmethod
    def local(data: Tensor, neighbours: int = 20, dimension: int = 10) -> "Subspace":
        """Tangent spaces: at every point the first ``dimension`` principal components of its ``neighbours`` nearest examples.

        Errors: InputError where the neighbourhoods are too small for the dimension.
        """
        rows = _rows(data)
        if not 0 < dimension < neighbours <= len(rows):
            raise InputError(
                "Subspace.local",
                f"0 < dimension < neighbours <= {len(rows)} examples",
                f"dimension {dimension}, neighbours {neighbours}",
                "a neighbourhood of k examples spans at most k - 1 directions",
            )
        empty = rows.new_zeros(dimension, rows.shape[1])
        rule = f"local principal components: {dimension} of {neighbours} nearest examples"
        return Subspace(empty, rows.mean(0), tuple(data.shape[1:]), rule, points=rows, neighbours=neighbours)

    # ---- what it says ----------------------------------------------------------------------------------------------

    @property
    def dimension(self) -> int:
        return len(self.basis)

    @property
    def features(self) -> int:
        return self.basis.shape[1]

    @property
    def codimension(self) -> int:
        return self.features - self.dimension

    @property
    def chance(self) -> float:
        """The share of the energy of an isotropic direction that lies off the subspace: codimension / features."""
        return self.codimension / self.features

    def with_dimension(self, dimension: int) -> "Subspace":
        """The same directions cut at another dimension, where they are known (span and pca)."""
        if not 0 <= dimension <= len(self.axes):
            raise InputError(
                "dimension", f"0 to {len(self.axes)}", dimension, "only directions that the data have are known"
            )
        return replace(self, basis=self.axes[:dimension], rule=f"{self.rule}, cut at {dimension}")

    def nearby(self) -> tuple["Subspace", ...]:
        """One dimension less, the choice itself, one more: what hangs on the choice should not change much between them."""
        steps = (self.dimension - 1, self.dimension, self.dimension + 1)
        return tuple(
            self if r == self.dimension else self.with_dimension(r)
            for r in steps
            if r == self.dimension or 0 < r <= len(self.axes)
        )

    def bases(self, x: Tensor) -> Tensor:
        """(1, r, d), or for tangent spaces (N, r, d): the orthonormal basis at every point x (N, ...)."""
        if self.points is None:
            return self.basis[None].to(x.device)
        from sklearn.neighbors import NearestNeighbors

        found = NearestNeighbors(n_neighbors=self.neighbours).fit(self.points.numpy())
        at = torch.as_tensor(found.kneighbors(_rows(x).cpu().numpy(), return_distance=False))
        near = self.points[at]
        near = near - near.mean(1, keepdim=True)
        return torch.linalg.svd(near, full_matrices=False).Vh[:, : self.dimension].to(x.device)

    def on(self, change: Tensor, x: Tensor | None = None) -> Tensor:
        """The part of changes or gradients (N, ...) inside the subspace, in float64; ``x`` (N, ...) says where, for tangent spaces."""
        rows = change.detach().to(torch.float64).flatten(1)
        if rows.shape[1] != self.features:
            raise InputError(
                "subspace", f"changes of {self.features} features", rows.shape[1], "make it from the same inputs"
            )
        if self.points is not None and x is None:
            raise InputError("subspace", "the points x at which the tangent spaces are meant", "none", "pass x=")
        basis = self.bases(change if x is None else x)
        if len(basis) == 1:  # one matrix for all examples
            return ((rows @ basis[0].T) @ basis[0]).reshape(change.shape)
        return (basis.mT @ (basis @ rows[..., None]))[..., 0].reshape(change.shape)

    def off(self, change: Tensor, x: Tensor | None = None) -> Tensor:
        """The part orthogonal to the subspace: ``change - on(change)``; exactly zero where the subspace is the whole space."""
        if self.points is None and self.codimension == 0:
            return torch.zeros_like(self.on(change, x))
        return change.detach().to(torch.float64) - self.on(change, x)

    def one(self) -> "Subspace":
        """This subspace, if it is the same everywhere. Errors: InputError for tangent spaces."""
        if self.points is not None:
            raise InputError(
                "subspace", "one for all points", "tangent spaces that change from point to point", "use Subspace.pca"
            )
        return self

    def complement(self) -> "Subspace":
        """The orthogonal complement, through the same mean (dense: d x d numbers)."""
        self.one()
        whole = (
            torch.linalg.qr(self.basis.T, mode="complete").Q.T
            if self.dimension
            else torch.eye(self.features, dtype=torch.float64)
        )
        return replace(
            self,
            basis=whole[self.dimension :].contiguous(),
            rule=f"orthogonal to ({self.rule})",
            spectrum=self.spectrum[:0],
            axes=self.axes[:0],
        )

    def facts(self) -> dict[str, object]:
        """What defines it, as plain values for a record: the basis by its digest."""
        from brittle.digest import tensor_digest

        facts = {"dimension": self.dimension, "features": self.features, "rule": self.rule}
        return {**facts, "basis": tensor_digest(self.basis), "mean": tensor_digest(self.mean)}

    def __repr__(self) -> str:
        return f"Subspace(dimension {self.dimension} of {self.features}; {self.rule})"


def _rows(data: Tensor) -> Tensor:
    rows = torch.as_tensor(data).detach().to(torch.float64).flatten(1).cpu()
    if not len(rows):
        raise InputError("data of a subspace", "at least one example", "none", "pass the training inputs")
    if not bool(rows.isfinite().all()):
        raise InputError("data of a subspace", "finite numbers", "NaN or infinity", "clean the data")
    return rows


def _principal(
    data: "Tensor | Iterable[Tensor]", centred: bool
) -> tuple[tuple[int, ...], Tensor, Tensor, Tensor, bool]:
    """(shape of an example, mean, energies, axes, whether the data came in batches): the principal directions, largest first."""
    if isinstance(data, Tensor):
        rows = _rows(data)
        mean = rows.mean(0)
        singular, axes = torch.linalg.svd(rows - mean if centred else rows, full_matrices=False)[1:]
        return tuple(data.shape[1:]), mean, singular.square(), axes, False
    return (*_streamed(data, centred), True)


def _streamed(batches: Iterable[Tensor], centred: bool) -> tuple[tuple[int, ...], Tensor, Tensor, Tensor]:
    """Sums of x and of x x^T about the first batch's mean (which keeps the digits), one batch in memory at a time."""
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise InputError("data of a subspace", "at least one batch", "none", "pass the training inputs")
    rows = _rows(first)
    pivot = rows.mean(0) if centred else torch.zeros_like(rows[0])
    count, total, gram = 0, torch.zeros_like(pivot), rows.new_zeros(rows.shape[1], rows.shape[1])
    for batch in chain([first], rest):
        shifted = _rows(batch) - pivot
        count += len(shifted)
        total += shifted.sum(0)
        gram += shifted.T @ shifted
    drift = total / count
    if centred:
        gram -= count * torch.outer(drift, drift)
    energies, vectors = torch.linalg.eigh(gram)
    keep = min(count, len(energies))
    return (
        tuple(first.shape[1:]),
        pivot + drift,
        energies.flip(0)[:keep].clamp_min(0),
        vectors.T.flip(0)[:keep].contiguous(),
    )
