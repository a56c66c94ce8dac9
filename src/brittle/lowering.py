r"""Recurrent layers unrolled: ``nn.RNN``, ``nn.GRU``, ``nn.LSTM`` and their cells as the elementary operations that they stand for.

For each step t, with state h (and c), all of them rows that certificates know:

    RNN   h' = tanh(W x + b + V h + a)                                                            (or relu)
    GRU   (r, z) = sigmoid(..),  n = tanh(W_n x + b_n + r (V_n h + a_n)),  h' = n + z (h - n)
    LSTM  (i, f, o) = sigmoid(..),  g = tanh(..),  c' = f c + i g,  h' = o tanh(c')               (P h' with a projection)

The GRU's own ``(1 - z) n + z h`` would take one product more. An initial state of zeros is known to be one: the LSTM's first step
takes one product less. Layers, directions, missing biases, ``batch_first`` and projections are those of PyTorch.

The parameters stay the nodes they were, read once in every step: a certificate about ``"rnn.weight_hh_l0"`` lets each step have a
change of its own, which is sound and looser than one change for all.

Nodes grow linearly with steps, layers and directions: per step 4 (RNN), 13 (GRU), 15 (LSTM) and two for every product that is relaxed. Interval
propagation is linear in steps too; backward bounds pull every unit of step t back through t steps: quadratic. Measured, 16 units, 4 examples, 4 / 8 / 16
steps, seconds of processor of one pass of ``crown``: RNN .07 / .16 / .46, GRU .5 / 1.6 / 5.7, LSTM .7 / 2.4 / 9.2; ``ibp`` .01 to .03.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from brittle.errors import NotCertified
from brittle.graph import Batch, Ref

LAYERS = {"rnn_tanh", "rnn_relu", "gru", "lstm"}
CELLS = {f"{kind}_cell" for kind in LAYERS}
RECURRENT = LAYERS | CELLS


@dataclass(frozen=True)
class Writer:
    """Where nodes go. All values have the examples in front; shapes are those of one example, of a constant the whole.

    add      (op, arguments, shape, ATen overload) -> the new node
    shape    of a node
    is_zero  whether a node is zero everywhere by itself
    """

    add: Callable[[str, dict, tuple[int, ...], str], Ref]
    shape: Callable[[Ref], tuple[int, ...]]
    is_zero: Callable[[Ref], bool]

    def linear(self, x: Ref, weight: Ref, bias: Ref | None) -> Ref:
        shape = (*self.shape(x)[:-1], self.shape(weight)[0])
        return self.add("linear", {"input": x, "weight": weight, "bias": bias}, shape, "aten.linear.default")

    def apply(self, function: str, x: Ref) -> Ref:
        return self.add(function, {"input": x}, self.shape(x), f"aten.{function}.default")

    def sum(self, x: Ref, other: Ref, op: str = "add") -> Ref:
        return self.add(op, {"input": x, "other": other, "alpha": 1}, self.shape(x), f"aten.{op}.Tensor")

    def product(self, x: Ref, other: Ref) -> Ref:
        return self.add("mul", {"input": x, "other": other}, self.shape(x), "aten.mul.Tensor")

    def gates(self, x: Ref, size: int, first: int, last: int) -> Ref:
        """Gates ``first`` to ``last`` (not included) of a value that holds several of one size."""
        arguments = {"input": x, "dim": 1, "start": first * size, "end": last * size, "step": 1}
        return self.add("slice", arguments, ((last - first) * size,), "aten.slice.Tensor")

    def step(self, x: Ref, dim: int, index: int) -> Ref:
        shape = self.shape(x)
        shape = (*shape[: dim - 1], *shape[dim:])
        return self.add("select", {"input": x, "dim": dim, "index": index}, shape, "aten.select.int")

    def stack(self, values: Sequence[Ref]) -> Ref:
        shape = (len(values), *self.shape(values[0]))
        return self.add("stack", {"tensors": tuple(values), "dim": 1}, shape, "aten.stack.default")

    def beside(self, values: Sequence[Ref]) -> Ref:
        if len(values) == 1:
            return values[0]
        shape = (sum(self.shape(v)[0] for v in values),)
        return self.add("cat", {"tensors": tuple(values), "dim": 1}, shape, "aten.cat.default")

    def zeros(self, size: int) -> Ref:
        arguments = {
            "size": (Batch(1), size),
            "dtype": torch.float64,
            "layout": None,
            "device": None,
            "pin_memory": None,
        }
        return self.add("zeros", arguments, (size,), "aten.zeros.default")


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer in one direction."""

    input: Ref
    hidden: Ref
    input_bias: Ref | None = None
    hidden_bias: Ref | None = None
    projection: Ref | None = None


@dataclass(frozen=True)
class Carried:
    """The state between two steps; None: zero."""

    h: Ref | None
    c: Ref | None = None


Cell = Callable[[Writer, Ref, Carried, Weights], Carried]


