"""The field of values of a matrix, from its supporting lines."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brittle.about import About
from brittle.errors import InputError
from brittle.spectra._matrix import square

ABOUT = About(
    promise="points on the boundary of the numerical range inside, supporting lines outside: the range lies between two polygons",
    reference="Johnson, SIAM J. Numer. Anal. 15 (1978) 595",
    leaves=(),
    cost="no pass; one Hermitian eigenproblem per angle",
)


@dataclass(frozen=True, eq=False)
class NumericalRange:
    """angles (m,), increasing; support (m,) ``h(t)``; points (m,) complex: where each supporting line touches; corners (m,) of the outer polygon."""

    angles: np.ndarray
    support: np.ndarray
    points: np.ndarray
    corners: np.ndarray

    def __repr__(self) -> str:
        inner, outer = float(np.abs(self.points).max()), float(np.abs(self.corners).max())
        return f"NumericalRange({len(self.angles)} angles: furthest from 0 between {inner:.4g} and {outer:.4g})"


def numerical_range(matrix: Any, *, count: int = 64) -> NumericalRange:
    """``W(A) = {x* A x: ||x|| = 1}``, convex and compact, between the polygon of its boundary ``points`` and that of its ``corners``.

    Support function ``h(t) = lambda_max((e^{-it} A + e^{it} A*) / 2)``: W lies in ``Re(e^{-it} z) <= h(t)`` and touches the line at
    ``x* A x``, x the eigenvector. W holds the eigenvalues (it is their hull for normal A), and with ``epsilon`` more on all sides
    the epsilon-pseudospectrum. ``h(0)`` is the numerical abscissa, the initial growth rate of ``exp(tA)``.

    Guarantee: points lie in W and corners around it, up to ``n u ||A||``; the gap between the polygons falls like ``1 / count^2``.

    matrix : (n, n); count : number of angles, at least 3, equally spaced from 0. Errors: InputError.

    >>> found = numerical_range([[0.0, 1.0], [0.0, 0.0]], count=4)  # the disk of radius 1/2
    >>> np.abs(found.points).round(6).tolist(), np.abs(found.corners).round(6).tolist()
    ([0.5, 0.5, 0.5, 0.5], [0.707107, 0.707107, 0.707107, 0.707107])
    """
    a = square(matrix)
    if count < 3:
        raise InputError("count", "at least 3 angles", count, "three supporting lines make the first polygon")
    angles = 2 * np.pi * np.arange(count) / count
    touched = [supporting_line(a, t) for t in angles]
    support = np.array([h for h, _ in touched])
    corners = outer_corners(angles, support, np.append(angles[1:], 2 * np.pi), np.append(support[1:], support[0]))
    return NumericalRange(angles, support, np.array([z for _, z in touched]), corners)


def supporting_line(a: np.ndarray, angle: float) -> tuple[float, complex]:
    """``h(t)`` and the point at which the line touches."""
    from scipy.linalg import eigh

    n, turned = len(a), np.exp(-1j * angle) * a
    values, vectors = eigh((turned + turned.conj().T) / 2, subset_by_index=(n - 1, n - 1))
    x = vectors[:, 0]
    return float(values[0]), complex(x.conj() @ a @ x)


def outer_corners(t1: np.ndarray, h1: np.ndarray, t2: np.ndarray, h2: np.ndarray) -> np.ndarray:
    """Where the supporting lines of two angles meet: ``e^{i t1} (h1 + i (h2 - h1 cos d) / sin d)`` with ``d = t2 - t1`` in (0, pi)."""
    d = t2 - t1
    return np.exp(1j * t1) * (h1 + 1j * (h2 - h1 * np.cos(d)) / np.sin(d))
