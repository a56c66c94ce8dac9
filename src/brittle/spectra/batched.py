"""Pseudospectra of many small matrices at once, on any device: for checkpoints, gates and null models by the hundred."""

from typing import TYPE_CHECKING

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import UNIT

if TYPE_CHECKING:
    from torch import Tensor

ABOUT = About(
    promise="smallest singular values of zI - A for many matrices: upper bounds up to rounding, within the tolerance by their residual",
    reference="Trefethen & Embree, Spectra and Pseudospectra, 2005; inverse Lanczos as in pseudospectrum",
    leaves=(),
    cost="no pass; on a CPU that of pseudospectrum, on other devices one LU per point",
)
STEPS = 8  # between two looks at the residuals, which are a transfer from the device
LEAST = 64  # steps before what is left goes to the SVD
BYTES = 2**31  # of the factors of one block on the device


def batched(matrices: "Tensor", points: "Tensor", *, tolerance: float = 1e-5) -> "Tensor":
    """Smallest singular values of zI - A for each matrix at each point, on the device of the matrices.

    On a CPU every matrix goes through the compiled kernel of :func:`pseudospectrum`. Elsewhere C = zI - A is factorised for every
    pair (LU, n^3 8/3 flops) and inverse Lanczos runs on all pairs together; meant for n up to some hundred.

    Guarantee: as of :func:`pseudospectrum`: roots of Ritz values, never below s_min up to rounding, and within ``tolerance`` of *some*
    singular value; n u ||A||_F is the floor.

    matrices : (B, n, n), real or complex; points : complex, (M,) for all matrices or (B, M). Returns float64 (B, M), no gradient.
    Errors: InputError.

    >>> import torch
    >>> jordan = torch.tensor([[0.5, 1.0], [0.0, 0.5]])
    >>> batched(torch.stack([jordan, 2 * jordan]), torch.tensor([0.5 + 1j])).numpy().round(4).tolist()
    [[0.618], [0.5]]
    """
    import torch

    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or not matrices.numel():
        raise InputError("matrices", "a batch (B, n, n) of square ones", f"shape {tuple(matrices.shape)}", "stack them")
    if points.ndim not in (1, 2) or (points.ndim == 2 and len(points) != len(matrices)):
        raise InputError(
            "points", f"shape (M,) or ({len(matrices)}, M)", f"shape {tuple(points.shape)}", "flatten the grid"
        )
    a, z = matrices.detach().to(torch.complex128), points.detach().to(matrices.device, torch.complex128)
    z = z.expand(len(a), -1) if z.ndim == 1 else z
    for name, tensor in (("matrices", a), ("points", z)):
        if not bool(torch.isfinite(torch.view_as_real(tensor)).all()):
            raise InputError(name, "finite numbers", "inf or NaN among them", "look at the weights and the grid")
    if not 1e-12 <= tolerance < 1:
        raise InputError("tolerance", "a number from 1e-12 up to 1", tolerance, "1e-5 is plenty for a picture")
    if a.device.type == "cpu":
        return _one_by_one(matrices, z, tolerance)
    return _on_device(a, z, tolerance)


def _one_by_one(matrices: "Tensor", points: "Tensor", tolerance: float) -> "Tensor":
    import torch

    from brittle.spectra.pseudospectrum import pseudospectrum

    rows = [pseudospectrum(a, z, tolerance=tolerance) for a, z in zip(matrices, points, strict=True)]
    return torch.as_tensor(np.stack(rows))


