"""Drops of the margin to first order, leaf by leaf: from one ordinary backward pass wherever a weight gradient is a product of two vectors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor, nn

from brittle import meter, norms
from brittle.network import Network, copied
from brittle.problem import NUMBERS, Problem
from brittle.region import Ball
from brittle.spec import Specification, margin

AGREES = (
    1e-3  # relative: a batch gradient made of outer products equals that of autograd up to float32 rounding of a sum
)


@dataclass(frozen=True)
class _Ranked:
    """The rows of another specification, of which another one counts."""

    of: Specification
    rank: int

    def rows(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.of.rows(logits, labels)

    def take(self, indices: Tensor) -> "_Ranked":
        return _Ranked(self.of.take(indices), self.rank)

    def check(self, labels: Tensor, outputs: int) -> None:
        self.of.check(labels, outputs)

    def facts(self) -> dict[str, object]:
        return {**self.of.facts(), "rank": self.rank}


@dataclass
class Call:
    """One call of a linear layer: what entered (N, in), and a zero added to what left, whose gradient is that of the output."""

    entered: Tensor
    probe: Tensor


def first_order(problem: Problem, rank: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Margins (N,) and, by moving leaf, ``max <-grad margin, v>`` (N,) over the changes v that its ball and range allow; float64.

    rank  takes the ``rank``-th smallest row in place of the margin: that of the next rival.

    A gradient by the weight of a linear layer that is called once, with one vector an example, is ``delta z^T``: any dual norm of it is a product
    of two norms, and with a radius for each entry a bilinear form. Nothing else is stored for it. Whether that holds is checked
    against the batch gradient of autograd; leaves for which it does not (convolutions, recurrences, weights read twice) get exact gradients example by example.
    """
    problem = problem if rank is None else replace(problem, spec=_Ranked(problem.spec, rank))
    module = copied(problem.network.quiet) if isinstance(problem.network.quiet, nn.Module) else None
    live = problem if module is None else replace(problem, network=_live(problem.network, module))
    tracked = {} if module is None else _tracked(problem, module)
    width = sum(v[0].numel() for v in problem.inputs.values())
    parts = []
    for at in torch.arange(len(problem)).split(max(1, NUMBERS // max(1, width))):
        parts.append(_of_products(live.take(at), module, tracked))
    margins = torch.cat([m for m, _ in parts])
    drops = {k: torch.cat([d[k] for _, d in parts]) for k in problem.leaves if all(k in d for _, d in parts)}
    rest = tuple(leaf for leaf in problem.leaves if leaf not in drops)
    if rest:
        drops |= _example_by_example(live, module, rest)
    return margins.double().cpu(), {leaf: drops[leaf] for leaf in problem.leaves}


def _live(network: Network, module: nn.Module) -> Network:
    live = Network.live(module)
    live.wide = network.wide
    return live


def _tracked(problem: Problem, module: nn.Module) -> dict[str, tuple[str, str]]:
    """Moving leaf -> (linear layer, "weight" or "bias"), for leaves that are a plain parameter of one."""
    leaves = {problem.parameter_name(leaf): leaf for leaf in problem.leaves if problem.parameter_name(leaf) is not None}
    found = {}
    for name, layer in module.named_modules():
        for kind in ("weight", "bias") if isinstance(layer, nn.Linear) else ():
            full = f"{name}.{kind}" if name else kind
            if full in leaves and isinstance(layer._parameters.get(kind), Tensor):
                found[leaves[full]] = (name, kind)
    return found


def _of_products(
    part: Problem, module: nn.Module | None, tracked: Mapping[str, tuple[str, str]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Margins, and the drops of the inputs and of those tracked leaves that turn out to be products."""
    inputs = {k: v.detach().clone().requires_grad_() for k, v in part.inputs.items() if k in part.region}
    layers = {name for name, _ in tracked.values()}
    weights = {}
    for leaf, (layer, kind) in tracked.items():
        assert module is not None
        weights[leaf] = module.get_submodule(layer).get_parameter(kind).requires_grad_()
    with torch.enable_grad(), part.network.recurrent_safe(), _recorded(module, layers) as calls:
        values = margin(part.rows(inputs), part.spec.rank)
        single = {name: made[0] for name, made in calls.items() if len(made) == 1 and _one_vector(made[0], len(part))}
        wanted = [*inputs.values(), *(c.probe for c in single.values()), *weights.values()]
        found = (
            torch.autograd.grad(values.sum(), wanted, allow_unused=True)
            if values.requires_grad
            else [None] * len(wanted)
        )
    meter.count(backward=len(part))
    slopes = [torch.zeros_like(v) if g is None else g for v, g in zip(wanted, found, strict=True)]
    deltas = dict(zip(single, slopes[len(inputs) :], strict=False))
    totals = dict(zip(weights, slopes[len(inputs) + len(single) :], strict=True))
    drops = {leaf: support(part, leaf, slope) for leaf, slope in zip(inputs, slopes, strict=False)}
    for leaf, (layer, kind) in tracked.items():
        if layer in single:
            entered, delta = single[layer].entered.reshape(len(part), -1), deltas[layer].reshape(len(part), -1)
            drop = _product(part, leaf, kind, delta, entered, totals[leaf])
            drops |= {} if drop is None else {leaf: drop}
    return values.detach(), drops


def _product(part: Problem, leaf: str, kind: str, delta: Tensor, entered: Tensor, total: Tensor) -> Tensor | None:
    """The drop that a weight ``delta z^T`` (or a bias ``delta``) allows; None where the gradient is no such product, or its support no product of norms."""
    batch = delta.T @ entered if kind == "weight" else delta.sum(0)
    if not bool((batch - total).abs().max() <= AGREES * total.abs().max()):
        return None
    if kind == "bias":
        return support(part, leaf, delta)
    ball = part.region[leaf]
    if ball.p == 0 or ball.low is not None or ball.high is not None:
        return None
    radius = part.radius(leaf).to(delta.device)
    unit = torch.as_tensor(1.0 if ball.unit is None else ball.unit, device=delta.device)
    if unit.numel() == 1:
        q = norms.dual(ball.p)
        return radius * float(unit) * norms.norm(delta, q).double() * norms.norm(entered, q).double()
    if ball.p != inf or unit.shape != total.shape:
        return None
    return radius * torch.einsum("no,oi,ni->n", delta.abs().double(), unit.double(), entered.abs().double())


def support(part: Problem, leaf: str, slope: Tensor) -> Tensor:
    """``max <-slope, v>`` over ball and range of one leaf, (N,) float64; for p = 0 without a range infinite wherever the slope is not zero."""
    ball, centre = part.region[leaf], part.centre[leaf].detach().double()
    low, high = ball.exact_range(centre)
    flat = norms.flat(-ball.stretched(slope.double()))
    down = up = None
    if ball.low is not None or ball.high is not None:
        down, up = (
            norms.flat(_in_units(ball, room.clamp_min(0).expand(centre.shape)))
            for room in (centre - low, high - centre)
        )
    if ball.groups == "channels":
        return _grouped(flat, part.radius(leaf), down, up, centre.shape[1])
    return norms.support(flat[None], ball.p, part.radius(leaf).to(flat), down, up)[0]


def _in_units(ball: Ball, room: Tensor) -> Tensor:
    """Room as the ball measures it; an entry that cannot move has as much as any."""
    return room if ball.unit is None else ball.measured(room).nan_to_num(nan=inf)


def _grouped(flat: Tensor, radius: Tensor, down: Tensor | None, up: Tensor | None, channels: int) -> Tensor:
    if down is None or up is None:
        return norms.support(flat[None], 0, radius.to(flat), None, None)[0]
    gain = (flat.abs() * torch.where(flat > 0, up, down)).nan_to_num(nan=0.0).reshape(len(flat), channels, -1).sum(1)
    return norms.support(gain[None], 0, radius.to(flat), torch.ones_like(gain), torch.ones_like(gain))[0]


def _example_by_example(live: Problem, module: nn.Module | None, rest: tuple[str, ...]) -> dict[str, Tensor]:
    """Drops from exact gradients: of as many examples at a time as a fixed amount of numbers allows, each with its own copy of the weights; or, where
    not even two fit, of one after the other by ordinary backward passes."""
    width = sum(v[0].numel() for k, v in live.centre.items() if k in rest) + sum(
        v[0].numel() for v in live.inputs.values()
    )
    each = max(1, NUMBERS // max(1, width))
    parts = []
    for at in torch.arange(len(live)).split(each):
        part = live.take(at)
        if each > 1 or module is None:
            _, slopes = part.gradient({leaf: part.centre[leaf] for leaf in rest})
        else:
            slopes = _alone(part, module, rest)
        parts.append({leaf: support(part, leaf, slopes[leaf]) for leaf in rest})
    return {leaf: torch.cat([p[leaf] for p in parts]) for leaf in rest}


def _alone(part: Problem, module: nn.Module, rest: tuple[str, ...]) -> dict[str, Tensor]:
    """Gradients (1, *shape) of the one example's margin."""
    weights = [module.get_parameter(leaf.removeprefix("param:")).requires_grad_() for leaf in rest]
    with torch.enable_grad(), part.network.recurrent_safe():
        value = margin(part.rows(), part.spec.rank).sum()
        found = torch.autograd.grad(value, weights, allow_unused=True)
    meter.count(backward=1)
    return {k: (torch.zeros_like(w) if g is None else g)[None] for k, w, g in zip(rest, weights, found, strict=True)}


def _one_vector(call: Call, count: int) -> bool:
    """Whether every example entered as one vector."""
    return call.entered.shape[0] == count and call.entered.shape[:-1].numel() == count


@contextmanager
def _recorded(module: nn.Module | None, names: set[str]) -> Iterator[dict[str, list[Call]]]:
    """Every call of the named layers inside; their outputs are what they would be, plus a zero with a gradient."""
    calls: dict[str, list[Call]] = {name: [] for name in names}

    def hook(name: str):
        def record(_layer: nn.Module, entered: tuple[Tensor, ...], left: Tensor) -> Tensor:
            probe = torch.zeros_like(left).requires_grad_()
            calls[name].append(Call(entered[0].detach(), probe))
            return left + probe

        return record

    layers = {} if module is None else {name: module.get_submodule(name) for name in names}
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
