"""Real sequences and a speech detector in daily use: they load as published."""

import warnings

import pytest
import torch

import assets
import brittle as bt
from brittle.errors import InputError
from brittle.sources.assets import japanese_vowels, movie_snippets
from brittle.sources.speech import FRAME, speech_detector, spoken_clips

pytestmark = [pytest.mark.assets, pytest.mark.slow]


def test_the_detector_says_what_the_published_file_says_and_hears_speech_only_in_speech():
    assets.need("silero")
    detector, clips = speech_detector(), spoken_clips()
    with torch.no_grad():
        odds = detector.odds(clips.x)
    shares = [float((o[:n] > 0).double().mean()) for o, n in zip(odds, clips.lengths, strict=True)]
    for name, share in zip(clips.names, shares, strict=True):
        assert share == 0 if name == "Noise" else 0.57 < share < 0.78
    assert torch.equal(detector(clips.x).argmax(1), clips.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = torch.jit.load(str(assets.package("silero-vad") / "silero_vad" / "data" / "silero_vad.jit"))
    for k in (0, clips.names.index("Noise")):
        published.reset_states()
        pieces = clips.x[k : k + 1].split(FRAME, 1)[: int(clips.lengths[k])]
        with torch.no_grad():
            said = torch.cat([published(piece, 16000)[:, 0] for piece in pieces])
        assert float((said - odds[k, : len(said)].sigmoid()).abs().max()) < 1e-5


def test_vowels_have_the_published_sizes_and_the_scale_of_the_training_part():
    assets.need("series")
    train, test = japanese_vowels("train"), japanese_vowels("test")
    assert train.x.shape == (270, 29, 12) and train.labels.bincount().tolist() == [30] * 9
    assert test.x.shape == (370, 29, 12) and test.labels.bincount().tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    steps = torch.cat([x[:n] for x, n in zip(train.x, train.lengths, strict=True)])
    assert float(steps.mean(0).abs().max()) < 1e-4 and float((steps.std(0) - 1).abs().max()) < 1e-4
    assert (int(test.lengths.min()), int(test.lengths.max())) == (7, 29)
    assert all(not bool(x[n:].any()) for x, n in zip(test.x, test.lengths, strict=True))
    with pytest.raises(InputError, match="train"):
        japanese_vowels("all")


def test_snippets_are_balanced_disjoint_and_padded_with_zero():
    assets.need("text")
    train, test = movie_snippets("train"), movie_snippets("test")
    assert len(train.labels) + len(test.labels) == 10072 and train.names == test.names
    assert abs(float(test.labels.double().mean()) - 0.5) < 0.01
    assert bool(((test.x > 0).sum(1) == test.lengths).all()) and int(test.lengths.min()) >= 1
    assert train.names[:3] == ("", "<rare>", "the") and int(train.x.max()) == len(train.names) - 1 == 4001


def test_the_detector_audited_end_to_end_on_speech():
    """Gate blocks of radius 5; along speech and noise a state that forgets slowly, with transients, and within int8 rounding of instability."""
    assets.need("silero")
    clips = spoken_clips()
    found = bt.spectrum(speech_detector(), clips.x, lengths=clips.lengths, effort="quick")
    columns = found["matrices"].columns
    assert columns["matrix"][:4] == [f"cell.{gate}" for gate in "ifgo"] and columns["size"] == [128] * 4 + [256] * 3
    assert all(5 < radius < 6 for radius in columns["radius"][:4]) and all(
        share == 1 for share in columns["percentile_untrained"][:4]
    )
    mean = columns["role"].index("mean Jacobian along the data")
    assert columns["stability"][mean] == "stable" and columns["radius"][mean] == pytest.approx(0.9911, abs=0.002)
    assert columns["distance"][mean] == pytest.approx(0.00279, rel=0.05)  # a third of what a normal matrix would take
    assert columns["rounding_fp16"][mean] < columns["distance"][mean] < columns["rounding_int8"][mean]
    along = {name: values[0] for name, values in found["along data"].columns.items()}
    assert along["sequences"] == 9 and along["steps"] == int(clips.lengths.sum())
    assert -0.1 < along["exponents"][0] < 0 and 10 < max(along["growth_worst"]) < 25
