"""What changes of the recurrent weights and of the initial state do, each of a stated size in the spectral norm."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from brittle import meter, randomness
from brittle.about import About
from brittle.diagnostics._bench import Bench, cross_entropy
from brittle.diagnostics._formats import rounded
from brittle.errors import InputError
from brittle.network import Network, copied, read_logits
from brittle.problem import Problem
from brittle.results import Finding
from brittle.spec import margin
from brittle.spectra import nearest_unstable, spectral_norm, spectral_radius, value_and_gradient
from brittle.spectra.cells import GATES, SOUGHT, cells
from brittle.stats import mean_lower

ABOUT = About(
    promise="accuracy left by changes of the recurrent matrices (random, from the pseudospectrum, along the loss, rounding) and of the initial state",
    reference="rank one: Trefethen and Embree 2005, the attaining perturbation; the comparison is asked for by Sengupta and Friston, arXiv 1804.11313",
    leaves=("parameter",),
    cost="per size 20 forward passes for random changes, 20 forward and backward for the loss, as many for kicks; a search of the pseudospectrum per block",
    effort="thorough",
)
SIZES = (0.05, 0.2, 0.5)  # absolute, in the spectral norm
SHARES = (0.01, 0.05, 0.2)  # of each block's own norm
NAMES = ("change", "measured_in", "size", "absolute", "relative", "accuracy", "low", "high", "worst", "status")
TAIL = 0.025  # on either side of an interval
STABLE = 0.99  # an unstable block is scaled to this radius before the nearest unstable real matrix is asked for


@dataclass(frozen=True, eq=False)
class Recurrence:
    """Square blocks of recurrent weights: leaf -> how many lie below each other, on a copy with plain weights."""

    bench: Bench
    gates: Mapping[str, int]

    def blocks(self, leaf: str) -> list[Tensor]:
        return list(self.bench.weights[leaf].double().chunk(self.gates[leaf]))

    def changed(self, directions: Mapping[str, Sequence[Tensor]], size: float, relative: bool) -> dict[str, Tensor]:
        """Every weight moved along its directions of norm 1, by ``size`` or by that share of the block's norm."""
        found = {}
        for leaf, rows in directions.items():
            lengths = [size * spectral_norm(b.numpy()) if relative else size for b in self.blocks(leaf)]
            moved = torch.cat([length * row for length, row in zip(lengths, rows, strict=True)])
            found[leaf] = (self.bench.weights[leaf].double() + moved).to(self.bench.weights[leaf])
        return found


def recurrent_changes(
    problem: Problem,
    *,
    seed: int = 0,
    sizes: Sequence[float] = SIZES,
    shares: Sequence[float] = SHARES,
    draws: int = 20,
    steps: int = 20,
    leaves: Sequence[str] | None = None,
) -> Finding:
    """The accuracy of these examples after one change E of every recurrent block, ``||E||_2`` of a stated size, one row per change and size.

    - ``random``: Gaussian matrices scaled to the size, ``draws`` of them: the mean, limits of it that hold with 95 % for any law, and the worst draw
    - ``rank-one``: along the steepest ascent of the pseudospectral radius, the real part of ``u v*`` at its outermost point, in both senses: the
      change that moves the spectrum most; it looks at no data
    - ``real``: along the smallest real change that makes the block unstable (an unstable block is scaled to radius 0.99 first)
    - ``loss``: ascent of the loss of these examples, ``steps`` steps along the polar factor of the gradient, which is the steepest direction of the
      spectral norm, with projection by cutting singular values: the worst accuracy on the way, by one change common to all examples
    - ``int8``: rounding of the recurrent weights to int8, its size read in the spectral norm
    - ``kick``: a change of the initial state of each example's own, of length ``size`` in l2 (``measured_in`` "state") or a share of the mean length of the
      last states: descent of each example's margin

    ``measured_in`` says what ``size`` is: "absolute", or "relative" to each block's own norm. ``absolute`` and ``relative`` are the largest over the blocks,
    always both: a network that was only scaled down looks fragile in the one and unchanged in the other. Accuracies of searches are upper ends.

    sizes, shares   absolute and relative sizes; either may be empty
    leaves          names of other square recurrent parameters; by default the ``weight_hh`` of every RNN, GRU, LSTM layer and cell, parametrised
                    ones as they act
    Errors: InputError where nothing recurrent is found.

    >>> from brittle.sources.embedded import embedded
    >>> _ = torch.manual_seed(0)
    >>> x = torch.rand(6, 64)
    >>> network = embedded("gru")
    >>> found = recurrent_changes(Problem(network, x, network(x).argmax(1)), sizes=(0.5,), shares=(), draws=2, steps=2)
    >>> sorted(set(found.columns["change"]))
    ['int8', 'kick', 'loss', 'random', 'rank-one', 'real']
    """
    if any(not s > 0 for s in (*sizes, *shares)) or draws < 2 or steps < 1:
        raise InputError(
            "recurrent_changes", "sizes and shares > 0, draws >= 2, steps >= 1", (sizes, shares), "correct them"
        )
    plain = _plain(problem)
    found = Recurrence(*_blocks(plain, leaves))
    asked = [(s, False) for s in sizes] + [(s, True) for s in shares]
    aimed = {name: _aimed(found, name, seed) for name in ("rank-one", "real")}
    rows = []
    for size, relative in asked:
        rows.append(_random(found, size, relative, draws, seed))
        rows += [_towards(found, name, way, size, relative) for name, way in aimed.items()]
        rows.append(_loss(found, size, relative, steps, seed))
        rows.append(_kick(plain, size, relative, steps, seed))
    rows.append(_rounded(found))
    columns = {name: [row.get(name) for row in rows] for name in NAMES}
    return Finding(
        "recurrent_changes", "Changes of the recurrent weights", columns, note=_sentence(rows, found.bench.clean)
    )


