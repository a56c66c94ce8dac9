"""H15: can an absolute ball of weights be gamed by rescaling layers, which leaves the function as it is?"""

from dataclasses import dataclass
from math import exp, inf, log

import torch
from torch import Tensor, nn

from brittle.about import About
from brittle.checks._shared import difference, failed, few, passed, raw_logits, rounding
from brittle.norms import dual, norm
from brittle.problem import Problem
from brittle.results import Finding

ABOUT = About(
    promise="H15: no twin with the same function has other answers for a ball of weights",
    reference="positive homogeneity: Dinh et al., Sharp minima can generalize for deep nets, ICML 2017; relative balls: Büchel et al., ICLR 2022",
    answers="before",
    cost="1 forward pass per layer of weights, 1 forward and backward, on at most 8 examples",
)
TITLE = "balls of weights and rescaled layers (H15)"
FACTOR = 4.0  # of the trial: a power of two, so that only the order of sums can change the twin's logits
GAIN, SPREAD = (
    1.5,
    4.0,
)  # folklore: what is called a different answer, and very different layers (trained digits networks: 1.1 and 1.5, measured)


@dataclass(frozen=True)
class Layer:
    """The parameters of one module: its weight, and its bias where it has one."""

    weight: str
    bias: str | None


def rescaling(problem: Problem, *, seed: int = 0) -> Finding:
    """Layers that can be scaled against each other, and what that does to the answer.

    Of every two neighbouring modules with weights, the first is multiplied by 4 and the second divided by it: where the logits stay, nothing
    but the units of the weights has changed. An absolute ball then means something else: to first order the layers of such a chain lose
    ``d_k / s_k`` of the margin at scales s_k with product 1, together ``sum d_k`` as they stand and at best ``m (prod d_k)^(1/m)``. The ratio of the two
    is what a twin with the same function gains for nothing, without any limit in the other direction; relative balls do not change.
    """
    absolute = {
        problem.parameter_name(leaf): leaf
        for leaf, ball in problem.region.items()
        if leaf not in problem.inputs
        and ball.relative is None
        and ball.unit is None
        and ball.radius > 0
        and ball.p != 0
    }
    if not absolute or not isinstance(problem.network.quiet, nn.Module):
        return passed("rescaling", TITLE, "No weight moves in an absolute ball.")
    part = few(problem, 8)
    chains = [chain for chain in _chains(part) if any(layer.weight in absolute for layer in chain)]
    if not chains:
        return passed(
            "rescaling", TITLE, "No two layers can be rescaled against each other without changing the function."
        )
    drops = _drops(part, absolute)
    gain, spread = 1.0, 1.0
    for chain in chains:
        moved = [drops[layer.weight] for layer in chain if layer.weight in drops]
        if len(moved) == len(chain) and min(moved) > 0:  # a layer that does not move takes any scale: see below
            gain = max(gain, sum(moved) / (len(moved) * exp(sum(map(log, moved)) / len(moved))))
        elif moved and max(moved) > 0:
            gain = inf
        sizes = [_rms(part, layer.weight) for layer in chain]
        spread = max(spread, max(sizes) / max(min(sizes), 1e-300))
    return _told(gain, spread, sum(map(len, chains)))


def _told(gain: float, spread: float, layers: int) -> Finding:
    value, threshold = f"{gain:.3g} x the drop, {spread:.3g} x the rms", f"{GAIN} and {SPREAD}"
    what = (
        f"{layers} layers can be scaled against each other without changing the function; to first order a rescaled twin loses "
        f"{'nothing' if gain == float('inf') else f'{gain:.3g} times less'} in the same absolute ball, and the rms of their weights differs {spread:.3g} times."
    )
    if (
        gain <= GAIN or gain == inf
    ) and spread <= SPREAD:  # infinite whenever one layer alone moves: says nothing of this network
        note = what + " Relative balls (relative='rms' or 'element') do not depend on such scales."
        return passed("rescaling", TITLE, note, value=value, threshold=threshold, remark=True)
    doubt = (
        f"The absolute ball of weights can be gamed: {what[0].lower()}{what[1:]} Use relative='element' or relative='rms', which no rescaling "
        "changes, and compare networks by these alone."
    )
    return failed("rescaling", TITLE, "warn", what, doubt, value=value, threshold=threshold)


def _chains(problem: Problem) -> list[list[Layer]]:
    """Runs of neighbouring layers, each of which can be scaled against the next."""
    layers = _layers(problem)
    clean = raw_logits(problem)
    chains: list[list[Layer]] = []
    for first, second in zip(layers, layers[1:], strict=False):
        if not _same(problem, clean, first, second):
            continue
        if chains and chains[-1][-1] == first:
            chains[-1].append(second)
        else:
            chains.append([first, second])
    return chains


def _layers(problem: Problem) -> list[Layer]:
    """Modules with a weight of their own, in the order in which they were made; of tied ones the first."""
    names, found = problem.network.parameters(), []
    module = problem.network.quiet
    assert isinstance(module, nn.Module)
    for prefix, child in module.named_modules():
        weight, bias = (f"{prefix}.{word}" if prefix else word for word in ("weight", "bias"))
        if weight in names and "weight" in child._parameters:
            found.append(Layer(weight, bias if bias in names else None))
    return found


def _same(problem: Problem, clean: Tensor, first: Layer, second: Layer) -> bool:
    """Whether scaling two layers against each other leaves the logits as they are."""
    own = problem.network.parameters()
    scaled = {first.weight: FACTOR, second.weight: 1 / FACTOR} | ({first.bias: FACTOR} if first.bias else {})
    with torch.no_grad():
        logits = problem.logits({f"param:{name}": own[name][None] * factor for name, factor in scaled.items()})
    return difference(clean, logits) <= rounding(clean) and difference(clean, 0 * clean) > 0


def _drops(problem: Problem, absolute: dict[str | None, str]) -> dict[str | None, float]:
    """By parameter, ``radius |dm / dW|_q``: what its ball can take from the margin to first order, on average."""
    weights = {leaf: value.contiguous() for leaf, value in problem.centre.items() if leaf in absolute.values()}
    gradient = problem.gradient(weights)[1]
    reach = lambda leaf: problem.radius(leaf) * norm(gradient[leaf], dual(problem.region[leaf].p)).double().cpu()
    return {name: float(reach(leaf).mean()) for name, leaf in absolute.items()}


def _rms(problem: Problem, name: str) -> float:
    return float(problem.network.parameters()[name].double().square().mean().sqrt())
