"""scikit-learn's 1,797 handwritten digits: the real data that is always at hand."""

import torch

from brittle.errors import InputError
from brittle.sources.batch import Data

SEED = 0  # of the one permutation that defines the split; changing it changes every number measured on the digits
TEST = 500


def digits(split: str = "test", image: bool = False) -> Data:
    """The digits of one split: pixels / 16, float32 in [0, 1]; 1,297 examples to train on, 500 to test on.

    The split is a permutation drawn by ``numpy.random.RandomState(0)``, whose stream NumPy has frozen for good (NEP 19): its
    first 500 entries are the test set, in that order, so that the first N digits of a split are the same everywhere.

    split   "test" or "train"
    image   False: x is (N, 64), rows of an 8 x 8 image one after another; True: (N, 1, 8, 8)

    >>> x, labels = digits("test")
    >>> x.shape, labels[:5].tolist()
    (torch.Size([500, 64]), [2, 8, 2, 6, 6])

    Reference: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    import numpy as np
    from sklearn.datasets import load_digits

    if split not in ("test", "train"):
        raise InputError("split of the digits", '"test" or "train"', repr(split), "choose one of the two")
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(SEED).permutation(len(labels))
    chosen = order[:TEST] if split == "test" else order[TEST:]
    x = torch.from_numpy(pixels[chosen] / 16).to(torch.float32)  # multiples of 1/16: exact in float32
    return Data(x.reshape(-1, 1, 8, 8) if image else x, torch.from_numpy(labels[chosen]).long())


def digits_of(options: str) -> Data:
    """The digits of a source text: what stands between the brackets of ``sklearn:digits[test,image]``."""
    words = [w.strip() for w in options.split(",") if w.strip()]
    wrong = [w for w in words if w not in ("test", "train", "image")]
    if wrong or ({"test", "train"} <= set(words)):
        raise InputError(
            "sklearn:digits[...]",
            "test or train, and image",
            f"[{options}]",
            "write for example sklearn:digits[test,image]",
        )
    return digits("train" if "train" in words else "test", "image" in words)
