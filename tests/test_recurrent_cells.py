"""Recurrent maps found in modules: states equal to torch's, Jacobians to automatic differentiation, gate blocks in torch's layout."""

import pytest
import torch
from torch import nn
from torch.func import jacrev, vmap
from torch.nn.utils import parametrize

from brittle.errors import InputError
from brittle.spectra._custom import custom
from brittle.spectra.cells import cells
from brittle.spectra.jacobians import jacobians
from brittle.spectra.trajectories import trajectories

KINDS = {
    "tanh": lambda **o: nn.RNN(3, 5, **o),
    "relu": lambda **o: nn.RNN(3, 5, nonlinearity="relu", **o),
    "gru": lambda **o: nn.GRU(3, 5, **o),
    "lstm": lambda **o: nn.LSTM(3, 5, **o),
    "projected": lambda **o: nn.LSTM(3, 5, proj_size=2, **o),
}
SHAPES = [{}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True, "bias": False}]


def network(kind: str, **options) -> nn.RNNBase:
    torch.manual_seed(0)
    made = KINDS[kind](batch_first=True, **options)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(2.0)  # default weights are so small that gates hardly move
    return made.double()


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_torch_in_every_layer_and_direction(kind, options):
    module, x = network(kind, **options), draw(4, 6, 3)
    found = trajectories(module, x)
    heads = 1 + module.bidirectional
    last = found[-heads:]  # the last layer's directions make the output
    shown = [t.states[:, 1:, : t.cell.parts[0][1]] for t in last]
    shown = [s.flip(1) if t.cell.reverse else s for s, t in zip(shown, last, strict=True)]
    with torch.no_grad():
        output, final = module(x)
    assert torch.allclose(torch.cat(shown, -1), output, atol=1e-13, rtol=0)
    final = final if isinstance(final, tuple) else (final,)
    for k, path in enumerate(found):
        assert torch.allclose(path.states[:, -1], torch.cat([f[k] for f in final], -1), atol=1e-13, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms_equal_automatic_differentiation(kind):
    (cell,) = cells(network(kind))
    states, x = draw(7, cell.size), draw(7, 3, seed=2)
    exact = vmap(jacrev(lambda s, one: cell.step(s[None], one[None])[0]))(states, x)
    derivative = cell.derivative(states, x)
    identity = torch.eye(cell.size, dtype=torch.float64).expand(7, -1, -1)
    for got in (jacobians(cell, states, x), derivative.times(identity), derivative.back(identity).mT):
        assert float((got - exact).abs().max()) <= 1e-12
    assert float(exact.abs().max()) > 0.1


@pytest.mark.parametrize(("kind", "gates"), [("tanh", "W"), ("gru", "rzn"), ("lstm", "ifgo"), ("projected", "ifgo")])
def test_blocks_are_what_the_layout_says(kind, gates):
    """One gate's rows raised to 9 change that block alone; a projection multiplies from the right."""
    module = network(kind)
    size = module.weight_hh_l0.shape[0] // len(gates)
    for k, gate in enumerate(gates):
        with torch.no_grad():
            module.weight_hh_l0.zero_()[k * size : (k + 1) * size] = 9.0
        (cell,) = cells(module)
        expected = torch.full((size, module.weight_hh_l0.shape[1]), 9.0).double()
        if kind == "projected":
            expected = expected @ module.weight_hr_l0.detach()
        assert torch.equal(cell.blocks[gate], expected) and cell.blocks[gate].shape == (5, 5)
        assert all(not bool(block.any()) for name, block in cell.blocks.items() if name != gate)


def test_padded_packed_and_reversed_sequences_agree_with_torch():
    module, x, lengths = network("gru", bidirectional=True, num_layers=2), draw(3, 6, 3), [6, 2, 4]
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        final = module(packed)[1]
    padded = trajectories(module, x, lengths=lengths)
    for k, path in enumerate(padded):
        assert torch.allclose(path.states[:, -1], final[k], atol=1e-13, rtol=0)
        assert path.points()[0].shape == (12, 5)

    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(
                nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
            )[1][0]

    for mine, its in zip(padded, trajectories(Packs(), x), strict=True):
        assert torch.equal(mine.states, its.states) and its.lengths.tolist() == lengths


class Loop(nn.Module):
    """Cells called step by step; the second is one of our own."""

    def __init__(self, cell: nn.Module, memory: bool) -> None:
        super().__init__()
        self.cell, self.memory, self.head = cell, memory, nn.Linear(5, 2)

    def forward(self, x):
        state = (x.new_zeros(len(x), 5), x.new_zeros(len(x), 5)) if self.memory else x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if self.memory else state)


