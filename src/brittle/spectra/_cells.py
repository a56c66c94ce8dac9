"""What a recurrent network is here: cells, maps (state, input) -> next state, with their derivatives in closed form."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
GATES = {"tanh": ("W",), "relu": ("W",), "gru": ("r", "z", "n"), "lstm": ("i", "f", "g", "o")}


@dataclass(frozen=True, eq=False)
class Derivative:
    """The Jacobians J_k of a cell by its state at K points, as maps; none is formed unless ``dense`` is called.

    times(v)  (K, S, m) -> J_k v_k;  back(u)  (K, S, m) -> J_k^T u_k;  dense()  (K, S, S)
    """

    times: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    dense: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Cell:
    """One recurrent map F: (state, input) -> next state.

    name        where it is: "recurrent.l0", "recurrent.l0.reverse", the name of a cell; "" where the module itself is one
    kind        "tanh", "relu", "gru", "lstm" or "custom"
    parts       what the flat state (K, S) is made of: (("hidden", 64), ("memory", 64)) for an LSTM
    inputs      features of one input; 0 where unknown
    blocks      gate -> square recurrent matrix; with a projection W_block @ W_hr. Empty for a custom cell
    step        (K, S), (K, F) -> (K, S)
    derivative  (K, S), (K, F) -> Derivative by the state
    weights     the tensors it was built from, by the names ih, hh, bih, bhh, hr (those that there are)
    owner, layer, reverse  the module that holds it, and which part of that module it is
    """

    name: str
    kind: str
    parts: tuple[tuple[str, int], ...]
    inputs: int
    blocks: Mapping[str, Tensor]
    step: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    derivative: Callable[[Tensor, Tensor], Derivative] = field(repr=False)
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    owner: str = ""
    layer: int = 0
    reverse: bool = False

    @property
    def size(self) -> int:
        """S, the length of the flat state."""
        return sum(count for _, count in self.parts)


def standard(name: str, kind: str, weights: Mapping[str, Tensor], **place: object) -> Cell:
    """A cell of torch's own kinds from its weight tensors.

    weights : "ih" (G n, F), "hh" (G n, p), and where they exist "bih", "bhh" (G n,) and the projection "hr" (p, n), with G gates in torch's order:
    r, z, n for a GRU; i, f, g, o for an LSTM. place : owner, layer, reverse.
    """
    gates = GATES[kind]
    rows = weights["hh"].shape[0] // len(gates)
    project = weights.get("hr")
    chunks = dict(zip(gates, weights["hh"].split(rows), strict=True))
    blocks = {g: w if project is None else w @ project for g, w in chunks.items()}
    parts = (("hidden", weights["hh"].shape[1]),) + ((("memory", rows),) if kind == "lstm" else ())
    step, derivative = {"gru": _gru, "lstm": _lstm}.get(kind, _plain)(kind, weights, chunks)
    return Cell(name, kind, parts, weights["ih"].shape[1], blocks, step, derivative, weights, **place)  # type: ignore[arg-type]


def _plain(kind: str, weights: Mapping[str, Tensor], chunks: Mapping[str, Tensor]):
    """h' = phi(a), a = W_ih x + b_ih + W h + b_hh; J = D(phi'(a)) W. The slope of ReLU at a kink is 0, as torch has it."""

    def step(state: Tensor, x: Tensor) -> Tensor:
        a = _read(weights, x) + _recur(weights, state)
        return a.tanh() if kind == "tanh" else a.relu()

    def derivative(state: Tensor, x: Tensor) -> Derivative:
        a = _read(weights, x) + _recur(weights, state)
        slope = 1 - a.tanh().square() if kind == "tanh" else (a > 0).to(a.dtype)
        return _mixture(torch.zeros_like(slope), [(slope, chunks["W"])])

    return step, derivative


def _gru(kind: str, weights: Mapping[str, Tensor], chunks: Mapping[str, Tensor]):
    """r, z = sigmoid(.), q = W_n h + b_n, n = tanh(i_n + r q), h' = (1 - z) n + z h.

    J = D(z) + D((h - n) z (1 - z)) W_z + D((1 - z)(1 - n^2)) [D(r) W_n + D(q r (1 - r)) W_r]
    """

    def gates(state: Tensor, x: Tensor):
        given, own = _read(weights, x).chunk(3, -1), _recur(weights, state).chunk(3, -1)
        r, z, q = (given[0] + own[0]).sigmoid(), (given[1] + own[1]).sigmoid(), own[2]
        return r, z, q, (given[2] + r * q).tanh()

    def step(state: Tensor, x: Tensor) -> Tensor:
        _, z, _, n = gates(state, x)
        return (1 - z) * n + z * state

    def derivative(state: Tensor, x: Tensor) -> Derivative:
        r, z, q, n = gates(state, x)
        new = (1 - z) * (1 - n.square())
        factors = {"z": (state - n) * z * (1 - z), "n": new * r, "r": new * q * r * (1 - r)}
        return _mixture(z, [(factors[g], chunks[g]) for g in factors])

    return step, derivative


def _lstm(kind: str, weights: Mapping[str, Tensor], chunks: Mapping[str, Tensor]):
    """c' = f c + i g, m = o tanh(c'), h' = m or W_hr m; the state is (h, c), and with t = tanh(c'):

    dc'/dc = D(f),  dc'/dh = D(c f (1 - f)) W_f + D(g i (1 - i)) W_i + D(i (1 - g^2)) W_g,
    dm/dc = D(o (1 - t^2)) dc'/dc,  dm/dh = D(t o (1 - o)) W_o + D(o (1 - t^2)) dc'/dh.
    """
    project, hidden = weights.get("hr"), weights["hh"].shape[1]
    out = (lambda m: m) if project is None else (lambda m: project @ m)
    into = (lambda u: u) if project is None else (lambda u: project.mT @ u)

    def gates(state: Tensor, x: Tensor):
        i, f, g, o = (_read(weights, x) + _recur(weights, state[..., :hidden])).chunk(4, -1)
        return i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()

    def step(state: Tensor, x: Tensor) -> Tensor:
        i, f, g, o = gates(state, x)
        memory = f * state[..., hidden:] + i * g
        return torch.cat([out((o * memory.tanh())[..., None])[..., 0], memory], -1)

    def derivative(state: Tensor, x: Tensor) -> Derivative:
        i, f, g, o = gates(state, x)
        memory = state[..., hidden:]
        t = (f * memory + i * g).tanh()
        keep, share, shown = f[..., None], (o * (1 - t.square()))[..., None], (t * o * (1 - o))[..., None]
        factors = {"f": memory * f * (1 - f), "i": g * i * (1 - i), "g": i * (1 - g.square())}
        mixed = [(factor[..., None], chunks[name]) for name, factor in factors.items()]

        def times(v: Tensor) -> Tensor:
            below, above = v[..., :hidden, :], v[..., hidden:, :]
            change = keep * above + sum(factor * (w @ below) for factor, w in mixed)
            return torch.cat([out(shown * (chunks["o"] @ below) + share * change), change], -2)

        def back(u: Tensor) -> Tensor:
            seen = into(u[..., :hidden, :])
            change = u[..., hidden:, :] + share * seen
            below = chunks["o"].mT @ (shown * seen) + sum(w.mT @ (factor * change) for factor, w in mixed)
            return torch.cat([below, keep * change], -2)

        def dense() -> Tensor:
            by_hidden = torch.stack([factor * w for factor, w in mixed]).sum(0)
            by_memory = torch.diag_embed(f)
            top = torch.cat([out(shown * chunks["o"] + share * by_hidden), out(share * by_memory)], -1)
            return torch.cat([top, torch.cat([by_hidden, by_memory], -1)], -2)

        return Derivative(times, back, dense)

    return step, derivative


def _mixture(keep: Tensor, terms: list[Pair]) -> Derivative:
    """J = D(keep) + sum of D(factor) W."""
    wide, mixed = keep[..., None], [(factor[..., None], w) for factor, w in terms]
    return Derivative(
        lambda v: wide * v + sum(factor * (w @ v) for factor, w in mixed),
        lambda u: wide * u + sum(w.mT @ (factor * u) for factor, w in mixed),
        lambda: torch.diag_embed(keep) + torch.stack([factor * w for factor, w in mixed]).sum(0),
    )


def _read(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    given = x @ weights["ih"].mT
    return given + weights["bih"] if "bih" in weights else given


def _recur(weights: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
    own = hidden @ weights["hh"].mT
    return own + weights["bhh"] if "bhh" in weights else own