# ---- what is changed -------------------------------------------------------------------------------------------------


def _plain(problem: Problem) -> Problem:
    """The problem on a copy whose parametrised weights are plain ones of the same value."""
    module = problem.network.quiet
    if not isinstance(module, nn.Module) or not any(parametrize.is_parametrized(m) for m in module.modules()):
        return problem
    copy = copied(module)
    for child in [m for m in copy.modules() if parametrize.is_parametrized(m)]:
        _unparametrised(child)
    return replace(problem, module=copy, network=Network(copy))


def _unparametrised(child: nn.Module) -> None:
    """The same values as plain parameters. A copy shares the class that torch made for its original, and ``remove_parametrizations`` would
    take the properties of that class away from both."""
    values = {name: getattr(child, name).detach() for name in cast(nn.ModuleDict, child.parametrizations)}
    child.__class__ = type(child).__bases__[0]
    del child.parametrizations
    for name, value in values.items():
        setattr(child, name, nn.Parameter(value))


def _blocks(problem: Problem, leaves: Sequence[str] | None) -> tuple[Bench, dict[str, int]]:
    module, every = problem.network.quiet, problem.network.parameters()
    gates: dict[str, int] = {}
    if leaves is None and isinstance(module, nn.Module):
        for cell in cells(module):
            layer = isinstance(module.get_submodule(cell.owner), nn.RNNBase)
            name = f"weight_hh_l{cell.layer}{'_reverse' if cell.reverse else ''}" if layer else "weight_hh"
            gates[f"{cell.owner}.{name}".removeprefix(".")] = len(GATES[cell.kind])
    for leaf in leaves or ():
        if leaf not in every or every[leaf].dim() != 2 or every[leaf].shape[0] != every[leaf].shape[1]:
            raise InputError(
                f"leaf {leaf!r}", "the name of a square parameter", "another", "look at named_parameters()"
            )
        gates[leaf] = 1
    if not gates:
        raise InputError("module", f"a module that holds {SOUGHT}", type(module).__name__, "name its recurrent leaves")
    return Bench.of(problem, {leaf: every[leaf] for leaf in gates}), gates


# ---- directions ------------------------------------------------------------------------------------------------------


def _aimed(found: Recurrence, name: str, seed: int) -> "dict[str, list[Tensor]] | str":
    """Directions of norm 1 for every block, or why there are none."""
    ways = {"rank-one": _outwards, "real": _unstable}
    try:
        return {leaf: [_unit(ways[name](b)) for b in found.blocks(leaf)] for leaf in found.gates}
    except InputError as reason:  # projections are not square; a zero block has no outermost point
        return f"{reason.what}: expected {reason.expected}, got {reason.got}"


def _outwards(block: Tensor) -> Tensor:
    epsilon = 0.05 * max(spectral_norm(block.numpy()), 1e-6)
    return torch.as_tensor(value_and_gradient(block.numpy(), "pseudospectral_radius", epsilon=epsilon)[1])


def _unstable(block: Tensor) -> Tensor:
    matrix = block.numpy()
    radius = spectral_radius(matrix)
    return torch.as_tensor(nearest_unstable(matrix * min(1.0, STABLE / radius) if radius else matrix, real=True)[0])


def _unit(direction: Tensor) -> Tensor:
    return direction.double() / torch.linalg.matrix_norm(direction.double(), 2)


