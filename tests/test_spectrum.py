"""bt.spectrum: golden values of one matrix, every part of a network, plain words for what cannot be asked."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import brittle as bt
from brittle.digest import state_digest
from brittle.errors import InputError
from brittle.questions._matrices import FIXED, GATE, LARGEST, MEAN
from brittle.questions._verdicts import of_trajectory, stability
from brittle.records import plain
from brittle.spectra._cells import standard
from brittle.spectra._frontier import circles, descend
from brittle.spectra._plane import plane
from brittle.spectra.cells import cells
from brittle.spectra.jacobians import jacobians
from brittle.spectra.trajectories import trajectories
from brittle.spectrum_report import render

JORDAN = 0.5 * np.eye(8) + 0.9 * np.eye(8, k=1)


def row(found: bt.Finding, k: int = 0) -> dict:
    return {name: values[k] for name, values in found.columns.items()}


class Reader(nn.Module):
    """A GRU over sequences (batch, time, 3), and a head."""

    def __init__(self, size: int = 6, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent, self.head = nn.GRU(3, size, batch_first=True, **options), nn.Linear(size, 2)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


def sequences(count: int = 5, steps: int = 9) -> torch.Tensor:
    return torch.randn(count, steps, 3, generator=torch.Generator().manual_seed(3))


def test_golden_values_of_a_jordan_block():
    found = bt.spectrum(JORDAN, effort="standard")
    told = row(found["matrices"])
    assert (told["scale"], told["stability"], told["radius"]) == (1.0, "stable", 0.5)
    assert told["norm"] == pytest.approx(1.3773637625, rel=1e-9)
    assert told["numerical_radius"] == pytest.approx(1.3457233587, rel=1e-9)
    assert told["henrici"] == pytest.approx(0.9 * 7**0.5 / np.linalg.norm(JORDAN), rel=1e-9)
    assert told["distance"] == pytest.approx(0.00564875066, rel=1e-6)
    assert told["kreiss_lower"] <= 5.116245190 * (1 + 1e-9) <= told["kreiss_upper"] <= 5.116245190 * 1.06
    assert (told["transient"], told["transient_step"]) == (pytest.approx(17.380146730, rel=1e-9), 12)
    assert told["defective"] == 0 and "impossible to diagonalise" in told["verdict"]
    assert "A change of norm 0.00565" in told["verdict"] and "17.4-fold, at step 12" in told["verdict"]


@pytest.mark.slow
def test_an_unstable_matrix_is_asked_once_scaled_and_drowned_distances_are_zero():
    draw = np.random.default_rng(0).standard_normal((5, 5))
    small = draw / np.abs(np.linalg.eigvals(draw)).max()
    told, inner = (row(bt.spectrum(c * small, effort="standard")["matrices"]) for c in (2.0, 0.99))
    assert (told["scale"], inner["scale"]) == (pytest.approx(0.495), 1.0) and told["stability"] == "unstable"
    for name in ("distance", "distance_real", "kreiss_lower", "transient", "henrici"):
        assert told[name] == pytest.approx(inner[name], rel=1e-6)
    assert told["norm"] == pytest.approx(inner["norm"] / 0.495) and "Scaled to radius 0.99, a change" in told["verdict"]
    drowned = row(bt.spectrum(4 * JORDAN, effort="quick")["matrices"])  # 0.01^8 away from 1
    assert drowned["distance"] == 0 and "of the size of rounding makes it unstable" in drowned["verdict"]


def test_a_dip_at_the_end_of_a_curve_is_no_accident():
    at = plane(np.diag([0.5, 0.1]))
    found = descend(at, circles(at), 1.0, 3.5, 4.0, 4.0)  # |exp(it) - 0.1| falls from pi on, and the curve ends at 4
    assert found.value == pytest.approx(abs(np.exp(4j) - 0.1))


def test_a_normal_matrix_is_its_own_null_model():
    turn = np.array([[0.6, -0.3], [0.3, 0.6]])
    found = bt.spectrum(turn, effort="quick")
    told, null = row(found["matrices"]), row(found["null models"])
    assert null["model"].startswith("normal") and told["henrici"] == pytest.approx(0, abs=1e-12)
    for name in ("norm", "numerical_radius", "distance", "transient", "condition"):
        assert told[name] == pytest.approx(null[name], rel=1e-6), name
    assert "No power of it exceeds 1" in told["verdict"] and "less than all 20 random" in told["verdict"]
    assert row(bt.spectrum(turn / 0.45**0.5, effort="quick")["matrices"])["stability"] == "marginal"


def test_pictures_are_plain_data_of_the_matrix():
    told = row(bt.spectrum(JORDAN, effort="quick")["matrices"])
    x, y, heights = np.array(told["grid_x"]), np.array(told["grid_y"]), np.array(told["grid"])
    assert heights.shape == (len(y), len(x)) and y[0] == 0 and (y[1:] > 0).all()  # a real matrix: the upper half
    z = x[None] + 1j * y[:, None]
    exact = np.array([[np.linalg.svd(w * np.eye(8) - JORDAN, compute_uv=False)[-1] for w in line] for line in z])
    near = exact > 1e-6
    assert np.abs(10.0**heights - exact)[near].max() < 3e-3 * exact.max()
    assert np.allclose([complex(*v) for v in told["eigenvalues"]], 0.5)
    assert max(abs(complex(*v)) for v in told["numerical_range"]) == pytest.approx(1.3457, rel=2e-3)
    assert told["transient_norms"][12] == pytest.approx(17.3801, rel=1e-4)
    assert all(low <= high for low, high in zip(told["transient_norms"], told["transient_upper"], strict=True))
    assert (
        2 <= len(told["levels"]) <= 6 and min(told["levels"]) >= heights.min() and max(told["levels"]) <= heights.max()
    )


def test_every_part_of_a_network_on_data():
    module, x, lengths = Reader(num_layers=2), sequences(), [9, 4, 6, 9, 2]
    before = state_digest(module)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    found = bt.spectrum(module, x, lengths=lengths, effort="quick")
    assert torch.equal(torch.rand(1), expected) and state_digest(module) == before
    columns = found["matrices"].columns
    assert columns["role"] == [*[GATE] * 6, FIXED, MEAN, LARGEST, FIXED, MEAN, LARGEST]
    assert columns["matrix"][:6] == [f"recurrent.l{k}.{gate}" for k in (0, 1) for gate in "rzn"]
    path = trajectories(module, x, lengths=lengths)[1]
    every = jacobians(path.cell, *path.points())
    mean = every.mean(0)
    assert columns["norm"][10] == pytest.approx(float(torch.linalg.matrix_norm(mean, 2)), rel=1e-6)
    assert columns["norm"][11] == pytest.approx(float(torch.linalg.matrix_norm(every, 2).max()), rel=1e-6)
    along = row(found["along data"], 1)
    assert (along["sequences"], along["steps"], along["growth_windows"]) == (5, 30, [1, 2, 4, 8, 9])
    assert along["growth_worst"][0] == pytest.approx(columns["norm"][11], rel=1e-3)  # a Ritz value
    assert along["rate_of_mean_jacobian"] == pytest.approx(np.log(columns["radius"][10]))
    assert len(found.verdicts) == 12 + len(found["fixed points"].columns["part"]) + 2
    assert set(found.facts()) == {"matrices", "null models", "fixed points", "along data"} == set(found)
    some = bt.spectrum(module, x, lengths=lengths, effort="quick", parts="*l1")
    assert some["matrices"].columns["radius"] == [
        *columns["radius"][3:6],
        *columns["radius"][9:],
    ]  # the seed alone decides


def test_rounding_is_told_as_the_change_that_it_makes():
    module = Reader()
    (cell,) = cells(module)
    found = bt.spectrum(module, effort="quick")
    short = {name: w.half().double() for name, w in cell.weights.items()}
    rounded = standard("", "gru", short)
    lost = float(torch.linalg.matrix_norm(rounded.blocks["z"] - cell.blocks["z"], 2))
    assert found["matrices"].columns["rounding_fp16"][1] == pytest.approx(lost, rel=1e-9)
    rest = row(found["fixed points"])
    state = torch.tensor(rest["state"], dtype=torch.float64)
    change = jacobians(rounded, state, torch.zeros(3).double()) - jacobians(cell, state, torch.zeros(3).double())
    k = found["matrices"].columns["role"].index(FIXED)
    assert found["matrices"].columns["rounding_fp16"][k] == pytest.approx(
        float(torch.linalg.matrix_norm(change, 2)), rel=1e-6
    )
    distance = found["matrices"].columns["distance"][k]
    assert f"{distance / found['matrices'].columns['rounding_int8'][k]:.3g} times int8" in found.verdicts[k]


def test_untrained_copies_stand_beside_and_are_absent_where_no_initialisation_is_written_down():
    models = bt.spectrum(Reader(), effort="quick")["null models"].columns["model"]
    assert models.count("untrained, same radius") == 3  # the gate blocks; a fixed point has no counterpart

    class Scaled(Reader):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    assert "untrained, same radius" not in bt.spectrum(Scaled(), effort="quick")["null models"].columns["model"]


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.read = nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, x, state):
        return torch.tanh(self.read(x) + self.own(state))


@pytest.mark.slow
def test_custom_cells_are_described_by_their_jacobians():
    torch.manual_seed(0)
    cell, x = Own(), sequences(2, 4)
    declared = bt.spectrum(cell, x, state=torch.zeros(4), effort="quick")

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            state = x.new_zeros(len(x), 4)
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return state

    seen = bt.spectrum(Loop(), x, effort="quick")
    assert seen["matrices"].columns["role"] == [FIXED, MEAN, LARGEST] == declared["matrices"].columns["role"]
    assert seen["matrices"].columns["radius"] == pytest.approx(declared["matrices"].columns["radius"], rel=1e-4)
    assert seen["along data"].columns["kind"] == ["custom"]


@pytest.mark.slow
def test_a_state_dict_is_enough_for_its_gates_and_fixed_points():
    module = Reader()
    columns = bt.spectrum(module.state_dict(), effort="quick")["matrices"].columns
    assert columns["role"] == [GATE, GATE, GATE, FIXED]
    assert columns["radius"][:3] == bt.spectrum(module, effort="quick")["matrices"].columns["radius"][:3]


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), [[0.3]], np.diag([0.5j, 0.2])], ids=["zero", "number", "complex"])
def test_odd_matrices_are_described_and_drawn(matrix):
    found = bt.spectrum(matrix, effort="quick")
    told = row(found["matrices"])
    radius = np.abs(np.linalg.eigvals(np.asarray(matrix))).max()
    assert (told["radius"], told["distance"]) == (pytest.approx(radius), pytest.approx(1 - radius, rel=1e-6))
    assert "Eigenvalues and pseudospectra" in render({"findings": plain(found.facts()), "settings": {}})


def test_progress_is_told_matrix_by_matrix():
    seen = []

    @contextmanager
    def progress(total):
        seen.append(total)
        yield seen.append

    bt.spectrum(Reader(), effort="quick", progress=progress)
    assert seen == [4, "recurrent.l0.r", "recurrent.l0.z", "recurrent.l0.n", "recurrent.l0 Jacobian at fixed point 1"]


def test_what_cannot_be_asked_is_told_in_words():
    linear, x = nn.Linear(3, 2), sequences()
    with pytest.raises(
        InputError, match="RNN, GRU, LSTM, RNNCell, GRUCell or LSTMCell, anywhere inside, got Linear with none"
    ):
        bt.spectrum(linear)
    with pytest.raises(InputError, match="nor was any module called step by step"):
        bt.spectrum(linear, x)
    with pytest.raises(InputError, match="parts: expected a pattern that matches one of 'recurrent.l0'"):
        bt.spectrum(Reader(), parts="encoder*")
    with pytest.raises(InputError, match="effort"):
        bt.spectrum(Reader(), effort="much")
    with pytest.raises(InputError, match="data beside state="):
        bt.spectrum(Own(), state=torch.zeros(4))
    with pytest.raises(InputError, match="square one"):
        bt.spectrum(torch.zeros(8, 2))
    with pytest.raises(InputError, match="length zero"):
        bt.spectrum(Reader(), x, lengths=[9, 0, 3, 3, 3])
    with pytest.raises(InputError, match="a torch.nn.Module, a matrix"):
        bt.spectrum(lambda x: x)
    broken = Reader()
    with torch.no_grad():
        broken.recurrent.weight_hh_l0[0, 0] = float("nan")
    with pytest.raises(InputError, match="weights of recurrent.weight_hh_l0: expected finite"):
        bt.spectrum(broken)


def test_projections_give_square_blocks():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 6, proj_size=2, batch_first=True)
    columns = bt.spectrum(lstm, sequences(), effort="quick")["matrices"].columns
    assert columns["size"] == [6, 6, 6, 6, 8, 8, 8]  # gate @ weight_hr; the state is 2 hidden and 6 memory numbers


def test_verdicts_say_what_the_numbers_say():
    assert [stability(r, 1.0) for r in (0.9, 1 - 1e-8, 1.1)] == ["stable", "marginal", "unstable"]
    numbers = {
        "sequences": 2, "steps": 200, "growth_windows": [1, 4], "growth_worst": [2.0, 3.5], "growth_median": [1.0, 0.5],
        "growth_sequence": [0, 1], "growth_start": [3, 7], "growth_places": [9, 6], "exponents": [-0.5],
    }  # fmt: skip
    text = of_trajectory("l0", numbers)
    assert "shrinks by 39 % a step" in text and "a thousandth is left after 14 steps" in text
    assert "3.5-fold over 4 steps (sequence 1, from step 7; in the median of 6 places 0.5-fold)" in text
    short = of_trajectory("l0", {**numbers, "steps": 20})
    assert "thousandth" not in short  # ten steps a sequence do not show what happens after fourteen
    assert "grows by 11 % a step" in of_trajectory("", {**numbers, "exponents": [0.1]})
    assert "even the worst never grows" in of_trajectory("", {**numbers, "growth_worst": [0.9, 0.4]})