class Leaky(nn.Module):
    """h' = h / 2 + tanh(U x + V h) / 2, called like a cell, and known to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.read = nn.Linear(5, 5), nn.Linear(3, 5)

    def forward(self, x, state):
        return state / 2 + torch.tanh(self.read(x) + self.own(state)) / 2


def test_cells_are_followed_from_call_to_call_and_custom_ones_are_seen_at_work():
    torch.manual_seed(0)
    x = draw(2, 7, 3)
    for cell, memory in ((nn.LSTMCell(3, 5), True), (nn.GRUCell(3, 5), False), (nn.RNNCell(3, 5), False)):
        (path,) = trajectories(Loop(cell, memory).double(), x)
        (alone,) = trajectories(cell.double(), x)
        assert path.cell.name == "cell" and torch.allclose(path.states, alone.states, atol=1e-13)
        (short,) = trajectories(Loop(cell, memory).double(), x, lengths=[7, 3])
        assert torch.equal(short.points()[0], torch.cat([path.states[0, :7], path.states[1, :3]]))
    (path,) = trajectories(Loop(Leaky(), False).double(), x)
    assert (path.cell.kind, path.cell.size, path.states.shape) == ("custom", 5, (2, 8, 5))
    (declared,) = trajectories(Leaky().double(), x, state=torch.zeros(5))
    assert declared.states.shape == (2, 8, 5)
    states, given = path.points()
    exact = vmap(jacrev(lambda s, one: path.cell.step(s[None], one[None])[0]))(states, given)
    assert float((jacobians(path.cell, states, given) - exact).detach().abs().max()) <= 1e-12
    derivative = path.cell.derivative(states, given)
    v = draw(14, 5, 2)
    assert torch.allclose(derivative.times(v).detach(), (exact @ v).detach(), atol=1e-12)
    assert torch.allclose(derivative.back(v).detach(), (exact.mT @ v).detach(), atol=1e-12)


def test_a_custom_cell_may_return_output_and_state_and_hold_several_tensors():
    lstm = nn.LSTMCell(3, 4).double()
    cell = custom("mine", lambda x, s: (x.sum(), lstm(x, s)), (torch.zeros(1, 4), torch.zeros(1, 4)))
    (known,) = cells(lstm)
    states, x = draw(3, 8), draw(3, 3)
    assert torch.allclose(cell.step(states, x), known.step(states, x), atol=1e-13)
    assert torch.allclose(jacobians(cell, states, x).detach(), jacobians(known, states, x), atol=1e-12)


def test_parametrised_weights_are_read_as_they_act_and_names_tell_where():
    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    model = nn.ModuleDict({"reader": nn.GRU(2, 3), "cell": nn.LSTMCell(2, 3)})
    before = model["reader"].weight_hh_l0.detach().double()
    parametrize.register_parametrization(model["reader"], "weight_hh_l0", Half())
    found = cells(model)
    assert [c.name for c in found] == ["reader.l0", "cell"]
    assert torch.equal(torch.cat(list(found[0].blocks.values())), before / 2)


def test_state_dicts_are_read_by_their_names():
    for kind, module in (
        (k, network(k, num_layers=2, bidirectional=True)) for k in ("tanh", "gru", "lstm", "projected")
    ):
        mine, its = cells(module.state_dict()), cells(module)
        assert [c.name for c in mine] == [c.name for c in its], kind
        x, state = draw(2, its[2].inputs), draw(2, its[2].size)
        assert torch.equal(mine[2].step(state, x), its[2].step(state, x))
    with pytest.raises(InputError, match="7 x 2"):
        cells({"weight_hh_l0": torch.zeros(7, 2), "weight_ih_l0": torch.zeros(7, 2)})


def test_live_cells_carry_gradients_to_the_module():
    module = network("gru")
    (cell,) = cells(module, live=True)
    jacobians(cell, draw(1, 5), draw(1, 3)).square().sum().backward()
    assert float(module.weight_hh_l0.grad.abs().max()) > 0


def test_bad_input_is_told_in_words():
    module = network("lstm")
    with pytest.raises(InputError, match="length zero"):
        trajectories(module, draw(2, 4, 3), lengths=[4, 0])
    with pytest.raises(InputError, match="length zero"):
        trajectories(module, torch.zeros(2, 0, 3).double())
    for lengths in ([4, 3, 2], [5, 1]):
        with pytest.raises(InputError, match="lengths: expected 2 numbers of at most 4"):
            trajectories(module, draw(2, 4, 3), lengths=lengths)
    with pytest.raises(InputError, match="x: expected data that the module takes, got RuntimeError"):
        trajectories(module, draw(2, 4, 7))
    with pytest.raises(InputError, match="NaN or infinity"):
        trajectories(module, torch.full((1, 2, 3), float("nan")).double())
    with torch.no_grad():
        module.weight_hh_l0[3, 2] = float("inf")
    with pytest.raises(InputError, match="weight_hh_l0: expected finite numbers, got 1 of 100"):
        cells(module)
    assert cells(nn.Linear(2, 2)) == () and trajectories(nn.Linear(2, 2), torch.zeros(1, 2)) == ()