def _on_device(a: "Tensor", z: "Tensor", tolerance: float) -> "Tensor":
    """Inverse Lanczos on blocks of pairs (matrix, point)."""
    import torch

    n, m = a.shape[-1], z.shape[1]
    floor = n * UNIT * torch.linalg.matrix_norm(a)
    values = torch.empty(a.shape[0] * m, dtype=torch.float64, device=a.device)
    width = max(1, BYTES // (16 * n * (n + 6)))
    for begin in range(0, len(values), width):
        pair = torch.arange(begin, min(begin + width, len(values)), device=a.device)
        which = pair // m
        shifted = _shifted(a, z.reshape(-1), which, pair)
        found, done = _lanczos(shifted, floor[which], tolerance)
        if not bool(done.all()):
            left = ~done
            found[left] = torch.linalg.svdvals(shifted[left])[:, -1]
        values[pair] = torch.maximum(found, floor[which])
    return values.reshape(-1, m)


def _shifted(a: "Tensor", z: "Tensor", which: "Tensor", pair: "Tensor") -> "Tensor":
    shifted = -a[which]
    shifted.diagonal(dim1=1, dim2=2).add_(z[pair][:, None])
    return shifted


def _lanczos(c: "Tensor", floor: "Tensor", tolerance: float) -> tuple["Tensor", "Tensor"]:
    """(values, whether converged) of a batch of C, by Lanczos on C^-1 C^-*; every pair takes the same number of steps."""
    import torch

    from brittle.spectra._lanczos import RESIDUAL, SAFETY, start_vector

    size, n = c.shape[:2]
    # a zero on the diagonal of U would divide by zero: u ||C|| instead is within the backward error of the LU
    factors, pivots, _ = torch.linalg.lu_factor_ex(c)
    diagonal = factors.diagonal(dim1=1, dim2=2)
    least = (UNIT * torch.linalg.matrix_norm(c))[:, None].clamp(min=1e-150)
    diagonal.copy_(torch.where(diagonal.abs() < least, least.to(c.dtype), diagonal))
    now = torch.as_tensor(start_vector(n), device=c.device).expand(size, n)[..., None].clone()
    before, beta = torch.zeros_like(now), torch.zeros(size, dtype=torch.float64, device=c.device)
    alphas, betas = [], []
    values, done = np.full(size, np.nan), np.zeros(size, bool)
    theta, share = np.zeros(size), max(2 * SAFETY * tolerance, RESIDUAL)
    sunk = 1 / np.maximum(floor.cpu().numpy(), 1e-150) ** 2
    seen = 0
    while seen < max(LEAST, n) and not done.all():
        for _ in range(STEPS):
            half = torch.linalg.lu_solve(factors, pivots, now, adjoint=True)
            alpha = half.abs().square().sum((1, 2))
            image = (
                torch.linalg.lu_solve(factors, pivots, half) - alpha[:, None, None] * now - beta[:, None, None] * before
            )
            beta = image.abs().square().sum((1, 2)).sqrt()
            before, now = now, image / beta[:, None, None]
            alphas.append(alpha)
            betas.append(beta)
        values, done, theta, seen = _look(alphas, betas, values, done, theta, sunk, share, seen)
    return torch.as_tensor(values, device=c.device), torch.as_tensor(done, device=c.device)


def _look(
    alphas: list["Tensor"], betas: list["Tensor"], values: np.ndarray, done: np.ndarray, theta: np.ndarray, sunk: np.ndarray, share: float, seen: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:  # fmt: skip
    """Ritz values and residuals of the new steps, on the host: a few numbers per pair."""
    import torch

    from brittle.spectra._lanczos import largest_ritz

    a, b = (torch.stack(part).cpu().numpy() for part in (alphas, betas))
    with np.errstate(all="ignore"):
        for k in range(seen + 1, len(a) + 1):
            open_ = np.flatnonzero(~done)
            theta[open_], slope = largest_ritz(a[:k, open_], b[: k - 1, open_], theta[open_])
            low = ~(a[k - 1, open_] < sunk[open_])
            good = b[k - 1, open_] <= share * theta[open_] * np.sqrt(slope)
            values[open_[good]] = theta[open_[good]] ** -0.5
            values[open_[low]] = 0.0
            done[open_[good | low]] = True
    return values, done, theta, len(a)