def _towards(found: Recurrence, name: str, ways: "dict[str, list[Tensor]] | str", size: float, relative: bool) -> dict:
    row = _row(found, name, size, relative)
    if isinstance(ways, str):
        return row | {"status": ways}
    senses = [{leaf: [s * w for w in rows] for leaf, rows in ways.items()} for s in (1, -1)]
    return row | {"accuracy": min(found.bench.measure(found.changed(s, size, relative))["accuracy"] for s in senses)}


def _random(found: Recurrence, size: float, relative: bool, draws: int, seed: int) -> dict:
    seen = []
    for k in range(draws):
        source = randomness.generator(seed, "recurrent_changes", k)
        make = lambda b, source=source: _unit(torch.randn(b.shape, generator=source, dtype=torch.float64))
        ways = {leaf: [make(b) for b in found.blocks(leaf)] for leaf in found.gates}
        seen.append(found.bench.measure(found.changed(ways, size, relative))["accuracy"])
    values = torch.tensor(seen, dtype=torch.float64)
    low, high = mean_lower(values, TAIL), 1 - mean_lower(1 - values, TAIL)
    row = {"accuracy": float(values.mean()), "low": low, "high": high, "worst": float(values.min())}
    return _row(found, "random", size, relative) | row


def _loss(found: Recurrence, size: float, relative: bool, steps: int, seed: int) -> dict:
    """Ascent in E under ``||E||_2 <= 1`` of each block's own length; the gradient is that of the cross-entropy of the rows."""
    source = randomness.generator(seed, "recurrent_changes", "loss")
    start = lambda b: 0.1 * _unit(torch.randn(b.shape, generator=source, dtype=torch.float64))
    ways = {leaf: [start(b) for b in found.blocks(leaf)] for leaf in found.gates}
    best = found.bench.clean
    for k in range(steps):
        weights = found.changed(ways, size, relative)
        slopes = found.bench.exchange.slopes(weights, cross_entropy)
        step = 0.5 * (0.02 ** (k / max(1, steps - 1)))  # from a half to a hundredth of the size
        ways = {leaf: [_cut(w + step * 2 * _polar(g)) for w, g in zip(rows, slopes[leaf].double().chunk(len(rows)), strict=True)]
                for leaf, rows in ways.items()}  # fmt: skip
        best = min(best, found.bench.measure(found.changed(ways, size, relative))["accuracy"])
    return _row(found, "loss", size, relative) | {"accuracy": best}


def _polar(gradient: Tensor) -> Tensor:
    """The matrix of spectral norm 1 with the largest inner product: ``U V^T``; zero for a zero gradient."""
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    return (left * (values > 1e-12 * values.max().clamp_min(1e-300))) @ right


def _cut(change: Tensor) -> Tensor:
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    return (left * values.clamp_max(1)) @ right


def _rounded(found: Recurrence) -> dict:
    short = {leaf: rounded(w, "int8").value.to(w) for leaf, w in found.bench.weights.items()}
    parts = [
        (spectral_norm((after - before).numpy()), spectral_norm(before.numpy()))
        for leaf in found.gates
        for before, after in zip(found.blocks(leaf), short[leaf].double().chunk(found.gates[leaf]), strict=True)
    ]
    row = {
        "change": "int8",
        "measured_in": "absolute",
        "size": max(e for e, _ in parts),
        "absolute": max(e for e, _ in parts),
    }
    shares = max(e / w if w else 0.0 for e, w in parts)
    return row | {"relative": shares, "accuracy": found.bench.measure(short)["accuracy"], "status": "ok"}


def _row(found: Recurrence, name: str, size: float, relative: bool) -> dict:
    norms = [spectral_norm(b.numpy()) for leaf in found.gates for b in found.blocks(leaf)]
    return {
        "change": name,
        "measured_in": "relative" if relative else "absolute",
        "size": size,
        "absolute": size * max(norms) if relative else size,
        "relative": size if relative else max(size / n if n else 0.0 for n in norms),
        "status": "ok",
    }


# ---- the initial state -----------------------------------------------------------------------------------------------


