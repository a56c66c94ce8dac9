"""The embedded networks: what they are said to be, and the first brackets on real data."""

from math import inf

import pytest
import torch

from brittle.problem import Problem
from brittle.questions.radius import radius
from brittle.region import Ball
from brittle.sources.digits import digits
from brittle.sources.embedded import FOLDER, NETWORKS, embedded

ACCURACY = {"mlp": 0.96, "cnn": 0.96, "hardened": 0.96, "gru": 0.96}


def test_they_are_small_and_accurate() -> None:
    assert sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) < 400_000
    x, labels = digits("test")
    for name in NETWORKS:
        with torch.no_grad():
            accuracy = (embedded(name)(x).argmax(1) == labels).float().mean().item()
        assert accuracy >= ACCURACY[name], name


def test_no_digit_of_the_test_part_was_trained_on() -> None:
    train, test = digits("train").x, digits("test").x
    assert len(train) + len(test) == 1797
    assert not ({tuple(row) for row in test.tolist()} & {tuple(row) for row in train.tolist()})


@pytest.mark.parametrize("p", [2, inf])
@pytest.mark.parametrize("name", ["mlp", "hardened"])
def test_brackets_on_real_digits(name: str, p: float) -> None:
    """No certified radius above an attacked one (a crossing raises), and narrow brackets on the plain network."""
    x, labels = digits("test")
    answer = radius(Problem(embedded(name), x[:100], labels[:100], Ball(p, 1.0, 0, 1)))
    right = answer.upper > 0
    assert (answer.lower <= answer.upper).all() and answer.witness.found.all()
    assert (answer.lower[right] > 0).all() and answer.guarantee == ("proved", "witnessed")
    if name == "mlp":
        assert (answer.upper[right] / answer.lower[right]).median() < 1.5
