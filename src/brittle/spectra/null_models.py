"""What a number about a matrix is worth: the same number of matrices that nobody trained."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import rectangular, square

ABOUT = About(
    promise="where a number stands among those of untrained, random and normal matrices, with an interval",
    reference="Clopper and Pearson 1934 (interval); the ensembles are PyTorch's default, Ginibre's, and the matrix's own spectrum",
    leaves=(),
    cost="no pass; the quantity once per draw",
)
ENSEMBLES = ("initialisation", "random", "normal")
MATCHES = ("none", "radius", "norm")


@dataclass(frozen=True, eq=False)
class NullModel:
    """One ensemble beside the number.

    ensemble    "initialisation", "random" or "normal"
    value       of the matrix itself
    draws       (m,) values of the ensemble; one for "normal", which is not random
    percentile  share of the draws below the value, ties half; ``interval``: Clopper and Pearson at ``level``, from the draws at most
                and strictly below, and (0, 1) for "normal"
    """

    ensemble: str
    value: float
    draws: np.ndarray
    percentile: float
    interval: tuple[float, float]
    level: float


def null_models(
    matrix: Any,
    quantity: Callable[[np.ndarray], float],
    *,
    ensembles: tuple[str, ...] = ENSEMBLES,
    match: str = "none",
    draws: int = 39,
    hidden: int | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[NullModel, ...]:
    """``quantity`` of the matrix and of matrices of its shape that carry no training.

    ensembles  "initialisation": entries uniform in ``+-1 / sqrt(hidden)``, PyTorch's default for recurrent layers; "random": independent normal
               entries with the Frobenius norm of the matrix; "normal": the normal matrix with the same eigenvalues (square only)
    match      "radius" or "norm": every draw is scaled to the spectral radius or the spectral norm of the matrix, so that a distance to
               instability, a Kreiss constant or a transient compares shapes and not sizes. "none": as drawn
    hidden     state size of the layer, by default the number of columns

    A default initialisation is as non-normal as many a trained matrix (relative Henrici departure about 0.7 at n = 64), which is why no such
    number should be told alone.

    Guarantee: the draws are independent, so the interval covers the ensemble's probability of a value at most that of the matrix with at
    least ``level``. ``draws`` = 39 lets the most extreme rank say 95 %.

    Errors: InputError.

    >>> from brittle.spectra import henrici
    >>> found = null_models(np.eye(4, k=1), lambda a: henrici(a, relative=True), draws=20)
    >>> [(null.ensemble, null.value, null.percentile) for null in found]  # nothing is less normal than a nilpotent matrix
    [('initialisation', 1.0, 1.0), ('random', 1.0, 1.0), ('normal', 1.0, 1.0)]
    """
    a = rectangular(matrix)
    _check(a, ensembles, match, draws, level)
    value = float(quantity(a))
    found = []
    for ensemble in ensembles:
        count = 1 if ensemble == "normal" else draws
        values = np.array(
            [float(quantity(_matched(_draw(a, ensemble, hidden, seed, i), a, match))) for i in range(count)]
        )
        found.append(_placed(ensemble, value, values, level))
    return tuple(found)


def same_spectrum_normal(matrix: Any) -> np.ndarray:
    """A normal matrix with the eigenvalues of a square one: diagonal; of a real matrix real, with 2 x 2 rotations for conjugate pairs.

    >>> same_spectrum_normal([[0.0, 1.0], [-4.0, 0.0]]).round(9).tolist()  # eigenvalues +-2i
    [[0.0, 2.0], [-2.0, 0.0]]
    """
    from scipy.linalg import block_diag

    a = square(matrix)
    values = np.linalg.eigvals(a)
    if np.iscomplexobj(a):
        return np.diag(values)
    pairs = [np.array([[z.real, z.imag], [-z.imag, z.real]]) for z in values if z.imag > 0]
    return np.asarray(block_diag(*pairs, *(np.array([[z.real]]) for z in values if z.imag == 0)))


def _check(a: np.ndarray, ensembles: tuple[str, ...], match: str, draws: int, level: float) -> None:
    unknown = [e for e in ensembles if e not in ENSEMBLES]
    if unknown or not ensembles:
        raise InputError("ensembles", f"some of {', '.join(ENSEMBLES)}", unknown or "none", "choose from these")
    if match not in MATCHES:
        raise InputError("match", " | ".join(MATCHES), match, "choose one of these")
    if draws < 1 or not 0 < level < 1:
        raise InputError(
            "draws and level", "at least one draw, a level between 0 and 1", (draws, level), "leave them out"
        )
    if a.shape[0] != a.shape[1] and ("normal" in ensembles or match == "radius"):
        raise InputError(
            "matrix",
            "a square one for 'normal' and match='radius'",
            f"shape {a.shape}",
            "it has no eigenvalues: leave those out",
        )


def _draw(a: np.ndarray, ensemble: str, hidden: int | None, seed: int, i: int) -> np.ndarray:
    if ensemble == "normal":
        return same_spectrum_normal(a)
    from brittle.randomness import fold

    source = np.random.default_rng(fold(seed, "null_models", ensemble, i))
    if ensemble == "initialisation":
        return source.uniform(-1, 1, a.shape) / (hidden or a.shape[1]) ** 0.5
    drawn = source.standard_normal(a.shape)
    if np.iscomplexobj(a):
        drawn = drawn + 1j * source.standard_normal(a.shape)
    return drawn * (np.linalg.norm(a) / np.linalg.norm(drawn))


def _matched(drawn: np.ndarray, a: np.ndarray, match: str) -> np.ndarray:
    if match == "none":
        return drawn
    size = (lambda m: np.linalg.norm(m, 2)) if match == "norm" else (lambda m: np.abs(np.linalg.eigvals(m)).max())
    own, wanted = float(size(drawn)), float(size(a))
    return drawn * (wanted / own) if own else drawn


def _placed(ensemble: str, value: float, values: np.ndarray, level: float) -> NullModel:
    below, ties = int((values < value).sum()), int((values == value).sum())
    interval = (0.0, 1.0)
    if ensemble != "normal":
        import torch

        from brittle.stats import binomial_lower, binomial_upper

        tail, count = (1 - level) / 2, len(values)
        interval = (
            float(binomial_lower(torch.tensor([below]), count, tail)),
            float(binomial_upper(torch.tensor([below + ties]), count, tail)),
        )
    return NullModel(ensemble, value, values, (below + ties / 2) / len(values), interval, level)
