"""Exceptions teach, and cross process borders."""

import pickle

import pytest

from brittle.errors import BracketError, InputError, NotCertified


def test_an_input_error_says_what_to_do():
    error = InputError("x", "finite values", "NaN", "clean the data")
    assert str(error) == "x: expected finite values, got NaN; clean the data" and isinstance(error, ValueError)


@pytest.mark.parametrize(
    "error", [InputError("a", "b", 3, "d"), NotCertified("operation gelu"), BracketError("crossed")]
)
def test_errors_survive_a_process_pool(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_not_certified_completes_its_sentence():
    assert str(NotCertified("operation gelu")) == "not certified: operation gelu"
