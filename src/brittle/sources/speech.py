"""A speech detector in daily use: Silero's, an LSTM over short frames of sound, rebuilt in plain torch from its own weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from brittle.sources.assets import Sequences, asset

RATE = 16000  # samples a second
FRAME, CONTEXT = 512, 64  # samples of one step, and of the step before that it hears again


class SpeechDetector(nn.Module):
    """Sound (N, samples) at 16 kHz in [-1, 1] -> two scores per clip, class 1 is speech: 0 and the mean log-odds of its frames.

    ``odds`` gives the log-odds of every frame of 32 ms, (N, frames): their sigmoid is the published network's answer, to rounding. Short-time Fourier
    transform, four convolutions, one LSTM cell, a linear read-out of the positive part of its state.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = ((129, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        self.register_buffer("basis", torch.zeros(258, 1, 256))
        self.encoder = nn.ModuleList(nn.Conv1d(a, b, 3, stride, 1) for a, b, stride in sizes)
        self.cell = nn.LSTMCell(128, 128)
        self.head = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.odds(x).mean(1)
        return torch.stack([torch.zeros_like(mean), mean], 1)

    def odds(self, x: Tensor) -> Tensor:
        sound = functional.pad(x, (CONTEXT, -x.shape[1] % FRAME))
        frames = sound.unfold(1, CONTEXT + FRAME, FRAME)
        features = self._features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        state, out = None, []
        for t in range(frames.shape[1]):
            state = self.cell(features[:, t], state)
            out.append(self.head(state[0].relu()))
        return torch.cat(out, 1)

    def _features(self, frames: Tensor) -> Tensor:
        wave = functional.conv1d(functional.pad(frames, (0, 64), mode="reflect")[:, None], self.basis, stride=128)  # type: ignore[arg-type]
        heard = (wave[:, :129].square() + wave[:, 129:].square()).sqrt()
        for layer in self.encoder:
            heard = layer(heard).relu()
        return heard[..., 0]


def speech_detector() -> SpeechDetector:
    """Silero's detector, 309,633 weights, in evaluation mode. The weights are read from its TorchScript file, none of whose code is called.

    Reference: Silero Team, Silero VAD, github.com/snakers4/silero-vad, version 6.2.3, MIT licence.
    """
    file = asset("silero-vad", "silero") / "silero_vad" / "data" / "silero_vad.jit"
    stored = {k[7:]: v for k, v in torch.jit.load(str(file)).state_dict().items() if k.startswith("_model.")}
    found = {"basis": stored["stft.forward_basis_buffer"], "head.bias": stored["decoder.decoder.2.bias"]}
    found["head.weight"] = stored["decoder.decoder.2.weight"][..., 0]
    for k in range(4):
        found |= {f"encoder.{k}.{part}": stored[f"encoder.{k}.reparam_conv.{part}"] for part in ("weight", "bias")}
    found |= {k.replace("decoder.rnn.", "cell."): v for k, v in stored.items() if k.startswith("decoder.rnn.")}
    network = SpeechDetector()
    network.load_state_dict(found)
    return network.eval()


def spoken_clips() -> Sequences:
    """Debian's eight spoken test clips (label 1) and its noise clip (label 0): x (9, samples) float32 at 16 kHz, zero-padded.

    Recorded at 48 kHz; every third sample is taken. lengths are in frames of the detector; the last frame of a clip may be partly silent.
    """
    import wave

    import numpy as np

    home = asset("alsa-utils", "silero") / "usr" / "share" / "sounds" / "alsa"
    clips, names = [], []
    for file in sorted(home.glob("*.wav")):
        with wave.open(str(file)) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")[::3] / 32768
        clips.append(torch.tensor(samples, dtype=torch.float32))
        names.append(file.stem)
    frames = torch.tensor([-(-len(c) // FRAME) for c in clips])
    x = torch.stack([functional.pad(c, (0, int(frames.max()) * FRAME - len(c))) for c in clips])
    return Sequences(x, frames, torch.tensor([int(n != "Noise") for n in names]), tuple(names))
