"""The watcher of a training: within its share of the time, block by block, with alarms once per crossing."""

import pytest
import torch
from torch import nn

from brittle.errors import InputError
from brittle.spectra.monitor import monitor


class Clock:
    """A clock that a training step moves by one second, and a look by ``look``."""

    def __init__(self, look):
        self.now, self.look, self.calls = 0.0, look, 0

    def __call__(self):
        self.calls += 1
        self.now += self.look  # every reading inside a call of the monitor
        return self.now


@pytest.mark.parametrize("look", [0.01, 0.1, 0.5])
def test_it_stays_within_its_share_after_the_first_look(look):
    clock = Clock(look)
    watch = monitor(nn.GRU(2, 3), share=0.02, clock=clock)
    for _ in range(300):
        watch()
        clock.now += 1.0
    first = 2 * look
    assert watch.spent <= 0.02 * clock.now + first
    assert len(watch.rows) >= 1


def test_blocks_take_turns_and_values_are_right():
    torch.manual_seed(0)
    rnn = nn.GRU(2, 3)
    watch = monitor(rnn, share=1.0)
    while len(watch.rows) < 6:
        watch()
    assert [r["block"] for r in watch.rows] == ["l0 r", "l0 z", "l0 n"] * 2
    block = rnn.weight_hh_l0[:3].detach().double()
    assert watch.rows[0]["norm"] == pytest.approx(float(torch.linalg.matrix_norm(block, 2)))
    assert watch.rows[0]["radius"] == pytest.approx(float(torch.linalg.eigvals(block).abs().max()))


def test_an_alarm_is_raised_once_per_crossing():
    rnn = nn.RNN(1, 2)
    watch = monitor(rnn, share=1.0, nearest=0.05)
    for size in (0.5, 1.5, 1.6, 0.97, 0.5, 1.2):
        with torch.no_grad():
            rnn.weight_hh_l0.copy_(size * torch.eye(2))
        before = len(watch.rows)
        while len(watch.rows) == before:
            watch()
    assert len(watch.alarms) == 2 and "is unstable" in watch.alarms[0] and "spectral radius 1.2" in watch.alarms[1]


def test_a_real_training_is_not_slowed_down():
    torch.manual_seed(0)
    rnn = nn.RNN(8, 64, batch_first=True)
    optimiser, x = torch.optim.Adam(rnn.parameters()), torch.randn(64, 30, 8)
    watch = monitor(rnn, share=0.02)
    for _ in range(20):
        optimiser.zero_grad()
        rnn(x)[0].square().mean().backward()
        optimiser.step()
        watch()
    looked = len(watch.rows)
    assert looked >= 1 and watch.spent <= 0.02 * (watch.clock() - watch.began) + watch.longest * 2
    assert watch.module is rnn and rnn.weight_hh_l0.requires_grad


def test_bad_requests():
    with pytest.raises(InputError, match="share"):
        monitor(nn.RNN(1, 1), share=0)
    with pytest.raises(InputError, match="a module that holds RNN"):
        monitor(nn.Linear(1, 1))
