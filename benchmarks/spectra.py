"""Pseudospectra on a 100 x 100 grid: ours against an SVD per point and against EigTool's algorithm in Python. Prints Markdown.

    make bench-spectra                      one BLAS thread: without that an SVD takes thirty times as long
    python benchmarks/spectra.py            n = 64, 128, 256, one thread, one run
    python benchmarks/spectra.py 64 128     these sizes
    --quick                                 fewer sampled points

Matrices: randn(n) / sqrt(n); orthogonal plus 1e-3 randn(n) / sqrt(n), whose singular values cluster. The grid is
[-1.5, 1.5]^2. Ours includes the Schur form: *full* solves every point (the symmetry of a real matrix is switched off), *half* is what
`pseudospectrum` does. EigTool's algorithm solves with LAPACK's ztrtrs (BLAS's ztrsv takes as long). The slow ones are run on evenly sampled points and scaled. All times are processor time, the least of three
runs for ours; errors are against the SVD on the sampled points.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
from scipy.linalg import lapack, schur

from brittle.spectra import pseudospectrum
from brittle.spectra._schur import factorise, smallest

QUICK = "--quick" in sys.argv
SIZES = [int(a) for a in sys.argv[1:] if a.isdigit()] or [64, 128, 256]
TOLERANCE = 1e-5


def eigtool(triangular: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Inverse Lanczos on the complex Schur form, point by point, until two estimates agree."""
    n, triangular = len(triangular), triangular.copy(order="F")
    diagonal, start = triangular.diagonal().copy(), np.random.default_rng(0).standard_normal((2, n))
    start = (start[0] + 1j * start[1]) / np.linalg.norm(start)
    values = np.empty(len(points))
    for i, z in enumerate(points):
        np.fill_diagonal(triangular, diagonal - z)
        now, before, beta, last = start, np.zeros(n, complex), 0.0, np.inf
        alphas, betas = [], []
        for _ in range(99):
            half = lapack.ztrtrs(triangular, now, trans=2)[0]
            image = lapack.ztrtrs(triangular, half)[0] - beta * before
            alpha = np.vdot(now, image).real
            image -= alpha * now
            alphas.append(alpha)
            theta = lapack.dsterf(alphas, betas)[0][-1] if betas else alpha
            beta = np.vdot(image, image).real ** 0.5
            betas.append(beta)
            before, now = now, image / beta
            if abs(theta / last - 1) < TOLERANCE:
                break
            last = theta
        values[i] = theta**-0.5
    return values


def svd(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    eye = np.eye(len(matrix))
    return np.array([np.linalg.svd(z * eye - matrix, compute_uv=False)[-1] for z in points])


def full(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return smallest(replace(factorise(matrix), real=False), points, TOLERANCE)[0]


def timed(function, *arguments, repeat: int = 1):
    best, result = np.inf, None
    for _ in range(repeat):
        start = time.process_time()
        result = function(*arguments)
        best = min(best, time.process_time() - start)
    return best, result


def row(name: str, matrix: np.ndarray, grid: np.ndarray) -> str:
    n = len(matrix)
    sample = np.arange(0, len(grid), len(grid) // (20 if QUICK else max(20, 20_000 // n)))
    scale = len(grid) / len(sample)
    slow, exact = timed(svd, matrix, grid[sample])
    form, triangular = timed(lambda: np.asfortranarray(schur(matrix.astype(complex), output="complex")[0]))
    peer, theirs = timed(eigtool, triangular, grid[sample])
    whole, values = timed(full, matrix, grid, repeat=3)
    half, folded = timed(pseudospectrum, matrix, grid, repeat=3)
    worst = max(np.abs(values[sample] / exact - 1).max(), np.abs(folded[sample] / exact - 1).max())
    slow, peer = slow * scale, form + peer * scale
    cells = [
        name,
        n,
        f"{slow:.1f}",
        f"{peer:.2f}",
        f"{whole:.3f}",
        f"{half:.3f}",
        f"{slow / whole:.0f}x",
        f"{slow / half:.0f}x",
    ]
    cells += [f"{peer / whole:.1f}x", f"{worst:.0e}", f"{np.abs(theirs / exact - 1).max():.0e}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def processes() -> tuple[float, float]:
    """Seconds of processor that one small call costs a new process: with an empty cache, and with a full one (imports taken off)."""
    call = "import time, numpy as np, scipy.linalg; from brittle.spectra import pseudospectrum; start = time.process_time();"
    call += "pseudospectrum(np.eye(3) + np.eye(3, k=1), [2j]); print(time.process_time() - start)"
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        runs = [
            subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True, check=True)
            for _ in "12"
        ]
    first, later = (float(r.stdout) for r in runs)
    return first, later


def main() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(-1.5, 1.5, 100)
    grid = (x[None] + 1j * x[:, None]).reshape(-1)
    pseudospectrum(np.eye(3) + np.eye(3, k=1), [2j])
    heads = "matrix,n,SVD s,EigTool's s,full s,half s,SVD : full,SVD : half,EigTool's : full,error,error of EigTool's"
    print("| " + heads.replace(",", " | ") + " |\n|" + "---|" * 11)
    for n in SIZES:
        gaussian = rng.standard_normal((n, n)) / n**0.5
        print(row("Gaussian", gaussian, grid), flush=True)
        orthogonal = np.linalg.qr(rng.standard_normal((n, n)))[0]
        print(row("nearly orthogonal", orthogonal + 1e-3 * gaussian, grid), flush=True)
    first, later = processes()
    print(f"\nFirst call of a machine {first:.1f} s (compilation), of a later process {later:.2f} s.")


if __name__ == "__main__":
    main()
