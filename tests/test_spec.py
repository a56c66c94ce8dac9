"""Specifications: rows, their matrix, ranks and refusals."""

import pytest
import torch

from brittle.errors import InputError
from brittle.spec import Targeted, Threshold, TopK, Untargeted, margin, matrix

LABELS = torch.tensor([2, 0, 1])
CASES = [
    (Untargeted(), 4, LABELS),
    (TopK(2), 4, LABELS),
    (Targeted(3), 4, LABELS),
    (Targeted(torch.tensor([0, 1, 2])), 4, LABELS),
    (Threshold(0.3), 1, torch.tensor([1, 0, 1])),
]


@pytest.mark.parametrize(("spec", "outputs", "labels"), CASES)
def test_the_matrix_is_the_rows(spec, outputs, labels):
    logits = torch.randn(3, outputs, dtype=torch.float64)
    coefficients, offsets = matrix(spec, labels, outputs)
    own = torch.einsum("rnc,nc->nr", coefficients, logits) + offsets.T
    assert torch.allclose(own, spec.rows(logits, labels), rtol=1e-14, atol=1e-14)
    assert coefficients.dtype == offsets.dtype == torch.float64


@pytest.mark.parametrize("threshold", [0.1, 1e-17, 3e16, -7.3e200])
def test_coefficients_do_not_carry_the_rounding_of_a_threshold(threshold):
    coefficients, offsets = matrix(Threshold(threshold), torch.tensor([1, 0]), 1)
    assert coefficients.flatten().tolist() == [1, -1] and offsets.flatten().tolist() == [-threshold, threshold]


def test_the_margin_says_whether_the_property_holds():
    logits = torch.tensor([[1.0, 5.0, 3.0, 2.0]])
    label = torch.tensor([2])
    assert margin(Untargeted().rows(logits, label), 1).item() == -2
    assert margin(TopK(2).rows(logits, label), 2).item() == 1  # second of four
    assert Targeted(0).rows(logits, label).tolist() == [[2]] and Targeted(1).rows(logits, label).tolist() == [[-2]]
    assert Threshold(1.0).rows(torch.tensor([[3.0], [3.0]]), torch.tensor([1, 0])).tolist() == [[2], [-2]]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_is_being_among_the_k_largest(k):
    logits = torch.randn(50, 4)
    labels = torch.randint(0, 4, (50,))
    inside = (logits.topk(k, 1).indices == labels[:, None]).any(1)
    assert torch.equal(margin(TopK(k).rows(logits, labels), k) > 0, inside)


def test_take_keeps_targets_with_their_examples():
    spec = Targeted(torch.tensor([0, 1, 2]))
    assert spec.take(torch.tensor([2, 0])).target.tolist() == [2, 0] and Targeted(3).take(torch.tensor([1])).target == 3


@pytest.mark.parametrize(
    ("spec", "labels", "outputs", "words"),
    [
        (Untargeted(), [0], 1, "at least two outputs"),
        (Untargeted(), [4], 4, "classes 0..3"),
        (Untargeted(), [-1], 4, "classes 0..3"),
        (TopK(4), [0], 4, "1 <= k < 4"),
        (TopK(0), [0], 4, "1 <= k < 4"),
        (Targeted(0), [0], 4, "other than the label"),
        (Targeted(9), [0], 4, "classes 0..3"),
        (Targeted(torch.tensor([1, 2])), [0], 4, "one target per example"),
        (Threshold(0.0), [0], 2, "one output"),
        (Threshold(0.0), [2], 1, "classes 0..1"),
    ],
)
def test_questions_that_cannot_be_asked(spec, labels, outputs, words):
    with pytest.raises(InputError, match=words.replace(".", "\\.")):
        spec.check(torch.tensor(labels), outputs)
