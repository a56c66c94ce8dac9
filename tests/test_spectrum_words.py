"""What the spectra print: the data first, no walls of numbers, plain words for a network without recurrence."""

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle import spectra
from brittle.questions._verdicts import of_slow_point
from brittle.questions.spectrum import Spectrum


def test_the_data_are_printed_first_and_matrices_last():
    finding = lambda name: bt.Finding(name, name, {"verdict": [f"said of {name}"]})
    found = Spectrum({name: finding(name) for name in ("matrices", "fixed points", "along data")})
    assert repr(found).splitlines() == ["said of along data", "said of fixed points", "said of matrices"]
    assert found.verdicts[0] == "said of matrices", "the findings themselves keep their order"


def test_transients_and_numerical_ranges_print_a_line():
    jordan = np.array([[0.5, 0.9], [0.0, 0.5]])
    said = repr(spectra.transient(jordan, 30))
    assert said == "Transient(30 steps: largest power 1.123 at step 1, no later power is larger)"
    reach = repr(
        spectra.numerical_range(jordan)
    )  # a disk of radius 0.45 around 0.5; |0.5 + 0.45 (1 + i tan(pi / 64))| = 0.95026
    assert reach == "NumericalRange(64 angles: furthest from 0 between 0.95 and 0.9503)" and len(reach) < 80


def test_a_feed_forward_network_is_told_what_to_ask_instead():
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    for x in (None, torch.rand(3, 2)):
        with pytest.raises(
            bt.InputError, match="got Sequential with none of these.*keeps no state, so ask bt.radius or brittle audit"
        ):
            bt.spectrum(network, x)


def test_a_slow_point_claims_no_more_than_its_speed():
    assert "may stand still there" in of_slow_point("rnn", 1e-7, 3, 8, "input 0")
    said = of_slow_point("rnn", 1e-2, 3, 8, "input 0")
    assert (
        said
        == "rnn has a slow point at input 0, where it moves by 0.01 a step: the least speed that the search came to from 3 of 8 starts."
    )