def _kick(problem: Problem, size: float, relative: bool, steps: int, seed: int) -> dict:
    """Descent of each example's margin in the initial hidden states of all RNN, GRU and LSTM layers together."""
    row = {"change": "kick", "measured_in": "share of the state" if relative else "state", "size": size, "status": "ok"}
    module = problem.network.quiet
    layers = [m for m in module.modules() if isinstance(m, nn.RNNBase)] if isinstance(module, nn.Module) else []
    if not layers or not isinstance(problem.x, Tensor):
        return row | {"status": "no RNN, GRU or LSTM layer whose initial state could be moved"}
    lasts: list[Tensor] = []
    with _kicked(layers, None, lasts), torch.no_grad():
        problem.network.run(lambda: module(problem.x))
    meter.count(forward=len(problem))
    if any(last is None for last in lasts) or len(lasts) != len(layers):
        return row | {"status": "the network gives its layers states of their own, or calls them more than once"}
    typical = float(torch.stack([last.double().square().sum((0, 2)) for last in lasts]).sum(0).sqrt().mean())
    length = size * typical if relative else size
    standing = torch.ones(len(problem), dtype=torch.bool)
    for at in torch.arange(len(problem)).split(256):
        for sense in (1, -1):  # behind a ReLU one of the two has no gradient
            standing[at] &= ~_flipped(problem.take(at), module, layers, length, steps, sense, seed)
    return row | {
        "absolute": length,
        "relative": length / typical if typical else 0.0,
        "accuracy": float(standing.double().mean()),
    }


def _flipped(
    part: Problem, module: Any, layers: Sequence[nn.RNNBase], length: float, steps: int, sense: int, seed: int
) -> Tensor:
    shape = lambda m: (m.num_layers * (1 + m.bidirectional), len(part), m.proj_size or m.hidden_size)
    first = next(iter(part.inputs.values()))
    source = randomness.generator(seed, "kick")
    states = [sense * 1e-3 * torch.randn(shape(m), generator=source).to(first) for m in layers]
    states = _scaled(states, length, grow=False)
    flipped = torch.zeros(len(part), dtype=torch.bool)
    for k in range(steps + 1):
        states = [s.detach().requires_grad_() for s in states]
        with _kicked(layers, states, []), part.network.recurrent_safe(), torch.enable_grad():
            logits = part.network.run(lambda: module(part.x))
            margins = margin(part.spec.rows(read_logits(logits), part.labels), part.spec.rank)
        meter.count(forward=len(part), backward=len(part))
        flipped |= (margins <= 0).cpu()
        if k == steps or bool(flipped.all()):
            break
        slopes = torch.autograd.grad(margins.sum(), states)
        step = 2 * length * 0.5 * 0.02 ** (k / max(1, steps))
        ahead = _scaled([-g for g in slopes], step, grow=True)
        states = _scaled([s.detach() + a for s, a in zip(states, ahead, strict=True)], length, grow=False)
    return flipped


def _scaled(states: Sequence[Tensor], length: float, grow: bool) -> list[Tensor]:
    """Every example's states together at l2 length ``length``, or at most that."""
    size = torch.stack([s.square().sum((0, 2)) for s in states]).sum(0).sqrt().clamp_min(1e-30)
    factor = length / size if grow else (length / size).clamp_max(1)
    return [s * factor[None, :, None] for s in states]


@contextmanager
def _kicked(layers: Sequence[nn.RNNBase], states: Sequence[Tensor] | None, lasts: list) -> Iterator[None]:
    """The layers start from these hidden states (an LSTM's memory from zero); their last states are appended to ``lasts``."""

    def give(k: int) -> Callable:
        def hook(layer: Any, given: Any, named: dict) -> Any:
            if len(given) > 1 or "hx" in named:
                lasts.append(None)
                return None
            if states is None:
                return None
            memory = lambda h: h.new_zeros(*h.shape[:2], layer.hidden_size)
            return (given[0], (states[k], memory(states[k])) if layer.mode == "LSTM" else states[k]), named

        return hook

    keep = lambda layer, given, output: lasts.append(output[1][0] if layer.mode == "LSTM" else output[1])
    handles = [m.register_forward_pre_hook(give(k), with_kwargs=True) for k, m in enumerate(layers)]
    handles += [m.register_forward_hook(keep) for m in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sentence(rows: Sequence[Mapping], clean: float) -> str:
    known = [r for r in rows if r.get("accuracy") is not None and r["measured_in"] == "relative"] or [
        r for r in rows if r.get("accuracy") is not None and r["measured_in"] == "absolute"
    ]
    if not known:
        return f"Clean accuracy {clean:.1%}; nothing could be changed."
    largest = max(r["size"] for r in known if r["change"] != "int8")
    told = ", ".join(f"{r['change']} {r['accuracy']:.1%}" for r in known if r["size"] == largest)
    unit = "of each block's norm" if known[0]["measured_in"] == "relative" else "in the spectral norm"
    return f"Clean accuracy {clean:.1%}. After changes of {largest:g} {unit}: {told}."
