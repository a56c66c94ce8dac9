"""The slow obvious twin of pseudospectra: one full SVD per point."""

import numpy as np


def smallest_by_svd(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Smallest singular value of zI - A at every point; A may have more rows than columns."""
    eye = np.eye(*matrix.shape)
    flat = [np.linalg.svd(z * eye - matrix, compute_uv=False)[-1] for z in np.ravel(points)]
    return np.array(flat).reshape(np.shape(points))