def unroll_cell(op: str, arguments: Mapping[str, Any], write: Writer) -> tuple[Ref, ...]:
    """The new state of ``aten.gru_cell`` and its like: (h,), or (h, c) of an LSTM."""
    weights = Weights(*(arguments[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh")))
    state = arguments["hx"] if isinstance(arguments["hx"], tuple) else (arguments["hx"],)
    carried = Carried(*(None if write.is_zero(s) else s for s in state))
    new = STEPS[op.removesuffix("_cell")](write, arguments["input"], carried, weights)
    return tuple(value for value in (new.h, new.c) if value is not None)


def unroll(op: str, arguments: Mapping[str, Any], write: Writer) -> tuple[Ref, ...]:
    """(outputs (steps, features), last h (layers * directions, features), and last c of an LSTM) of ``aten.gru.input`` and its like.

    arguments  those of the operation; its input has the shape (steps, features) for one example, its states (layers * directions, features)
    Raises :class:`NotCertified` where dropout between layers is on.
    """
    if arguments["train"] and arguments["dropout"]:
        raise NotCertified(f"operation {op} with dropout")
    given = arguments["hx"] if isinstance(arguments["hx"], tuple) else (arguments["hx"],)
    directions, layers = 1 + bool(arguments["bidirectional"]), int(arguments["num_layers"])
    weights = _weights(arguments, layers * directions)
    source: Ref = arguments["input"]
    values = [write.step(source, 1, t) for t in range(write.shape(source)[0])]
    last: list[Carried] = []
    for layer in range(layers):
        ways = []
        for direction in range(directions):
            at = layer * directions + direction
            start = Carried(*(None if write.is_zero(s) else write.step(s, 1, at) for s in given))
            states = _scan(STEPS[op], write, values[:: -1 if direction else 1], start, weights[at])
            last.append(states[-1])
            ways.append([state.h for state in states[:: -1 if direction else 1]])
        values = [write.beside(each) for each in zip(*ways, strict=True)]
    ends = [[state.h for state in last], [state.c for state in last]][: len(given)]
    return write.stack(values), *(write.stack([v for v in end if v is not None]) for end in ends)


def _scan(cell: Cell, write: Writer, values: Sequence[Ref], state: Carried, weights: Weights) -> list[Carried]:
    states = []
    for value in values:
        state = cell(write, value, state, weights)
        states.append(state)
    return states


def _weights(arguments: Mapping[str, Any], parts: int) -> list[Weights]:
    """The flat list of parameters, cut into layers and directions."""
    flat: Sequence[Ref] = arguments["params"]
    each = len(flat) // parts
    found = []
    for start in range(0, len(flat), each):
        one = flat[start : start + each]
        biases = one[2:4] if arguments["has_biases"] else (None, None)
        found.append(Weights(one[0], one[1], biases[0], biases[1], one[-1] if each % 2 else None))
    return found


def _seen(write: Writer, h: Ref | None, weights: Weights) -> Ref | None:
    """``V h + a``; None: zero."""
    if h is None and weights.hidden_bias is None:
        return None
    zero_or_state = write.zeros(write.shape(weights.hidden)[1]) if h is None else h
    return write.linear(zero_or_state, weights.hidden, weights.hidden_bias)


def _gates(write: Writer, x: Ref, h: Ref | None, weights: Weights) -> Ref:
    """``W x + b + V h + a``."""
    own, seen = write.linear(x, weights.input, weights.input_bias), _seen(write, h, weights)
    return own if seen is None else write.sum(own, seen)


def _rnn(function: str) -> Cell:
    return lambda write, x, state, weights: Carried(write.apply(function, _gates(write, x, state.h, weights)))


def _gru(write: Writer, x: Ref, state: Carried, weights: Weights) -> Carried:
    size = write.shape(weights.hidden)[1]
    own, seen = write.linear(x, weights.input, weights.input_bias), _seen(write, state.h, weights)
    gates, new = write.gates(own, size, 0, 2), write.gates(own, size, 2, 3)
    if seen is not None:
        gates = write.sum(gates, write.gates(seen, size, 0, 2))
    gates = write.apply("sigmoid", gates)
    if seen is not None:
        new = write.sum(new, write.product(write.gates(gates, size, 0, 1), write.gates(seen, size, 2, 3)))
    new = write.apply("tanh", new)
    gap = write.apply("neg", new) if state.h is None else write.sum(state.h, new, "sub")
    return Carried(write.sum(new, write.product(write.gates(gates, size, 1, 2), gap)))


def _lstm(write: Writer, x: Ref, state: Carried, weights: Weights) -> Carried:
    gates = _gates(write, x, state.h, weights)
    size = write.shape(weights.hidden)[0] // 4
    both = write.apply("sigmoid", write.gates(gates, size, 0, 2))
    candidate = write.apply("tanh", write.gates(gates, size, 2, 3))
    out = write.apply("sigmoid", write.gates(gates, size, 3, 4))
    c = write.product(write.gates(both, size, 0, 1), candidate)
    if state.c is not None:
        c = write.sum(write.product(write.gates(both, size, 1, 2), state.c), c)
    h = write.product(out, write.apply("tanh", c))
    return Carried(h if weights.projection is None else write.linear(h, weights.projection, None), c)


STEPS: dict[str, Cell] = {"rnn_tanh": _rnn("tanh"), "rnn_relu": _rnn("relu"), "gru": _gru, "lstm": _lstm}
